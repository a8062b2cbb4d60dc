"""Configuration of `ns-train chopgrad-refine`. Every `ns-*` command imports this module: keep it light."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Tuple, Type

import torch
import tyro
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from chopgrad_ns.data.open3d_import import lend_libusb
from chopgrad_ns.distill.schedule import Schedule
from chopgrad_ns.plugin import compat
from chopgrad_ns.plugin.datamanager import SparseViewsDataManagerConfig
from chopgrad_ns.plugin.model import RefinedSplatConfig
from chopgrad_ns.plugin.runs import RunFolderMixin
from chopgrad_ns.plugin.trainer import RefineTrainer
from chopgrad_ns.sim.fit_scene import RATES

# `ns-render` and `ns-export` import or look for these before anything of ours: every ns-* command prepares them.
compat.offer_bundled_ffmpeg()
lend_libusb()

ON_GPU = torch.cuda.is_available()


@dataclass
class RefineSettings:
    """What the five stages do. Defaults are for two CPU cores; a GPU raises the resolution."""

    every: Optional[int] = None
    """every N-th view (by file name; of a drive, every N-th frame of all cameras) is trained on; the others are held out for
    evaluation only; by default every 8th, of a drive every 2nd"""
    longest_side: int = 960 if ON_GPU else 240
    """pixels; photos with a longer side are made smaller"""
    reconstruct_steps: int = 3000 if ON_GPU else 1500
    """training steps of the plain splat"""
    ensemble: int = 5
    """splats fitted to the photos in all, from other seeds: what is refined is what they show together, without
    most of what single ones got wrong. 1 for the plain splat alone, as always for drives and with --refine.splat"""
    folds: int = 3
    """k of the k-fold pairs made from the training views; 0 for none"""
    fold_steps: int = 400
    """training steps of each fold's splat and of each sample world's"""
    sample_worlds: int = 6
    """pairs from sample worlds mixed in, because folds alone mislead; made once, then kept in the user's cache"""
    refiner: str = "tiny"
    """refiner to start from: "tiny" (embedded) or a folder that `Refiner.save` or `chopgrad finetune` wrote"""
    finetune_steps: int = 0
    """steps of fine-tuning with pixel losses on pairs of this scene and of sample worlds, for a refiner that nobody trained or
    a scene unlike all others; 0 uses the refiner as it is"""
    losses: str = "robust_l1=1,ssim=0.2"
    """pixel losses of fine-tuning: name=weight, with @start where one begins late, and +ramp after that where its weight
    rises over so many steps (`chopgrad finetune --help` has the names)"""
    rounds: int = 2
    """rounds of refining novel views and training on them; 0 for none"""
    round_steps: int = 400
    """training steps a round"""
    round_frames: int = 48
    """refined frames a round"""
    reach: float = 0.5
    """how far the last round moves beside the training cameras, in spacings between neighbouring ones"""
    lane_shifts: Tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)
    """metres beside the recorded lane, of what is refined in a drive: half of them in the first of two rounds, all in the
    last"""
    references: int = 4
    """training photos warped into each frame"""
    pseudo_share: float = 0.4
    """share of distillation steps that train on a refined frame instead of a photo"""
    pseudo_weight: float = 1.0
    """weight of a refined frame's loss"""
    splat: Optional[Path] = None
    """a trained splat (PLY, compressed PLY or SPZ in this run's coordinates) to start from, not reconstructing one"""

    @property
    def schedule(self) -> Schedule:
        return Schedule(0 if self.splat else self.reconstruct_steps, self.rounds, self.round_steps)


@dataclass
class RefineTrainerConfig(RunFolderMixin, TrainerConfig):
    """`ns-train chopgrad-refine`: reconstruct, render, make pairs, fine-tune, refine, distil, report."""

    _target: Type = field(default_factory=lambda: RefineTrainer)
    refine: RefineSettings = field(default_factory=RefineSettings)
    """the stages"""
    # The length of a run follows from `refine`; a second way to set it would contradict it.
    max_num_iterations: tyro.conf.Suppress[int] = 0

    def __post_init__(self) -> None:
        datamanager = self.pipeline.datamanager
        if self.refine.every is not None:
            datamanager.dataparser.every = self.refine.every
        datamanager.longest_side = self.refine.longest_side
        datamanager.pseudo_share = self.refine.pseudo_share
        model = self.pipeline.model
        model.reconstruct_steps = max(self.refine.reconstruct_steps, 1)
        model.pseudo_weight = self.refine.pseudo_weight
        datamanager.depth_prior = model.depth_prior if model.depth_weight > 0 else None
        self.max_num_iterations = self.refine.schedule.total_steps


def _optimizers() -> dict:
    """Splatfacto's learning rates; the trainer stretches the decay of `means` over the reconstruction."""

    def adam(lr: float, scheduler=None) -> dict:
        return {"optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15), "scheduler": scheduler}

    return {
        "means": adam(1.6e-4, ExponentialDecaySchedulerConfig(lr_final=1.6e-5, max_steps=1500)),
        "features_dc": adam(0.0025),
        "features_rest": adam(0.0025 / 20),
        "opacities": adam(0.05),
        "scales": adam(0.005),
        "quats": adam(0.001),
        **{name: adam(rate) for name, rate in RATES.items()},  # of drives
        "camera_opt": adam(1e-4, ExponentialDecaySchedulerConfig(lr_final=5e-7, max_steps=1500)),
    }


chopgrad_refine = MethodSpecification(
    config=RefineTrainerConfig(
        method_name="chopgrad-refine",
        steps_per_save=500,
        steps_per_eval_batch=0,
        steps_per_eval_image=0,
        steps_per_eval_all_images=0,
        mixed_precision=False,
        machine=MachineConfig(device_type="cuda" if ON_GPU else "cpu"),
        pipeline=VanillaPipelineConfig(
            datamanager=SparseViewsDataManagerConfig(),
            model=RefinedSplatConfig(),
        ),
        optimizers=_optimizers(),
        viewer=ViewerConfig(websocket_host="127.0.0.1", num_rays_per_chunk=1 << 15, quit_on_train_completion=True),
        vis="viewer",
    ),
    description="Sparse views to a better splat: a video refiner trained with pixel losses, distilled back (ChopGrad).",
)
