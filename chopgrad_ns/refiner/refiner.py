"""The refiner as its users meet it: load, save, call on a clip of any length and size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.condition import nearness
from chopgrad_ns.refiner.config import TASKS, RefinerConfig
from chopgrad_ns.refiner.model import Batch, RefinerModel

WINDOW = 49
"""Frames refined in one pass; longer clips go through in windows."""
OVERLAP = 8
"""Frames that neighbouring windows share and fade over."""


class Refiner:
    """A refiner for one task. `refiner(clip)` gives refined frames [T, 3, H, W] in 0…1.

    `pretrained` says if it was ever trained. It lives on the GPU where there is one; clips may live anywhere.
    """

    def __init__(self, config: RefinerConfig, pretrained: bool = False):
        self.config = config
        self.pretrained = pretrained
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # an untrained refiner is the same everywhere
            self.model = RefinerModel(config).eval()
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def device(self) -> torch.device:
        return self.model.prompt.device

    @classmethod
    def from_pretrained(cls, source: str | Path, task: str = "artifact-removal") -> Refiner:
        """Load a refiner.

        Args:
            source: "tiny", the embedded one (untrained where no weights are shipped), or a folder that `save`
                wrote.
            task: what it is wanted for; a checkpoint of another task is refused.

        Raises:
            UserError: where `source` cannot be read, is cut short, or was trained for another task.
        """
        if task not in TASKS:
            raise UserError(f"There is no task {task!r}; choose one of {', '.join(TASKS)}.")
        if str(source) == "tiny":
            folder = resources.files("chopgrad_ns.assets") / "tiny"
            if not (folder / "config.json").is_file():
                return cls(RefinerConfig(task=task))
            with resources.as_file(folder) as path:
                return cls._load(path, task)
        return cls._load(Path(source), task)

    @classmethod
    def _load(cls, folder: Path, task: str) -> Refiner:
        if not folder.is_dir():
            raise UserError(f"There is no refiner {folder}; give \"tiny\" or a folder with config.json and "
                            "model.safetensors.")
        config = RefinerConfig.read(folder / "config.json")
        if config.task != task:
            raise UserError(f"The refiner in {folder} was trained for {config.task}, not {task}; give one "
                            f"for {task}.")
        try:
            refiner = cls(config, pretrained=True)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'config.json'} describes no refiner that can be built "
                            f"({str(error).splitlines()[0]}); copy or train the refiner again.") from error
        try:
            refiner.model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise UserError(f"The weights in {folder} are incomplete or of another architecture "
                            f"({str(error).splitlines()[0]}); copy or train the refiner again.") from error
        return refiner

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`; they appear, or are replaced, when complete."""
        folder = Path(folder).resolve()
        temporary = folder.with_name(folder.name + ".part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        tensors = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        save_file(tensors, temporary / "model.safetensors")
        (temporary / "config.json").write_text(self.config.to_json())
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("model.safetensors", "config.json"):  # config last: a folder without it is no refiner
            os.replace(temporary / name, folder / name)
        temporary.rmdir()

    @torch.no_grad()
    def __call__(self, clip: Clip) -> Float[Tensor, "t 3 h w"]:
        """Refine a clip in a single step; long ones in windows of 49 frames that fade over 8."""
        self.model.eval()
        count = len(clip)
        if count <= WINDOW:
            return self._pass(clip)
        total, weight = torch.zeros_like(clip.frames), clip.frames.new_zeros(count, 1, 1, 1)
        for start in _window_starts(count):
            part = slice(start, start + WINDOW)
            fade = _fade(start > 0, start + WINDOW < count).to(total)
            total[part] += self._pass(clip[part]) * fade
            weight[part] += fade
        return total / weight

    def _pass(self, clip: Clip) -> Float[Tensor, "t 3 h w"]:
        count, _, height, width = clip.frames.shape
        refined = self.model(collate([clip.to(self.device)], self.config))[0]
        return refined[:count, :, :height, :width].clamp(0, 1).to(clip.frames.device)


def collate(clips: list[Clip], config: RefinerConfig) -> Batch:
    """Clips of one shape and number of references as a batch, padded by repeating edges and last frame."""

    def stack(name: str, missing: Callable[[Clip], Tensor]) -> Tensor:
        values = [getattr(clip, name) for clip in clips]
        values = [missing(clip) if value is None else value for clip, value in zip(clips, values)]
        return torch.stack([_pad(value, config) for value in values])

    def none(channels: int) -> Callable[[Clip], Tensor]:
        return lambda clip: clip.frames.new_zeros(len(clip), 0, channels, *clip.frames.shape[-2:])

    depth = stack("depth", lambda clip: torch.zeros_like(clip.frames[:, :1]))
    return Batch(
        render=stack("frames", lambda clip: clip.frames),
        alpha=stack("alpha", lambda clip: torch.ones_like(clip.frames[:, :1])),
        nearness=torch.stack([nearness(each) for each in depth]),
        references=stack("references", none(3)), masks=stack("reference_masks", none(1)))


def _pad(value: Tensor, config: RefinerConfig) -> Tensor:
    """[T, …, H, W] to 4k + 1 frames and whole patches, repeating what is last."""
    frames, (height, width) = len(value), value.shape[-2:]

    def at(size: int, extra: int) -> Tensor:
        return torch.arange(size + extra, device=value.device).clamp_max(size - 1)

    block = config.spatial_factor
    value = value[at(frames, -(frames - 1) % config.temporal_factor)]
    return value[..., at(height, -height % block), :][..., at(width, -width % block)]


def _window_starts(count: int) -> list[int]:
    starts = list(range(0, count - WINDOW, WINDOW - OVERLAP))
    return [*starts, count - WINDOW]


def _fade(at_start: bool, at_end: bool) -> Float[Tensor, "t 1 1 1"]:
    """Weights of a window's frames: up where another comes before, down where another follows."""
    ramp = (torch.arange(OVERLAP) + 1) / (OVERLAP + 1)
    weight = torch.ones(WINDOW)
    if at_start:
        weight[:OVERLAP] = ramp
    if at_end:
        weight[-OVERLAP:] = ramp.flip(0)
    return weight.view(-1, 1, 1, 1)
