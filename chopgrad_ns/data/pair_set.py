"""A folder of pairs, as `chopgrad pairs` writes it: what is in it, and what of that can be used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from chopgrad_ns.data.manifest import FILE, read_manifest
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.errors import Incomplete, UserError


class PairSet(Sequence):
    """The pairs of a folder by name, each read from disk when its frames are asked for.

    Those that the manifest lists, or all sub-folders with a pair where there is no manifest. With `check`, all of them are
    decoded once; what is missing or damaged is named on standard error and left out, and `left_out` says why. Raises
    UserError where there is no pair, or none that can be read.
    """

    def __init__(self, folder: Path, check: bool = True):
        self.folder = Path(folder)
        if (self.folder / FILE).exists():
            names = [pair["name"] for pair in read_manifest(self.folder)["pairs"]]
        else:
            names = sorted(path.parent.name for path in self.folder.glob("*/pair.json") if path.parent.suffix != ".part")
        if not names:
            raise UserError(f"There are no pairs in {folder}; make some with chopgrad pairs --output {folder}.")
        self.left_out: dict[str, str] = {}
        self._pairs: list[StoredPair] = []
        for name in names:
            try:
                pair = StoredPair(self.folder / name)
                if check:
                    pair.check()
                self._pairs.append(pair)
            except UserError as error:
                self.left_out[name] = str(error)
                print(f"Left out: {error}", file=sys.stderr)
        if not self._pairs:
            raise UserError(f"None of the {len(names)} pairs in {folder} can be read; make them again with chopgrad pairs.")

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> StoredPair:
        return self._pairs[index]

    def of_one_size(self) -> list[StoredPair]:
        """Those whose degraded frames are as large as the clean ones: all but pairs for super-resolution."""
        return [pair for pair in self if pair.scale == (1, 1)]

    def complain(self) -> None:
        """Raises Incomplete if some pairs were left out; for the end of what was done with the others."""
        if self.left_out:
            raise Incomplete(f"{len(self.left_out)} of {len(self.left_out) + len(self)} pairs in {self.folder} could not be "
                             "read and were left out; run the chopgrad pairs that made them again.")
