"""The applications of a refiner: four, and any that `register` adds."""

from chopgrad_ns.errors import UserError
from chopgrad_ns.refiner.tasks.artifact_removal import ArtifactRemoval
from chopgrad_ns.refiner.tasks.base import Task
from chopgrad_ns.refiner.tasks.driving import Driving
from chopgrad_ns.refiner.tasks.inpainting import Inpainting
from chopgrad_ns.refiner.tasks.super_resolution import SuperResolution

TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make a task known by its name."""
    TASKS[task.name] = task
    return task


def task_named(name: str) -> Task:
    """Raises UserError for a task that is not registered."""
    if name not in TASKS:
        raise UserError(f"There is no task {name!r}; choose one of {', '.join(TASKS)}, or register yours first.")
    return TASKS[name]


for _task in (ArtifactRemoval(), SuperResolution(), Driving(), Inpainting()):
    register(_task)

__all__ = ["TASKS", "Task", "register", "task_named"]
