"""Train HyperNoise: the core's trainer on whatever model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui

from hypernoise_core.settings import naming

from .host.adapter import HyperNoiseType
from .host.inputs import denoiser_steps_input, sampling_inputs, text_and_vae_inputs
from .host.kinds import load_hypernoise
from .host.new_files import offer_new_files
from .host.packages import missing
from .host.progress_text import show_text, shown
from .host.prompts import NO_FILE, collect_prompts, prompt_files
from .host.reward import RewardType
from .host.sampling import take_sampling
from .host.scores import scores_files, scores_path

PREVIEW_SIDE = 1024
"""Pixels that ComfyUI shrinks a live preview to, along its longer side."""


BEFORE = "lora"
"""What workflows train that do not say it."""

BLIND = "this model's last layer is not on a grid over the picture: predictions and noise alone are read"
"""A note for the user."""


class HyperNoiseTrain(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseTrain",
            display_name="Train HyperNoise",
            category="HyperNoise",
            description="Trains a noise hypernetwork for the loaded model. You need only a reward and prompts. The "
            "model does not change. Cancel keeps what was trained.",
            search_aliases=["train noise hypernetwork", "hypernoise trainer", "train lora", "reward training"],
            is_output_node=True,
            is_experimental=True,  # as the host's own Train LoRA
            inputs=[
                io.Model.Input("model", tooltip="A few-step model such as SD-Turbo, FLUX schnell or SANA-Sprint."),
                *text_and_vae_inputs(),
                RewardType.Input("reward", tooltip="From Load Reward. Training raises this score."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="Prompts to train on, one per line. Use many and varied prompts.",
                ),
                io.Combo.Input(
                    "prompts_file",
                    options=prompt_files(),
                    default=NO_FILE,
                    tooltip="More prompts: a file in ComfyUI's input folder, either .txt with one prompt per line, or "
                    ".json, .jsonl, .csv, .tsv or .parquet.",
                ),
                io.String.Input(
                    "name",
                    default="my_hypernoise",
                    tooltip="Name of the file in models/hypernoise, without number and extension. You may put a "
                    "subfolder in front. A new run gets a new number and never overwrites an older one.",
                ),
                io.Int.Input(
                    "steps",
                    default=200,
                    min=2,
                    max=1_000_000,
                    tooltip="Optimizer steps in total, including those before a resume.",
                ),
                io.Int.Input("batch_size", default=8, min=1, max=4096, advanced=True, tooltip="Images per step."),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip="Rank of the LoRA. The paper uses 128. Use at least 16.",
                ),
                io.Float.Input(
                    "alpha",
                    default=128.0,
                    min=0.01,
                    max=10_000.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Scale of the LoRA: its output is multiplied by alpha / rank. Twice the rank is usual.",
                ),
                io.Float.Input(
                    "lr",
                    default=1e-3,
                    min=1e-7,
                    max=1.0,
                    step=1e-7,
                    round=1e-9,
                    advanced=True,
                    tooltip="Learning rate. Start at 1e-3 for a head and at 1e-4 for a LoRA. If the reward stays "
                    "flat, try three times as much. If the KL explodes, try a third.",
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=1e-4,
                    max=10_000.0,
                    step=1e-3,
                    round=1e-6,
                    advanced=True,
                    tooltip="α in loss = KL - reward / α. Smaller values follow the reward further. Halve it until "
                    "the KL reaches a few nats.",
                ),
                io.Int.Input(
                    "width", default=512, min=16, max=16384, step=8, tooltip="Width of the images, in pixels."
                ),
                io.Int.Input(
                    "height", default=512, min=16, max=16384, step=8, tooltip="Height of the images, in pixels."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=False,
                    advanced=True,
                    tooltip="Seed of the weights, the prompt order and the noise. The same settings and seed give the "
                    "same result.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=False,
                    tooltip="Continue the newest run of this name, after Cancel or with more steps. Starts a new run "
                    "if there is none.",
                ),
                io.Int.Input(
                    "preview_every",
                    default=20,
                    min=1,
                    max=1_000_000,
                    advanced=True,
                    tooltip="Steps between previews on the node.",
                ),
                denoiser_steps_input(
                    "Denoiser calls per image during training. Set what you sample with. A hypernetwork trained at 1 "
                    "step also works at more."
                ),
                io.Combo.Input(
                    "optimizer",
                    options=["adamw", "sgd"],
                    default="adamw",
                    advanced=True,
                    tooltip="sgd needs a third of the memory for its state, and a learning rate 10 to 100 times "
                    "higher.",
                ),
                io.Float.Input(
                    "reward_grad_clip",
                    default=0.0,
                    min=0.0,
                    max=1e6,
                    step=0.1,
                    advanced=True,
                    tooltip="Largest gradient of reward / α per image; 0 for no limit. Use it if a few images "
                    "dominate every step.",
                ),
                io.Combo.Input(
                    "gradient_checkpointing",
                    options=["off", "hypernetwork", "all"],
                    default="off",
                    advanced=True,
                    tooltip="Recompute activations in the backward pass instead of keeping them. hypernetwork: only "
                    "in the hypernetwork, a fifth slower, half of the memory. all: everywhere, a third slower, a "
                    "fraction of the memory.",
                ),
                io.Int.Input(
                    "micro_batch_size",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    tooltip="Images in memory at a time; 0 for the whole batch. The result stays the same.",
                ),
                *_hypernetwork_inputs(),
                *sampling_inputs("With teacher gradient it must be differentiable."),
            ],
            outputs=[
                HyperNoiseType.Output(
                    display_name="hypernoise", tooltip="For the Modulate nodes. You can use it at once."
                ),
                io.LossMap.Output(display_name="loss_map", tooltip="For Plot Loss Graph. It covers the whole run."),
                io.Image.Output(display_name="preview", tooltip="Base above HyperNoise, with the same seeds."),
                io.String.Output(display_name="path", tooltip="The saved file."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompts=None, prompts_file=NO_FILE, name="", hypernetwork=BEFORE):
        """Errors are raised: what is returned, ComfyUI repeats for each of these inputs."""
        if words := missing("diffusers", *(["peft"] if hypernetwork == "lora" else [])):
            raise ValueError(words)
        parts = Path(name or "").parts
        if name is not None and (not name.strip() or Path(name).is_absolute() or ".." in parts or "\\" in name):
            raise ValueError(
                f"name: {name!r} is not a file name in models/hypernoise: write a name such as my_hypernoise"
            )
        if prompts is not None and prompts_file is not None:  # None: from another node, known when it runs
            collect_prompts(prompts, prompts_file)
        return True

    @classmethod
    def execute(
        cls,
        model,
        clip,
        vae,
        reward,
        prompts,
        prompts_file,
        name,
        resume,
        preview_every,
        scores_file=NO_FILE,
        **settings,
    ):
        from hypernoise_core.hypernetworks.head import features_of
        from hypernoise_core.training.scores_file import read_scores

        from .host.generator import HostGenerator
        from .host.memory import certain, tell_memory
        from .host.training_run import TrainingRun, called, find_place, keep_picture

        with torch.inference_mode(False), torch.enable_grad(), naming(called):
            texts = collect_prompts(prompts, prompts_file)
            sampling = take_sampling(settings)
            config = training_config(**settings)
            if config.teacher == "gradient":
                sampling.check_differentiable(model, ", or train with teacher critic")
            scored = []
            if scores_file != NO_FILE:
                config = replace(config, score_share=0.0)
                scored = read_scores(scores_path(scores_file), config.width, config.height)
            place = find_place(name, resume)
            generator = HostGenerator(model, clip, vae, min(config.height, config.width), sampling)
            generator.noise(1, config.height, config.width)  # refuses a size that does not fit
            generator.encode(["", *texts, *(row.prompt for row in scored)])
            generator.load()
            with generator.training():
                generator.check(config.steps)
                read = config.hypernetwork == "head" or config.teacher == "critic"
                if blind := read and not features_of(generator)[0]:
                    config = replace(config, head_reads="prediction")
                show_text("counting the memory that a step needs", cls.hidden.unique_id)
                needs = tell_memory(generator, reward, texts, config)
            bar = comfy.utils.ProgressBar(config.max_steps)

            def show(step, text, picture):
                show_text(f"{text}\n{needs}", cls.hidden.unique_id)
                if picture:
                    keep_picture(picture, place.folder / "preview.png")
                bar.update_absolute(step, preview=picture and ("JPEG", picture, PREVIEW_SIDE))

            with reward.present(generator.device), generator.training():
                trainer = _trainer(generator, reward.ensemble, texts, config, scored)
                needs = needs or certain(trainer, generator.device)
                run = TrainingRun(trainer, generator, place, texts, preview_every, show)
                run.notes.append(needs)
                if blind:
                    run.notes.append(BLIND)
                try:
                    run.train()
                finally:
                    offer_new_files()
            comfy.model_management.soft_empty_cache()
            keep_picture(run.picture, place.folder / "preview.png")
        preview = torch.from_numpy(np.array(run.picture)).float().div(255)[None]
        trained = load_hypernoise(place.adapter.stem, place.adapter)
        outcome = {**ui.PreviewImage(preview, cls=cls).as_dict(), **shown(run.report())}
        return io.NodeOutput(trained, run.curves, preview, str(place.adapter), ui=outcome)


def _trainer(generator, ensemble, texts, config, scored):
    from hypernoise_core.training import Trainer

    return Trainer(generator, ensemble, texts, config, scored=scored)


def _hypernetwork_inputs() -> list[io.Input]:
    """What kind is trained; workflows from before there was a choice have none of these, and train a LoRA."""
    return [
        io.Combo.Input(
            "hypernetwork",
            options=["head", "lora"],
            default="head",
            advanced=True,
            optional=True,
            tooltip="head: a small network that reads what the model makes of the noise. It works on every model and "
            "needs the least memory. lora: the paper's kind; it uses rank and alpha.",
        ),
        io.Int.Input(
            "iterations",
            default=5,
            min=1,
            max=8,
            optional=True,
            advanced=True,
            tooltip="The most readings that it is trained for. You may use fewer later. Each reading costs one "
            "denoiser call.",
        ),
        io.Int.Input(
            "head_width",
            default=256,
            min=16,
            max=4096,
            step=16,
            advanced=True,
            optional=True,
            tooltip="Width of the head's layers. A wider head is slower and can learn more.",
        ),
        io.Int.Input(
            "head_depth",
            default=2,
            min=1,
            max=64,
            advanced=True,
            optional=True,
            tooltip="Number of layers of the head.",
        ),
        io.Combo.Input(
            "between_steps",
            options=["fresh", "keep", "keep-moved"],
            default="fresh",
            advanced=True,
            optional=True,
            tooltip="Noise added between steps in training, if denoiser_steps is above 1. fresh: new noise, as lcm "
            "adds it. keep: the starting noise as drawn. keep-moved: the starting noise as the hypernetwork moved it.",
        ),
        io.Combo.Input(
            "teacher",
            options=["critic", "gradient"],
            default="critic",
            advanced=True,
            optional=True,
            tooltip="critic: a small network learns the reward from its scores and teaches by what it has learnt. It "
            "works with any reward and needs the least memory. gradient: the paper's way, through the reward, the VAE "
            "and every step; the reward must be differentiable.",
        ),
        io.Int.Input(
            "critic_warm_up",
            default=512,
            min=0,
            max=1_000_000,
            advanced=True,
            optional=True,
            tooltip="Images that the critic learns from before training begins. More give a better start.",
        ),
        io.Float.Input(
            "score_share",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            advanced=True,
            optional=True,
            tooltip="Share of each batch that is decoded and scored, for a critic. 0.25 saves three quarters of the "
            "VAE's and the reward's time.",
        ),
        io.Combo.Input(
            "scores_file",
            options=scores_files(),
            default=NO_FILE,
            advanced=True,
            optional=True,
            tooltip="Scores from Keep Scores. A critic then learns from them alone, and the reward only judges the "
            "previews. A few hundred scores are the least.",
        ),
    ]


def training_config(
    *,
    steps,
    denoiser_steps,
    gradient_checkpointing,
    micro_batch_size,
    reward_grad_clip,
    hypernetwork=BEFORE,
    **same,
):
    """The core's settings from the node's."""
    from hypernoise_core.training import TrainingConfig

    return TrainingConfig(
        max_steps=steps,
        steps=denoiser_steps,
        gradient_checkpointing={"off": False, "all": True}.get(gradient_checkpointing, gradient_checkpointing),
        micro_batch_size=micro_batch_size or None,
        reward_grad_clip=reward_grad_clip or None,
        beta2=0.99,
        ema_decay=0.99,
        diagnostics_every=0,
        hypernetwork=hypernetwork,
        **same,
    )
