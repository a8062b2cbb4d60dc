"""The three ways through a clip's groups: full graph, sliding window, backward sweep."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from chopgrad_ns.chopgrad.clip_loss import ClipLoss
from chopgrad_ns.chopgrad.groups import Gradients, Group, Inputs, backward_of, decode_from_leaves, floating, stand_ins
from chopgrad_ns.chopgrad.interface import map_state
from chopgrad_ns.chopgrad.offload import States
from chopgrad_ns.chopgrad.strategies import Backprop, Exact, Full, Truncated


def propagate(clip: ClipLoss, strategy: Backprop, latents: Float[Tensor, "b c tz hz wz"]) -> Float[Tensor, ""]:
    """Loss of a clip with the gradient of a strategy, whose tiles are not looked at."""
    inputs, tensors = Inputs.of(clip)
    if isinstance(strategy, Full) or not needs_grad(latents, *tensors):
        return _full(clip, latents)
    sweep = ExactLoss if isinstance(strategy, Exact) else TruncatedLoss
    return sweep.apply(clip, strategy, inputs, latents, *tensors)


def needs_grad(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _full(clip: ClipLoss, latents: Tensor) -> Tensor:
    """Loss with the graph of every group."""
    state, decoded, total = clip.decoder.initial_state(), {}, latents.new_zeros(())
    for index, group in enumerate(clip.groups):
        frames, state = clip.decode(index, latents[:, :, group], state, clip.side_of(index))
        total = total + clip.value(index, frames, clip.context_of(index, decoded))
        decoded[index] = frames
        _forget(decoded, clip, index)
    return total


def _forget(decoded: dict, clip: ClipLoss, index: int) -> None:
    """Drop frames that no later group needs as context."""
    if index + 1 < len(clip.groups):
        oldest = clip.oldest_needed(index + 1) if clip.context else index + 1
        for old in [j for j in decoded if j < oldest]:
            del decoded[old]


def _merge(into: dict[int, Tensor], more: dict[int, Tensor | None]) -> None:
    for j, value in more.items():
        if value is not None:
            into[j] = value if j not in into else into[j] + value


class ReadyLoss(torch.autograd.Function):
    """A loss whose gradients are computed along with it. Inputs: three that get none, then those that may."""

    @staticmethod
    def keep(ctx, gradients: list[Tensor | None]) -> None:
        ctx.save_for_backward(*(value for value in gradients if value is not None))
        ctx.present = [value is not None for value in gradients]

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        saved = iter(ctx.saved_tensors)
        return None, None, None, *(next(saved) * cotangent if there else None for there in ctx.present)


class TruncatedLoss(ReadyLoss):
    """A window of `distance` + 1 groups slides over the clip; gradients are ready when the loss is."""

    @staticmethod
    def forward(ctx, clip: ClipLoss, strategy: Truncated, inputs: Inputs, latents: Tensor, *tensors: Tensor):
        parameters = list(tensors[len(tensors) - inputs.parameters :])
        gradients = Gradients(clip, inputs, latents)
        window: deque[Group] = deque()
        state, decoded, total = clip.decoder.initial_state(), {}, 0.0
        for index in range(len(clip.groups)):
            group = decode_from_leaves(clip, index, latents, state, inputs, decoded)
            window.append(group)
            total = total + group.value.detach()
            outputs, cotangents, context = [group.value], [torch.ones_like(group.value)], {}
            # From this group's loss back through the window; the oldest graph is used here for the last time.
            while outputs:
                last = group is window[0] and len(window) > strategy.distance
                v_latents, v_side, v_parameters, v_state, v_before = backward_of(
                    group, parameters, outputs, cotangents, retain=not last)
                gradients.add(group.index, v_latents, v_side, v_parameters)
                _merge(context, v_before)
                if group is window[0]:
                    break
                group = window[group.index - window[0].index - 1]
                outputs, cotangents = [*floating(group.after), group.frames], [*v_state, context.get(group.index)]
            newest = window[-1]
            state, decoded[index] = map_state(Tensor.detach, newest.after), newest.frames.detach()
            if len(window) > strategy.distance:
                window.popleft()
            del group, newest, outputs  # or the graph that has left the window would live through the next decoding
            _forget(decoded, clip, index)
        TruncatedLoss.keep(ctx, gradients.flat())
        return total


class ExactLoss(torch.autograd.Function):
    """Forward without graphs, keeping states; then backward group by group, each recomputed once.

    All but the last group: backward begins with it, so its graph, the one that memory has to hold anyway, is made in
    the forward already and waits.

    The forward runs without grad, not in inference mode. That would win 0–3 % on the CPU with decoders of toy size,
    where it shows most, and 0.2 % on an H100 with Wan2.1's of full size (nine groups of 480×832: 0.843 s, 0.845 s), and
    cost a copy of every state, since what is made in it cannot take part in a graph; and the weights that autocast casts
    in it, and caches, would fail the recomputation.

    Nothing is compiled here, since that takes a minute or so: a caller who compiles modules has them compiled in both
    passes. `for norm in decoder.framewise_layers(): norm.compile(dynamic=True)` made the forward 18 % faster on two CPU
    cores (Wan2.1 with 16 channels in float32, 17 frames of 96×96: 1.87 s, 1.53 s).
    """

    @staticmethod
    def forward(ctx, clip: ClipLoss, strategy: Exact, inputs: Inputs, latents: Tensor, *tensors: Tensor):
        state, total = clip.decoder.initial_state(), latents.new_zeros(())
        states = States(strategy.offload, latents.device)
        decoded: dict[int, Tensor] = {}
        last = len(clip.groups) - 1
        for index, group in enumerate(clip.groups[:last]):
            if index % strategy.keep_every == 0:
                states.put(index, state)
            frames, state = clip.decode(index, latents[:, :, group], state, clip.side_of(index))
            total = total + clip.value(index, frames, clip.context_of(index, decoded))
            if clip.context:  # three channels of pixels: little beside a state
                decoded[index] = frames
        states.settle()
        ctx.save_for_backward(latents, *tensors)
        ctx.clip, ctx.strategy, ctx.inputs, ctx.states, ctx.decoded = clip, strategy, inputs, states, decoded
        ctx.autocast = _autocast_settings(latents.device.type)
        ctx.newest = decode_from_leaves(clip, last, latents, state, inputs, _context(ctx, last),
                                        strategy.checkpoint_blocks)
        ctx.newest.after = None
        return total + ctx.newest.value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, cotangent):
        latents, *tensors = ctx.saved_tensors
        clip, inputs, states = ctx.clip, ctx.inputs, ctx.states
        parameters = list(tensors[len(tensors) - inputs.parameters :])
        gradients = Gradients(clip, inputs, latents)
        if 0 not in states:
            states.put(0, clip.decoder.initial_state())  # a second backward starts from nothing else
        v_state: list[Tensor | None] = []
        v_frames: dict[int, Tensor] = {}
        with torch.autocast(**ctx.autocast):
            for index in reversed(range(len(clip.groups))):
                group, ctx.newest = ctx.newest, None
                if group is None:
                    group = _decode_again(ctx, latents, index)
                else:  # the others are looked after when they are decoded again
                    clip.check_unchanged(index)
                _half_way(group.state, lambda index=index: states.prefetch(index - 1))
                stand_for = stand_ins(floating(group.after), v_state) if v_state else []
                group.after = None
                outputs = [group.value, *stand_for, group.frames]
                cotangents = [cotangent.to(group.value.dtype), *map(torch.ones_like, stand_for), v_frames.pop(index, None)]
                v_latents, v_side, v_parameters, v_state, v_before = backward_of(group, parameters, outputs, cotangents,
                                                                                 retain=False)
                gradients.add(index, v_latents, v_side, v_parameters)
                _merge(v_frames, v_before)
                # The next group is decoded with this one's memory.
                del group, stand_for, outputs, cotangents, v_latents, v_side, v_parameters, v_before
        return None, None, None, *gradients.flat()


def _context(ctx, index: int) -> dict[int, Tensor]:
    """Frames before a group that its loss looks back to, by their group."""
    first = ctx.clip.oldest_needed(index) if ctx.clip.context else index
    return {j: frames for j, frames in ctx.decoded.items() if first <= j < index}


def _decode_again(ctx, latents: Tensor, index: int) -> Group:
    """Group `index` with its graph, from its state, which is kept no longer."""
    if index not in ctx.states:
        _recompute_states(ctx.clip, latents, ctx.states, index)
    return decode_from_leaves(ctx.clip, index, latents, ctx.states.take(index), ctx.inputs, _context(ctx, index),
                              ctx.strategy.checkpoint_blocks)


def _half_way(state: list[Tensor], act: Callable[[], None]) -> None:
    """Call `act` when backward has come through the layers, from the frames down, that hold half of a state.

    Those are the ones of highest resolution, at which memory is at its peak.
    """
    passed, whole = 0, sum(tensor.nbytes for tensor in state)
    for tensor in reversed(state):
        passed += tensor.nbytes
        if 2 * passed >= whole:
            tensor.register_hook(lambda _: act())
            return


def _recompute_states(clip: ClipLoss, latents: Tensor, states: States, index: int) -> None:
    """States from the last one kept before `index` up to it, without graphs."""
    start = states.last_before(index)
    state = states.get(start)
    for j in range(start, index):
        _, state = clip.decode(j, latents[:, :, clip.groups[j]], state, clip.side_of(j))
        states.put(j + 1, state)


def _autocast_settings(device_type: str) -> dict:
    """What autocast was doing, on or off, so that a recomputation rounds as the first pass did."""
    return {"device_type": device_type, "dtype": torch.get_autocast_dtype(device_type),
            "enabled": torch.is_autocast_enabled(device_type), "cache_enabled": torch.is_autocast_cache_enabled()}
