"""Print what is in an adapter, and turn one kind of adapter file into another.

python -m train.convert --adapter outputs/run/hypernoise.safetensors                          # print what is inside
python -m train.convert --adapter mine.safetensors --output mine-peft                         # a PEFT folder of it
python -m train.convert --adapter lucaeyring/HyperNoise_Sana_Sprint_0.6B --model sana --output authors.safetensors
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hypernoise_core import load_generator
from hypernoise_core.hypernetworks import adapter_class
from hypernoise_core.hypernetworks.adapter_file import (
    AdapterInfo,
    layer_ranks,
    read_adapter,
    write_adapter,
    write_peft_folder,
)
from hypernoise_core.settings import about

from .cli import in_arguments_of, parse, run_command

PROG = "python -m train.convert"


@dataclass(kw_only=True)
class ConvertArguments:
    """Print what is in an adapter, and turn one kind of adapter file into another."""

    adapter: str
    """HyperNoise LoRA file, file of diffusers' save_lora_adapter, PEFT folder, or the hub id of one."""
    output: str | None = None
    """What to write: a name that ends in .safetensors for a HyperNoise LoRA, any other for a PEFT folder. Without it,
    what is in the adapter is printed."""
    model: str | None = None
    """Folder, hub id or short name of the model that it is for: checks that it fits. Needed to make a HyperNoise LoRA
    of a PEFT folder, which does not say."""
    kind: Literal["noise", "finetune"] = "noise"
    """What a PEFT folder holds, which does not say: a noise hypernetwork, or a LoRA in the generator itself."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights written; as they are when not given. bfloat16 halves the file and is enough to make pictures."""

    def __post_init__(self):
        if self.output and Path(self.output).exists():
            raise ValueError(f"--output is {self.output!r}, which exists: give a new name")


@in_arguments_of(ConvertArguments)
def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's).

    Raises:
        ValueError: something given is wrong; nothing has been written.
    """
    args: ConvertArguments = parse(ConvertArguments, PROG, __doc__, argv)
    with about("adapter"):
        weights, info = read_adapter(args.adapter)
    if args.model:
        generator = load_generator(args.model)
        with about("adapter"):
            lora = adapter_class(info.kind or args.kind).load(generator, args.adapter)
        fitted, info = lora.exported()
        weights = {name: tensor.to(weights[name].dtype) for name, tensor in fitted.items()}
    rows = contents(weights, info)
    width = max(map(len, [*rows, "written to"])) + 2
    print("\n".join(f"{name:{width}}{text}" for name, text in rows.items()))
    if not args.output:
        return
    if args.dtype:
        weights = {name: tensor.to(getattr(torch, args.dtype)) for name, tensor in weights.items()}
    if Path(args.output).suffix != ".safetensors":
        write_peft_folder(args.output, weights, info)
    elif not info.denoiser_sha256:
        raise ValueError(f"--adapter is {args.adapter!r}, which does not say its model: name that by --model")
    else:
        write_adapter(args.output, weights, info)
    print(f"{'written to':{width}}{args.output}")


def contents(weights: dict[str, Tensor], info: AdapterInfo) -> dict[str, str]:
    """What a person wants to know of an adapter."""
    ranks = Counter(layer_ranks(weights).values())
    values = sum(tensor.numel() for tensor in weights.values())
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()})
    return {
        "kind": {"noise": "noise hypernetwork", "finetune": "fine-tuned LoRA", "": "not said"}[info.kind],
        "made for": f"{info.generator or 'not said'} ({info.family or 'family not said'})",
        "layers": f"{len(layer_ranks(weights))}, last layer {info.last_layer or 'not said'}",
        "rank": ", ".join(f"{rank} in {count} layers" for rank, count in sorted(ranks.items())),
        "alpha": f"{info.alpha:g}, an update is {info.alpha / info.rank:g} times B A",
        "size": f"{values / 1e6:.1f} M values, {', '.join(dtypes)}",
        **info.training,
    }


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
