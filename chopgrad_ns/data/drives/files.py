"""A drive's pictures as files, for those who want paths: in the user's cache, as they were recorded, with masks beside."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from chopgrad_ns.data.drives.boxes import moving_actors, moving_mask
from chopgrad_ns.data.drives.drive import Drive, Photo
from chopgrad_ns.data.pictures import UNREADABLE
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import one_at_a_time, user_cache, whole_folder

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}
VERSION = 1
"""Of the files that are written; another one makes them anew."""


@dataclass(frozen=True)
class Extracted:
    """Files of pictures and masks (0 where something that moves may be, else 255), one each for `Drive.photos`."""

    pictures: list[Path]
    masks: list[Path]


def extract(drive: Drive, report: Callable[[int, int], None] | None = None) -> Extracted:
    """Write the pictures of a drive, or find them where they were written before.

    They are under the user's cache in `drives/KEY/`: `0-CAMERA/00000.jpg` by frame, bytes as recorded, and
    `masks/0-CAMERA/00000.png`; all of them or none. Where another process is writing them, they are waited for.

    Args:
        report: called with (step, steps) as pictures are written.

    Raises:
        UserError: a picture is damaged, neither JPEG nor PNG, or not of its camera's size.
    """
    folder = user_cache() / "drives" / f"{drive.key}-{VERSION}"
    with one_at_a_time(folder):
        if not folder.is_dir():
            _write_all(drive, folder, report)
    return Extracted([_found(folder, _place(drive, photo)) for photo in drive.photos],
                     [folder / "masks" / _place(drive, photo).with_suffix(".png") for photo in drive.photos])


def _write_all(drive: Drive, folder: Path, report: Callable[[int, int], None] | None) -> None:
    moving = moving_actors(drive)
    with whole_folder(folder) as unfinished:
        for step, photo in enumerate(drive.photos):
            _write(drive, photo, moving, unfinished)
            if report is not None:
                report(step + 1, len(drive.photos))


def _write(drive: Drive, photo: Photo, moving: list[int], folder: Path) -> None:
    content, camera = drive.source.picture(photo), drive.cameras[photo.camera]
    try:
        with Image.open(io.BytesIO(content)) as picture:
            suffix, size = SUFFIXES.get(picture.format), picture.size
    except UNREADABLE as error:
        raise UserError(f"The picture {photo.name} cannot be read; get the recording again, or choose other frames.") from error
    if suffix is None or size != (camera.width, camera.height):
        raise UserError(f"The picture {photo.name} is no JPEG or PNG of {camera.width}×{camera.height} px, as the calibration "
                        "of its camera says; get the recording again, or choose other cameras.")
    for path, data in ((folder / _place(drive, photo).with_suffix(suffix), content),
                       (folder / "masks" / _place(drive, photo).with_suffix(".png"), _mask(drive, photo, moving))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _mask(drive: Drive, photo: Photo, moving: list[int]) -> bytes:
    camera = drive.cameras[photo.camera]
    seen = ~moving_mask(drive, photo, camera.width, camera.height, moving=moving)
    return cv2.imencode(".png", seen.astype(np.uint8) * 255)[1].tobytes()


def _place(drive: Drive, photo: Photo) -> Path:
    """Names of cameras come from strangers: what could lead out of the folder is left out."""
    number = list(drive.cameras).index(photo.camera)
    return Path(f"{number}-" + re.sub(r"[^\w-]", "_", photo.camera), f"{photo.frame:05}")


def _found(folder: Path, place: Path) -> Path:
    path = folder / place
    return next((path.with_suffix(suffix) for suffix in SUFFIXES.values() if path.with_suffix(suffix).is_file()),
                path.with_suffix(".jpg"))
