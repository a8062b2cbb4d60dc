"""Single-step video refiners: loading, refining, fine-tuning with pixel losses."""

from chopgrad_ns.refiner.finetune import finetune, training_losses
from chopgrad_ns.refiner.refiner import Refiner
from chopgrad_ns.refiner.settings import FinetuneSettings

__all__ = ["FinetuneSettings", "Refiner", "finetune", "training_losses"]
