"""Picture files, opened in one place so that everything that can be wrong with one is told in the same way."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from chopgrad_ns.errors import UserError

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for damaged files, for those that are no pictures, and for far too large ones."""


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
            yield picture
    except UNREADABLE as error:
        raise UserError(f"The {what} cannot be read; {remedy}.") from error
