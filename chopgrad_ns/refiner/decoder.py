"""The causal decoder with what is added to it: features beside its blocks, and a head that cannot blur what was right."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from chopgrad_ns.chopgrad import CausalDecoder
from chopgrad_ns.refiner.config import Output

LARGEST_CORRECTION = 0.5
"""Bound on a pixel's learned change, pictures in 0…1."""
HEAD = ("features", "frames", "gate", "alpha", "residuals", "masks")
"""Side inputs of the head, each [B, t, …] for a group's t frames."""


TAPS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
"""Rows and columns at which the head looks around a pixel: a photo warped by a depth that is a little wrong is a little aside."""


class BlendHead(nn.Module):
    """frames + gate · (base − frames + alpha · (½·tanh(delta) + Σ_i v_i · (frame_i − frame) + Σ_ki w_ki · mask_ki · (warp_ki − frame))).

    `base` is what the output is before the head (see `RefinerConfig.output`); i goes over the 3×3 pixels around each, so that
    a filter of its own sharpens, smoothes or moves every pixel of the frame and of the photos k. Weights are tanh of what is
    learnt; those v, and those w, are at most 1 in sum of absolute values. Last layers start at zero: an untrained head gives
    the base.
    """

    def __init__(self, decoded: int, features: int, output: Output, hidden: int = 24):
        super().__init__()
        self.output = output
        self.mix = nn.Conv2d(decoded + features, hidden, 3, padding=1)
        self.delta = nn.Conv2d(hidden, 3, 3, padding=1)
        self.own = nn.Conv2d(hidden, len(TAPS), 3, padding=1)
        self.photo = nn.Conv2d(hidden + 4, hidden, 3, padding=1)
        self.weight = nn.Conv2d(hidden, len(TAPS), 1)
        for layer in (self.delta, self.own, self.weight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, decoded: Float[Tensor, "n d h w"], before: Float[Tensor, "n d h w"] | None,
                features: Float[Tensor, "n c h w"], frames: Float[Tensor, "n 3 h w"], gate: Float[Tensor, "n 1 h w"],
                alpha: Float[Tensor, "n 1 h w"], residuals: Float[Tensor, "n r 3 h w"],
                masks: Float[Tensor, "n r 1 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Refined frames in about 0…1 (not clamped).

        Args:
            decoded: what the decoder gives; its first three channels are a picture in −1…1, or a correction.
            before: what the input's own latent is decoded to, for the output "residual".
            residuals: mask_k · (warp_k − frame).
        """
        x = F.silu(self.mix(torch.cat([decoded, features], dim=1)))
        delta, change = self.delta(x), torch.zeros_like(frames)
        if self.output == "correct":
            delta = delta + decoded[:, :3]
        elif self.output == "decode":
            change = decoded[:, :3] / 2 + 0.5 - frames
        else:
            change = (decoded - before)[:, :3] / 2
        one = torch.ones_like(gate)
        learned = LARGEST_CORRECTION * torch.tanh(delta) + _filtered(self.own(x)[:, None], frames[:, None], one[:, None], frames)
        if residuals.shape[1]:
            count = residuals.shape[1]
            each = torch.cat([x[:, None].expand(-1, count, -1, -1, -1), residuals, masks], dim=2)
            weights = self.weight(F.silu(self.photo(each.flatten(0, 1)))).unflatten(0, (-1, count))
            learned = learned + _filtered(weights, residuals + masks * frames[:, None], masks, frames)
        return frames + gate * (change + alpha * learned)


def _filtered(weights: Float[Tensor, "n r i h w"], pictures: Float[Tensor, "n r 3 h w"], masks: Float[Tensor, "n r 1 h w"],
              frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Σ over pictures r and taps i of tanh(weight) · (picture − mask · frame), the pictures masked and looked at tap i."""
    height, width = frames.shape[-2:]
    weights = torch.tanh(weights)
    around = F.pad(torch.cat([pictures, masks], dim=2).flatten(0, 1), (1, 1, 1, 1)).unflatten(0, masks.shape[:2])
    total, change = 0.0, 0.0
    for tap, (dy, dx) in enumerate(TAPS):
        weight = weights[:, :, tap:tap + 1]
        seen = around[..., 1 + dy:1 + dy + height, 1 + dx:1 + dx + width]
        change = change + (weight * (seen[:, :, :3] - seen[:, :, 3:] * frames[:, None])).sum(dim=1)
        total = total + (weight.abs() * seen[:, :, 3:]).sum(dim=1)
    return change / total.clamp_min(1)


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
