"""Picture files, opened in one place so that everything that can be wrong with one is told in the same way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from chopgrad_ns.errors import UserError

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for damaged files, for those that are no pictures, and for far too large ones."""
LARGEST = 178_956_970
"""Pixels, more than which are refused: Pillow's own limit, which packages lift for the whole process (nuScenes' kit, which
nerfstudio imports).
"""


def _check_pixels(picture: Image.Image) -> None:
    """Raise Pillow's own error for a picture whose header claims too many pixels; to be asked before they are decoded."""
    if picture.width * picture.height > LARGEST:
        raise Image.DecompressionBombError(f"{picture.width}×{picture.height} pixels are more than {LARGEST}")


@contextmanager
def open_picture(path: Path, what: str, remedy: str) -> Iterator[Image.Image]:
    """The picture in a file, for use in the block; its pixels are decoded when the block asks for them.

    Raises:
        UserError: "The `what` cannot be read; `remedy`.", whatever is wrong with the file, in its header or, where
            the block decodes it, in its pixels. A block that finds the picture to be of the wrong kind may raise
            ValueError to say the same; all other checks belong after it.
    """
    try:
        with Image.open(path) as picture:
            _check_pixels(picture)
            yield picture
    except UNREADABLE as error:
        raise UserError(f"The {what} cannot be read; {remedy}.") from error
