"""The causal decoder with what is added to it: features beside its blocks, and a head that cannot blur what was right."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chopgrad_ns.chopgrad import CausalDecoder
from chopgrad_ns.refiner.config import Output

LARGEST_CORRECTION = 0.5
"""Bound on a pixel's learned change, pictures in 0…1."""
FIRST_WEIGHT = 0.15
"""Of a photo, before training: blending photos in by a little is better than not (`data.references.blend_baseline`)."""
HEAD = ("features", "frames", "gate", "alpha", "residuals", "masks")
"""Side inputs of the head, each [B, t, …] for a group's t frames."""


class BlendHead(nn.Module):
    """frames + gate · (base − frames + alpha · (½·tanh(delta) + Σ_k tanh(w_k) · mask_k · (warp_k − frames))).

    `base` is what the output is before the head (see `RefinerConfig.output`). Weights of photos are at most 1 in sum of
    absolute values. Last layers start at zero: an untrained head gives the base; but for the output "correct", where there
    is no base to keep, it starts by moving pixels towards each photo by `FIRST_WEIGHT`.
    """

    def __init__(self, decoded: int, features: int, output: Output, hidden: int = 24):
        super().__init__()
        self.output = output
        self.mix = nn.Conv2d(decoded + features, hidden, 3, padding=1)
        self.delta = nn.Conv2d(hidden, 3, 3, padding=1)
        self.photo = nn.Conv2d(hidden + 4, hidden, 3, padding=1)
        self.weight = nn.Conv2d(hidden, 1, 1)
        for layer in (self.delta, self.weight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if output == "correct":
            nn.init.constant_(self.weight.bias, math.atanh(FIRST_WEIGHT))

    def forward(self, decoded: Float[Tensor, "n d h w"], before: Float[Tensor, "n d h w"] | None,
                features: Float[Tensor, "n c h w"], frames: Float[Tensor, "n 3 h w"], gate: Float[Tensor, "n 1 h w"],
                alpha: Float[Tensor, "n 1 h w"], residuals: Float[Tensor, "n r 3 h w"],
                masks: Float[Tensor, "n r 1 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Refined frames in about 0…1 (not clamped).

        Args:
            decoded: what the decoder gives; its first three channels are a picture in −1…1, or a correction.
            before: what the input's own latent is decoded to, for the output "residual".
            residuals: mask_k · (warp_k − frames).
        """
        x = F.silu(self.mix(torch.cat([decoded, features], dim=1)))
        delta, change = self.delta(x), torch.zeros_like(frames)
        if self.output == "correct":
            delta = delta + decoded[:, :3]
        elif self.output == "decode":
            change = decoded[:, :3] / 2 + 0.5 - frames
        else:
            change = (decoded - before)[:, :3] / 2
        learned = LARGEST_CORRECTION * torch.tanh(delta)
        count = residuals.shape[1]
        if count:
            each = torch.cat([x[:, None].expand(-1, count, -1, -1, -1), residuals, masks], dim=2)
            logits = self.weight(F.silu(self.photo(each.flatten(0, 1)))).unflatten(0, (-1, count))
            weight = torch.tanh(logits)
            total = (weight.abs() * masks).sum(dim=1).clamp_min(1)
            learned = learned + (weight * residuals).sum(dim=1) / total
        return frames + gate * (change + alpha * learned)


class RefinerDecoder(CausalDecoder):
    """The autoencoder's causal decoder, features added to its blocks, then the head, group by group.

    Side inputs of a group: under "SOURCE/BLOCK", for the sources in `injections`, features [B, c, s, h, w] that a
    convolution brings to the block's width (it is applied here, so that wide features exist for one group only); under
    "head/NAME" the head's inputs; and for the output "residual" under "latents" those of the unrefined clip. Frames come
    out in −1…1.
    """

    def __init__(self, inner: CausalDecoder, head: BlendHead, injections: Mapping[str, nn.ModuleDict]):
        self.inner, self.head, self.injections = inner, head, injections

    def groups(self, num_latent_frames):
        return self.inner.groups(num_latent_frames)

    def frames_of(self, group):
        return self.inner.frames_of(group)

    def initial_state(self):
        state = self.inner.initial_state()
        return (state, state) if self.head.output == "residual" else state

    def parameters(self):
        yield from self.inner.parameters()
        yield from self.head.parameters()
        for layers in self.injections.values():
            yield from layers.parameters()

    def layers(self):
        return self.inner.layers()

    def framewise_layers(self):
        return self.inner.framewise_layers()

    def decode_group(self, latents, state, side=None):
        before = None
        if self.head.output == "residual":
            state, plain = state
            before, plain = self.inner.decode_group(side["latents"], plain)
        decoded, state = self.inner.decode_group(latents, state, self._injected(side))
        batch, _, count = decoded.shape[:3]
        fold = lambda x: x.transpose(1, 2).flatten(0, 1)  # noqa: E731
        given = (side[f"head/{name}"].flatten(0, 1) for name in HEAD)
        refined = self.head(fold(decoded), None if before is None else fold(before), *given)
        frames = (2 * refined - 1).unflatten(0, (batch, count)).transpose(1, 2)
        return frames, state if before is None else (state, plain)

    def _injected(self, side: Mapping[str, Tensor]) -> dict[str, Tensor]:
        added: dict[str, Tensor] = {}
        for source, layers in self.injections.items():
            for key, layer in layers.items():
                block = key.replace("/", ".")
                value = layer(side[f"{source}/{block}"])
                added[block] = added[block] + value if block in added else value
        return added
