"""CogVideoX and CogVideoX1.5 text-to-video models, DOVE's among them: v-prediction, frames in groups of eight."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from jaxtyping import Float
from torch import Tensor, nn

from chopgrad_ns.refiner.backbones.base import Backbone

OFFSET = 2.0
"""What transformers with an "ofs" embedding are always given."""


class CogVideoX(Backbone):
    """CogVideoX 2B (sine positions), 5B (rotary) and 1.5 (tokens of two latent frames, rotary).

    With ᾱ of the scheduler at the timestep and the v that the transformer gives, x0 = √ᾱ·z − √(1 − ᾱ)·v. Latents are
    scaled by the autoencoder's `scaling_factor`; its `invert_scale_latents` is about pictures given as a condition. The
    decoder makes 4·n frames of an even number n of latent frames and 4·n − 3 of an odd one, the encoder takes either, so
    only clips of 8·k + 1 frames come back as long as they were.
    """

    family = "cogvideox"
    vae_class, transformer_class = AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
    default_timestep = 399
    temporal_factor, frame_step = 4, 8

    def __init__(self, vae: AutoencoderKLCogVideoX, transformer: CogVideoXTransformer3DModel, scheduler: dict):
        super().__init__(vae, transformer, scheduler)
        config = transformer.config
        # The same in all of CogVideoX's schedulers, which differ in how they go on from one step to the next.
        self._alphas = CogVideoXDDIMScheduler.from_config(scheduler).alphas_cumprod.tolist()
        widths = vae.config.block_out_channels
        self.latent_factor = 2 ** (len(widths) - 1)
        self.spatial_factor = self.latent_factor * config.patch_size
        self.prompt_shape = (config.max_text_seq_length, config.text_embed_dim)
        self.feature_shapes = [(width, min(2**level, self.temporal_factor), 2**level) for level, width in enumerate(widths)]

    @classmethod
    def check(cls, vae: Mapping, transformer: Mapping, scheduler: Mapping) -> None:
        taken, given = transformer["in_channels"], vae["latent_channels"]
        if taken != given:
            raise ValueError(f"the transformer takes {taken} channels where latents have {given}, so it is conditioned on "
                             "images; only text-to-video models are supported")
        if scheduler.get("prediction_type") != "v_prediction":
            raise ValueError(f"the scheduler's prediction_type is {scheduler.get('prediction_type')}; only v_prediction is "
                             "supported")
        if vae["temporal_compression_ratio"] != cls.temporal_factor:
            raise ValueError("the autoencoder must compress time by four")

    @property
    def patch_size(self) -> tuple[int, int, int]:
        config = self.transformer.config
        return (config.patch_size_t or 1, config.patch_size, config.patch_size)

    def _feature_modules(self) -> list[nn.Module]:
        return [block.resnets[-1] for block in self.vae.encoder.down_blocks]

    def to_decoder(self, z: Tensor) -> Tensor:
        return (z / self.vae.config.scaling_factor).to(self.vae.dtype)

    def from_decoder(self, latents: Tensor) -> Tensor:
        return latents * self.vae.config.scaling_factor

    def denoise(self, z: Tensor, timestep: int, prompt: Tensor, condition: Tensor | None = None) -> Tensor:
        """As in `Backbone`. Where a token has two latent frames, an odd number is completed by the first one twice.

        A prompt of fewer tokens than `prompt_shape` says is filled up with zeros: these models were trained with all.
        """
        missing = -z.shape[2] % self.patch_size[0]

        def completed(x: Tensor) -> Tensor:
            return torch.cat([x[:, :, :1].expand(-1, -1, missing, -1, -1), x], dim=2)

        condition = None if condition is None else completed(condition)
        prompt = F.pad(prompt, (0, 0, 0, self.prompt_shape[0] - prompt.shape[1]))
        return super().denoise(completed(z), timestep, prompt, condition)[:, :, missing:]

    def _patch_embed(self) -> nn.Module:
        return self.transformer.patch_embed

    def _with_tokens(self, output: Tensor, tokens: Tensor) -> Tensor:
        text = self.prompt_shape[0]  # the prompt's tokens come first
        return torch.cat([output[:, :text], output[:, text:] + tokens.flatten(2).transpose(1, 2)], dim=1)

    def _output(self, z: Tensor, timestep: int, prompt: Tensor) -> Tensor:
        config, dtype = self.transformer.config, self.transformer.dtype
        given = {}
        if config.use_rotary_positional_embeddings:
            given["image_rotary_emb"] = self._rotary(*z.shape[2:], z.device)
        if config.ofs_embed_dim is not None:
            given["ofs"] = z.new_full((1,), OFFSET)
        steps = torch.full((len(z),), timestep, device=z.device)
        latents = z.to(dtype).transpose(1, 2)
        return self.transformer(latents, prompt.to(dtype), steps, return_dict=False, **given)[0].transpose(1, 2).to(z.dtype)

    def _rotary(self, frames: int, height: int, width: int,
                device: torch.device) -> tuple[Float[Tensor, "l d"], Float[Tensor, "l d"]]:
        """Cosines and sines for the tokens of latents of this size; 32 bits whatever the weights have."""
        config = self.transformer.config
        grid = (height // config.patch_size, width // config.patch_size)
        usual = (config.sample_height // config.patch_size, config.sample_width // config.patch_size)
        if config.patch_size_t is None:
            place = {"crops_coords": _fitted(grid, usual)}
        else:  # places are counted from a corner; those beyond the usual size go on likewise, as DOVE has them
            largest = tuple(max(sides) for sides in zip(grid, usual))
            place = {"crops_coords": None, "grid_type": "slice", "max_size": largest}
        return get_3d_rotary_pos_embed(config.attention_head_dim, grid_size=grid, temporal_size=frames // self.patch_size[0],
                                       device=device, **place)

    def _clean(self, z: Tensor, output: Tensor, timestep: int) -> Tensor:
        alpha = self._alphas[timestep]
        return math.sqrt(alpha) * z - math.sqrt(1 - alpha) * output


def _fitted(grid: tuple[int, int], usual: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """First corner and last of the grid, enlarged or shrunk to fit into the usual one, in the middle of it."""
    scale = min(within / side for within, side in zip(usual, grid))
    size = [round(side * scale) for side in grid]
    start = tuple(round((within - side) / 2) for within, side in zip(usual, size))
    return start, tuple(first + side for first, side in zip(start, size))
