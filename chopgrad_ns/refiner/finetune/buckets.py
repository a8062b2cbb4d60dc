"""Shapes of examples, and which a step is trained on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from chopgrad_ns.errors import UserError

FORM = re.compile(r"(?P<shape>whole|\d+x\d+x\d+(x\d+)?)(=(?P<share>\d+))?")


@dataclass(frozen=True)
class Bucket:
    """Examples of so many frames, rows and columns, `batch` at once; those of a whole trajectory are None."""

    frames: int | None
    height: int | None
    width: int | None
    batch: int
    share: int
    """steps with this bucket, of so many as all shares together"""

    def fitted(self, sizes: list[tuple[int, int, int]], temporal: int, spatial: int) -> tuple[int | None, int, int]:
        """Frames, height and width of examples from clips of these (frames, height, width).

        Each side is the bucket's, or the smallest clip's if that is less, rounded down to a multiple of `spatial` where
        it has one; frames are rounded down to temporal · k + 1. Frames are None for a whole trajectory.
        """
        if self.frames is None:
            _, height, width = sizes[0]
            return None, height, width
        sides = [min(wanted, *(size[axis] for size in sizes)) for axis, wanted in ((1, self.height), (2, self.width))]
        height, width = (side // spatial * spatial or side for side in sides)
        return (self.frames - 1) // temporal * temporal + 1, height, width


def parse_buckets(text: str) -> list[Bucket]:
    """Read `9x48x48x3=7,whole=1`: frames x height x width [x batch] [= share], or `whole` [= share].

    Raises:
        UserError: if it is not of that form, or a number is 0.
    """
    buckets = []
    for part in (part.strip() for part in text.split(",")):
        match = FORM.fullmatch(part)
        numbers = [int(number) for number in re.findall(r"\d+", part)]
        if match is None or not all(numbers):
            raise UserError(f"{part!r} in the buckets {text!r} is not of the form FRAMESxHEIGHTxWIDTHxBATCH=SHARE or "
                            "whole=SHARE, in whole numbers above 0.")
        share = int(match["share"] or 1)
        if match["shape"] == "whole":
            buckets.append(Bucket(None, None, None, 1, share))
        else:
            frames, height, width, *batch = map(int, match["shape"].split("x"))
            buckets.append(Bucket(frames, height, width, *(batch or [1]), share))
    return buckets


def bucket_of(buckets: list[Bucket], step: int) -> Bucket:
    """The bucket of a step, counted from 0: over as many steps as all shares together each comes as often as its share
    says, evenly spread.
    """
    turns = [(Fraction(turn + 1, bucket.share), index) for index, bucket in enumerate(buckets) for turn in range(bucket.share)]
    return buckets[sorted(turns)[step % len(turns)][1]]
