"""Files of recordings as strangers write them: bounded, and said in a sentence where they are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from chopgrad_ns.errors import UserError

LARGEST = 1 << 30
"""Bytes of a file that is read at once."""


def read_bytes(path: Path, what: str) -> bytes:
    """A file of a recording. Raises UserError where it is absent, unreadable or larger than 1 GiB."""
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"The {what} {path} is larger than 1 GiB; it cannot be what the recording says, get it again.")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"The {what} {path} cannot be read ({error.strerror or error}); get the recording again.") from error


def read_json(path: Path, what: str) -> dict:
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


def check_order(times: Sequence[float], where: str) -> None:
    """Raise UserError where time does not go on."""
    bad = np.flatnonzero(~(np.diff(times) > 0))
    if len(bad):
        raise UserError(f"Frame {bad[0] + 1} of {where} is not later than the one before it; put its times in order.")
