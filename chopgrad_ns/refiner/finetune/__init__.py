"""Fine-tuning of refiners: what is trained, on what, for how long, and how it is kept."""

from chopgrad_ns.refiner.finetune.loop import check_pairs, finetune
from chopgrad_ns.refiner.finetune.losses import training_losses
from chopgrad_ns.refiner.finetune.settings import FinetuneSettings
from chopgrad_ns.refiner.finetune.validation import hold_out

__all__ = ["FinetuneSettings", "check_pairs", "finetune", "hold_out", "training_losses"]
