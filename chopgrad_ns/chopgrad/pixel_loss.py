"""A pixel loss on a whole decoded clip, and its gradient at the memory of a few groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad import sweeps
from chopgrad_ns.chopgrad.adapters import as_causal_decoder
from chopgrad_ns.chopgrad.clip_loss import ClipLoss, check_range
from chopgrad_ns.chopgrad.interface import CausalDecoder, Side
from chopgrad_ns.chopgrad.strategies import Backprop, Exact, Full, Truncated


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
        backprop: `Exact()`, `Truncated(distance)` or `Full()`.
        side: one mapping a group of tensors that the decoder takes beside the latents.

    Returns:
        A scalar whose `backward()` reaches latents, side tensors and decoder parameters that require grad.

    Raises:
        ValueError: before anything is added to any `.grad`, naming the group and frames where there are any.
    """
    decoder = as_causal_decoder(decoder)
    clip = _check(latents, target, decoder, loss_fn, side)
    if isinstance(backprop, Full):
        return sweeps.full(clip, latents)
    inputs, tensors = sweeps.Inputs.of(clip)
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in (latents, *tensors)):
        with torch.no_grad():
            return sweeps.full(clip, latents)
    if isinstance(backprop, Exact):
        return sweeps.ExactLoss.apply(clip, backprop, inputs, latents, *tensors)
    if isinstance(backprop, Truncated):
        return sweeps.TruncatedLoss.apply(clip, backprop, inputs, latents, *tensors)
    raise TypeError(f"backprop is {backprop!r}; give Full(), Truncated(distance) or Exact()")


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
