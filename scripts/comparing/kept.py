"""Work that is kept in a folder and done once: what it was made with is written beside it."""

import json
from pathlib import Path

from chopgrad_ns.errors import UserError
from chopgrad_ns.files import write_json

FILE = "made.json"


def kept(folder: Path, recipe: dict) -> dict | None:
    """What `keep` wrote into the folder, or None where nothing is finished.

    Raises:
        UserError: where that was made with another recipe.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    recipe = json.loads(json.dumps(recipe))
    if content["recipe"] != recipe:
        names = sorted(name for name in {*content["recipe"], *recipe} if content["recipe"].get(name) != recipe.get(name))
        raise UserError(f"{folder} was made with other settings ({', '.join(names)}); give another --work, or delete that "
                        "folder.")
    return content["found"]


def keep(folder: Path, recipe: dict, found: dict) -> dict:
    """Mark the folder as finished; returns `found`, what is to be told of it."""
    write_json(folder / FILE, {"recipe": recipe, "found": found})
    return found
