"""Files that are whole or absent."""

import json
import os
from pathlib import Path


def write_json(path: Path, content: dict) -> None:
    """Write JSON beside, then rename: a reader sees all of it or what was there before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def user_cache() -> Path:
    """Folder for what this package can make again: `$XDG_CACHE_HOME/chopgrad-ns`, by default under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "chopgrad-ns"
