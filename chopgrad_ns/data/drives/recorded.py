"""What readers of several formats need: keys of content, notes on what is odd, velocities, JSON from strangers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from chopgrad_ns.data.actors import Actor
from chopgrad_ns.data.drives.drive import inverse
from chopgrad_ns.errors import UserError

GAP = 1.8
"""Usual spacings between two frames beyond which something was not recorded."""
LARGEST = 1 << 30
"""Bytes of a file that is read at once."""


def content_key(root: Path, files: Iterable[Path], *about: object) -> str:
    """16 hexadecimal digits that change with a file's name, size or time of writing, and with what it is read with."""
    digest = hashlib.sha256(repr(about).encode())
    digest.update(str(Path(root).resolve()).encode())
    for path in files:
        status = path.stat()
        digest.update(f"{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def read_bytes(path: Path, what: str) -> bytes:
    """A file of a recording. Raises UserError where it is absent, unreadable or larger than 1 GiB."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"The {what} {path} is larger than 1 GiB; it cannot be what the recording says, get it again.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read ({error.strerror or error}); get the recording again.") from error


def read_json(path: Path, what: str) -> Any:
    """Raises UserError for what is no JSON object."""
    try:
        content = json.loads(read_bytes(path, what))
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"The {what} {path} is not readable JSON ({error}); get the recording again.") from error
    if not isinstance(content, dict):
        raise UserError(f"The {what} {path} is not a JSON object; get the recording again.")
    return content


def velocities(times: Float[np.ndarray, "t"], poses: Float[np.ndarray, "t 4 4"]
               ) -> tuple[Float[np.ndarray, "t 3"], Float[np.ndarray, "t 3"]] | tuple[None, None]:
    """m/s and rad/s along the world's axes, from the poses before and after each one; None for fewer than two poses."""
    if len(times) < 2:
        return None, None
    before, after = np.maximum(np.arange(len(times)) - 1, 0), np.minimum(np.arange(len(times)) + 1, len(times) - 1)
    span = (times[after] - times[before])[:, None]
    turn = poses[after, :3, :3] @ inverse(poses[before])[:, :3, :3]
    return (poses[after, :3, 3] - poses[before, :3, 3]) / span, _turned(turn) / span


def _turned(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3"]:
    """Rotation vectors of less than half a turn."""
    axis = np.stack([rotations[:, 2, 1] - rotations[:, 1, 2], rotations[:, 0, 2] - rotations[:, 2, 0],
                     rotations[:, 1, 0] - rotations[:, 0, 1]], axis=1) / 2
    sine, cosine = np.linalg.norm(axis, axis=1), (np.trace(rotations, axis1=1, axis2=2) - 1) / 2
    return axis * (np.arctan2(sine, cosine) / np.maximum(sine, 1e-12))[:, None]


def check_order(times: Sequence[float], where: str) -> None:
    """Raise UserError where time does not go on."""
    bad = np.flatnonzero(~(np.diff(times) > 0))
    if len(bad):
        raise UserError(f"Frame {bad[0] + 1} of {where} is not later than the one before it; put its times in order.")


def gap_notes(times: Sequence[float]) -> list[str]:
    """A sentence for each gap in a recording's frames."""
    steps = np.diff(times)
    usual = float(np.median(steps)) if len(steps) else 0.0
    return [f"Between frames {i} and {i + 1} lie {steps[i]:.2f} s, where {usual:.2f} s are usual: nothing is known of the time "
            "in between." for i in np.flatnonzero(steps > GAP * usual)]


def single_box_notes(actors: Sequence[Actor], frames: int) -> list[str]:
    """A sentence on tracks of one box, where there are more frames."""
    single = [actor.name for actor in actors if int(actor.present.sum()) == 1]
    if frames < 2 or not single:
        return []
    return [f"{len(single)} of {len(actors)} tracks have one box and stand for its frame only ({', '.join(single[:3])}"
            f"{', …' if len(single) > 3 else ''})."]
