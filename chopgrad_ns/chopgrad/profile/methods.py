"""The ways to a clip's gradient that are measured: this package's strategies, and what people write by hand.

Each takes the mean of a per-frame loss over the frames it decodes, all graphs in place, and leaves backward to the
caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Union

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from chopgrad_ns.chopgrad.interface import CausalDecoder
from chopgrad_ns.chopgrad.pixel_loss import pixel_loss
from chopgrad_ns.chopgrad.strategies import Backprop, Full, strategy_named

TargetOf = Callable[[slice], Tensor]
"""Gives the target of a slice of frames, [B, 3, t, H, W] in −1…1."""


def mean_square(prediction: Float[Tensor, "b 3 t h w"], target: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b t"]:
    """In float32 or better, since half precision would lose a frame's mean."""
    difference = (prediction - target).to(torch.promote_types(prediction.dtype, torch.float32))
    return difference.square().mean(dim=(1, 3, 4))


def checkpointed_groups(decoder: CausalDecoder, latents: Float[Tensor, "b c tz hz wz"],
                        target: TargetOf) -> Float[Tensor, ""]:
    """torch.utils.checkpoint around each group, its state passed along: what users of a causal cache write by hand.

    Right, and of nearly the memory of `Exact()`: what the checkpoints keep are the same states. (Source: the attempts
    in Wan-Video/Wan2.1 issue 430 and diffusers issues 11071 and 14770, with the cache made an output.)
    """
    state, total = decoder.initial_state(), latents.new_zeros((), dtype=torch.float32)
    groups = decoder.groups(latents.shape[2])
    for group in groups:
        frames, state = checkpoint(decoder.decode_group, latents[:, :, group], state, use_reentrant=False)
        total = total + mean_square(frames, target(decoder.frames_of(group))).sum()
    return total / (latents.shape[0] * decoder.frames_of(groups[-1]).stop)


def frame_by_frame(decoder: CausalDecoder, latents: Float[Tensor, "b c tz hz wz"],
                   target: TargetOf) -> Float[Tensor, ""]:
    """Each latent frame decoded alone, as if it were the first of a clip, all graphs kept for one backward.

    So decodes DOVE (zhengchen1999/DOVE, its trainer of stage 2), which also encodes frame by frame: there every frame
    has a latent frame, and a graph, of its own. Here the latents are a clip's. A latent frame then gives fewer frames
    than in its clip, which are compared with the last ones it stands for; and not the clip's frames, so that the loss is
    another one, too.
    """
    total, count = latents.new_zeros((), dtype=torch.float32), latents.shape[2]
    for index in range(count):
        frames, _ = decoder.decode_group(latents[:, :, index : index + 1], decoder.initial_state())
        stop = decoder.num_frames(index + 1)
        total = total + mean_square(frames, target(slice(stop - frames.shape[2], stop))).mean()
    return total / count


def first_latents(decoder: CausalDecoder, latents: Float[Tensor, "b c tz hz wz"], target: TargetOf,
                  count: int = 3) -> Float[Tensor, ""]:
    """Only the first latent frames are decoded, with their full graph (source: VideoX-Fun's reward loss, the first 3).

    The loss is these frames' share of the clip's, so that gradients of the two can be compared.
    """
    whole = decoder.num_frames(latents.shape[2])
    shown = latents[:, :, :count]
    loss = pixel_loss(shown, target, decoder, mean_square, Full())
    return loss * (decoder.num_frames(shown.shape[2]) / whole)


Method = Union[Backprop, Callable[[CausalDecoder, Tensor, TargetOf], Tensor]]
BY_HAND: dict[str, Method] = {
    "checkpointed-groups": checkpointed_groups, "frame-by-frame": frame_by_frame, "first-3": first_latents}
METHODS = ("full", *BY_HAND, *(f"truncated-{distance}" for distance in (0, 1, 2, 4)), "exact", "exact-offload", "exact-keep-2",
           "exact-layers", "exact-offload-layers")
"""Names, as tables, plots and the command line have them, of what is measured where nothing else is asked for."""


def method_named(name: str) -> Method:
    """A strategy or a way written by hand.

    Raises:
        ValueError: for a name that neither has.
    """
    return BY_HAND[name] if name in BY_HAND else strategy_named(name)


def loss_of(method: Method, decoder: CausalDecoder, latents: Float[Tensor, "b c tz hz wz"],
            target: TargetOf) -> Float[Tensor, ""]:
    """A method's loss of a clip, ready for backward."""
    if callable(method):
        return method(decoder, latents, target)
    return pixel_loss(latents, target, decoder, mean_square, method)
