"""Which strategy fits into a memory budget, foretold from small crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.adapters import as_causal_decoder
from chopgrad_ns.chopgrad.block_checkpoint import layers_of
from chopgrad_ns.chopgrad.interface import CausalDecoder, Side, state_tensors
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.chopgrad.pixel_loss import pixel_loss
from chopgrad_ns.chopgrad.strategies import Backprop, Exact, Full, SpatialTiles
from chopgrad_ns.chopgrad.tiles import tiles_of

Shape = tuple[int, int, int, int, int]
SideOf = Callable[[Shape], Sequence[Side]]


@dataclass(frozen=True)
class Alternative:
    """A strategy with what it is expected to take."""

    strategy: Backprop
    peak_bytes: int
    """On the decoder's device, beyond decoder, latents and target; gradients are included."""
    relative_time: float
    """Of a forward and backward, in units of Full's; counted in passes, a backward as two forwards."""


@dataclass(frozen=True)
class Plan(Alternative):
    """The fastest strategy within a budget, and all that were weighed, fastest first."""

    shape: Shape
    alternatives: tuple[Alternative, ...]

    def within(self, budget_bytes: int) -> Plan:
        """The same for another budget, without measuring again.

        Raises:
            ValueError: where nothing fits, with the smallest budget that would do.
        """
        return _fastest(self.shape, self.alternatives, budget_bytes)

    def __str__(self) -> str:
        rows = [f"{'  time':>7}  {'memory':>10}  strategy"]
        for one in self.alternatives:
            mark = "→" if one.strategy == self.strategy else " "
            rows.append(f"{mark} {one.relative_time:5.2f}  {one.peak_bytes / 2**20:6.0f} MiB  {one.strategy}")
        return "\n".join(rows)


def plan(decoder: CausalDecoder, shape: Shape, budget_bytes: int, loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
         side: SideOf | None = None, crop: int | None = None, halo: int = 8) -> Plan:
    """The fastest strategy with the exact gradient, or at last one in tiles, whose peak memory fits a budget.

    Small clips (three square crops, two lengths) are decoded and differentiated on the decoder's device, under the
    autocast and with the trainable parameters that are in force. Peaks are continued by a straight line over the
    number of groups, and by a constant, perimeter and area over the size. Of attention, whose matrix would grow
    with the square of the area, PyTorch's fused kernels keep none; where they do not apply (float64 on some
    devices, say), large pictures take more than is foretold.

    Args:
        decoder: on the device, and of the dtype, that it will be trained with.
        shape: of the latents [B, C, Tz, Hz, Wz].
        budget_bytes: for activations, states and gradients; what is allocated already is not counted.
        loss_fn: as for `pixel_loss`; the mean square of each frame without.
        side: gives the side tensors, one mapping a group, of latents of a shape, for a decoder that takes any.
        crop: side of the smallest crop in latent pixels, the largest is twice that; by default 4 on the CPU, and 16
            on CUDA, whose kernels choose their work space by size. A loss may need a larger one.
        halo: of tiles, in latent pixels.

    Raises:
        ValueError: where nothing fits, with the smallest budget that would do; for bad shapes.
    """
    decoder = as_causal_decoder(decoder)
    if len(shape) != 5 or min(shape) < 1 or (crop or 2) < 2 or halo < 0:
        raise ValueError(f"shape is {tuple(shape)}, crop {crop}, halo {halo}; latents [B, C, Tz, Hz, Wz] of 1 or more each, "
                         "a crop of 2 or more and a halo of 0 or more are needed")
    measure = _Measure(decoder, shape, loss_fn or _mean_square, side, crop)
    alternatives = tuple(sorted(_alternatives(measure, shape, halo), key=lambda one: one.relative_time))
    return _fastest(tuple(shape), alternatives, budget_bytes)


def _fastest(shape: Shape, alternatives: tuple[Alternative, ...], budget_bytes: int) -> Plan:
    for one in alternatives:
        if one.peak_bytes <= budget_bytes:
            return Plan(one.strategy, one.peak_bytes, one.relative_time, shape, alternatives)
    least = min(alternatives, key=lambda one: one.peak_bytes)
    raise ValueError(f"latents of shape {shape} need {least.peak_bytes} bytes ({least.peak_bytes / 2**20:.0f} MiB) with "
                     f"{least.strategy}, which takes least; the budget is {budget_bytes}")


def _mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean(dim=(1, 3, 4))


def _alternatives(measure: _Measure, shape: Shape, halo: int) -> Iterator[Alternative]:
    *_, height, width = shape
    groups = measure.groups
    full = measure.peaks(Full())
    yield Alternative(Full(), full.at(height, width, groups), 1.0)
    for strategy in _exact(groups, measure):
        peaks = measure.peaks(Exact(checkpoint_blocks=strategy.checkpoint_blocks))
        held = states_held(strategy, groups, measure.state_sizes)
        yield Alternative(strategy, peaks.at(height, width, held), _time(strategy, groups))
    # In tiles, with what saves most in the others.
    strategy = Exact("cpu" if measure.can_offload else "none", 1 if measure.can_offload else math.isqrt(groups),
                     measure.has_layers)
    peaks = measure.peaks(Exact(checkpoint_blocks=measure.has_layers))
    held = states_held(strategy, groups, measure.state_sizes)
    for tiles in _tilings(height, width, halo):
        sizes = [tuple(part.stop - part.start for part in tile.read) for tile in tiles_of(height, width, tiles)]
        if (height, width) in sizes:  # halos bring back all that was cut off
            continue
        more = sum(rows * columns for rows, columns in sizes) / (height * width)
        yield Alternative(replace(strategy, tiles=tiles), max(peaks.at(*size, held) for size in sizes),
                          _time(strategy, groups) * more)


def _exact(groups: int, measure: _Measure) -> Iterator[Exact]:
    every = sorted({k for k in (1, 2, 4, math.isqrt(groups)) if 1 <= k < max(groups, 2)})
    for blocks in (False, True)[: 1 + measure.has_layers]:
        for k in every:
            yield Exact(keep_every=k, checkpoint_blocks=blocks)
        if measure.can_offload:
            yield Exact(offload="cpu", checkpoint_blocks=blocks)


def states_held(strategy: Exact, groups: int, sizes: Sequence[float]) -> float:
    """Most states on the device at once, while `ExactLoss` goes through its backward.

    Beside those that wait there are the group's own, the one it leaves and the cotangent of that. The next one is
    brought from the host when memory is past its peak.

    Args:
        sizes: of the states before the first groups, the last of them that of all further ones, which counts as 1.
    """
    size = lambda index: sizes[min(index, len(sizes) - 1)]  # noqa: E731
    waiting = set(range(0, groups - 1, strategy.keep_every))
    most = 0.0
    for index in reversed(range(groups)):
        newest = index == groups - 1  # decoded before backward begins, and without a group after it
        if not newest:
            waiting |= set(range(max(j for j in waiting if j <= index), index + 1))
            waiting.remove(index)
        stored = 0.0 if strategy.offload == "cpu" else sum(map(size, waiting))
        most = max(most, stored + size(index) + size(index + 1) * (1 if newest else 2))
    return most


def _time(strategy: Exact, groups: int) -> float:
    """In units of Full's forward and backward, of three passes."""
    again = (groups - 1) / groups  # the last group is not decoded again
    passes = 3 + again * (2 - 1 / strategy.keep_every) + 1.3 * strategy.checkpoint_blocks  # norms run twice more
    copying = 1.02 if strategy.offload == "cpu" else 1.0  # beside the decoding, all but the first and the last
    return copying * passes / 3


def _tilings(height: int, width: int, halo: int) -> Iterator[SpatialTiles]:
    """Ever smaller tiles, halved along their longer side, until halos outweigh them."""
    rows, columns = height, width
    while max(rows, columns) > max(halo, 1):
        rows, columns = (-(-rows // 2), columns) if rows > columns else (rows, -(-columns // 2))
        yield SpatialTiles(rows, columns, halo)


@dataclass(frozen=True)
class _Peaks:
    """Peak bytes as (constant, perimeter, area) terms of a part that is there always and one for each state held.

    For Full, which holds none, for each group.
    """

    always: Tensor
    each: Tensor

    def at(self, height: int, width: int, states: float) -> int:
        return round(float((self.always + self.each * states) @ _terms(height, width)))


def _terms(height: int, width: int) -> Tensor:
    return torch.tensor([1.0, height + width, height * width], dtype=torch.float64)


class _Measure:
    """Peaks of strategies on small clips."""

    LENGTHS = (3, 5)
    """Groups of the clips. A clip's first two groups are of their own kind; from the third on they are alike."""

    def __init__(self, decoder: CausalDecoder, shape: Shape, loss_fn, side: SideOf | None, crop: int | None):
        self.decoder, self.loss_fn, self.side = decoder, loss_fn, side
        self.batch, self.channels, frames = shape[:3]
        self.groups = len(decoder.groups(frames))
        self.frames = [self._frames_with(min(length, self.groups), frames) for length in self.LENGTHS]
        example = next(iter(decoder.parameters()), torch.empty(0))
        self.device, self.dtype = example.device, example.dtype
        crop = crop or (16 if self.device.type == "cuda" else 4)
        self.sizes = (crop, crop + crop // 2, 2 * crop)
        self.has_layers = bool(layers_of(decoder))
        self.can_offload = self.device.type == "cuda"
        self.state_sizes = self._state_sizes()
        self._found: dict[Backprop, _Peaks] = {}

    def _frames_with(self, count: int, frames: int) -> int:
        """Latent frames of a clip of `count` groups, of the sizes that the groups of the whole clip begin with."""
        whole = [group.stop - group.start for group in self.decoder.groups(frames)]
        fitting = []
        for number in range(1, frames + 1):
            sizes = [group.stop - group.start for group in self.decoder.groups(number)]
            if len(sizes) == count:
                fitting.append((sizes == whole[:count], number))
        return max(fitting)[1]

    def _state_sizes(self) -> list[float]:
        """Of the states before the first groups, in units of the last of them."""
        latents, sides = self._clip(self.frames[1], self.sizes[0])
        state, found = self.decoder.initial_state(), [0.0]
        with torch.no_grad():
            for index, group in enumerate(self.decoder.groups(self.frames[1])):
                _, state = self.decoder.decode_group(latents[:, :, group], state, sides and sides[index])
                found.append(float(sum(tensor.nbytes for tensor in state_tensors(state))))
        return [value / found[-1] if found[-1] else 0.0 for value in found]

    def peaks(self, strategy: Backprop) -> _Peaks:
        if strategy not in self._found:
            self._found[strategy] = self._measure(strategy)
        return self._found[strategy]

    def _held(self, strategy: Backprop, groups: int) -> float:
        return groups if isinstance(strategy, Full) else states_held(strategy, groups, self.state_sizes)

    def _measure(self, strategy: Backprop) -> _Peaks:
        short, long = (self._held(strategy, len(self.decoder.groups(frames))) for frames in self.frames)
        peaks = torch.tensor([self._peak(strategy, self.frames[1], size) for size in self.sizes], dtype=torch.float64)
        terms = torch.stack([_terms(size, size) for size in self.sizes])
        if strategy == Exact(checkpoint_blocks=True):
            each = self.peaks(Exact()).each  # the same states
        else:
            shorter = torch.tensor([self._peak(strategy, self.frames[0], size) for size in self.sizes], dtype=torch.float64)
            each = torch.linalg.solve(terms, (peaks - shorter) / (long - short if long > short else 1))
        return _Peaks(torch.linalg.solve(terms, peaks) - long * each, each)

    def _clip(self, frames: int, size: int) -> tuple[Tensor, Sequence[Side] | None]:
        shape = (self.batch, self.channels, frames, size, size)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(shape, generator=generator).to(self.device, self.dtype).requires_grad_()
        return latents, None if self.side is None else self.side(shape)

    def _peak(self, strategy: Backprop, frames: int, size: int) -> int:
        latents, sides = self._clip(frames, size)
        first = self.decoder.groups(frames)[0]
        with torch.no_grad():
            shown, _ = self.decoder.decode_group(latents[:, :, first], self.decoder.initial_state(), sides and sides[0])
        target = shown.new_zeros((*shown.shape[:2], self.decoder.num_frames(frames), *shown.shape[3:]))
        sources = [latents, *(p for p in self.decoder.parameters() if p.requires_grad)]

        def step():
            loss = pixel_loss(latents, target, self.decoder, self.loss_fn, strategy, side=sides)
            return torch.autograd.grad(loss, sources, allow_unused=True)

        if self.device.type == "cuda":
            step()  # libraries' work spaces are allocated by the first call, and stay
        return peak_bytes(step, self.device)
