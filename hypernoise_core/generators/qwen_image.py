"""Qwen-Image (Alibaba 2025, arXiv 2508.02324): a rectified-flow transformer of two streams, text and picture, with the
last layer of a vision-language model for text."""

from diffusers import QwenImagePipeline
from torch import Tensor, nn

from ..batch import TensorBatch
from .latents import pack, unpack
from .texts import masked, padded
from .video_autoencoder import VideoAutoencoder

MAX_TOKENS = 512
"""Tokens per prompt: the default of `QwenImagePipeline`'s call."""


class QwenImage(VideoAutoencoder):
    """A `QwenImagePipeline` without guidance, such as with a Lightning LoRA, which makes a few steps enough."""

    family = "qwen-image"
    pipeline_class = QwenImagePipeline
    max_tokens = MAX_TOKENS

    def _encode(self, prompts: list[str]) -> TensorBatch:
        embeds, mask = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=self.text_length)
        return padded(list(embeds) if mask is None else masked(embeds, mask))

    def _velocity(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        dtype = self.denoiser.dtype
        tokens = denoiser(
            hidden_states=pack(x).to(dtype),
            timestep=self._times(x, s),
            encoder_hidden_states=conditioning["embeds"].to(dtype),
            encoder_hidden_states_mask=conditioning["mask"],
            img_shapes=[[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x),
            return_dict=False,
        )[0]
        return unpack(tokens.float(), x.shape)
