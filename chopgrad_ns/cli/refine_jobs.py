"""What `chopgrad refine` does with one clip, whatever it comes from, and what it does it with."""

from __future__ import annotations

import re
import resource
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.cli.progress import bar
from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.clip_sources import LazyClip
from chopgrad_ns.data.references import blend_baseline
from chopgrad_ns.data.video import frame_writer, side_by_side, video_writer
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import refuse_file, whole_folder
from chopgrad_ns.refiner import Refiner
from chopgrad_ns.refiner.windows import Windows, refine_stream

FPS = 12.0
"""Frames per second of videos whose source has no rate."""
INPUT_VIDEOS = ("splat",)
"""Names that the video of the input alone may have."""


@dataclass(frozen=True)
class Job:
    """A clip to be refined, the height and width that it shall have, and the folder to write.

    `input_video`: name of a video of the input alone; None for none.
    """

    clip: LazyClip
    size: tuple[int, int]
    folder: Path
    input_video: str | None = None


@dataclass(frozen=True)
class Model:
    """A refiner, or in its place the baseline that has learnt nothing."""

    refiner: Refiner | None

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.refiner is None else self.refiner.device

    @property
    def factors(self) -> tuple[int, int]:
        """Steps of a window, in frames, and of a tile, in pixels."""
        if self.refiner is None:
            return 1, 1
        return self.refiner.model.backbone.frame_step, self.refiner.model.backbone.spatial_factor

    def passes(self, job: Job, windows: Windows) -> int:
        """How many a clip takes. Raises UserError for windows or tiles that are too small for the model."""
        frame_step, spatial_factor = self.factors
        rows, columns = windows.in_space(*job.size, spatial_factor)
        return len(windows.in_time(job.clip.length, frame_step)) * len(rows) * len(columns)

    def stream(self, job: Job, read: Callable[[slice], Clip], windows: Windows,
               progress: Callable[[int, int], None]) -> Iterator[Float[Tensor, "3 h w"]]:
        """Refined frames of the clip that `read` reads."""
        if self.refiner is None:
            return refine_stream(blend_baseline, read, job.clip.length, windows, *self.factors, progress)
        return self.refiner.stream(read, job.clip.length, job.size, windows, progress)


def load_model(refiner: str, task: str, prompt: str | None, parts: str | None, device: str | None,
               precision: str | None) -> Model:
    """A refiner, or "blend". Raises UserError where it cannot be had, is for another task, or has a prompt already."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device here; leave --device out.")
    if refiner == "blend":
        return Model(None)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    half = precision == "bf16" or (precision is None and where == "cuda")
    dtype = torch.bfloat16 if half else None
    return Model(Refiner.from_pretrained(refiner, task, prompt, parts=parts, dtype=dtype, device=where))


class _Input:
    """A clip as it is given; frames wait here, in 8 bit, to be shown beside the refined ones."""

    def __init__(self, job: Job):
        self.job = job
        self._waiting: deque[Tensor] = deque()
        self._known = 0

    def read(self, frames: slice) -> Clip:
        clip = self.job.clip.read(frames)
        self._waiting.extend((frame.clamp(0, 1) * 255).round().byte() for frame in clip.frames[self._known - frames.start:])
        self._known = frames.stop
        return clip

    def next(self) -> Float[Tensor, "3 h w"]:
        """The next frame, at the size of the refined ones."""
        frame = self._waiting.popleft().float() / 255
        return frame if frame.shape[1:] == self.job.size else F.interpolate(frame[None], self.job.size, mode="bilinear")[0]


def check_folder(folder: Path) -> None:
    """Raise UserError for a folder that holds anything that `refine_all` did not write, or that cannot be made."""
    refuse_file(folder.absolute())
    videos = ("refined", "before_after", *INPUT_VIDEOS)
    strange = sorted({path.name for path in folder.glob("*")} - {"frames", *(f"{name}.mp4" for name in videos)})
    frames = [f"frames/{path.name}" for path in folder.glob("frames/*")]
    strange += sorted(name for name in frames if not re.fullmatch(r"frames/\d{5,}\.png", name))
    if not strange and (folder / "frames").exists() and not (folder / "refined.mp4").exists():
        strange = ["frames without refined.mp4"]
    if strange:
        raise UserError(f"{folder} holds {strange[0]}, which no refining wrote; give a folder that may be replaced.")


def refine_all(jobs: Sequence[Job], model: Model, windows: Windows, fps: float | None) -> None:
    """Refine clips one after the other, with a bar for all of them; each folder is there when it is whole.

    `fps`: of all videos; None: as the source of each says. Raises UserError, before anything is written, for windows or tiles
    that are too small for the model.
    """
    counts = [model.passes(job, windows) for job in jobs]
    if model.refiner is not None and not model.refiner.pretrained and model.refiner.config.base is None:
        print(f"chopgrad refine: the tiny refiner is not trained for {model.refiner.config.task} and corrects nothing; train "
              "it with chopgrad finetune, or give another --refiner.", file=sys.stderr)
    with bar("refining") as report:
        for index, job in enumerate(jobs):
            before = sum(counts[:index])
            _refine(job, model, windows, fps, lambda done, _, before=before: report(before + done, sum(counts)))


def _refine(job: Job, model: Model, windows: Windows, fps: float | None, progress: Callable[[int, int], None]) -> None:
    """Write `frames/*.png`, `refined.mp4`, `before_after.mp4` and the input's video, as frames are done."""
    shown, rate = _Input(job), fps or job.clip.fps or FPS
    stream = model.stream(job, shown.read, windows, progress)
    names = ["refined", "before_after", *filter(None, [job.input_video])]
    with whole_folder(job.folder.resolve()) as unfinished, ExitStack() as stack:
        add = {name: stack.enter_context(video_writer(unfinished / f"{name}.mp4", rate)) for name in names}
        add_frame = frame_writer(unfinished / "frames")
        for refined in stream:
            given = shown.next()
            add_frame(refined)
            add["refined"](refined)
            add["before_after"](side_by_side(given[None], refined[None])[0])
            if job.input_video:
                add[job.input_video](given)


def peak_memory(device: torch.device) -> str:
    """The most memory that was in use at once, and whose account that is."""
    if device.type == "cuda":
        return f"at most {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB of GPU memory allocated"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB resident in the whole process"
