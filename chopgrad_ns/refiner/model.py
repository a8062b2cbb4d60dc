"""A latent video diffusion model as a single-step video-to-video refiner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from chopgrad_ns.chopgrad import CausalDecoder, FrameByFrame, as_causal_decoder
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.refiner.backbones import Backbone
from chopgrad_ns.refiner.condition import ConditionEncoder, PhotoAttention, pool_time, small_photos
from chopgrad_ns.refiner.config import RefinerConfig
from chopgrad_ns.refiner.decoder import HEAD, BlendHead, RefinerDecoder
from chopgrad_ns.refiner.rates import block_rates, steps_of
from chopgrad_ns.refiner.tasks import task_named


@dataclass
class Batch:
    """B clips of T = k · frame_step + 1 frames at a padded size; pictures in 0…1.

    `extra` is the task's; `gate` says where the output may differ from the input; `photos`, if any, are those of all
    clips, each with as many.
    """

    frames: Float[Tensor, "b t 3 h w"]
    extra: Float[Tensor, "b t e h w"]
    gate: Float[Tensor, "b t 1 h w"]
    alpha: Float[Tensor, "b t 1 h w"]
    references: Float[Tensor, "b t r 3 h w"]
    masks: Float[Tensor, "b t r 1 h w"]
    photos: Float[Tensor, "b p 3 h2 w2"] | None = None

    @property
    def residuals(self) -> Float[Tensor, "b t r 3 h w"]:
        """What the photos would change, where they can be believed."""
        return self.masks * (self.references - self.frames[:, :, None])


@dataclass
class Prediction:
    """What goes into the decoder, and what should come of it before.

    `z`: refined latents, normalised; `latents`: the same in the decoder's own space; `side`: what each group gets beside.
    """

    z: Float[Tensor, "b c tz hz wz"]
    latents: Float[Tensor, "b c tz hz wz"]
    side: list[dict[str, Tensor]]


class RefinerModel(nn.Module):
    """Encoder → one transformer step → causal decoder with features beside its blocks and a bounded head.

    The latent of the degraded clip stands for the noisy sample at a fixed timestep; the backbone's own parametrisation
    gives the clean one. All that goes with the frames enters through layers that start at zero: beside the transformer's
    tokens, beside the decoder's blocks, and in the head.
    """

    def __init__(self, config: RefinerConfig, backbone: Backbone):
        super().__init__()
        self.config, self.backbone = config, backbone
        channels, extra = config.condition_channels, task_named(config.task).extra_channels
        if 2 ** (len(channels) - 1) != backbone.latent_factor:
            raise ValueError(f"{len(channels)} levels of conditioning end at {2 ** (len(channels) - 1)} pixels, and a latent "
                             f"has {backbone.latent_factor}")
        self.condition, self.photo_attention = ConditionEncoder(extra, channels), PhotoAttention(channels[-1])
        backbone.condition_on(channels[-1])
        inner = as_causal_decoder(backbone.vae)
        self.blocks = block_rates(inner, backbone.vae)
        level = {2**k: k for k in range(len(channels))}
        self.levels = {name: level[rate.pixels] for name, rate in self.blocks.items() if rate.pixels in level}
        encoded = {(t, s): k for k, (_, t, s) in enumerate(backbone.feature_shapes)} if config.skips else {}
        self.encoded = {name: encoded[rate[1:]] for name, rate in self.blocks.items() if rate[1:] in encoded}
        self.injections = nn.ModuleDict({
            "condition": self._into_blocks({name: channels[k] for name, k in self.levels.items()}),
            "encoder": self._into_blocks({name: backbone.feature_shapes[k][0] for name, k in self.encoded.items()})})
        vae = backbone.vae.config
        decoded = vae.out_channels // (getattr(vae, "patch_size", None) or 1) ** 2
        self.head = BlendHead(decoded, channels[0], config.output)
        self.decoder = RefinerDecoder(inner, self.head, self.injections)
        self.frame_by_frame = FrameByFrame(self.decoder)
        self.register_buffer("prompt", torch.zeros(config.prompt_tokens, backbone.prompt_shape[1]))
        self._start_at_zero()

    def _into_blocks(self, channels: dict[str, int]) -> nn.ModuleDict:
        """1×1 convolutions of so many channels to the width of each block."""
        return nn.ModuleDict({name.replace(".", "/"): nn.Conv3d(count, self.blocks[name].channels, 1)
                              for name, count in channels.items()})

    def _start_at_zero(self) -> None:
        last = [*self.injections["condition"].values(), *self.injections["encoder"].values(), self.photo_attention.out]
        if self.config.output == "correct":
            # No published weights: a backbone whose last layers are zero corrects nothing.
            last += [self.backbone.transformer.proj_out, self.backbone.vae.decoder.conv_out]
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode(self, frames: Float[Tensor, "b t 3 h w"], frame_by_frame: bool = False) -> Float[Tensor, "b c tz hz wz"]:
        """Normalised latents of pictures in 0…1; `frame_by_frame`: one of each frame, as of a clip of that frame alone."""
        return self._encoded(frames, frame_by_frame, features=False)[0]

    def _encoded(self, frames: Float[Tensor, "b t 3 h w"], frame_by_frame: bool, features: bool
                 ) -> tuple[Tensor, list[Tensor]]:
        """Latents and, if asked for, the encoder's features."""
        pictures = 2 * frames.transpose(1, 2) - 1
        if frame_by_frame:
            pictures = pictures.transpose(1, 2).flatten(0, 1)[:, :, None]
        found = self.backbone.encode(pictures, features)
        z, encoded = found if features else (found, [])
        if frame_by_frame:
            z, *encoded = (value[:, :, 0].unflatten(0, frames.shape[:2]).transpose(1, 2) for value in (z, *encoded))
        return z, encoded

    def predict(self, batch: Batch, frame_by_frame: bool = False) -> Prediction:
        """Everything up to the decoder.

        `frame_by_frame`: up to `self.frame_by_frame`. Each frame has a latent of its own then, and the transformer sees them
        one after the other.
        """
        features = self.features(batch)
        z, encoded = self._encoded(batch.frames, frame_by_frame, bool(self.encoded))
        condition = pool_time(features[-1], 1 if frame_by_frame else self.backbone.temporal_factor)
        prompt = self.prompt.expand(len(z), -1, -1)
        refined = self.backbone.denoise(z, self.config.timestep, prompt, condition)
        before = self.backbone.to_decoder(z) if self.config.output == "residual" else None
        latents = self.backbone.to_decoder(refined)
        decoder = self.frame_by_frame if frame_by_frame else self.decoder
        return Prediction(refined, latents, self._side(batch, features, encoded, before, decoder, latents.shape[2]))

    def forward(self, batch: Batch) -> Float[Tensor, "b t 3 h w"]:
        """Refined frames in about 0…1, decoded group by group."""
        return self.decode(self.predict(batch))

    def decode(self, prediction: Prediction) -> Float[Tensor, "b t 3 h w"]:
        """Frames in about 0…1, group by group."""
        return self.decoder.decode(prediction.latents, prediction.side).transpose(1, 2) / 2 + 0.5

    def example_side(self, latents_shape: tuple[int, int, int, int, int], references: int = 0) -> list[dict[str, Tensor]]:
        """Side tensors as `predict` makes them for latents of a shape, of random frames with so many references each."""
        batch, _, count, height, width = latents_shape
        frames = self.decoder.num_frames(count)
        weight = next(self.parameters())
        size = (height * self.backbone.latent_factor, width * self.backbone.latent_factor)

        def random(*channels: int) -> Tensor:
            return torch.rand(batch, frames, *channels, *size, device=weight.device, dtype=weight.dtype)

        extra = self.condition.base.in_channels - 3
        example = Batch(random(3), random(extra), random(1), random(1), random(references, 3), random(references, 1))
        with torch.no_grad():
            return [{name: value.detach().requires_grad_(value.is_floating_point()) for name, value in side.items()}
                    for side in self.predict(example).side]

    def features(self, batch: Batch) -> list[Float[Tensor, "b t c h w"]]:
        """Of all that goes with the frames, and of these, at full, half, … and latent resolution."""
        shape = batch.frames.shape[:2]
        inputs = (batch.frames, batch.extra, batch.residuals, batch.masks)
        features = [x.unflatten(0, shape) for x in self.condition(*(value.flatten(0, 1) for value in inputs))]
        if batch.photos is not None:
            features[-1] = self.photo_attention(features[-1], self._photo_features(batch.photos))
        return features

    def _photo_features(self, photos: Float[Tensor, "b p 3 h w"]) -> Float[Tensor, "b p c h2 w2"]:
        flat = small_photos(photos.flatten(0, 1), self.backbone.latent_factor)
        count, _, height, width = flat.shape
        nothing = [flat.new_zeros(count, *shape, height, width)
                   for shape in ((self.condition.base.in_channels - 3,), (0, 3), (0, 1))]
        return self.condition(flat, *nothing)[-1].unflatten(0, photos.shape[:2])

    def _side(self, batch: Batch, features: list[Tensor], encoded: list[Tensor], before: Tensor | None,
              decoder: CausalDecoder, num_latent_frames: int) -> list[dict[str, Tensor]]:
        """What each of a decoder's groups gets beside."""
        # A frame that is decoded alone is a first one, of which all blocks have one step.
        rates = {name: 1 if decoder is self.frame_by_frame else rate.frames for name, rate in self.blocks.items()}
        pooled = {f"condition/{name}": pool_time(features[level], rates[name]) for name, level in self.levels.items()}
        pooled |= {f"encoder/{name}": encoded[level] for name, level in self.encoded.items()}
        head = {name: getattr(batch, name) for name in HEAD if name != "features"} | {"features": features[0]}
        sides = []
        for group in decoder.groups(num_latent_frames):
            frames = decoder.frames_of(group)
            side = {f"head/{name}": value[:, frames] for name, value in head.items()}
            for name, value in pooled.items():
                side[name] = value[:, :, steps_of(frames, rates[name.partition("/")[2]])]
            if before is not None:
                side["latents"] = before[:, :, group]
            sides.append(side)
        return sides


def collate(clips: list[Clip], config: RefinerConfig, backbone: Backbone) -> Batch:
    """Prepared clips of one shape and number of references as a batch, padded by repeating edges and last frame."""
    task = task_named(config.task)

    def stack(values: list[Tensor]) -> Tensor:
        return torch.stack([_pad(value, backbone) for value in values])

    def of(name: str, missing: Callable[[Clip], Tensor]) -> Tensor:
        values = [getattr(clip, name) for clip in clips]
        return stack([missing(clip) if value is None else value for clip, value in zip(clips, values)])

    def none(channels: int) -> Callable[[Clip], Tensor]:
        return lambda clip: clip.frames.new_zeros(len(clip), 0, channels, *clip.frames.shape[-2:])

    one = lambda clip: torch.ones_like(clip.frames[:, :1])  # noqa: E731
    gates = [task.gate(clip) for clip in clips]
    photos = [clip.photos for clip in clips]
    return Batch(
        frames=of("frames", one), extra=stack([task.extra(clip) for clip in clips]), alpha=of("alpha", one),
        references=of("references", none(3)), masks=of("reference_masks", none(1)),
        gate=stack([one(clip) if gate is None else gate for clip, gate in zip(clips, gates)]),
        photos=None if any(value is None for value in photos) else torch.stack(photos))


def _pad(value: Tensor, backbone: Backbone) -> Tensor:
    """[T, …, H, W] to k · frame_step + 1 frames and whole patches, repeating what is last."""
    frames, (height, width) = len(value), value.shape[-2:]

    def at(size: int, extra: int) -> Tensor:
        return torch.arange(size + extra, device=value.device).clamp_max(size - 1)

    block = backbone.spatial_factor
    value = value[at(frames, -(frames - 1) % backbone.frame_step)]
    return value[..., at(height, -height % block), :][..., at(width, -width % block)]
