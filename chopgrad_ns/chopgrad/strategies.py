"""How far back, and at what cost in memory, a pixel loss is propagated."""

from dataclasses import dataclass
from typing import Literal, Union


@dataclass(frozen=True)
class Full:
    """Plain autograd through all groups: every activation is kept. The oracle of the others."""


@dataclass(frozen=True)
class Truncated:
    """The paper's gradient (arXiv 2603.17812): a group's loss reaches the group and `distance` before it.

    Holds the graphs of at most `distance` + 1 groups, and costs `distance` + 1 backward passes a group.
    """

    distance: int = 1

    def __post_init__(self) -> None:
        if self.distance < 0:
            raise ValueError(f"distance is {self.distance}; it counts groups, so give 0 or more")


@dataclass(frozen=True)
class Exact:
    """The full gradient by a backward sweep that recomputes one group at a time.

    This is checkpointed BPTT (Gruslys et al. 2016) with the decoder's cache as the hidden state. Holds the graph
    of one group, and of the past only the states between groups.

    Args:
        offload: where those states wait: "none", with the latents, or "cpu", in host memory.
        keep_every: keep every k-th state and recompute those in between; costs up to one more forward.
    """

    offload: Literal["none", "cpu"] = "none"
    keep_every: int = 1

    def __post_init__(self) -> None:
        if self.offload not in ("none", "cpu"):
            raise ValueError(f"offload is {self.offload!r}; give 'none' or 'cpu'")
        if self.keep_every < 1:
            raise ValueError(f"keep_every is {self.keep_every}; give 1 or more")


Backprop = Union[Full, Truncated, Exact]
