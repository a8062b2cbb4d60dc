"""Parts of frames that are judged by themselves: inside and outside a mask, and crops of actors."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import find_objects
from torch import Tensor

from chopgrad_ns.evaluate.metrics import Mask

SMALLEST = 16
"""Actors whose box has a side under so many pixels are left out: there is nothing to see."""
PADDING = 0.1
"""Surroundings that come with an actor, in parts of its box's longer side, on each side."""


class Box(NamedTuple):
    """Where an actor is seen in a frame: rows from `top` up to and without `bottom`, columns likewise."""

    frame: int
    actor: int
    top: int
    bottom: int
    left: int
    right: int

    def crop(self, frames: Float[Tensor, "t c h w"]) -> Float[Tensor, "1 c h2 w2"]:
        """What the box holds, of its own frame."""
        return frames[self.frame : self.frame + 1, :, self.top : self.bottom, self.left : self.right]


def mask_of(mask: Float[Tensor, "t 1 h w"] | Mask) -> Mask:
    """A mask's pixels: those over a half."""
    return mask if mask.dtype == torch.bool else mask > 0.5


def actor_boxes(actor_ids: UInt8[Tensor, "t 1 h w"], smallest: int = SMALLEST, padding: float = PADDING) -> list[Box]:
    """The padded bounding box of each actor in each frame, frame by frame.

    All pixels with an actor's id are the actor, wherever they are; 0 is the background. Boxes whose shorter side has
    fewer than `smallest` pixels are left out; the others grow by `padding` of their longer side (rounded up) on each
    side, as far as the frame reaches. For boxes of a mask, give `(mask > 0.5).to(torch.uint8)`.
    """
    if actor_ids.dtype != torch.uint8:
        raise ValueError(f"actor ids are {actor_ids.dtype}; torch.uint8 is needed")
    height, width = actor_ids.shape[-2:]
    boxes = []
    for frame, ids in enumerate(actor_ids[:, 0].cpu().numpy()):
        for actor, found in enumerate(find_objects(ids), start=1):
            if found is None:
                continue
            (top, bottom), (left, right) = ((side.start, side.stop) for side in found)
            if min(bottom - top, right - left) < smallest:
                continue
            more = math.ceil(padding * max(bottom - top, right - left))
            boxes.append(Box(frame, actor, max(top - more, 0), min(bottom + more, height), max(left - more, 0),
                             min(right + more, width)))
    return boxes


def mask_of_boxes(boxes: list[Box], like: Float[Tensor, "t _ h w"]) -> Mask:
    """True inside any box."""
    mask = torch.zeros_like(like[:, :1], dtype=torch.bool)
    for box in boxes:
        mask[box.frame, :, box.top : box.bottom, box.left : box.right] = True
    return mask
