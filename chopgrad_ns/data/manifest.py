"""`manifest.json` of a data set: every pair in it with what it was made from, and all work on it with how that went."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_json

FILE = "manifest.json"
FORMAT = 1


def read_manifest(folder: Path) -> dict:
    """`{"format": 1, "pairs": [...], "work": {...}}`, empty where there is none.

    An entry of `pairs` has the pair's `name`, which is its folder's, and what it was made from: its `about`, `frames`,
    `size` [height, width] and `bytes`. `work` tells of each piece of work, a source with the recipe that it was worked on by,
    its `state` ("done" or "failed"), the names of its `pairs`, and the `reason` of a failure. Raises UserError for anything
    else.
    """
    path = Path(folder) / FILE
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']} is not {FORMAT}")
        names = [pair["name"] for pair in manifest["pairs"]]
        names += [name for piece in manifest["work"].values() for name in piece["pairs"]]
        strange = [name for name in names if not isinstance(name, str) or Path(name).name != name or name in ("", "..")]
        if strange:
            raise ValueError(f"{strange[0]!r} is not the name of a folder")
        return manifest
    except FileNotFoundError:
        return {"format": FORMAT, "pairs": [], "work": {}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it, and run chopgrad pairs again to write it anew.") from error


class Manifest:
    """The manifest of a folder while pairs are being made; written anew, whole, after every change.

    To be used as a context: in it the folder is locked. The lock is the operating system's, and a process that dies, however
    it does, holds none. Raises UserError where another process is at work in the folder.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def __enter__(self) -> Manifest:
        import fcntl  # not to be had on Windows, where data sets can be read all the same

        read_manifest(self.folder)  # refused before anything is made
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise UserError(f"Another chopgrad pairs is at work in {self.folder}; wait for it to end, or name another "
                            "--output.") from error
        content = read_manifest(self.folder)
        self._pairs = {pair["name"]: pair for pair in content["pairs"]}
        self._work: dict[str, dict] = content["work"]
        self._write()
        return self

    def __exit__(self, *_) -> None:
        os.close(self._lock)

    def __len__(self) -> int:
        return len(self._pairs)

    def is_done(self, piece: str) -> bool:
        """Whether all pairs of a piece of work were made, and are still there and whole."""
        entry = self._work.get(piece)
        if entry is None or entry["state"] != "done":
            return False
        try:
            for name in entry["pairs"]:
                StoredPair(self.folder / name).check()
        except UserError:
            return False
        return True

    def done(self, piece: str, pairs: list[dict]) -> None:
        """Enter the pairs of a piece of work."""
        self._pairs |= {pair["name"]: pair for pair in pairs}
        self._work[piece] = {"state": "done", "pairs": [pair["name"] for pair in pairs]}
        self._write()

    def failed(self, piece: str, reason: str, pairs: Sequence[dict] = ()) -> None:
        """Enter that a piece of work could not be done, and the pairs that were made all the same."""
        self._pairs |= {pair["name"]: pair for pair in pairs}
        self._work[piece] = {"state": "failed", "pairs": [pair["name"] for pair in pairs], "reason": reason}
        self._write()

    def _write(self) -> None:
        write_json(self.folder / FILE, {"format": FORMAT, "pairs": [self._pairs[name] for name in sorted(self._pairs)],
                                        "work": dict(sorted(self._work.items()))})
