"""Memory and time of the methods, the error of their gradients, and how far back a loss looks."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from chopgrad_ns.chopgrad.block_checkpoint import layers_of
from chopgrad_ns.chopgrad.meter import peak_bytes
from chopgrad_ns.chopgrad.pixel_loss import pixel_loss
from chopgrad_ns.chopgrad.profile.methods import METHODS, Method, loss_of, mean_square, method_named
from chopgrad_ns.chopgrad.profile.subject import Subject
from chopgrad_ns.chopgrad.strategies import Exact, Truncated

Row = dict
INEXACT = (*(name for name in METHODS if name.startswith("truncated-")), "frame-by-frame", "first-3")


class CostMeter:
    """Peak memory and time of forward and backward, method by method, while they fit.

    Args:
        train_decoder: whether gradients of decoder parameters are made beside those of latents.
        limit_bytes: a method that has taken more is not run at more frames.
        deadline: of `time.perf_counter`; a run that would end later, by what the method took before, is left out.
    """

    def __init__(self, subject: Subject, repeats: int, train_decoder: bool, limit_bytes: float, deadline: float):
        self.subject, self.repeats, self.limit, self.deadline = subject, repeats, limit_bytes, deadline
        self.parameters = list(subject.decoder.parameters()) if train_decoder else []
        self.given_up: dict[str, str] = {}
        self.pace: dict[str, float] = {}  # seconds a frame

    def rows(self, names: Sequence[str], frame_counts: Sequence[int]) -> Iterator[Row]:
        """All methods at few frames before any at more, so that a run that is cut off has compared them.

        They are timed in turns, so that a machine that is busy for a while is so for all of them. `status` is "ok", or
        why there is no number; peak in bytes beyond decoder, latents and target, seconds the median of the turns.
        """
        for frames in sorted(frame_counts):
            latents, target = self.subject.clip(frames)
            reasons: dict[str, str] = {}
            peaks: dict[str, int] = {}
            for name in dict.fromkeys(names):
                waiting = self.repeats * sum(self.pace[other] * target.shape[2] for other in peaks)
                reasons[name] = self._reason_against(name, target.shape[2], waiting)
                if reasons[name] == "ok":
                    found = unless_out_of_memory(lambda: self._first_run(name, latents, target))  # noqa: B023
                    if found is None:
                        reasons[name] = "out of memory"
                        self.given_up[name] = "out of memory at fewer frames"
                    else:
                        peaks[name] = found
            seconds = {name: [] for name in peaks}
            for _ in range(self.repeats):
                for name in peaks:
                    seconds[name].append(self._timed(name, latents, target))
            for name in reasons:
                yield self._row(name, target.shape[2], reasons[name], peaks.get(name), seconds.get(name))

    def _reason_against(self, name: str, frames: int, waiting: float) -> str:
        """Of running a method at so many frames while others have yet to run for `waiting` seconds; "ok" if none."""
        method = method_named(name)
        if isinstance(method, Exact) and method.checkpoint_blocks and not layers_of(self.subject.decoder):
            self.given_up[name] = "the decoder names no layers"
        if name in self.given_up:
            return self.given_up[name]
        needed = self.pace.get(name, 0) * frames * (self.repeats + 1)
        return "no time left" if time.perf_counter() + waiting + needed > self.deadline else "ok"

    def _first_run(self, name: str, latents: Tensor, target: Tensor) -> int:
        """Peak bytes of a run, which on CUDA also loads kernels, and pins host memory that is kept for later runs."""
        start = time.perf_counter()
        peak = peak_bytes(lambda: gradients(method_named(name), self.subject, latents, target, self.parameters), latents.device)
        self.pace[name] = (time.perf_counter() - start) / target.shape[2]
        return peak

    def _timed(self, name: str, latents: Tensor, target: Tensor) -> float:
        _synchronize(latents.device)
        start = time.perf_counter()
        gradients(method_named(name), self.subject, latents, target, self.parameters)
        _synchronize(latents.device)
        return time.perf_counter() - start

    def _row(self, name: str, frames: int, reason: str, peak: int | None, seconds: list[float] | None) -> Row:
        row = {"method": name, "frames": frames, "peak_bytes": peak, "seconds": None, "status": reason}
        if peak is None:
            return row
        row["seconds"] = statistics.median(seconds)
        self.pace[name] = row["seconds"] / frames
        if peak > self.limit:
            row["status"], self.given_up[name] = "over the limit", "over the limit at fewer frames"
        return row


def gradients(method: Method, subject: Subject, latents: Tensor, target: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Of a method's loss, by latents and then parameters (which require grad in here only)."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        loss = loss_of(method, subject.decoder, latents, lambda span: target[:, :, span])
        sources = [latents, *parameters]
        found = torch.autograd.grad(loss, sources, allow_unused=True)
        return [torch.zeros_like(source) if value is None else value for source, value in zip(sources, found)]
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def unless_out_of_memory(function: Callable):
    """What `function()` gives, or None where the device's memory does not suffice, all of it given back."""
    try:
        return function()
    except torch.OutOfMemoryError:
        pass  # while the error is handled, its frames hold the tensors
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def error_rows(subject: Subject, frames: int) -> Iterator[Row]:
    """Gradients of what is not exact against those of `Exact()`, for latents and for decoder parameters together.

    `relative_l2` = |g − e| / |e|; `cosine` of the angle between them; `magnitude_bias` = |g| / |e| − 1, signed.
    A distance that covers the clip is left out.
    """
    latents, target = subject.clip(frames)
    parameters = list(subject.decoder.parameters())
    exact = gradients(Exact(), subject, latents, target, parameters)
    last = len(subject.decoder.groups(latents.shape[2])) - 1
    for name in INEXACT:
        method = method_named(name)
        if isinstance(method, Truncated) and method.distance >= last:
            continue
        found = unless_out_of_memory(lambda: gradients(method, subject, latents, target, parameters))  # noqa: B023
        row = {"method": name, "frames": target.shape[2], "distance": getattr(method, "distance", None)}
        if found is None:
            yield row | {"status": "out of memory"}
            continue
        for of, part in (("latents", slice(0, 1)), ("parameters", slice(1, None))):
            yield row | {"status": "ok", "of": of, **compare(found[part], exact[part])}


def compare(found: Sequence[Tensor], exact: Sequence[Tensor]) -> dict[str, float]:
    """Relative L2 difference, cosine and signed magnitude bias of two gradients, each in several tensors."""
    ours = theirs = both = apart = 0.0
    for a, b in zip(found, exact):
        a, b = a.double(), b.double()
        ours, theirs = ours + float(a.square().sum()), theirs + float(b.square().sum())
        both, apart = both + float((a * b).sum()), apart + float((a - b).square().sum())
    return {"relative_l2": math.sqrt(apart / theirs), "cosine": both / math.sqrt(ours * theirs) if ours else 0.0,
            "magnitude_bias": math.sqrt(ours / theirs) - 1}


def influence_rows(subject: Subject, frames: int) -> Iterator[Row]:
    """I(i, j) = |d loss of group i / d latents of group j| for all j ≤ i, and the distance i − j in groups.

    Group i's loss is the mean of its frames'. Each i is an exact gradient of the clip that ends with it.
    """
    latents, target = subject.clip(frames)
    groups = subject.decoder.groups(latents.shape[2])
    for i, group in enumerate(groups):
        shown = latents.detach()[:, :, : group.stop].requires_grad_()
        if subject.decoder.groups(group.stop) != groups[: i + 1]:
            continue  # a shorter clip that is cut in another way
        span = subject.decoder.frames_of(group)
        loss = pixel_loss(shown, _marked(target, span), subject.decoder, _of_marked, Exact())
        gradient, = torch.autograd.grad(loss, shown)
        for j, other in enumerate(groups[: i + 1]):
            norm = float(gradient[:, :, other].double().norm()) * span.stop / (span.stop - span.start)
            yield {"group": i, "latent_group": j, "distance": i - j, "influence": norm}


def _marked(target: Tensor, wanted: slice) -> Callable[[slice], Tensor]:
    """The target with a fourth channel that is one in the frames wanted and zero in others."""

    def of(span: slice) -> Tensor:
        mark = torch.zeros_like(target[:, :1, span])
        mark[:, :, max(wanted.start - span.start, 0) : max(wanted.stop - span.start, 0)] = 1
        return torch.cat([target[:, :, span], mark], dim=1)

    return of


def _of_marked(prediction: Tensor, target: Tensor) -> Tensor:
    return mean_square(prediction, target[:, :3]) * target[:, 3, :, 0, 0]


def fit_decay(rows: Sequence[Row]) -> dict[str, float | None]:
    """α and C of I = C·exp(−α·distance): the line through log I by least squares, over pairs with any influence."""
    points = [(row["distance"], math.log(row["influence"])) for row in rows if row["influence"] > 0]
    if len({distance for distance, _ in points}) < 2:
        return {"alpha": None, "C": None}
    slope, intercept = statistics.linear_regression(*zip(*points))
    return {"alpha": -slope, "C": math.exp(intercept)}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
