"""A node pack for tests: exact tensors out of ComfyUI, and what it does to weights."""

import importlib
import json
import os
import sys
import time
import uuid

import comfy.controlnet
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.sd
import comfy.supported_models
import comfy.taesd.taesd
import comfy.utils
import folder_paths
import latent_preview
import numpy as np
import torch
from comfy_api.v0_0_2 import ComfyExtension, io

from .families import FAMILIES, VIDEO, RandomClip, model_of, patcher_of, vae_of
from .quantized import quantized_model_of

os.fsync = lambda handle: None  # as in tests/conftest.py: no waiting for the disk

COUNTS = {"weight patches": 0}


def _count(name, function):
    def counted(*args, **kwargs):
        COUNTS[name] += 1
        return function(*args, **kwargs)

    return counted


patch = comfy.model_patcher.ModelPatcher.patch_weight_to_device
comfy.model_patcher.ModelPatcher.patch_weight_to_device = _count("weight patches", patch)


class ProbeSave(io.ComfyNode):
    """Saves a tensor as it is, and what is known of the model's state."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeSave",
            is_output_node=True,
            inputs=[
                io.Image.Input("image", optional=True),
                io.Latent.Input("latent", optional=True),
                io.Model.Input("model", optional=True),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, image=None, latent=None, model=None):
        tensor = image if image is not None else latent["samples"]
        name = f"{uuid.uuid4().hex}.pt"
        torch.save(tensor.clone(), os.path.join(folder_paths.get_output_directory(), name))
        state = {**COUNTS, "file": name}
        if model is not None:
            state["patched forwards"] = sum("forward" in vars(m) for m in model.model.modules())
            state["backups"] = len(model.backup) + len(model.patches)
        state["loaded"] = len(comfy.model_management.current_loaded_models)
        result = {"filename": name, "subfolder": "", "type": "output"}
        return io.NodeOutput(ui={"tensors": [result], "state": [state]})


class ProbeConditioning(io.ComfyNode):
    """A CONDITIONING of random numbers, for models whose text encoders are too large for a test."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeConditioning",
            inputs=[
                io.Int.Input("width"),
                io.Int.Input("pooled"),
                io.Int.Input("seed"),
                io.Int.Input("tokens", default=7, optional=True),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, width, pooled, seed, tokens=7):
        random = torch.Generator().manual_seed(seed)
        tokens = torch.randn(1, tokens, width, generator=random)
        return io.NodeOutput([[tokens, {"pooled_output": torch.randn(1, pooled, generator=random)}]])


class Shift(comfy.controlnet.ControlBase):
    """A ControlNet in miniature: it adds a constant in the middle of a UNet."""

    def get_control(self, *_, **__):
        return {"input": [], "middle": [torch.full((1, 1, 1, 1), 0.5)], "output": []}


class ProbeControl(io.ComfyNode):
    """A CONDITIONING with a ControlNet."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeControl",
            inputs=[io.Conditioning.Input("conditioning")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning):
        return io.NodeOutput([[tokens, {**rest, "control": Shift()}] for tokens, rest in conditioning])


class ProbeDraw(io.ComfyNode):
    """What a NOISE draws for a latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeDraw",
            inputs=[io.Noise.Input("noise"), io.Latent.Input("latent")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, noise, latent):
        return io.NodeOutput({"samples": noise.generate_noise(latent)})


class ProbeEmptyLatent(io.ComfyNode):
    """An empty latent as the samplers make it for a model."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeEmptyLatent",
            inputs=[io.Model.Input("model"), io.Latent.Input("latent")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model, latent):
        ratio = [latent["downscale_ratio_spacial"]] if "downscale_ratio_spacial" in latent else []  # older hosts: none
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratio)
        return io.NodeOutput({"samples": samples})


class ProbePreview(io.ComfyNode):
    """What the sampler's live preview shows of a latent."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbePreview",
            inputs=[io.Model.Input("model"), io.Latent.Input("latent")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, model, latent):
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        picture = previewer.decode_latent_to_preview(model.model.process_latent_in(latent["samples"]))
        return io.NodeOutput(torch.from_numpy(np.array(picture)).float()[None] / 255)


class ProbeNoise(io.ComfyNode):
    """A NOISE of somebody else: RandomNoise's, turned around, and slow if wanted."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeNoise",
            inputs=[io.Noise.Input("noise")],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, noise):
        class Flipped:
            seed = noise.seed

            def generate_noise(self, latent):
                return -noise.generate_noise(latent)

        return io.NodeOutput(Flipped())


class ProbeShiftedNoise(io.ComfyNode):
    """A NOISE with a number added to every cell."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeShiftedNoise",
            inputs=[io.Noise.Input("noise"), io.Float.Input("by", min=-1.0, max=1.0)],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, noise, by):
        class Shifted:
            seed = noise.seed

            def generate_noise(self, latent):
                return noise.generate_noise(latent) + by

        return io.NodeOutput(Shifted())


class ProbeSlowModel(io.ComfyNode):
    """A MODEL whose every denoiser call takes a while and can be cancelled, for the test of Cancel."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeSlowModel",
            inputs=[io.Model.Input("model"), io.Float.Input("seconds", default=2.0)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, seconds):
        def slow(apply_model, args):
            for _ in range(int(seconds / 0.02)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                time.sleep(0.02)
            return apply_model(args["input"], args["timestep"], **args["c"])

        model = model.clone()
        model.set_model_unet_function_wrapper(slow)
        return io.NodeOutput(model)


class ProbeStamp(io.ComfyNode):
    """A LATENT as it was, under a stamp: with a new one, whatever comes after is not in ComfyUI's cache."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeStamp",
            inputs=[io.Latent.Input("latent"), io.String.Input("stamp")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent, stamp):
        return io.NodeOutput(latent)


class ProbeClipAndVae(io.ComfyNode):
    """A CLIP of random numbers and a TAESD with random weights, for models whose own are too large for a test."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeClipAndVae",
            inputs=[io.Int.Input("width"), io.Int.Input("pooled"), io.Int.Input("channels")],
            outputs=[io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, width, pooled, channels):
        random = torch.Generator().manual_seed(0)
        weights = comfy.taesd.taesd.TAESD(latent_channels=channels).state_dict()
        for name, weight in weights.items():  # ComfyUI's layers come without any
            if weight.dim() == 4:
                weights[name] = torch.randn(weight.shape, generator=random) / weight[0].numel() ** 0.5
            elif name.endswith("bias"):
                weights[name] = torch.zeros_like(weight)
        return io.NodeOutput(RandomClip(width, pooled), comfy.sd.VAE(sd=weights))


class ProbeEncode(io.ComfyNode):
    """CLIP Text Encode for a `RandomClip`."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeEncode",
            inputs=[io.Clip.Input("clip"), io.String.Input("text")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip, text):
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class ProbeGenerator(io.ComfyNode):
    """The pack's generator behind MODEL, CLIP and VAE: two pictures, and the gradient of their brightness in the noise,
    kept and computed again."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeGenerator",
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("vae"),
                io.Noise.Input("noise"),
                io.Latent.Input("latent"),
                io.String.Input("prompts"),
                io.Int.Input("steps"),
                io.Int.Input("seed"),
                io.String.Input("sampling", default="{}", optional=True),
            ],
            outputs=[io.Image.Output(), io.Latent.Output(), io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model, clip, vae, noise, latent, prompts, steps, seed, sampling="{}"):
        pack = next(name for name in sys.modules if name.endswith("ComfyUI-HyperNoise"))
        bridge = importlib.import_module(f"{pack}.nodes.host.generator")
        differentiation = importlib.import_module(f"{pack}.nodes.host.differentiation")
        how = importlib.import_module(f"{pack}.nodes.host.sampling").Sampling(**json.loads(sampling))
        x0 = noise.generate_noise(latent)
        x0 = x0[:, :, 0] if x0.dim() == 5 else x0
        with torch.inference_mode(False), torch.enable_grad():
            generator = bridge.HostGenerator(model, clip, vae, 64, how)
            conditioning = generator.encode(prompts.split("|"))
            generator.load()
            gradients = []
            for again in (False, True):
                x = x0.clone().requires_grad_()

                def passes(x=x, again=again):
                    generator.checkpoint_gradients(again)
                    images = generator.generate(x, conditioning, steps, seed)
                    if images.requires_grad:  # not every sampler is differentiable
                        images.square().sum().backward()
                    yield images.detach()

                with generator.training():
                    (images,) = differentiation.each_with_mutations(passes())
                gradients.append({"samples": torch.zeros_like(x0) if x.grad is None else x.grad})
        return io.NodeOutput(images.movedim(1, -1), *gradients)


class ProbeMemory(io.ComfyNode):
    """The bytes that a training step by the gradient is counted to need, without data and as it runs."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeMemory",
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("vae"),
                io.Custom("REWARD").Input("reward"),
                io.Int.Input("steps"),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, model, clip, vae, reward, steps):
        pack = next(name for name in sys.modules if name.endswith("ComfyUI-HyperNoise"))
        bridge, memory = (importlib.import_module(f"{pack}.nodes.host.{name}") for name in ("generator", "memory"))
        planning = importlib.import_module("hypernoise_core.planning.count")
        training = importlib.import_module("hypernoise_core.training")
        config = training.TrainingConfig(
            hypernetwork="lora", teacher="gradient", rank=4, batch_size=2, height=32, width=32, steps=steps
        )
        with torch.inference_mode(False), torch.enable_grad():
            generator = bridge.HostGenerator(model, clip, vae, 32)
            generator.encode(["", "a cat"])
            generator.load()
            with generator.training(), reward.present(generator.device):
                counted = memory.Counting(generator, reward, ["a cat"])(config)
                trainer = training.Trainer(generator, reward.ensemble, ["a cat"], config)
                with torch.autograd.graph.allow_mutation_on_saved_tensors():
                    real = planning.count_step(trainer, 2)
        return io.NodeOutput(ui={"bytes": [counted.peak, real.peak]})


class ProbeModulated(io.ComfyNode):
    """Noise that a head from a file moves as it does while it trains: on the pack's generator, one prompt a picture."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeModulated",
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("vae"),
                io.Noise.Input("noise"),
                io.Latent.Input("latent"),
                io.String.Input("prompts"),
                io.String.Input("file"),
                io.Int.Input("iterations"),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model, clip, vae, noise, latent, prompts, file, iterations):
        pack = next(name for name in sys.modules if name.endswith("ComfyUI-HyperNoise"))
        bridge = importlib.import_module(f"{pack}.nodes.host.generator")
        heads = importlib.import_module("hypernoise_core.hypernetworks.head")
        x0 = noise.generate_noise(latent)
        with torch.inference_mode(False), torch.no_grad():
            generator = bridge.HostGenerator(model, clip, vae, 64)
            conditioning = generator.encode(["", *prompts.split("|")]).rows(slice(1, None))
            generator.load()
            head = heads.HeadHypernetwork.load(generator, folder_paths.get_full_path_or_raise("hypernoise", file))
            with generator.training():
                moved = head.modulate(x0.clone(), conditioning, iterations=iterations)
        return io.NodeOutput({"samples": moved})


class ProbeUnit(io.ComfyNode):
    """A LATENT on the scale on which the denoiser works."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeUnit",
            inputs=[io.Model.Input("model"), io.Latent.Input("latent")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model, latent):
        return io.NodeOutput({"samples": model.model.process_latent_in(latent["samples"])})


class ProbeWeights(io.ComfyNode):
    """A MODEL of a class of `comfy.supported_models` from a file, with a CLIP and a VAE of random numbers. ComfyUI's
    loaders know some classes by their full size alone: `settings` are what they do not find out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeWeights",
            inputs=[
                io.String.Input("file"),
                io.String.Input("config"),
                io.String.Input("settings", default="{}", optional=True),
                io.Int.Input("width", default=64, optional=True),
                io.Int.Input("pooled", default=32, optional=True),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, file, config, settings="{}", width=64, pooled=32):
        weights = comfy.utils.load_torch_file(folder_paths.get_full_path_or_raise("diffusion_models", file))
        found = comfy.model_detection.detect_unet_config(weights, "") | json.loads(settings)
        model = patcher_of(getattr(comfy.supported_models, config)(found), weights)
        return io.NodeOutput(model, RandomClip(width, pooled), vae_of(model))


class ProbeFamily(io.ComfyNode):
    """A family of ComfyUI's own at toy size: MODEL, CLIP and VAE with random weights."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProbeFamily",
            inputs=[
                io.String.Input("family", extra_dict={"classes": {name: f.config for name, f in FAMILIES.items()}}),
                io.String.Input("quantized", default="", optional=True),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls, family, quantized=""):
        family = (FAMILIES | VIDEO)[family]
        model = quantized_model_of(family, quantized) if quantized else model_of(family)
        return io.NodeOutput(model, RandomClip(family.width, family.pooled, family.more), vae_of(model))


class ProbeExtension(ComfyExtension):
    async def get_node_list(self):
        return [
            ProbeSave,
            ProbeConditioning,
            ProbeControl,
            ProbeDraw,
            ProbeEmptyLatent,
            ProbePreview,
            ProbeNoise,
            ProbeShiftedNoise,
            ProbeSlowModel,
            ProbeModulated,
            ProbeUnit,
            ProbeWeights,
            ProbeFamily,
            ProbeStamp,
            ProbeClipAndVae,
            ProbeEncode,
            ProbeGenerator,
            ProbeMemory,
        ]


async def comfy_entrypoint():
    return ProbeExtension()
