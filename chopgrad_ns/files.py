"""Files that are whole or absent."""

import json
import os
from pathlib import Path


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


def user_cache() -> Path:
    """Folder for what this package can make again: `$XDG_CACHE_HOME/chopgrad-ns`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chopgrad-ns"
