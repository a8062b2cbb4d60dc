"""Single-step video refiners: loading, refining, fine-tuning with pixel losses."""

from chopgrad_ns.refiner.finetune import FinetuneSettings, finetune, training_losses
from chopgrad_ns.refiner.refiner import Refiner

__all__ = ["FinetuneSettings", "Refiner", "finetune", "training_losses"]
