"""How far back, and at what cost in memory, a pixel loss is propagated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Union


@dataclass(frozen=True)
class SpatialTiles:
    """Cuts a strategy in space as the paper does (arXiv 2603.17812): gradients stop at the edge of a tile's halo.

    The picture is divided into tiles as even as they can be. Each is decoded through all groups on its own, with a
    halo of its surroundings (less at the picture's border), its loss is taken without the halo, and a clip's loss
    is the mean over tiles weighted by area. Memory is that of one tile with its halo; halos are decoded twice or
    more. A loss is shown one tile at a time.

    Exact: with one tile; and with a halo no smaller than the reach of the decoder's convolutions, for a decoder
    without anything global in space and a loss that is a mean over pixels, each on its own. Not exact: through
    attention and group norms, which see the tile instead of the picture (Wan has one attention in its middle block
    and norms of single pixels, CogVideoX and Mochi have group norms), so that frames themselves differ a little;
    through a halo that is too small, which the convolutions take for the picture's border; and for losses over
    neighbourhoods (SSIM, LPIPS), which do not look across the edges of tiles.

    Args:
        height, width: largest size of a tile without its halo, in latent pixels, 1 or more.
        halo: latent pixels around it, 0 or more.
    """

    height: int
    width: int
    halo: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.halo < 0:
            raise ValueError(f"tiles are {self.height} × {self.width} latent pixels with a halo of {self.halo}; give "
                             "sizes of 1 or more, and a halo of 0 or more")


@dataclass(frozen=True)
class Full:
    """Plain autograd through all groups: every activation is kept. The oracle of the others."""

    tiles: SpatialTiles | None = None


@dataclass(frozen=True)
class Truncated:
    """The paper's gradient (arXiv 2603.17812): a group's loss reaches the group and `distance` before it.

    Holds the graphs of at most `distance` + 1 groups, and costs `distance` + 1 backward passes a group. Gradients
    are made while the clip is decoded, before a GradScaler's scale is known: float16 is refused, since they would
    vanish in it; bfloat16 is not.
    """

    distance: int = 1
    tiles: SpatialTiles | None = None

    def __post_init__(self) -> None:
        if self.distance < 0:
            raise ValueError(f"distance is {self.distance}; it counts groups, so give 0 or more")


@dataclass(frozen=True)
class Exact:
    """The full gradient by a backward sweep that recomputes one group at a time.

    This is checkpointed BPTT (Gruslys et al. 2016) with the decoder's cache as the hidden state. Holds the graph
    of one group, and of the past only the states between groups. The graph of the last group waits for backward, so
    take one loss backward before the next is made, or that many groups are held.

    Args:
        offload: where those states wait: "none", with the latents, or "cpu", in host memory (copied beside the
            decoding where the latents are on a CUDA device).
        keep_every: keep every k-th state and recompute those in between; costs up to one more forward.
        checkpoint_blocks: hold the graph of one layer of the decoder instead of the whole group's; costs one more
            forward. Needs a decoder that names its `layers()`.
    """

    offload: Literal["none", "cpu"] = "none"
    keep_every: int = 1
    checkpoint_blocks: bool = False
    tiles: SpatialTiles | None = None

    def __post_init__(self) -> None:
        if self.offload not in ("none", "cpu"):
            raise ValueError(f"offload is {self.offload!r}; give 'none' or 'cpu'")
        if self.keep_every < 1:
            raise ValueError(f"keep_every is {self.keep_every}; give 1 or more")


Backprop = Union[Full, Truncated, Exact]

NAMES = re.compile(r"full|truncated-(?P<distance>\d+)|"
                   r"exact(?P<offload>-offload)?(-keep-(?P<keep>[1-9]\d*))?(?P<layers>-layers)?")


def strategy_named(name: str) -> Backprop:
    """The strategy that command lines and profiles know as `full`, `truncated-N` or `exact[-offload][-keep-K][-layers]`.

    Raises:
        ValueError: for another name.
    """
    match = NAMES.fullmatch(name)
    if match is None:
        raise ValueError("give full, truncated-N or exact, with -offload, -keep-K, -layers or several of them in this order")
    if name == "full":
        return Full()
    if match["distance"]:
        return Truncated(int(match["distance"]))
    return Exact("cpu" if match["offload"] else "none", int(match["keep"] or 1), bool(match["layers"]))
