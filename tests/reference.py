"""Independent computations: diffusers' own pipelines without their no_grad, and f_φ in plain torch."""

import torch
from torch.nn import functional as F

from hypernoise_core.hypernetworks.lora_clone import lora_parameters
from hypernoise_core.layers import target_names
from hypernoise_core.noise import BETWEEN_STEPS, derive_seed


def pipeline_pictures(generator, x0, prompts, steps, seed=0, **more):
    """What the pipeline's `__call__` itself returns with `more` arguments: [B, 3, H, W] in [0, 1], differentiable."""
    pipeline = generator.pipeline
    options = {
        "sana-sprint": {
            "intermediate_timesteps": 1.3 if steps == 2 else None,
            "use_resolution_binning": False,
            "complex_human_instruction": None,
            "max_sequence_length": max(map(len, pipeline.tokenizer(list(prompts))["input_ids"])),
        },
        "sd-turbo": {"guidance_scale": 0.0},
        "sdxl-turbo": {"guidance_scale": 0.0},
        "flux": {"max_sequence_length": 16},
        "z-image": {"guidance_scale": 0.0, "max_sequence_length": 64},
        "flux2-klein": {"guidance_scale": 1.0, "max_sequence_length": 64},
        "qwen-image": {"true_cfg_scale": 1.0},
        "krea2": {"guidance_scale": 0.0, "max_sequence_length": 256},
        "sd3": {"guidance_scale": 0.0, "max_sequence_length": 16},
        "lcm": {},
    }[generator.family]
    batch, channels, height, width = x0.shape
    packed = generator.family in ("flux", "qwen-image", "krea2")
    latents = pipeline._pack_latents(x0, batch, channels, height, width) if packed else x0
    return type(pipeline).__call__.__wrapped__(
        pipeline,
        prompt=list(prompts),  # Z-Image's writes into it
        num_inference_steps=steps,
        height=height * generator.latent_scale,
        width=width * generator.latent_scale,
        latents=latents,
        generator=torch.Generator().manual_seed(derive_seed(seed, BETWEEN_STEPS)),
        output_type="pt",
        return_dict=False,
        **options,
        **more,
    )[0]


def _z_image(pipeline, denoiser, x0, prompts):
    texts, _ = pipeline.encode_prompt(prompts, "cpu", False, max_sequence_length=64)
    pictures = [picture[:, None] for picture in x0]
    return -torch.stack(denoiser(pictures, torch.zeros(len(x0)), texts).sample)[:, :, 0]


def _flux2_klein(pipeline, denoiser, x0, prompts):
    embeds, text_ids = pipeline.encode_prompt(prompts, "cpu", max_sequence_length=64)
    ids = pipeline._prepare_latent_ids(x0)
    output = denoiser(pipeline._pack_latents(x0), embeds, torch.ones(len(x0)), ids, text_ids).sample
    return pipeline._unpack_latents_with_ids(output, ids)


def _qwen_image(pipeline, denoiser, x0, prompts):
    embeds, mask = pipeline.encode_prompt(prompts, "cpu")
    batch, channels, height, width = x0.shape
    packed, shape = pipeline._pack_latents(x0, batch, channels, height, width), (1, height // 2, width // 2)
    output = denoiser(packed, embeds, mask, torch.ones(batch), [[shape]] * batch).sample
    return pipeline._unpack_latents(output, 2 * height, 2 * width, 2)[:, :, 0]


def _krea2(pipeline, denoiser, x0, prompts):
    embeds, mask = pipeline.encode_prompt(prompts, "cpu", max_sequence_length=256)
    batch, channels, height, width = x0.shape
    packed = pipeline._pack_latents(x0, batch, channels, height, width)
    ids = pipeline.prepare_position_ids(embeds.shape[1], height // 2, width // 2, "cpu")
    output = denoiser(packed, embeds, torch.ones(batch), ids, mask).sample
    return pipeline._unpack_latents(output, 2 * height, 2 * width)[:, :, 0]


def _stable_diffusion_3(pipeline, denoiser, x0, prompts):
    embeds, _, pooled, _ = pipeline.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=16
    )
    return denoiser(x0, embeds, pooled, 1000 * torch.ones(len(x0))).sample


FLOWS = {
    "z-image": _z_image,
    "flux2-klein": _flux2_klein,
    "qwen-image": _qwen_image,
    "krea2": _krea2,
    "sd3": _stable_diffusion_3,
}
"""Rectified flows: what each denoiser returns for unit noise at the first step."""


def first_prediction(generator, x0, prompts):
    """The denoiser's raw output on unit noise, with its inputs written out by hand: [B, C, h, w]."""
    pipeline, denoiser = generator.pipeline, generator.denoiser
    ones = torch.ones(len(x0))
    if generator.family == "sana-sprint":
        embeds, mask = pipeline.encode_prompt(prompts, complex_human_instruction=None, device="cpu")
        return denoiser(x0, embeds, timestep=ones, guidance=0.45 * ones, encoder_attention_mask=mask).sample
    if generator.family == "flux":
        batch, channels, height, width = x0.shape
        embeds, pooled, text_ids = pipeline.encode_prompt(prompts, None, device="cpu", max_sequence_length=16)
        ids = pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32)
        packed = pipeline._pack_latents(x0, batch, channels, height, width)
        output = denoiser(packed, embeds, pooled, ones, ids, text_ids).sample
        scale = generator.latent_scale
        return pipeline._unpack_latents(output, height * scale, width * scale, scale)
    if generator.family in FLOWS:
        return FLOWS[generator.family](pipeline, denoiser, x0, list(prompts))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = (1 - betas).cumprod(0)[-1]
    sigma = ((1 - alpha) / alpha).sqrt()
    assert abs(sigma - 14.6146) < 1e-3
    x, added = x0 * sigma / (sigma**2 + 1).sqrt(), None
    if generator.family == "sdxl-turbo":
        embeds, _, pooled, _ = pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
        height, width = (side * generator.latent_scale for side in x0.shape[-2:])
        times = torch.tensor([[height, width, 0, 0, height, width]] * len(x0)).float()
        added = {"text_embeds": pooled, "time_ids": times}
    else:
        embeds, _ = pipeline.encode_prompt(prompts, "cpu", 1, False)
    return denoiser(x, 999, embeds, added_cond_kwargs=added).sample


def reference_delta(generator, f, x0, prompts):
    """f_φ as the reference computes it: hooks on the generator's own layers add the LoRA branch, and the last layer
    returns that branch alone."""
    weights, scale = lora_parameters(f.network), f.alpha / f.rank

    def hook(name):
        a, b = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]

        def add(module, inputs, output):
            if a.dim() == 2:
                branch = F.linear(F.linear(inputs[0], a), b)
            else:
                branch = F.conv2d(F.conv2d(inputs[0], a, None, module.stride, module.padding), b)
            return scale * branch + (0 if name == f.last_layer else output)

        return add

    modules = dict(generator.denoiser.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in target_names(generator.denoiser)]
    try:
        return first_prediction(generator, x0, prompts)
    finally:
        for handle in handles:
            handle.remove()
