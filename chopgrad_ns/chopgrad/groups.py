"""One group with a graph of its own: how it is decoded, what its backward gives, and where that is summed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.block_checkpoint import checkpointed_blocks
from chopgrad_ns.chopgrad.clip_loss import ClipLoss
from chopgrad_ns.chopgrad.interface import State, map_state, state_tensors


@dataclass
class Inputs:
    """What gradients are wanted for, apart from latents: side tensors by group and name, and parameters."""

    names: list[list[str]]  # of the side tensors that require grad, a list a group
    parameters: int

    @staticmethod
    def of(clip: ClipLoss) -> tuple[Inputs, list[Tensor]]:
        names, tensors = [], []
        for index in range(len(clip.groups)):
            side = clip.side_of(index) or {}
            names.append([name for name, value in side.items() if value.requires_grad])
            tensors += [side[name] for name in names[-1]]
        # A parameter named twice would get its whole gradient twice.
        parameters = list(dict.fromkeys(p for p in clip.decoder.parameters() if p.requires_grad))
        return Inputs(names, len(parameters)), tensors + parameters


class Gradients:
    """Sums of what the groups contribute, in the order of a Function's inputs."""

    def __init__(self, clip: ClipLoss, inputs: Inputs, latents: Tensor):
        self.clip, self.inputs = clip, inputs
        self.latents = torch.zeros_like(latents)
        self.side: list[list[Tensor | None]] = [[None] * len(names) for names in inputs.names]
        self.parameters: list[Tensor | None] = [None] * inputs.parameters

    def add(self, index: int, v_latents, v_side, v_parameters) -> None:
        if v_latents is not None:
            self.latents[:, :, self.clip.groups[index]] += v_latents
        for store, values in ((self.side[index], v_side), (self.parameters, v_parameters)):
            for k, value in enumerate(values):
                if value is not None:
                    store[k] = value if store[k] is None else store[k] + value

    def flat(self) -> list[Tensor | None]:
        return [self.latents, *(value for group in self.side for value in group), *self.parameters]


def stand_ins(tensors: list[Tensor], cotangents: list[Tensor | None]) -> list[Tensor]:
    """Scalars that stand for a state's tensors as outputs of a backward: of cotangent 1, they hand on that of the tensor.

    Outputs of a backward are kept until all of it has run, and with them their cotangents. In this way the tensors
    themselves can go, and each cotangent is given up (its place in the list becomes None) when backward has come to it.
    """
    with torch.enable_grad():
        return [_StandIn.apply(tensor, cotangents, k) for k, tensor in enumerate(tensors)
                if cotangents[k] is not None and tensor.requires_grad]


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor, cotangents: list[Tensor | None], k: int) -> Tensor:
        ctx.cotangents, ctx.k = cotangents, k
        return tensor.new_ones(())

    @staticmethod
    def backward(ctx, _):
        value, ctx.cotangents[ctx.k] = ctx.cotangents[ctx.k], None
        return value, None, None


def _compact(gradient: Tensor) -> Tensor:
    """A gradient in memory of its own size: that of a part of a tensor often is a view of the whole one's."""
    return gradient.clone() if gradient.untyped_storage().nbytes() > gradient.nbytes else gradient


@dataclass
class Group:
    """One group decoded with a graph of its own, from leaves."""

    index: int
    latents: Tensor
    side: list[Tensor]
    state: list[Tensor]
    before: dict[int, Tensor]
    frames: Tensor
    after: State
    value: Tensor | None


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def decode_from_leaves(clip: ClipLoss, index: int, latents: Tensor, state: State, inputs: Inputs,
                       decoded: dict[int, Tensor], checkpoint_blocks: bool = False) -> Group:
    """Decode group `index` and take its loss; nothing outside gets a graph or a gradient."""
    with torch.enable_grad():
        here = _leaf(latents[:, :, clip.groups[index]])
        side = dict(clip.side_of(index) or {})
        side_leaves = [_leaf(side[name]) for name in inputs.names[index]]
        side |= dict(zip(inputs.names[index], side_leaves))
        inner = map_state(lambda t: _leaf(t) if t.is_floating_point() else t.detach(), state)
        leaves = floating(inner)
        for leaf in leaves:
            leaf.register_hook(_compact)
        before = {j: _leaf(frames) for j, frames in decoded.items()} if clip.context else {}
        with checkpointed_blocks(clip.decoder) if checkpoint_blocks else contextlib.nullcontext():
            frames, after = clip.decode(index, here, inner, side or None)
        value = clip.value(index, frames, clip.context_of(index, before))
    return Group(index, here, side_leaves, leaves, before, frames, after, value)


def backward_of(group: Group, parameters: list[Tensor], outputs: list[Tensor], cotangents: list[Tensor], retain: bool):
    """Gradients of one group: latents, side, parameters, incoming state, context frames by group."""
    kept = [(out, cotangent) for out, cotangent in zip(outputs, cotangents)
            if out.requires_grad and cotangent is not None]
    before = list(group.before.values())
    wanted = [group.latents, *group.side, *parameters, *group.state, *before]
    if not kept:
        found = [None] * len(wanted)
    else:
        found = torch.autograd.grad([out for out, _ in kept], wanted, [c for _, c in kept], retain_graph=retain,
                                    allow_unused=True)
    cuts = [1, len(group.side), len(parameters), len(group.state), len(before)]
    parts, at = [], 0
    for count in cuts:
        parts.append(list(found[at : at + count]))
        at += count
    return parts[0][0], parts[1], parts[2], parts[3], dict(zip(group.before, parts[4]))


def floating(state: State) -> list[Tensor]:
    return [t for t in state_tensors(state) if t.is_floating_point()]
