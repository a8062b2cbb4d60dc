"""Frames that other methods made, in folders that a user names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.video import frame_files, read_frames
from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.comparison import Method

if TYPE_CHECKING:
    from comparing.scenes import Scene


@dataclass(frozen=True)
class Added:
    """By a method's name the folder of its frames, of one scene, or with a folder for each scene in it."""

    folders: dict[str, Path]
    many: bool

    @classmethod
    def of(cls, texts: tuple[str, ...], scenes: list[str], taken: list[str]) -> Added:
        """From NAME=FOLDER. Raises UserError for another form, a name that is no method's, given twice or `taken`, or scenes
        of the same name.
        """
        folders: dict[str, Path] = {}
        for text in texts:
            name, equals, folder = text.partition("=")
            if not equals or not name or not folder:
                raise UserError(f"--add {text!r} is not of the form NAME=FOLDER; give a name and a folder of frames.")
            if name in folders or name in taken:
                what = "twice" if name in folders else "as a method of this command's own is called"
                raise UserError(f"--add names {name} {what}; give each method a name of its own.")
            folders[Method(name, name, "").name] = Path(folder)
        twice = next((name for name in scenes if scenes.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"Two scenes of --data are called {twice}, and clips have the names of their folders; rename one.")
        return cls(folders, len(scenes) > 1)

    @property
    def names(self) -> list[str]:
        return list(self.folders)

    def check(self, scenes: list[Scene]) -> None:
        """Read all frames once: raises UserError where some are missing or of another size, before long work begins."""
        for name in self.folders:
            for scene in scenes:
                self.frames(name, scene)

    def frames(self, name: str, scene: Scene) -> Float[Tensor, "t 3 h w"]:
        """A method's frames of a scene, in 0…1, in the order of their names."""
        folder = self.folders[name] / scene.name if self.many else self.folders[name]
        height, width = scene.truth.shape[-2:]
        count = len(frame_files(folder)) if folder.is_dir() else 0
        if count != len(scene.truth):
            raise UserError(f"{folder} has {count} frames, and {scene.name} {len(scene.truth)} held-out views; give a frame "
                            "for each.")
        frames = read_frames(folder)[1]
        if frames.shape[-2:] != (height, width):
            raise UserError(f"The frames in {folder} have {frames.shape[-1]}×{frames.shape[-2]} px and the held-out views of "
                            f"{scene.name} {width}×{height}; give frames of that size.")
        return frames
