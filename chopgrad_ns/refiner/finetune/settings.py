"""How a refiner is fine-tuned."""

import re
from dataclasses import dataclass
from typing import Literal, Optional, Union

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.finetune.buckets import parse_buckets

Training = Literal["full", "lora", "frozen"]


@dataclass
class FinetuneSettings:
    """How to train. The defaults take one to two seconds a step with the tiny refiner on two cores, mostly for whole clips."""

    steps: int = 240
    lr: Optional[float] = None
    """highest learning rate of AdamW; by default 1e-3 for an untrained refiner and 2e-4 for a trained one, of a large
    base 1e-4 with LoRA and 1e-5 without"""
    max_seconds: Optional[float] = None
    """stop by then, even if `steps` are not reached; the learning rate falls with whichever runs out first"""
    buckets: str = "9x48x48x3=7,whole=1"
    """shapes of examples and how often each is trained on: frames x height x width x batch = share, the batch 1 if left
    out; `whole` is one whole trajectory at full size. In as many steps as all shares together each comes as often as its
    share says"""
    losses: Optional[str] = None
    """name=weight of each, by default the task's; name=weight@start for one that begins at that step,
    name=weight@start+ramp for one whose weight then rises over so many steps; names are l1, mse, charbonnier, robust_l1,
    ssim, ms_ssim, perceptual, lpips, dists, vgg_gram, frame_difference and latent, the mean square of latents, which alone
    needs no decoding"""
    transformer: Optional[Training] = None
    """what of the transformer is trained; by default full, or lora if it has more than 100 million weights"""
    decoder: Optional[Training] = None
    """what of the decoder is trained; by default full, or of a large base frozen, and lora for the task driving"""
    encoder: Optional[Literal["full", "frozen"]] = None
    """what of the encoder is trained; by default full, or of a large base frozen"""
    head: Literal["full", "frozen"] = "full"
    """what of the head is trained, and of the layers that bring features to the decoder; frozen, with decoder and encoder, all
    that is trained is what the loss latent trains: the transformer, and what conditions it"""
    decoding: Literal["causal", "frame-by-frame"] = "causal"
    """frame-by-frame: each frame is encoded and decoded alone, without caches, and only the transformer sees it beside others,
    as DOVE is trained; for comparisons"""
    rank: int = 16
    """of LoRA"""
    alpha: Optional[float] = None
    """LoRA's change is multiplied by alpha / rank; by default alpha is the rank"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """of the learning rate after the warm-up: down along a cosine to 2 %, or as it is"""
    warmup: float = 0.05
    """share of the training over which the learning rate rises"""
    accumulate: int = 1
    """batches whose gradients are averaged for one step"""
    clip_gradient: float = 1.0
    """largest norm of the gradient"""
    ema: float = 0.99
    """decay of the averaged weights, which are the result; 0 for none"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: computes in bfloat16; what is trained and its averages stay in float32, what is frozen is held in bfloat16"""
    gradient_checkpointing: bool = False
    """run the transformer's blocks again in backward in place of keeping what they made"""
    memory_budget: Union[int, str, None] = None
    """memory that the training may take, such as 22GB: the fastest way through the decoder that fits is found for the
    largest bucket"""
    fsdp: bool = False
    """of several processes, each holds a part of the transformer's weights, their gradients and averages and AdamW's means
    while it trains (FSDP); before and after each holds all of its weights, so one GPU must have room for those"""
    fresh: bool = True
    """degrade clean frames anew each time, where the task can (super-resolution, inpainting), in place of what is stored"""
    degradation: Literal["bicubic", "blur-down", "first-order", "second-order"] = "second-order"
    """kind of what is drawn anew for super-resolution"""
    scale: float = 4.0
    """how much larger its clean frames then are, 1 or more"""
    flips: bool = True
    """turn examples over, left and right, up and down, and in time, half of them each"""
    reference_dropout: float = 0.1
    """chance that a step's examples come with fewer references"""
    unaligned: float = 0.1
    """chance that a step's examples come with photos as they are in place of references"""
    # Measured on a real capture not trained on, whose render has 36.83 dB: at 0 photos are trusted too much (36.63), at
    # 0.7 they are hardly used, even where they are right; at 0.3 they help (36.96).
    reference_disorder: float = 0.3
    """chance that a reference is bent by a pixel or so and exposed differently, as photos of real captures are"""
    match_exposure: bool = True
    """for artifact-removal: train on photos as the render is exposed, in each channel and frame"""
    min_alpha: float = 0.5
    """pixels less opaque than this are not trained on: nothing is there to mend"""
    relative: bool = False
    """losses of frames count relative to how wrong the degraded clip is: of clips of many qualities the worst would otherwise
    decide alone, and what is good already come out worse"""
    checkpoint_every: int = 50
    """steps"""
    validate_every: int = 0
    """steps; 0: at the end only"""
    seed: int = 0
    """of crops, flips, degradations and order"""

    def check(self) -> None:
        """Raises UserError for a value that cannot be trained with."""
        parse_buckets(self.buckets)
        for name, least in (("steps", 1), ("accumulate", 1), ("checkpoint_every", 1), ("validate_every", 0), ("rank", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; give {least} or more.")
        for name in ("lr", "alpha", "clip_gradient", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}; give a number above 0.")
        if not 1 <= self.scale < float("inf"):
            raise UserError(f"scale is {self.scale}; give 1 or more.")
        for name in ("warmup", "ema", "reference_dropout", "reference_disorder", "unaligned"):
            if not 0 <= getattr(self, name) <= 1 or (name == "ema" and self.ema == 1):
                most = "below 1" if name == "ema" else "1"
                raise UserError(f"{name} is {getattr(self, name)}; give a number from 0 to {most}.")
        if self.memory_budget is not None:
            bytes_of(self.memory_budget)


def bytes_of(size: Union[int, str]) -> int:
    """`22GB`, `500 MiB` or a number as bytes. Raises UserError for anything else.

    >>> bytes_of("1.5GB"), bytes_of("2MiB"), bytes_of("300")
    (1500000000, 2097152, 300)
    """
    match = re.fullmatch(r"\s*([\d.]+)\s*(([kKmMgGtT])(i?))?[bB]?\s*", str(size))
    try:
        base = 1024 if match[4] else 1000
        value = float(match[1]) * base ** ("KMGT".index(match[3].upper()) + 1 if match[3] else 0)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 < value < float("inf"):
        raise UserError(f"{size!r} is no size of memory; give one such as 22GB, 500MiB or a number of bytes.")
    return int(value)
