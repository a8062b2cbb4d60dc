"""Wan2.1 and Wan2.2 text-to-video models: flow matching, one latent frame for four frames."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from torch import Tensor, nn

from chopgrad_ns.refiner.backbones.base import Backbone

PROMPT_TOKENS = 512


class Wan(Backbone):
    """Wan2.1 T2V, Wan2.2 TI2V-5B (whose autoencoder packs patches) and either expert of Wan2.2 A14B.

    z is the noisy sample at σ = timestep / 1000, and with the velocity v that the transformer gives x0 = z − σ·v.
    TI2V-5B is published with a timestep for each token; for text to video all of these are one, and one is given.
    """

    family = "wan"
    vae_class, transformer_class = AutoencoderKLWan, WanTransformer3DModel
    default_timestep = 250
    temporal_factor = frame_step = 4  # AutoencoderKLWan.encode cuts clips by four, whatever its layers do

    def __init__(self, vae: AutoencoderKLWan, transformer: WanTransformer3DModel, scheduler: dict):
        super().__init__(vae, transformer, scheduler)
        pixels = vae.config.patch_size or 1
        levels = range(len(vae.config.dim_mult))
        self.latent_factor = pixels * 2 ** levels[-1]
        self.spatial_factor = self.latent_factor * transformer.config.patch_size[-1]
        self.prompt_shape = (PROMPT_TOKENS, transformer.config.text_dim)
        self.feature_shapes = [(vae.config.base_dim * vae.config.dim_mult[level],
                                2 ** sum(vae.config.temperal_downsample[:level]), pixels * 2**level) for level in levels]

    @classmethod
    def check(cls, vae: Mapping, transformer: Mapping, scheduler: Mapping) -> None:
        taken, given = transformer["in_channels"], vae["z_dim"]
        if taken != given or transformer["image_dim"] is not None:
            raise ValueError(f"the transformer takes {taken} channels where latents have {given}, or a picture beside them, "
                             "so it is conditioned on images; only text-to-video models are supported")
        if 2 ** sum(vae["temperal_downsample"]) != cls.temporal_factor:
            raise ValueError("the autoencoder must compress time by four, as AutoencoderKLWan.encode takes for granted")

    @property
    def patch_size(self) -> tuple[int, int, int]:
        return tuple(self.transformer.config.patch_size)

    def _feature_modules(self) -> list[nn.Module]:
        blocks = list(self.vae.encoder.down_blocks)
        if self.vae.config.is_residual:  # a block of these ends with its downsampler
            return [block if block.downsampler is None else block.resnets[-1] for block in blocks]
        return [block for block, after in zip(blocks, [*blocks[1:], None])
                if after is None or isinstance(after, WanResample)]

    def to_decoder(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        return (z * std + mean).to(self.vae.dtype)

    def from_decoder(self, latents: Tensor) -> Tensor:
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        return tuple(z.new_tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std))

    def _patch_embed(self) -> nn.Module:
        return self.transformer.patch_embedding

    def _with_tokens(self, output: Tensor, tokens: Tensor) -> Tensor:
        return output + tokens

    def _output(self, z: Tensor, timestep: int, prompt: Tensor) -> Tensor:
        dtype = self.transformer.dtype
        steps = torch.full((len(z),), timestep, device=z.device)
        return self.transformer(z.to(dtype), steps, prompt.to(dtype), return_dict=False)[0].to(z.dtype)

    def _clean(self, z: Tensor, output: Tensor, timestep: int) -> Tensor:
        return z - timestep / 1000 * output
