"""What a scene graph is worth on drives with moving actors: python scripts/benchmark_street.py STREET…

STREET is a folder that `chopgrad sample street` wrote (with the true videos lane_0 … lane_3 and the recorded ids). Fits the
same photos twice, as one splat and as a scene graph, and prints for both: seconds, Gaussians, mean PSNR of the held-out photos
over whole pictures, inside the masks of actors that move and of all actors; and PSNR against true pictures beside the lane,
frames in which the shifted camera is inside a vehicle left out.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro

from chopgrad_ns.machine import processor


@dataclass
class Options:
    """Which streets, and how they are fitted."""

    streets: Annotated[tuple[Path, ...], tyro.conf.Positional]
    steps: int = 2000
    """training steps of either"""
    every: int = 2
    """every N-th frame trains"""
    longest_side: int = 240
    """pixels"""
    pictures: Path | None = None
    """folder for PNGs of held-out photos: the photo, the splat, the scene graph"""
    lanes: tuple[str, ...] = field(default_factory=lambda: ("lane_0", "lane_1", "lane_2", "lane_3"))


def main(options: Options) -> None:
    print(f"{processor()}, {torch.get_num_threads()} threads; {options.steps} steps, every {options.every}. frame trains, "
          f"longest side {options.longest_side} px\n")
    print("| street | scene | seconds | Gaussians | held out | moving | actors | " + " | ".join(options.lanes) + " |")
    print("|---" * (7 + len(options.lanes)) + "|")
    for street in options.streets:
        _street(street, options)


def _street(street: Path, options: Options) -> None:
    from chopgrad_ns.cli.scenes import open_recording
    from chopgrad_ns.plugin.drive_scene import fit_drive, seeded_actors, views_in_metres
    from chopgrad_ns.splat.fit import FitSettings, fit

    began = time.perf_counter()
    manager = open_recording(street, options.every, options.longest_side, "metric")
    metadata, settings = manager.train_dataset.metadata, FitSettings(steps=options.steps)
    views = views_in_metres(manager.training_views(), metadata)
    opened = time.perf_counter() - began
    began = time.perf_counter()
    graph = fit_drive(manager, settings)
    of_graph = time.perf_counter() - began
    began = time.perf_counter()
    points, colors = [views.points], [views.colors]
    for seeded in seeded_actors(metadata):  # the splat starts from as much: actors where they first are
        pose = seeded.actor.world_from_actor[int(seeded.actor.present.nonzero()[0])]
        points.append(seeded.points @ pose[:3, :3].T + pose[:3, 3])
        colors.append(seeded.colors)
    splat = fit(views.photos, views.cameras, torch.cat(points), torch.cat(colors), settings, depths=views.depths)
    of_splat = time.perf_counter() - began
    for name, scene, seconds, count in (("splat", splat, of_splat, len(splat)),
                                        ("scene graph", graph, of_graph, len(graph.at_time(0.0)))):
        held = _held_out(scene, manager)
        beside = [_beside(scene, metadata["drive"], lane, options.every) for lane in options.lanes]
        print(f"| {street.name} | {name} | {opened + seconds:.0f} | {count} | "
              + " | ".join(f"{value:.2f}" for value in [*held, *beside]) + " |", flush=True)
    if options.pictures is not None:
        _save(options.pictures, street.name, manager, splat, graph)


def _held_out(scene, manager) -> list[float]:
    """PSNR of held-out photos: whole, and inside the true masks of moving actors and of all."""
    from chopgrad_ns.evaluate.metrics import measured, psnr
    from chopgrad_ns.plugin.drive_scene import in_metres, unplaced
    from chopgrad_ns.splat.render import render

    held = manager.held_out()
    shown = render(scene, unplaced(held.cameras, *in_metres(manager.eval_dataset.metadata))).rgb
    moving, actors = _true_masks(manager)
    return [float(measured(psnr, shown, held.photos, mask).nanmean()) for mask in (None, moving, actors)]


def _true_masks(manager) -> tuple[torch.Tensor, torch.Tensor]:
    """Where held-out photos, straightened as nerfstudio straightens them, truly show actors that move, and any."""
    from chopgrad_ns.sim.truth import Truth

    metadata, dataset = manager.eval_dataset.metadata, manager.eval_dataset
    drive, truth = metadata["drive"], Truth.of(metadata["drive"])
    moves = {actor.name for actor in drive.actors if actor.moves(0.5)}
    recorded = {name: truth.recorded(name) for name in drive.cameras}
    cameras, masks = manager.held_out().cameras, []
    for index, photo in enumerate(metadata["photos"]):
        rig, known = drive.cameras[photo.camera], recorded[photo.camera]
        position = [other.frame for other in drive.photos_of(photo.camera)].index(photo.frame)
        scale = np.diag([cameras.width / rig.width, cameras.height / rig.height, 1.0])
        before, after = rig.K.copy(), np.linalg.inv(scale) @ cameras.K[index].double().numpy()
        for K in (before, after):
            K[:2, 2] -= 0.5  # OpenCV's pixel centres are whole numbers
        columns, rows = cv2.initUndistortRectifyMap(before, rig.distortion, None, after, (rig.width, rig.height), cv2.CV_32FC1)
        ids = cv2.remap(known.actor_ids[position, 0].numpy(), columns, rows, cv2.INTER_NEAREST)
        ids = cv2.resize(ids, (cameras.width, cameras.height), interpolation=cv2.INTER_NEAREST)
        named = np.array(["", *(actor.name for actor in known.actors)])[ids]
        masks.append((torch.from_numpy(np.isin(named, list(moves))), torch.from_numpy(ids > 0)))
    assert len(dataset) == len(masks)
    moving, actors = (torch.stack(part)[:, None] for part in zip(*masks))
    return moving, actors


def _beside(scene, drive, lane: str, every: int) -> float:
    """PSNR against the true video of a lane; in the recorded one, of held-out frames."""
    from chopgrad_ns.evaluate.metrics import measured, psnr
    from chopgrad_ns.sim.truth import Truth
    from chopgrad_ns.splat.render import render

    truth, values = Truth.of(drive), []
    for camera in drive.cameras:
        video = truth.video(lane, camera)
        kept = [index for index in range(len(drive)) if video.clear[index] and (lane != "lane_0" or index % every)]
        values.append(measured(psnr, render(scene, video.cameras[kept]).rgb, video.frames[kept]))
    return float(torch.cat(values).mean())


def _save(folder: Path, name: str, manager, splat, graph) -> None:
    from torchvision.utils import save_image

    from chopgrad_ns.plugin.drive_scene import in_metres, unplaced
    from chopgrad_ns.splat.render import render

    held = manager.held_out()
    some = list(range(2, len(held.photos), max(len(held.photos) // 6, 1)))
    cameras = unplaced(held.cameras, *in_metres(manager.eval_dataset.metadata))[some]
    rows = zip(held.photos[some], render(splat, cameras).rgb, render(graph, cameras).rgb)
    folder.mkdir(parents=True, exist_ok=True)
    save_image(torch.cat([torch.cat(row, dim=2) for row in rows], dim=1), folder / f"{name}.png")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
