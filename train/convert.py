"""Print what an adapter holds, and convert between kinds of adapter files.

python -m train.convert --adapter outputs/run/hypernoise.safetensors                          # print what it holds
python -m train.convert --adapter mine.safetensors --output mine-peft                         # write a PEFT folder
python -m train.convert --adapter lucaeyring/HyperNoise_Sana_Sprint_0.6B --model sana --output authors.safetensors
"""

import os
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
    read_kind,
    write_adapter,
    write_peft_folder,
)
from hypernoise_core.hypernetworks.critic_network import CriticNetwork
from hypernoise_core.hypernetworks.head import HeadHypernetwork
from hypernoise_core.hypernetworks.head_file import HeadInfo, read_head
from hypernoise_core.hypernetworks.head_network import HeadNetwork
from hypernoise_core.settings import about

from .cli import check_folders, in_arguments_of, parse, run_command

PROG = "python -m train.convert"


@dataclass(kw_only=True)
class ConvertArguments:
    """Print what is in an adapter, and turn one kind of adapter file into another."""

    adapter: str
    """HyperNoise file of any kind, file written by diffusers' save_lora_adapter, PEFT folder, or the Hugging Face id of
    one."""
    output: str | None = None
    """What to write: a name that ends in .safetensors for a HyperNoise LoRA, any other name for a PEFT folder. Without
    it, only print what the adapter holds."""
    model: str | None = None
    """The adapter's model (folder, Hugging Face id or short name), to check that they fit. Required to convert a PEFT
    folder to a HyperNoise LoRA, because the folder does not name its model."""
    kind: Literal["noise", "finetune"] = "noise"
    """What a PEFT folder holds, because it does not say: a noise hypernetwork, or a LoRA in the generator itself."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """dtype of the written weights; unchanged by default. bfloat16 halves the file and is enough to generate images."""

    def __post_init__(self):
        if self.output and os.path.exists(self.output):
            raise ValueError(f"--output is {self.output!r}, which exists: give a new name")
        check_folders(self, "output")


@in_arguments_of(ConvertArguments)
def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line).

    Raises:
        ValueError: an argument is wrong; nothing has been written.
    """
    args: ConvertArguments = parse(ConvertArguments, PROG, __doc__, argv)
    with about("adapter"):
        is_head = read_kind(args.adapter) == "head"
    if is_head:
        _show_head(args)
    else:
        _convert_lora(args)


def _convert_lora(args: ConvertArguments) -> None:
    with about("adapter"):
        weights, info = read_adapter(args.adapter)
    if args.model:
        generator = load_generator(args.model)
        with about("adapter"):
            lora = adapter_class(info.kind or args.kind).load(generator, args.adapter)
        fitted, info = lora.exported()
        weights = {name: tensor.to(weights[name].dtype) for name, tensor in fitted.items()}
    rows = contents(weights, info)
    width = _print(rows)
    if not args.output:
        return
    if args.dtype:
        weights = {name: tensor.to(getattr(torch, args.dtype)) for name, tensor in weights.items()}
    if Path(args.output).suffix != ".safetensors":
        write_peft_folder(args.output, weights, info)
    elif not info.denoiser_sha256:
        raise ValueError(f"--adapter is {args.adapter!r}, which does not say its model: name it with --model")
    else:
        write_adapter(args.output, weights, info)
    print(f"{'written to':{width}}{args.output}")


def _show_head(args: ConvertArguments) -> None:
    if args.output:
        raise ValueError(
            f"--output is {args.output!r}, and {args.adapter} is a head: it has no PEFT form, since it is no LoRA; "
            "leave --output out to print what the file holds"
        )
    with about("adapter"):
        network, info, critic = read_head(args.adapter)
    if args.model:
        generator = load_generator(args.model)
        with about("adapter"):
            HeadHypernetwork.load(generator, args.adapter)
    _print(head_contents(network, info, critic))


def _print(rows: dict[str, str]) -> int:
    """Print a table; returns the width of its first column."""
    width = max(map(len, [*rows, "written to"])) + 2
    print("\n".join(f"{name:{width}}{text}" for name, text in rows.items()))
    return width


def head_contents(network: HeadNetwork, info: HeadInfo, critic: CriticNetwork | None) -> dict[str, str]:
    """What a user wants to know about a head."""
    shape, values = info.shape, sum(parameter.numel() for parameter in network.parameters())
    features = f", {shape.features} features of each {shape.feature_cell}x{shape.feature_cell} latent cells"
    knows = "none"
    if critic is not None:
        members, own = len(critic.members), sum(parameter.numel() for parameter in critic.parameters())
        knows = f"{members} networks, {own / 1e6:.2f} M values, scores of {critic.mean:.3g} ± {critic.std:.3g}"
    coarse = f", which see {info.coarsen}x{info.coarsen} latent cells as one" if info.coarsen > 1 else ""
    return {
        "kind": "noise hypernetwork, a head",
        "made for": f"{info.generator or 'unknown'} ({info.family or 'family unknown'})",
        "latents": str(info.space),
        "reads": "noise, prediction" + (features if shape.features else ""),
        "readings": f"trained for {info.iterations}{coarse}",
        "network": f"width {shape.width}, depth {shape.depth}, patches of {shape.patch}x{shape.patch} latent cells",
        "size": f"{values / 1e6:.2f} M values",
        "critic": knows,
        **info.training,
    }


def contents(weights: dict[str, Tensor], info: AdapterInfo) -> dict[str, str]:
    """What a user wants to know about an adapter."""
    ranks = Counter(layer_ranks(weights).values())
    values = sum(tensor.numel() for tensor in weights.values())
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()})
    return {
        "kind": {"noise": "noise hypernetwork", "finetune": "fine-tuned LoRA", "": "unknown"}[info.kind],
        "made for": f"{info.generator or 'unknown'} ({info.family or 'family unknown'})",
        "layers": f"{len(layer_ranks(weights))}, last layer {info.last_layer or 'unknown'}",
        "rank": ", ".join(f"{rank} in {count} layers" for rank, count in sorted(ranks.items())),
        "alpha": f"{info.alpha:g}, an update is {info.alpha / info.rank:g} times B A",
        **({} if info.iterations == 1 else {"readings": f"trained for {info.iterations}"}),
        "size": f"{values / 1e6:.1f} M values, {', '.join(dtypes)}",
        **info.training,
    }


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
