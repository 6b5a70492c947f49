"""Score an adapter against its base: on the embedded world with its exact detector, or on the published benchmarks.

python -m train.evaluate                                                   # the shipped adapter, embedded benchmark
python -m train.evaluate --adapter outputs/demo/hypernoise.safetensors --steps 1,2,4 --save_dir outputs/evaluate
python -m train.evaluate --benchmark geneval --model sana --adapter mine.safetensors --device cuda --dtype bfloat16
python -m train.evaluate --benchmark t2i-compbench --categories color,shape --model sd-turbo --prompts_dir prompts
accelerate launch --num_processes 4 -m train.evaluate --benchmark dpg-bench --model flux --device cuda --score false
"""

import sys
from collections.abc import Sequence

import torch

from .cli import in_arguments_of, parse, run_command
from .evaluation.arguments import EvaluateArguments
from .evaluation.embedded import evaluate_embedded
from .evaluation.run import run

PROG = "python -m train.evaluate"


@in_arguments_of(EvaluateArguments)
def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line).

    Raises:
        ValueError: an argument is wrong; nothing has been written.
    """
    args: EvaluateArguments = parse(EvaluateArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    if args.benchmark == "embedded":
        evaluate_embedded(args)
    else:
        run(args)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
