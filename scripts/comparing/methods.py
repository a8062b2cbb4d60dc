"""The refiners that are compared on artifact removal: how each is trained, and how it is run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.stored import StoredPair
from chopgrad_ns.refiner import FinetuneSettings, Refiner, finetune
from chopgrad_ns.refiner.finetune.buckets import parse_buckets
from chopgrad_ns.refiner.finetune.checkpoint import fingerprint, fingerprint_of_pairs
from comparing.halved import doubled, halved
from comparing.kept import keep, kept

PIXEL_LOSSES = "robust_l1=0.5,mse=2,ssim=0.1,perceptual=0.15"
LR = 3e-3
"""Higher than what `FinetuneSettings` takes by itself: steps are many and small."""
SHORT = 13
"""Frames of a short window: MVSplat360's 14, rounded to what the autoencoder takes (4k + 1)."""
Run = Callable[[Refiner, Clip], Float[Tensor, "t 3 h w"]]


def whole(refiner: Refiner, clip: Clip) -> Tensor:
    """As the refiner does it."""
    return refiner(clip)


def one_by_one(refiner: Refiner, clip: Clip) -> Tensor:
    """Each frame as a clip of its own."""
    return torch.cat([refiner(clip[t : t + 1]) for t in range(len(clip))])


def short_and_low(refiner: Refiner, clip: Clip) -> Tensor:
    """Windows of 13 frames side by side, at half the resolution, enlarged."""
    low = halved(clip)
    refined = [refiner(low[t : t + SHORT]) for t in range(0, len(low), SHORT)]
    return doubled(torch.cat(refined), clip.frames.shape[-2:])


@dataclass(frozen=True)
class Method:
    """A refiner to be trained. `settings` are what is particular to its training.

    `given`: it starts from an autoencoder that was trained in the first half of the steps, and stays as it is; else the whole
    tiny refiner is trained in all of them.
    """

    name: str
    label: str
    about: str
    settings: dict = field(default_factory=dict)
    run: Run = whole
    given: bool = False
    low: bool = False


FROZEN = {"encoder": "frozen", "decoder": "frozen"}
METHODS = (
    Method("ours", "video, pixel losses (ours)",
           "The tiny refiner, trained as a whole with pixel losses through the causal decoder, with the exact gradient, on clips "
           "of 9 frames."),
    Method("per-frame", "one frame at a time (Difix-style)",
           "The same refiner, trained and run on single frames with the same photos beside them: nothing ties frames together.",
           {"buckets": "1x{crop}x{crop}x{frames}"}, one_by_one),
    Method("window-14", "short windows, half resolution (MVSplat360-style)",
           f"The same refiner at half the resolution in windows of {SHORT} frames (4k + 1 of MVSplat360's 14) without overlap; "
           "what it gives is enlarged bicubically.", {"buckets": f"{SHORT}x{{crop}}x{{width}}x{{windows}}"}, short_and_low,
           low=True),
    Method("given-pixel", "pixel losses, autoencoder given",
           "An autoencoder is trained first, for half of the steps, and kept as it is; transformer, conditioning and head "
           "learn by pixel losses, with the exact gradient. The output is the input and what changes of its decoded latent.",
           FROZEN, given=True),
    Method("latent-only", "latent loss alone, autoencoder given",
           "The same, and transformer and conditioning learn by the mean square of latents; the head stays at nothing, for "
           "such a loss does not reach it.", FROZEN | {"losses": "latent=1", "head": "frozen"}, given=True),
    Method("frame-by-frame", "frame-by-frame decoding (DOVE-style)",
           "As with the autoencoder given, but in training each frame is encoded and decoded alone, without caches, and only "
           "the transformer sees it beside others. It is run like the others.", FROZEN | {"decoding": "frame-by-frame"},
           given=True),
    Method("frame-difference", "the same with frame differences (DOVE)",
           "The same with DOVE's loss of differences between neighbouring frames.",
           FROZEN | {"decoding": "frame-by-frame", "losses": PIXEL_LOSSES + ",frame_difference=1"}, given=True),
)


def settings_of(method: Method, steps: int, crop: int, batch: int, seed: int) -> FinetuneSettings:
    """Steps of about as many pixels for every method: `batch` clips of 9 frames of `crop` × `crop`."""
    frames = 9 * batch
    windows = max(1, frames // SHORT)
    width = max(8, round(crop * frames / (SHORT * windows) / 8) * 8)
    particular = dict(method.settings)
    buckets = particular.pop("buckets", "9x{crop}x{crop}x{batch}")
    return replace(FinetuneSettings(losses=PIXEL_LOSSES, lr=LR, relative=True, seed=seed, checkpoint_every=100), **{
        "steps": steps - steps // 2 if method.given else steps,
        "buckets": buckets.format(crop=crop, batch=batch, frames=frames, width=width, windows=windows), **particular})


def pixels_a_step(settings: FinetuneSettings, sizes: Sequence[tuple[int, int, int]]) -> int:
    """Of the one bucket, from pairs of so many frames, rows and columns: crops are no larger than the smallest pair."""
    (bucket,) = parse_buckets(settings.buckets)
    frames, height, width = bucket.fitted(list(sizes), 4, 8)
    return frames * height * width * bucket.batch


def trained(start: Callable[[], Refiner], task: str, folder: Path, pairs: Sequence[StoredPair], settings: FinetuneSettings,
            progress, **options) -> tuple[Refiner, dict]:
    """A refiner trained from `start()`, unless it is in the folder already, and what is to be told of its training.

    Raises:
        UserError: where that was trained from other weights, on other pairs, or otherwise.
    """
    refiner = start()
    recipe = {"settings": vars(settings), "start": fingerprint(refiner.model.state_dict()),
              "pairs": fingerprint_of_pairs(pairs), "options": {name: str(value) for name, value in options.items()}}
    found = kept(folder, recipe)
    if found is None:
        result = finetune(refiner, pairs, settings, progress, folder / "progress", **options)
        refiner.save(folder / "refiner")
        ended = json.loads((folder / "progress" / "progress.json").read_text())
        found = keep(folder, recipe, {"steps": ended["step"], "seconds": ended["seconds"], "loss": result["loss"],
                                      "pixels": pixels_a_step(settings, [(len(pair), *pair.size) for pair in pairs])})
    return Refiner.from_pretrained(folder / "refiner", task=task), found
