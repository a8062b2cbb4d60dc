"""A pixel loss on a whole decoded clip, and its gradient at the memory of a few groups."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence

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
        target: frames in −1…1, or a callable that returns those of a slice, for clips too long to be in memory;
            the same each time. Channels beyond the first three are handed to `loss_fn` untouched (a weight, say). It
            gets no gradient.
        decoder: from `as_causal_decoder`, or any `CausalDecoder`.
        loss_fn: `(prediction, target) -> [B, t]`, the same each time it is called, that leaves `target` as it is.
            `Exact` calls it again in backward: of a random one, the gradient is of that second draw. With an attribute
            `context_frames` = k it is given the k frames before a group too, across group boundaries. Gradients
            leave it through the prediction only: parameters of its own get none (except with `Full()`).
        backprop: `Exact()`, `Truncated(distance)` or `Full()`; with `tiles=SpatialTiles(...)` cut in space as well.
        side: one mapping a group of tensors that the decoder takes beside the latents.

    Returns:
        A scalar whose `backward()` reaches latents, side tensors and decoder parameters that require grad. Only that
        of `Full()` without tiles can be differentiated twice; the others' refuses `create_graph`.

    Raises:
        TypeError: for a backprop that is not a strategy, or other arguments of a wrong kind.
        ValueError: for layers to checkpoint where the decoder names none; and for bad input,
            before anything is added to any `.grad`, naming the group and frames where there are any.
        Exception: of any type that the decoder, `loss_fn` or a callable target raises, the group and frames added.
    """
    if not isinstance(backprop, (Full, Truncated, Exact)):
        raise TypeError(f"backprop is {backprop!r}; give Full(), Truncated(distance) or Exact()")
    clip = _check(latents, target, as_causal_decoder(decoder), loss_fn, side)
    _check_strategy(backprop, clip.decoder, latents)
    if backprop == Full():
        return propagate(clip, backprop, latents)
    loss = propagate(clip, backprop, latents) if backprop.tiles is None else tiled_loss(clip, backprop, latents)
    if loss.requires_grad:
        loss.register_hook(_refuse_graph)  # the gradient would silently be a constant
    return loss


def _refuse_graph(_cotangent: Tensor) -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("the gradient of this pixel_loss cannot be differentiated again: leave create_graph out, or give "
                           "Full() without tiles")


def _check_strategy(backprop: Backprop, decoder: CausalDecoder, latents: Tensor) -> None:
    if isinstance(backprop, Exact) and backprop.checkpoint_blocks:
        check_layers(decoder)
    kind = latents.device.type
    autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if torch.float16 in (latents.dtype, autocast) and (isinstance(backprop, Truncated) or backprop.tiles):
        raise ValueError("Truncated and tiles make gradients before a GradScaler's scale is known, and in float16 "
                         "they would vanish: decode in bfloat16, or give Exact() without tiles")


def _check(latents, target, decoder, loss_fn, side) -> ClipLoss:
    if not isinstance(latents, Tensor) or not (isinstance(target, Tensor) or callable(target)) or not callable(loss_fn):
        raise TypeError(f"latents are {type(latents).__name__}, the target is {type(target).__name__}, the loss "
                        f"{type(loss_fn).__name__}; a tensor, a tensor or function, and a function are needed")
    if latents.ndim != 5 or not latents.is_floating_point() or not latents.numel():
        raise ValueError(f"latents are {latents.dtype} of shape {tuple(latents.shape)}; floating point "
                         "[B, C, Tz, Hz, Wz] of 1 or more each is needed")
    context = getattr(loss_fn, "context_frames", 0)
    if not isinstance(context, numbers.Integral) or context < 0:
        raise ValueError(f"the loss has context_frames {context}; give a whole number, 0 or more")
    groups = decoder.groups(latents.shape[2])
    frames = decoder.frames_of(groups[-1]).stop
    if not callable(target):
        _check_target(target, latents, frames)
    return ClipLoss(decoder, groups, target, loss_fn, None if side is None else _checked_side(side, decoder, groups),
                    latents.shape[0])


def _checked_side(side: Sequence[Side | None], decoder: CausalDecoder, groups: list[slice]) -> list[Side]:
    if len(side) != len(groups):
        raise ValueError(f"side has {len(side)} mappings for {len(groups)} groups; give one a group")
    side = [{} if given is None else given for given in side]
    for index, (given, group) in enumerate(zip(side, groups)):
        if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in given.values()):
            span = decoder.frames_of(group)
            raise ValueError(f"group {index}, frames {span.start}…{span.stop - 1}: side is not a mapping of names to "
                             "tensors")
    return side


def _check_target(target: Tensor, latents: Tensor, frames: int) -> None:
    if target.ndim != 5 or target.shape[1] < 3:
        raise ValueError(f"the target has shape {tuple(target.shape)}; [B, 3, T, H, W] is needed")
    if target.shape[2] != frames:
        raise ValueError(f"{latents.shape[2]} latent frames decode to frames 0…{frames - 1}, but the target has "
                         f"{target.shape[2]} frames, not {frames}")
    if target.shape[0] != latents.shape[0]:
        raise ValueError(f"the target has batch {target.shape[0]}, the latents {latents.shape[0]}")
    check_range(target, f"frames 0…{frames - 1}")
