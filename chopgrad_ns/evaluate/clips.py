"""All that is measured of one clip, by region: the whole, inside and outside a mask, and actors."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from chopgrad_ns.errors import UserError
from chopgrad_ns.evaluate.distributions import (DISTRIBUTION_METRICS, FeatureSets, i3d_features,
                                                inception_features)
from chopgrad_ns.evaluate.metrics import FRAME_METRICS, Frames, Mask, Values, check_frames, composite, measured
from chopgrad_ns.evaluate.regions import Box, actor_boxes, mask_of, mask_of_boxes
from chopgrad_ns.evaluate.temporal import flicker, motion_of, warp_error

TEMPORAL_METRICS = ("warp_error", "flicker")
METRICS = (*FRAME_METRICS, *TEMPORAL_METRICS, *DISTRIBUTION_METRICS)
LARGER_IS_BETTER = ("psnr", "ssim")
OF_TRUTH = "warp_error_of_truth"
"""What `warp_error` is to be compared with: the truth has an error too, and less than that is blur."""
NEITHER_IS_BETTER = ("warp_error", OF_TRUTH)
"""Of all others, smaller values are better."""
MaskLike = Float[Tensor, "t 1 h w"] | Mask
ActorIds = UInt8[Tensor, "t 1 h w"]


def usable(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of the metrics that can be computed on this machine, and for each of the others the reason.

    Raises:
        UserError: for a name that is not in `METRICS`.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise UserError(f"There is no metric {unknown[0]!r}; choose among {', '.join(METRICS)}.")
    found, skipped = [], {}
    for name in dict.fromkeys(names):
        try:
            (FRAME_METRICS | DISTRIBUTION_METRICS).get(name, lambda: None)()
            found.append(name)
        except UserError as error:
            skipped[name] = str(error)
    return found, skipped


@torch.no_grad()
def evaluate_clip(prediction: Frames, truth: Frames, metrics: Sequence[str] = ("psnr", "ssim"),
                  mask: MaskLike | None = None, actor_ids: ActorIds | None = None) -> dict[str, dict[str, Values]]:
    """A value a frame of each metric in each region, both clips in 0…1: `evaluate_clip(…)["whole"]["psnr"]` is [T].

    Metrics are those of `FRAME_METRICS` and `TEMPORAL_METRICS`; others are left to `add_features`. With `warp_error` comes
    `warp_error_of_truth`, for comparison. Regions:
    - `whole`: all pixels.
    - `inside` and `outside`, where there is a mask: its pixels (those over a half), and all others. PSNR is over these
      pixels, SSIM's map is averaged over them, and networks see the prediction there and the truth elsewhere; see
      metrics.py and temporal.py.
    - `actors`, where there are ids: the mean over the crops of a frame, each the padded bounding box of an actor
      (`actor_boxes`) with all that is in it. Networks enlarge crops with a side under 64 pixels to that; nothing else
      is resized. Temporal metrics are over the pixels of all boxes of a frame.
    NaN means that a frame has nothing of the region, or no frame before it (temporal metrics).

    Raises:
        ValueError: if shapes do not fit together.
        UserError: for metrics whose weights are not to be had (`usable` tells which).
    """
    check_frames(prediction, truth)
    prediction = prediction.clamp(0, 1)
    metrics = [each for name in metrics for each in ((name, OF_TRUTH) if name == "warp_error" else (name,))]
    measures = {name: FRAME_METRICS[name]() for name in metrics if name in FRAME_METRICS}
    motion = motion_of(truth) if set(metrics) & set(TEMPORAL_METRICS) else None
    temporal = {"warp_error": lambda where: warp_error(prediction, motion, where),
                OF_TRUTH: lambda where: warp_error(truth, motion, where),
                "flicker": lambda where: flicker(prediction, truth, motion, where)}
    values = {}
    for region, where in _masks(truth, mask).items():
        values[region] = {name: measured(measure, prediction, truth, where) for name, measure in measures.items()}
        values[region] |= {name: temporal[name](where) for name in metrics if name in temporal}
    if actor_ids is not None:
        boxes = _boxes(truth, actor_ids)
        values["actors"] = {name: _over_crops(measure, prediction, truth, boxes) for name, measure in measures.items()}
        values["actors"] |= {name: temporal[name](mask_of_boxes(boxes, truth)) for name in metrics if name in temporal}
    return values


@torch.no_grad()
def add_features(sets: dict[str, FeatureSets], names: Sequence[str], prediction: Frames, truth: Frames,
                 mask: MaskLike | None = None, actor_ids: ActorIds | None = None) -> None:
    """Add a clip to the `sets` by region of what FID, KID and FVD compare; `names` says which of them.

    Inside and outside a mask the networks see the prediction there and the truth elsewhere, and FID and KID leave out
    frames of which nothing is there; for actors they see the crops, one by one. There is no FVD of actors, whose crops
    are of another place and size in each frame.
    """
    check_frames(prediction, truth)
    names = tuple(name for name in names if name in DISTRIBUTION_METRICS)
    of_pictures, of_windows = {"fid", "kid"} & set(names), "fvd" in names
    true_pictures = inception_features(truth) if of_pictures else None
    true_windows = i3d_features(truth) if of_windows else None
    for region, where in _masks(truth, mask).items():
        known = sets.setdefault(region, FeatureSets(names))
        shown = composite(prediction, truth, where)
        there = torch.ones_like(truth[:, 0, 0, 0], dtype=torch.bool) if where is None else where.flatten(1).any(dim=1)
        if of_pictures and there.any():
            known.add_pictures(inception_features(shown[there]), true_pictures[there.cpu()])
        if of_windows and there.any():
            known.add_windows(i3d_features(shown), true_windows)
    if actor_ids is not None:
        known = sets.setdefault("actors", FeatureSets(tuple(name for name in names if name != "fvd")))
        for pair in _crops(prediction, truth, _boxes(truth, actor_ids)) if of_pictures else ():
            known.add_pictures(*map(inception_features, pair))


def _masks(truth: Frames, mask: MaskLike | None) -> dict[str, Mask | None]:
    if mask is None:
        return {"whole": None}
    _check_map("masks", mask, truth)
    inside = mask_of(mask)
    return {"whole": None, "inside": inside, "outside": ~inside}


def _boxes(truth: Frames, actor_ids: ActorIds) -> list[Box]:
    _check_map("actor ids", actor_ids, truth)
    return actor_boxes(actor_ids)


def _check_map(what: str, given: Tensor, truth: Frames) -> None:
    if given.shape != truth[:, :1].shape:
        raise ValueError(f"{what} of shape {tuple(given.shape)} do not fit frames of {tuple(truth.shape)}; "
                         f"{tuple(truth[:, :1].shape)} is needed")


def _crops(prediction: Frames, truth: Frames, boxes: list[Box]) -> Iterator[tuple[Frames, Frames]]:
    return ((box.crop(prediction), box.crop(truth)) for box in boxes)


def _over_crops(measure, prediction: Frames, truth: Frames, boxes: list[Box]) -> Values:
    """For each frame the mean over its crops."""
    total, count = truth.new_zeros(len(truth)), truth.new_zeros(len(truth))
    for box, pair in zip(boxes, _crops(prediction, truth, boxes)):
        total[box.frame] += measure(*pair)[0]
        count[box.frame] += 1
    return total / count
