"""A pixel loss on a whole decoded clip, and its gradient at the memory of a few groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad.adapters import as_causal_decoder
from chopgrad_ns.chopgrad.block_checkpoint import check_layers
from chopgrad_ns.chopgrad.clip_loss import ClipLoss, check_range
from chopgrad_ns.chopgrad.interface import CausalDecoder, Side
from chopgrad_ns.chopgrad.strategies import Backprop, Exact, Full, Truncated
from chopgrad_ns.chopgrad.sweeps import propagate
from chopgrad_ns.chopgrad.tiles import tiled_loss


def pixel_loss(
    latents: Float[Tensor, "b c tz hz wz"], target: Float[Tensor, "b _ t h w"] | Callable[[slice], Tensor],
    decoder: CausalDecoder, loss_fn: Callable[[Tensor, Tensor], Tensor], backprop: Backprop = Exact(),
    side: Sequence[Side] | None = None,
) -> Float[Tensor, ""]:
    """Mean over batch and frames of a per-frame loss between the decoded clip and `target`.

    Args:
        latents: in the decoder's own space (not normalised for a transformer).
        target: frames in −1…1, or a callable that returns those of a slice, for clips too long to be in memory.
            Channels beyond the first three are handed to `loss_fn` untouched (a weight, say).
        decoder: from `as_causal_decoder`, or any `CausalDecoder`.
        loss_fn: `(prediction, target) -> [B, t]`, the same each time it is called. With an attribute
            `context_frames` = k it is given the k frames before a group too, across group boundaries. Gradients
            leave it through the prediction only: parameters of its own get none.
        backprop: `Exact()`, `Truncated(distance)` or `Full()`; with `tiles=SpatialTiles(...)` cut in space as well.
        side: one mapping a group of tensors that the decoder takes beside the latents.

    Returns:
        A scalar whose `backward()` reaches latents, side tensors and decoder parameters that require grad.

    Raises:
        TypeError: for a backprop that is not a strategy.
        ValueError: for layers to checkpoint where the decoder names none; and for bad input,
            before anything is added to any `.grad`, naming the group and frames where there are any.
    """
    if not isinstance(backprop, (Full, Truncated, Exact)):
        raise TypeError(f"backprop is {backprop!r}; give Full(), Truncated(distance) or Exact()")
    clip = _check(latents, target, as_causal_decoder(decoder), loss_fn, side)
    _check_strategy(backprop, clip.decoder, latents)
    return propagate(clip, backprop, latents) if backprop.tiles is None else tiled_loss(clip, backprop, latents)


def _check_strategy(backprop: Backprop, decoder: CausalDecoder, latents: Tensor) -> None:
    if isinstance(backprop, Exact) and backprop.checkpoint_blocks:
        check_layers(decoder)
    kind = latents.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if torch.float16 in (latents.dtype, autocast) and (isinstance(backprop, Truncated) or backprop.tiles):
        raise ValueError("Truncated and tiles make gradients before a GradScaler's scale is known, and in float16 "
                         "they would vanish: decode in bfloat16, or give Exact() without tiles")


def _check(latents, target, decoder, loss_fn, side) -> ClipLoss:
    if latents.ndim != 5 or not latents.is_floating_point():
        raise ValueError(f"latents are {latents.dtype} of shape {tuple(latents.shape)}; floating point "
                         "[B, C, Tz, Hz, Wz] is needed")
    groups = decoder.groups(latents.shape[2])
    if not groups:
        raise ValueError("latents have no frames")
    frames = decoder.frames_of(groups[-1]).stop
    if not callable(target):
        _check_target(target, latents, frames)
    if side is not None and len(side) != len(groups):
        raise ValueError(f"side has {len(side)} mappings for {len(groups)} groups; give one a group")
    return ClipLoss(decoder, groups, target, loss_fn, side, latents.shape[0])


def _check_target(target: Tensor, latents: Tensor, frames: int) -> None:
    if target.ndim != 5 or target.shape[1] < 3:
        raise ValueError(f"the target has shape {tuple(target.shape)}; [B, 3, T, H, W] is needed")
    if target.shape[2] != frames:
        raise ValueError(f"{latents.shape[2]} latent frames decode to frames 0…{frames - 1}, but the target has "
                         f"{target.shape[2]} frames, not {frames}")
    if target.shape[0] != latents.shape[0]:
        raise ValueError(f"the target has batch {target.shape[0]}, the latents {latents.shape[0]}")
    check_range(target, f"frames 0…{frames - 1}")
