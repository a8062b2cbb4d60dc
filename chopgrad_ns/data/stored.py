"""Pairs on disk: a folder each, packed without loss, any run of frames to be read alone.

`pair.safetensors` holds the arrays frame by frame (see packing.py) and the cameras, `pair.json` what they are and what they
were made from. Pictures and masks have 8 bit, depth 32. References are stored as warped pictures, or as the photos that they
are warped from when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from chopgrad_ns.data.clip import Clip, Pair
from chopgrad_ns.data.packing import pack, unpack
from chopgrad_ns.data.references import ReferencePhotos, without_unused
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import whole_folder
from chopgrad_ns.splat.cameras import OPTIONAL, Cameras

FORMAT = 2
AT_ONCE = 8
"""Frames that are decoded together when a pair is checked."""
PICTURES = ("frames", "clean", "valid", "alpha", "mask", "references", "reference_masks", "photos")
"""Arrays of values in 0…1, kept in 8 bit."""


def save_pair(pair: Pair, folder: Path, about: dict | None = None) -> None:
    """Write the folder, at once; `about`, JSON-able, says what the pair was made from and is `StoredPair.about` again."""
    clip, photos = pair.degraded, pair.reference_photos
    arrays = {"frames": clip.frames, "clean": pair.clean, "valid": pair.valid, "alpha": clip.alpha, "depth": clip.depth,
              "mask": clip.mask, "actor_ids": clip.actor_ids}
    tensors, described = {}, {"format": FORMAT, "name": pair.name}
    if clip.cameras is not None:
        tensors |= _camera_tensors("", clip.cameras)
        described["cameras"] = [clip.cameras.width, clip.cameras.height]
    if photos is None:
        arrays |= {"references": clip.references, "reference_masks": clip.reference_masks}
    else:
        arrays |= {"photos": photos.photos, "photo_depth": photos.depth}
        tensors |= _camera_tensors("photo_", photos.cameras) | {"choice": photos.choice.int().cpu().numpy()}
    described["arrays"] = {}
    for name, value in arrays.items():
        if value is not None:
            frames = _to_bytes(value) if name in PICTURES else value.cpu().numpy()
            described["arrays"][name] = {"dtype": str(frames.dtype), "shape": list(frames.shape)}
            tensors[name], tensors[f"{name}.offsets"] = pack(frames)
    with whole_folder(folder) as unfinished:
        # Not `save_file`: what that writes only its owner can read.
        content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
        (unfinished / "pair.safetensors").write_bytes(content)
        (unfinished / "pair.json").write_text(json.dumps(described | {"about": about or {}}, indent=1) + "\n")


class StoredPair:
    """A pair on disk, of which only the description is in memory. Raises UserError where that cannot be read."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        try:
            described = json.loads((self.folder / "pair.json").read_text())
            if described["format"] != FORMAT:
                raise ValueError(f"format {described['format']} is not {FORMAT}")
            self.name: str = described["name"]
            self.about: dict = described["about"]
            self._arrays = {name: (array["dtype"], tuple(map(int, array["shape"])))
                            for name, array in described["arrays"].items()}
            self._camera_size = described.get("cameras")
            self.size: tuple[int, int] = self._shape("clean")[-2:]
            self._length = self._shape("clean")[0]
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unreadable(error) from error

    def __len__(self) -> int:
        return self._length

    @property
    def scale(self) -> tuple[float, float]:
        """How much higher and wider the clean frames are than the degraded ones."""
        return tuple(clean / low for clean, low in zip(self.size, self._shape("frames")[-2:]))

    @property
    def carries(self) -> frozenset[str]:
        """Names of what the degraded clip has when it is read."""
        of_clip = self._arrays.keys() - {"clean", "valid", "photos", "photo_depth"}
        warped = {"references", "reference_masks"} if "photos" in self._arrays else set()
        return frozenset(of_clip | warped | ({"cameras"} if self._camera_size is not None else set()))

    @cached_property
    def reference_count(self) -> int:
        """References of each frame."""
        if "photos" in self._arrays:
            with self._open() as file:
                return file.get_slice("choice").get_shape()[1]
        return self._shape("references")[1] if "references" in self._arrays else 0

    def read(self, frames: slice = slice(None)) -> Pair:
        """Decode some of the frames, a run of them, and nothing else. Raises UserError where they are damaged."""
        first, last, step = frames.indices(len(self))
        if step != 1 or last <= first:
            raise ValueError(f"{frames} is not a run of the {len(self)} frames")
        try:
            with self._open() as file:
                return self._read(file, first, last)
        except (OSError, KeyError, IndexError, TypeError, ValueError, RuntimeError, MemoryError, SafetensorError) as error:
            raise self._unreadable(error) from error

    def check(self) -> None:
        """Decode all frames, a few at a time, and keep none. Raises UserError where some are damaged."""
        for first in range(0, len(self), AT_ONCE):
            self.read(slice(first, first + AT_ONCE))

    def _read(self, file, first: int, last: int) -> Pair:
        cameras = None
        if self._camera_size is not None:
            cameras = _read_cameras(file, "", slice(first, last), *self._camera_size)
        per_frame = {name: self._array(file, name, first, last) for name in self._arrays
                     if name not in ("photos", "photo_depth")}
        clean, valid = per_frame.pop("clean"), per_frame.pop("valid", None)
        if "photos" not in self._arrays:
            return Pair(Clip(cameras=cameras, **per_frame), clean, self.name, valid)
        photos = self._reference_photos(file, first, last)
        references, masks = photos.warp(cameras, per_frame["depth"], per_frame["alpha"])
        clip = Clip(cameras=cameras, references=references, reference_masks=masks, **per_frame)
        return Pair(clip, clean, self.name, valid, photos)

    def _reference_photos(self, file, first: int, last: int) -> ReferencePhotos:
        kept, choice = without_unused(torch.from_numpy(file.get_slice("choice")[first:last]).long())
        photos, depth = (torch.cat([self._array(file, name, index, index + 1) for index in kept])
                         for name in ("photos", "photo_depth"))
        return ReferencePhotos(photos, _read_cameras(file, "photo_", kept, *photos.shape[:1:-1]), depth, choice)

    def _array(self, file, name: str, first: int, last: int) -> Tensor:
        dtype, shape = self._arrays[name]
        offsets = file.get_slice(f"{name}.offsets")[first : last + 1]
        if len(offsets) != last - first + 1 or offsets[0] < 0:
            raise ValueError(f"{name} has not the frames that are stated")
        packed = file.get_slice(name)[int(offsets[0]) : int(offsets[-1])]
        try:
            frames = torch.from_numpy(unpack(packed, offsets, dtype, shape[1:]))
        except ValueError as error:
            raise ValueError(f"{name} from frame {first} on: {error}") from error
        return frames.float().div_(255) if name in PICTURES else frames

    def _open(self):
        return safe_open(self.folder / "pair.safetensors", framework="numpy")

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name][1]

    def _unreadable(self, error: Exception) -> UserError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return UserError(f"The pair in {self.folder} cannot be read ({reason}); delete the folder and make it again.")


def _camera_tensors(prefix: str, cameras: Cameras) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": value.cpu().numpy() for name in ("camera_from_world", "K", *OPTIONAL)
            if (value := getattr(cameras, name)) is not None}


def _read_cameras(file, prefix: str, which: slice | Sequence[int], width: int, height: int) -> Cameras:
    def get(name: str) -> torch.Tensor:
        return torch.from_numpy(file.get_tensor(f"{prefix}{name}")[which])

    optional = {name: get(name) for name in OPTIONAL if f"{prefix}{name}" in file.keys()}
    return Cameras(get("camera_from_world"), get("K"), int(width), int(height), **optional)


def _to_bytes(value: Tensor) -> np.ndarray:
    return (value.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
