"""nerfstudio's trainer with the stages of refinement between its steps."""

import os
import time
from pathlib import Path

import torch
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer
from nerfstudio.utils.rich_utils import CONSOLE

from chopgrad_ns.errors import UserError
from chopgrad_ns.plugin.compat import plain
from chopgrad_ns.plugin.runs import RunLock, refuse


class RefineTrainer(Trainer):
    """Trains the splat step by step; at stage boundaries it hands over to `Stages` (pairs, fine-tuning, refinement).

    Checkpoints are written beside and renamed, hold plain numbers (so that loading them never unpickles anything), and
    are written before every stage boundary: a run that dies in a long stage resumes at that stage.
    """

    def __init__(self, config, local_rank: int = 0, world_size: int = 1) -> None:
        super().__init__(config, local_rank, world_size)
        if world_size > 1:
            refuse(UserError("chopgrad-refine trains on one device; drop --machine.num-devices."))
        try:
            self.lock = RunLock(self.base_dir)
        except UserError as error:
            refuse(error)
        self.schedule = config.refine.schedule

    def setup(self, test_mode="val") -> None:
        from chopgrad_ns.plugin.stages import Stages

        means = self.config.optimizers["means"]["scheduler"]
        means.max_steps = max(self.schedule.reconstruct_steps, 1)
        try:
            super().setup(test_mode)
            self.stages = Stages(self.config.refine, self.base_dir, self.pipeline, self._let_the_viewer_in)
        except UserError as error:
            refuse(error)

    def train(self) -> None:
        # nerfstudio counts iterations from where a checkpoint left off; here the total is fixed by the schedule.
        self.config.max_num_iterations = max(self.schedule.total_steps - self._start_step, 0)
        self.step = max(self._start_step - 1, 0)
        # nerfstudio's log asks for it at the end, even where a run taken up has nothing left to train.
        writer.GLOBAL_BUFFER["step"] = self.step
        try:
            super().train()
        except UserError as error:
            refuse(error)
        finally:
            self.lock.release()

    def train_iteration(self, step: int):
        if self.schedule.round_at(step) > 0:
            self._enter_round(step)
        return super().train_iteration(step)

    def _enter_round(self, step: int) -> None:
        round_index = self.schedule.round_at(step)
        if self.stages.current_round == round_index:
            return
        if not self.stages.is_resuming(round_index):
            self.save_checkpoint(step - 1)
        self.stages.enter_round(round_index)
        self.pipeline.train()

    def _after_train(self) -> None:
        if self.step >= self.schedule.total_steps - 1:
            self.save_checkpoint(self.step)
            with self.train_lock:
                self.stages.finish()
        super()._after_train()

    def _let_the_viewer_in(self) -> None:
        """Called between units of long work: the viewer cannot draw while the training lock is held."""
        if self.viewer_state is not None and self.train_lock.locked():
            self.train_lock.release()
            time.sleep(0.02)
            self.train_lock.acquire()

    def _load_checkpoint(self) -> None:
        """Take up this run's own checkpoint, or start from the splat given, or from the scene's points.

        nerfstudio's loader keeps optimizers of the parameters that loading replaces; here they are made again.
        """
        own = sorted(self.checkpoint_dir.glob("step-*.ckpt"))
        path = self.config.load_checkpoint or (own[-1] if own else None)
        if path is not None:
            state = torch.load(path, map_location="cpu", weights_only=True)
            self._start_step = state["step"] + 1
            self.pipeline.load_pipeline(state["pipeline"], state["step"])
            self.optimizers = self.setup_optimizers()
            self.optimizers.load_optimizers(state["optimizers"])
            self.optimizers.load_schedulers(state["schedulers"])
            CONSOLE.print(f"Continuing after step {state['step']} from {path}.")
        elif self.config.refine.splat is not None:
            from chopgrad_ns.splat.gaussians import Gaussians

            self.pipeline.model.set_gaussians(Gaussians.load(self.config.refine.splat).to(self.device))
            self.optimizers = self.setup_optimizers()

    def save_checkpoint(self, step: int) -> None:
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        path: Path = self.checkpoint_dir / f"step-{max(step, 0):09d}.ckpt"
        # Not in the checkpoint folder: nerfstudio takes every name there for a checkpoint.
        temporary = self.base_dir / "checkpoint.part"
        torch.save(plain({
            "step": step,
            "pipeline": self.pipeline.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.optimizers.schedulers.items()},
            "scalers": self.grad_scaler.state_dict(),
        }), temporary)
        os.replace(temporary, path)
        if self.config.save_only_latest_checkpoint:
            for old in self.checkpoint_dir.glob("step-*.ckpt"):
                if old != path:
                    old.unlink()
