"""The loss of a clip as a sum over groups: what every strategy evaluates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad.interface import CausalDecoder, Side, State

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass
class ClipLoss:
    """Latents' decoder, target and per-frame loss, cut into groups.

    The loss of a clip is the mean over batch and frames of `loss_fn(prediction, target)` [B, t]. A loss
    function with an attribute `context_frames` = k is handed the k frames before a group as well (fewer at
    the start), and the values it returns for those are dropped: they were counted with their own group.
    """

    decoder: CausalDecoder
    groups: list[slice]
    target: Tensor | Callable[[slice], Tensor]
    loss_fn: LossFunction
    side: Sequence[Side] | None
    batch: int

    def __post_init__(self) -> None:
        self._weights = list(self.decoder.parameters())
        self._given = [self._versions(index) for index in range(len(self.groups))]

    @property
    def context(self) -> int:
        return int(getattr(self.loss_fn, "context_frames", 0))

    @property
    def frames(self) -> int:
        return self.decoder.frames_of(self.groups[-1]).stop

    def side_of(self, index: int) -> Side | None:
        return None if self.side is None else self.side[index] or None

    def decode(self, index: int, latents: Tensor, state: State, side: Side | None) -> tuple[Tensor, State]:
        with naming(self._where(index)):
            return self.decoder.decode_group(latents, state, side)

    def _where(self, index: int, seen: int = 0) -> str:
        """A group and its frames, `seen` before them included, for an error's message."""
        span = self.decoder.frames_of(self.groups[index])
        return f"group {index}, frames {span.start - seen}…{span.stop - 1}"

    def value(self, index: int, frames: Float[Tensor, "b c t h w"], before: Tensor | None) -> Tensor:
        """A group's share of the clip's loss: a scalar.

        Args:
            before: the frames before the group's, as many as `context` asks for and there are, or None.
        """
        span = self.decoder.frames_of(self.groups[index])
        if frames.shape[2] != span.stop - span.start:
            raise ValueError(f"{self._where(index)}: the decoder gave {frames.shape[2]} frames")
        seen = 0 if before is None else before.shape[2]
        shown = frames if before is None else torch.cat([before, frames], dim=2)
        target = self._target_of(index, shown, seen)
        with naming(self._where(index, seen)):
            values = self.loss_fn(shown, target)
        self._check_values(values, (frames.shape[0], shown.shape[2]), self._where(index, seen))
        self.check_unchanged(index)
        # Half precision would lose a frame's share among many.
        values = values[:, seen:].to(torch.promote_types(values.dtype, torch.float32))
        share = values.sum() / (self.batch * self.frames)
        if not torch.isfinite(share.detach()):
            raise ValueError(f"{self._where(index)}: the loss is not finite")
        return share

    def check_unchanged(self, index: int) -> None:
        """Raise ValueError where backward would not find what a group depends on as it was."""
        if self._versions(index) != self._given[index]:
            raise ValueError(f"{self._where(index)}: the target, a side tensor or the decoder's weights have been changed "
                             "in place, by the loss or before backward")

    @staticmethod
    def _check_values(values: Tensor, shape: tuple[int, int], where: str) -> None:
        if not isinstance(values, Tensor) or not values.is_floating_point():
            raise ValueError(f"{where}: the loss is {_kind(values)}; a floating point tensor is needed")
        if values.shape != shape:
            raise ValueError(f"{where}: the loss has shape {tuple(values.shape)}; one value a frame, {shape}, is needed")

    def _versions(self, index: int) -> list[int]:
        """How often each tensor that a group depends on has been changed in place: backward needs it as it was."""
        given = [*(self.side_of(index) or {}).values(), *([] if callable(self.target) else [self.target]), *self._weights]
        return [tensor._version for tensor in given if not tensor.is_inference()]

    def _target_of(self, index: int, shown: Tensor, seen: int) -> Tensor:
        """The target of the frames shown to the loss, on their device."""
        span = self.decoder.frames_of(self.groups[index])
        wanted = slice(span.start - seen, span.stop)
        given = callable(self.target)
        with naming(self._where(index, seen)):
            target = self.target(wanted) if given else self.target[:, :, wanted]
        if not isinstance(target, Tensor):
            raise ValueError(f"{self._where(index, seen)}: the target is {_kind(target)}; a tensor is needed")
        if target.ndim != 5 or target.shape[1] < shown.shape[1] or _but_channels(target) != _but_channels(shown):
            raise ValueError(f"{self._where(index, seen)}: the target has shape {tuple(target.shape)}, the decoded frames "
                             f"{tuple(shown.shape)}")
        if given:
            check_range(target, self._where(index, seen))
        return target.detach().to(device=shown.device)

    def context_of(self, index: int, decoded: dict[int, Tensor]) -> Tensor | None:
        """The last `context` frames before group `index`, out of the frames of earlier groups by their index."""
        if not self.context or index == 0:
            return None
        start = self.decoder.frames_of(self.groups[index]).start
        first = max(start - self.context, 0)
        parts = []
        for j in range(index):
            span = self.decoder.frames_of(self.groups[j])
            if span.stop > first:
                parts.append(decoded[j][:, :, max(first - span.start, 0):])
        return torch.cat(parts, dim=2)

    def oldest_needed(self, index: int) -> int:
        """The earliest group whose frames are context of group `index` or a later one."""
        start = self.decoder.frames_of(self.groups[index]).start
        first = max(start - self.context, 0)
        return next(j for j, group in enumerate(self.groups) if self.decoder.frames_of(group).stop > first or j == index)


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Within the context, put `where` before the message of what the decoder, the loss or a callable target raises.

    Exceptions stay what they are. One that makes its message of other parts (OSError, KeyError) gets a note.
    """
    try:
        yield
    except Exception as error:
        if len(error.args) <= 1 and str(error) == "".join(str(part) for part in error.args):
            error.args = (f"{where}: {error}" if error.args else where,)
        elif hasattr(error, "add_note"):
            error.add_note(where)
        elif error.__cause__ is None:  # Python 3.10 knows no notes
            error.__cause__ = RuntimeError(where)
        raise


def check_range(target: Tensor, where: str) -> None:
    """Raise ValueError unless the colours of `target` are floating point and in −1…1 (up to rounding)."""
    if not target.is_floating_point():
        raise ValueError(f"{where}: the target is {target.dtype}; floating point in −1…1 is needed")
    largest = float(target[:, :3].detach().abs().max())
    if not largest <= 1.01:  # also where it is not a number
        raise ValueError(f"{where}: the target reaches ±{largest:.3g}; frames in −1…1 are needed")


def _kind(value) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__


def _but_channels(frames: Tensor) -> tuple[int, ...]:
    return (frames.shape[0], *frames.shape[2:])
