"""Measuring gradients through causal decoders: what each way costs, what it gets wrong, and how far losses look back.

    from chopgrad_ns.chopgrad.profile import ProfileSettings, run_profile
    run_profile(ProfileSettings(decoder="wan2.1", base_dim=8, height=32, width=32, frames=(9, 17)), Path("profile"))
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from chopgrad_ns.chopgrad.profile.measure import CostMeter, error_rows, fit_decay, influence_rows
from chopgrad_ns.chopgrad.profile.methods import METHODS, method_named
from chopgrad_ns.chopgrad.profile.report import GIB, PARTS, Report
from chopgrad_ns.chopgrad.profile.subject import DTYPES, load_decoder, make_subject
from chopgrad_ns.errors import UserError
from chopgrad_ns.machine import processor

__all__ = ["METHODS", "ProfileSettings", "run_profile"]


@dataclass(frozen=True)
class ProfileSettings:
    """What is measured; `chopgrad profile --help` explains each."""

    decoder: str = "wan2.1"
    height: int = 480
    width: int = 832
    frames: tuple[int, ...] = (17, 33, 49)
    base_dim: int | None = None
    dtype: str = "float32"
    device: str | None = None
    methods: tuple[str, ...] = ()
    repeats: int = 3
    train_decoder: bool = False
    limit_gb: float = math.inf
    time_limit: float = math.inf
    latents: Path | None = None
    locality_frames: int | None = None
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = {"--frames": min(self.frames, default=0), "--repeats": self.repeats,
                  "--locality-frames": 1 if self.locality_frames is None else self.locality_frames,
                  "--base-dim": 1 if self.base_dim is None else self.base_dim}
        for option, count in counts.items():
            if count < 1:
                raise UserError(f"{option} goes down to {count}; give 1 or more.")
        for given, known, option in ((self.skip, PARTS, "--skip"), ((self.dtype,), DTYPES, "--dtype"),
                                     ((self.device or "cpu",), _devices(), "--device")):
            for name in given:
                if name not in known:
                    raise UserError(f"{option} does not know {name!r}; choose from {', '.join(known)}.")
        for name in self.methods:
            try:
                method_named(name)
            except ValueError as error:
                raise UserError(f"--methods does not know {name!r}; choose from {', '.join(METHODS)}, or {error}.") from error


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def run_profile(settings: ProfileSettings, output: Path) -> None:
    """Measure, and write profile.json (after every row), profile.md and plots into a folder.

    Error and influence come first: they are short, and at few frames.

    Raises:
        UserError: for a decoder, size or latents that do not go together, before anything is written.
    """
    start = time.perf_counter()
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cudnn.benchmark = False  # its trials would count as time and memory
    decoder = load_decoder(settings.decoder, settings.base_dim, settings.dtype, device)
    locality_frames = settings.locality_frames or min(settings.frames)
    longest = max(*settings.frames, locality_frames)
    subject = make_subject(decoder, settings.height, settings.width, longest, settings.latents)
    report = Report(output, _about(settings, decoder, device))
    if "error" not in settings.skip:
        for row in error_rows(subject, locality_frames):
            report.add("error", row)
        report.publish()
    if "influence" not in settings.skip:
        for row in influence_rows(subject, locality_frames):
            report.add("influence", row)
        report.note("decay", fit_decay(report.content["influence"]))
        report.publish()
    if "cost" not in settings.skip:
        meter = CostMeter(subject, settings.repeats, settings.train_decoder, settings.limit_gb * GIB,
                          start + settings.time_limit)
        for row in meter.rows(settings.methods or tuple(METHODS), settings.frames):
            report.add("cost", row)
    report.publish()


def _about(settings: ProfileSettings, decoder, device: torch.device) -> dict:
    """What a reader needs to judge the numbers, or to measure again."""
    parameters = list(decoder.parameters())
    return {
        "command": command_of(settings),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": _machine(device), "device": device.type, "torch": torch.__version__,
        "dtype": settings.dtype, "decoder": settings.decoder, "class": type(decoder.vae).__name__,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "height": settings.height, "width": settings.width,
        "latents": "random" if settings.latents is None else settings.latents.name,
    }


def command_of(settings: ProfileSettings) -> str:
    """The command line of these settings, without its --output."""
    words = ["chopgrad", "profile"]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default or field.name == "decoder":
            name = field.name.replace("_", "-")
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}"] if value is True else [f"--{name}", *map(str, values)]
    return " ".join(words)


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return f"{processor()}, {torch.get_num_threads()} threads"
