"""The loss of a clip as a sum over groups: what every strategy evaluates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.chopgrad.interface import CausalDecoder, Side, State

Target = "Tensor | Callable[[slice], Tensor]"
LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass
class ClipLoss:
    """Latents' decoder, target and per-frame loss, cut into groups.

    The loss of a clip is the mean over batch and frames of `loss_fn(prediction, target)` [B, t]. A loss function with an
    attribute `context_frames` = k is handed the k frames before a group as well (fewer at the start), and the values it
    returns for those are dropped: they were counted with their own group.
    """

    decoder: CausalDecoder
    groups: list[slice]
    target: Tensor | Callable[[slice], Tensor]
    loss_fn: LossFunction
    side: Sequence[Side] | None
    batch: int

    @property
    def context(self) -> int:
        return int(getattr(self.loss_fn, "context_frames", 0))

    @property
    def frames(self) -> int:
        return self.decoder.frames_of(self.groups[-1]).stop

    def side_of(self, index: int) -> Side | None:
        return None if self.side is None else self.side[index]

    def decode(self, index: int, latents: Tensor, state: State, side: Side | None) -> tuple[Tensor, State]:
        return self.decoder.decode_group(latents, state, side)

    def value(self, index: int, frames: Float[Tensor, "b c t h w"], before: Tensor | None) -> Tensor:
        """A group's share of the clip's loss: a scalar.

        Args:
            before: the frames that come before the group's, as many as `context` asks for and there are, or None.
        """
        span = self.decoder.frames_of(self.groups[index])
        if frames.shape[2] != span.stop - span.start:
            raise ValueError(f"group {index}: the decoder gave {frames.shape[2]} frames where frames_of says {span.start}…{span.stop - 1}")
        seen = 0 if before is None else before.shape[2]
        shown = frames if before is None else torch.cat([before, frames], dim=2)
        wanted = slice(span.start - seen, span.stop)
        target = self.target(wanted) if callable(self.target) else self.target[:, :, wanted]
        if target.shape[0] != frames.shape[0] or target.shape[2:] != shown.shape[2:]:
            raise ValueError(f"group {index}, frames {wanted.start}…{wanted.stop - 1}: the target has shape {tuple(target.shape)}, "
                             f"the decoded frames {tuple(shown.shape)}")
        values = self.loss_fn(shown, target.to(device=frames.device))
        if values.shape != (frames.shape[0], shown.shape[2]):
            raise ValueError(f"group {index}, frames {wanted.start}…{wanted.stop - 1}: the loss has shape {tuple(values.shape)}; one value "
                             f"a frame, {(frames.shape[0], shown.shape[2])}, is needed")
        share = values[:, seen:].sum() / (self.batch * self.frames)
        if not torch.isfinite(share.detach()):
            raise ValueError(f"group {index}, frames {span.start}…{span.stop - 1}: the loss is not finite")
        return share

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
