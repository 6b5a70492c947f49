"""The files beside a finished adapter: a report of the run, and the adapter's model card."""

import json
from pathlib import Path
from statistics import fmean

from hypernoise_core.files import replacing
from hypernoise_core.training import Trainer
from hypernoise_core.training.state import describe

from .cli import reworded
from .config import TrainArguments

REPORT_NAME, CARD_NAME = "report.md", "README.md"


def write_report(folder: Path, trainer: Trainer, metrics_file: Path, adapter_name: str) -> None:
    """Write report.md (numbers, curves, grids) and README.md (the adapter's card) into `folder`."""
    rows = [json.loads(line) for line in metrics_file.read_text("utf-8").splitlines()]
    settings, pictures = describe(trainer), sorted(path.name for path in (folder / "samples").glob("step-*.png"))
    parts = [
        f"# Training run: {settings['generator']}, {settings['rewards']}",
        _outcome(trainer, rows),
        _metrics_table("Training, first and last tenth of the steps", _ends([r for r in rows if "loss" in r])),
        _metrics_table("Validation, first and last", _first_last([r for r in rows if "validation/score" in r])),
        _metrics_table("Diagnostics, first and last", _first_last([r for r in rows if "lipschitz" in r])),
        "## Curves\n\n![curves](curves.png)",
        "## Images\n\nThe same prompts and seeds at every step.\n\n" + _grids(pictures),
        "## Settings\n\n" + _table(["setting", "value"], [[k, _plain(v)] for k, v in settings.items()]),
    ]
    with replacing(folder / REPORT_NAME) as temporary:
        temporary.write_text("\n\n".join(filter(None, parts)) + "\n", "utf-8")
    with replacing(folder / CARD_NAME) as temporary:
        temporary.write_text(_card(settings, trainer.step, adapter_name), "utf-8")


def _outcome(trainer: Trainer, rows: list[dict]) -> str:
    skipped = [row for row in rows if "skipped" in row]
    lines = [f"{trainer.step} of {trainer.config.max_steps} steps, adapter in `hypernoise.safetensors`."]
    if trainer.stop_reason:
        lines.append(f"Stopped early: {reworded(trainer.stop_reason, TrainArguments)}.")
    elif not trainer.finished:
        lines.append("Stopped on request; resume it with `--resume`.")
    if skipped:
        lines.append(
            f"{len(skipped)} steps were not finite and were skipped. Reason for the last: {skipped[-1]['skipped']}."
        )
    if trainer.validation and trainer.validation.progress.best_step >= 0:
        progress = trainer.validation.progress
        lines.append(f"Best validation/score {progress.best_score:.4g} at step {progress.best_step}.")
    return " ".join(lines)


def _ends(rows: list[dict]) -> list[tuple[str, list[float]]]:
    """(metric, [mean over the first tenth of its values, mean over the last tenth]). Not every row has every metric."""
    if not rows:
        return []
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    told = {name: [row[name] for row in rows if name in row] for name in names}
    tenth = {name: max(1, len(values) // 10) for name, values in told.items()}
    return [(name, [fmean(own[: tenth[name]]), fmean(own[-tenth[name] :])]) for name, own in told.items()]


def _first_last(rows: list[dict]) -> list[tuple[str, list[float]]]:
    return [(name, [rows[0][name], rows[-1][name]]) for name in rows[0] if name != "step"] if rows else []


def _metrics_table(title: str, rows: list[tuple[str, list[float]]]) -> str:
    cells = [[name, *(f"{value:.4g}" for value in values)] for name, values in rows]
    return f"## {title}\n\n" + _table(["", "first", "last"], cells) if rows else ""


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _grids(names: list[str]) -> str:
    """Markdown for the first, the middle and the last grid."""
    shown = dict.fromkeys([*names[:1], *names[len(names) // 2 : len(names) // 2 + 1], *names[-1:], "last.png"])
    return "\n\n".join(f"{name.removesuffix('.png')}\n\n![{name}](samples/{name})" for name in shown)


def _plain(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|")


def _card(settings: dict, steps: int, adapter_name: str) -> str:
    kind = "A noise hypernetwork" if settings["train_type"] == "noise" else "A fine-tuning LoRA, for comparison,"
    moves_noise = settings["train_type"] == "noise"
    names = "load_generator, load_hypernetwork" if moves_noise else "FineTunedDenoiser, load_generator"
    code = (
        "load_hypernetwork(generator, file)\nx0 = generator.noise(batch=1, seed=0)\n"
        'image = f.generate(x0, generator.encode(["a prompt"]), steps=1, strength=1.0)'
        if moves_noise
        else "FineTunedDenoiser.load(generator, file)"
    )
    return f"""---
base_model: {settings["generator"]}
library_name: hypernoise
tags: [hypernoise, lora, text-to-image]
---

# {adapter_name}

{kind} for {settings["generator"]}, trained for {steps} steps with ComfyUI-HyperNoise.

{_table(["", ""], [[key, _plain(settings[key])] for key in CARD_KEYS])}

```python
from hypernoise_core import {names}

generator = load_generator("{settings["generator"]}")
f = {code.replace("file", f'"{adapter_name}"')}
```

`report.md` has curves and images. The adapter follows the rewards above and inherits their preferences. The licences of
the base model and of the rewards apply to it.
"""


CARD_KEYS = (
    "rewards",
    "held_out",
    "prompts",
    "hypernetwork",
    "iterations",
    "temperature",
    "kl_reduction",
    "rank",
    "alpha",
    "optimizer",
    "lr",
    "batch_size",
    "accumulation_steps",
    "steps",
    "seed",
)
"""Settings that the model card names."""
