"""Pieces of work for workers that are other processes."""

import os
import signal
from pathlib import Path

from chopgrad_ns.errors import UserError


def square(piece: int) -> tuple[int, int]:
    """The square, and who made it."""
    if piece < 0:
        raise UserError(f"{piece} is negative.")
    return piece**2, os.getpid()


def die_once(piece: tuple[int, str]) -> int:
    """The first worker that takes piece 2 is killed over it; how often each was begun is on disk."""
    number, folder = piece
    with open(Path(folder) / str(number), "a") as file:
        file.write("begun\n")
    if number == 2 and not (Path(folder) / "killed").exists():
        (Path(folder) / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_for_two(piece: int) -> int:
    """Nobody lives through piece 2."""
    if piece == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return piece


def threads(piece: int) -> int:
    """How many threads torch uses."""
    import torch

    return torch.get_num_threads()


def go_on(piece: str) -> None:
    """Say who works, and never end."""
    import time

    (Path(piece) / str(os.getpid())).touch()
    while True:
        time.sleep(0.1)
