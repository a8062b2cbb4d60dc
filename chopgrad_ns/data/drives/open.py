"""Any recording by its path: which format it has, and its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from chopgrad_ns.data.drives.drive import Drive, Selection
from chopgrad_ns.errors import UserError


@dataclass(frozen=True)
class Format:
    """A format of recordings: where its reader is, what its layout looks like in words, and whether a folder or file has it."""

    reader: str
    layout: str
    fits: Callable[[Path], bool]

    def read(self, path: Path, selection: Selection, **options) -> Drive:
        """With the reader's own options."""
        module, name = self.reader.split(":")
        return getattr(import_module(f"chopgrad_ns.data.drives.{module}"), name)(path, selection, **options)


def _some(path: Path, pattern: str) -> bool:
    return path.is_dir() and next(path.glob(pattern), None) is not None


FORMATS = {
    "waymo-v2": Format("waymo_v2:read_waymo_v2", "camera_image/*.parquet",
                       lambda path: _some(path, "camera_image/*.parquet") or _some(path, "vehicle_pose/*.parquet")),
    "waymo-v1": Format("waymo_v1:read_waymo_v1", "*.tfrecord",
                       lambda path: path.suffix == ".tfrecord" or _some(path, "*.tfrecord")),
    "dgp": Format("dgp:read_dgp", "scene_dataset_*.json or scene_*.json",
                  lambda path: _some(path, "scene_*.json") or (path.name.startswith("scene_") and path.suffix == ".json")),
    "kitti-odometry": Format("kitti:read_kitti", "sequences/NN/calib.txt",
                             lambda path: _some(path, "sequences/*/calib.txt") or _some(path, "calib.txt")),
    "nuscenes-kit": Format("nuscenes:read_nuscenes", "v1.0-*/sample.json",
                           lambda path: _some(path, "v1.0-*/sample.json")),
    "argoverse2": Format("argoverse:read_argoverse", "city_SE3_egovehicle.feather",
                         lambda path: _some(path, "city_SE3_egovehicle.feather")),
}
"""By the names that nerfstudio's dataparsers have."""


def format_of(path: Path) -> str | None:
    """The format whose layout a folder or file has; None for what is no recording."""
    path = Path(path)
    return next((name for name, form in FORMATS.items() if form.fits(path)), None)


def open_drive(path: Path, kind: str | None = None, selection: Selection = Selection(), **options) -> Drive:
    """Read a recording, of the format named or of the one that its layout tells.

    Raises UserError for what is none, and all that the reader raises.
    """
    path = Path(path).absolute()  # so that "." has a name
    if kind is not None and kind not in FORMATS:
        raise UserError(f"There is no format {kind} of recordings; choose among {', '.join(FORMATS)}.")
    if not path.exists():
        raise UserError(f"There is nothing at {path}; give a recording's folder or file.")
    fitting = kind or format_of(path)
    if fitting is None:
        known = "; ".join(f"{name}: {form.layout}" for name, form in FORMATS.items())
        raise UserError(f"{path} has the layout of no recording that can be read ({known}).")
    return FORMATS[fitting].read(path, selection, **options)
