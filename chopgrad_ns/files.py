"""Files and folders that are whole or absent."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chopgrad_ns.errors import UserError


def write_whole(path: Path, content: bytes) -> None:
    """Write beside, then rename: a reader sees all of it or what was there before. Makes missing folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: dict) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside, to write into; when all is written it takes the place of `folder`, and where something
    is raised it is removed.
    """
    folder = Path(folder)
    unfinished = folder.with_name(folder.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process or thread is in a block for the same path; one that dies, however it does, is in none.

    An empty file with the ending .lock stays beside.
    """
    import fcntl  # not on Windows, where torch draws and the plugin does not run

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def refuse_file(folder: Path) -> None:
    """Raise UserError where a folder cannot be made because it, or a folder that it would be in, is a file."""
    found = next((path for path in (Path(folder), *Path(folder).parents) if path.exists() and not path.is_dir()), None)
    if found is not None:
        raise UserError(f"{found} is a file, where a folder is to be written; give another name.")


def user_cache() -> Path:
    """Folder for what this package can make again: `$XDG_CACHE_HOME/chopgrad-ns`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chopgrad-ns"
