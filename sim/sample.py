"""Sample worlds as captures: photos along a walk, cameras, true depth and the points that SfM would find."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from chopgrad_ns.data.actors import Actor, write_actors
from chopgrad_ns.data.references import project
from chopgrad_ns.errors import UserError
from chopgrad_ns.files import whole_folder
from chopgrad_ns.sim.dressing import dress
from chopgrad_ns.sim.raycast import render
from chopgrad_ns.sim.world import RECIPE, Kind, World, make_world
from chopgrad_ns.splat.cameras import Cameras

__all__ = ["Sample", "WayEnds", "make_world", "sample_clip", "trajectory", "write_scene"]

POINTS = 4000
POINT_NOISE = 0.002
"""Standard deviation of a point's place, as a share of its depth."""
POINT_EVERY = 4
"""Points are found in every fourth photo, as in the densest set of training views."""
MILLIMETRES = 1000.0
FARTHEST = 65.535
"""Metres that 16 bits of millimetres can say; what lies beyond is written as 0, unknown."""
LICENCE = "Apache-2.0, made by chopgrad sample"


class WayEnds(UserError):
    """More frames were asked for than there is way for in the world, which is a street."""


@dataclass
class Sample:
    """A capture in memory.

    `frames` [T, 3, H, W] in 0…1, `depth` [T, 1, H, W] in metres (0: sky), `points` [P, 3] in metres and their
    `colors` [P, 3] in 0…1; none on moving actors. `actor_ids` [T, 1, H, W] is k + 1 where actor k of `actors` is seen,
    None in worlds without actors. `gains` [T, 3] are the factors on linear RGB by which exposure made `frames`, square
    roots of light, brighter: where not clipped, frames / gains ** 0.5 is free of it.
    """

    frames: Float[Tensor, "t 3 h w"]
    cameras: Cameras
    depth: Float[Tensor, "t 1 h w"]
    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    actors: list[Actor] = field(default_factory=list)
    actor_ids: UInt8[Tensor, "t 1 h w"] | None = None
    gains: Float[Tensor, "t 3"] | None = None

    def moving(self) -> UInt8[Tensor, "t 1 h w"] | None:
        """1 where an actor is seen that moves at some time (its shadow is not counted); None where no actor does."""
        moving = [k + 1 for k, actor in enumerate(self.actors) if actor.moves()]
        return torch.isin(self.actor_ids, torch.tensor(moving, dtype=torch.uint8)).byte() if moving else None


def trajectory(world: World, frames: int, width: int, height: int) -> Cameras:
    """Cameras along the world's walk, evenly timed, level but for the gaze."""
    eyes, forward = world.walk.at(frames)
    forward = forward / np.linalg.norm(forward, axis=1, keepdims=True)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    # Rows: the camera's axes in the world.
    rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
    camera_from_world = np.tile(np.eye(4), (frames, 1, 1))
    camera_from_world[:, :3, :3] = rotation
    camera_from_world[:, :3, 3] = -np.einsum("tij,tj->ti", rotation, eyes)
    K = torch.tensor([[world.focal * width, 0, width / 2], [0, world.focal * width, height / 2], [0, 0, 1]])
    return Cameras(torch.from_numpy(camera_from_world).float(), K.repeat(frames, 1, 1), width, height)


def sample_clip(kind: Kind, seed: int = 0, frames: int = 40, width: int = 192, height: int = 128,
                exposure_change: float | None = None, photographs: Path | None = None) -> Sample:
    """Make a world and photograph it, in memory; `exposure_change` as in `make_world`. Raises WayEnds.

    `photographs`: a folder of pictures that the world is dressed in.
    """
    world = make_world(kind, seed, exposure_change)
    if photographs is not None:
        dress(world, photographs, seed)
    return photograph(world, frames, width, height)


def photograph(world: World, frames: int = 40, width: int = 192, height: int = 128) -> Sample:
    """Go through a world with a camera. Raises WayEnds where there is no way for so many frames."""
    _check_way(world, frames)
    cameras, actors = trajectory(world, frames, width, height), world.actors(frames)
    gains = world.exposure.gains(frames)
    pictures, depth, ids = render(world, cameras, actors, gains)
    sample = Sample(pictures, cameras, depth, *[torch.zeros(0, 3)] * 2, actors, ids if actors else None,
                    torch.from_numpy(gains))
    moving = sample.moving()
    still = depth if moving is None else depth * (1 - moving)
    sample.points, sample.colors = find_points(pictures, cameras, still, world.seed)
    return sample


def find_points(frames: Float[Tensor, "t 3 h w"], cameras: Cameras, depth: Float[Tensor, "t 1 h w"],
                seed: int, count: int = POINTS) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    """At most `count` points such as structure from motion finds, and their colours.

    They lie where pictures have detail, are seen in at least two of every fourth photo, and are a little off.
    """
    rng = torch.Generator().manual_seed(seed)
    some = list(range(0, len(frames), POINT_EVERY)) if len(frames) > POINT_EVERY else list(range(len(frames)))
    frames, cameras, depth = frames[some], cameras[some], depth[some]
    gray = frames.mean(dim=1)
    detail = torch.zeros_like(gray)
    detail[:, :, 1:-1] += (gray[:, :, 2:] - gray[:, :, :-2]).abs()
    detail[:, 1:-1] += (gray[:, 2:] - gray[:, :-2]).abs()
    likely = ((detail + 0.02) * (depth[:, 0] > 0)).flatten(1)
    points, colors = [], []
    for index in range(len(frames)):
        if not likely[index].any():
            continue
        tries = min(2 * count // len(frames), int((likely[index] > 0).sum()))
        pixels = torch.multinomial(likely[index], tries, generator=rng)
        z = depth[index].flatten()[pixels]
        uv1 = torch.stack([pixels % cameras.width + 0.5, pixels // cameras.width + 0.5,
                           torch.ones(len(pixels))])
        local = torch.linalg.inv(cameras.K[index]) @ uv1 * z
        world = (cameras.world_from_camera[index, :3, :3] @ local).T + cameras.centers[index]
        again = _seen_by(world, cameras, depth).sum(dim=0) >= 2
        noise = POINT_NOISE * z[:, None] * torch.randn(world.shape, generator=rng)
        points.append((world + noise)[again])
        colors.append(frames[index].flatten(1).T[pixels][again])
    points, colors = torch.cat(points), torch.cat(colors)
    keep = torch.randperm(len(points), generator=rng)[:count]
    return points[keep], colors[keep]


def _seen_by(points: Float[Tensor, "p 3"], cameras: Cameras, depth: Float[Tensor, "t 1 h w"]) -> Tensor:
    """Bool [T, P]: whether a camera sees a point, that is, its depth map agrees with the point's depth within
    2 %.
    """
    uv, z = project(points, cameras)
    column, row = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 0) & (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
    flat = row.clamp(0, cameras.height - 1) * cameras.width + column.clamp(0, cameras.width - 1)
    there = depth.flatten(1).gather(1, flat)
    return inside & ((there - z).abs() < 0.02 * z)


def write_scene(path: Path, world: World, frames: int = 40, width: int = 192, height: int = 128) -> None:
    """Write a nerfstudio scene: `transforms.json`, `images/`, `depths/` (16-bit PNG in millimetres, 0 for sky and for
    what is farther than 65.535 m), `sparse_pc.ply`, and `world.json`: what was drawn for it.

    With actors, also `actors.json` and `actor_ids/` (8-bit PNG, k + 1 for actor k); where some move, `masks/`, 0 where
    nerfstudio is to ignore them. The folder appears at once, when complete. Raises UserError where it exists and is not
    empty, where it cannot be written, or for sizes that nothing can be reconstructed from; WayEnds where there is no way
    for so many frames.
    """
    with new_folder(Path(path), world, frames, width, height) as folder:
        _write(folder, photograph(world, frames, width, height))
        (folder / "world.json").write_text(json.dumps(about(world, frames, width, height), indent=1))


@contextmanager
def new_folder(path: Path, world: World, frames: int, width: int, height: int) -> Iterator[Path]:
    """A folder to write so many frames of a world into; it is at `path` when all is written, or not at all.

    To be entered before the long work, which would be in vain where nothing can be written. Raises UserError where something
    is in the way, where it cannot be written, or for sizes that nothing can be reconstructed from; WayEnds.
    """
    check_free(path)
    check_size(path, frames, width, height)
    _check_way(world, frames)
    try:
        with whole_folder(path) as folder:
            yield folder
    except OSError as error:
        raise _unwritable(path, error) from error


def _write(folder: Path, sample: Sample) -> None:
    moving = sample.moving()
    _write_pictures(folder / "images", (sample.frames.permute(0, 2, 3, 1) * 255).round().byte().numpy())
    depth = np.rint(np.where(sample.depth <= FARTHEST, sample.depth, 0) * MILLIMETRES).astype(np.uint16)
    _write_pictures(folder / "depths", depth[:, 0])
    if sample.actors:
        write_actors(folder / "actors.json", sample.actors)
        _write_pictures(folder / "actor_ids", sample.actor_ids[:, 0].numpy())
    if moving is not None:
        _write_pictures(folder / "masks", (255 * (1 - moving[:, 0])).numpy())
    _write_points(folder / "sparse_pc.ply", sample.points, sample.colors)
    (folder / "transforms.json").write_text(json.dumps(_description(sample.cameras, moving is not None), indent=1))


def check_free(path: Path) -> None:
    """Raise UserError where something is in the way of a new scene."""
    try:
        free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    except OSError as error:
        raise _unwritable(path, error) from error
    if not free:
        raise UserError(f"{path} exists and is not an empty folder; name a new one.")


def _unwritable(path: Path, error: OSError) -> UserError:
    """What to raise where a scene cannot be written."""
    return UserError(f"{path} cannot be written ({error.strerror or error}); make room, or name another folder.")


def _check_way(world: World, frames: int) -> None:
    """Raise WayEnds where there is no way for so many frames."""
    if frames > world.walk.longest:
        raise WayEnds(f"The way through {world.kind} {world.seed} ends after {world.walk.longest} frames, and {frames} are "
                      "asked for; ask for fewer, or take another seed.")


def check_size(path: Path, frames: int, width: int, height: int) -> None:
    """Raise UserError for sizes that nothing can be reconstructed from."""
    if frames < 2 or min(width, height) < 16:
        raise UserError(f"{frames} frames of {width}×{height} px are too few or too small for {path}; ask "
                        "for at least 2 frames of 16×16 px.")


def _write_pictures(folder: Path, pictures: np.ndarray) -> None:
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:05d}.png")


def about(world: World, frames: int, width: int, height: int) -> dict:
    """What `world.json` says: how the scene was asked for, what its seed drew, and its licence."""
    lamps = [{"position": lamp.position.tolist(), "strength": lamp.strength.tolist(), "size": lamp.size,
              "half_strength_at": lamp.reach if np.isfinite(lamp.reach) else None} for lamp in world.lighting.lamps]
    return {"kind": world.kind, "seed": world.seed, "frames": frames, "width": width, "height": height,
            "recipe": RECIPE, "licence": LICENCE, "exposure": asdict(world.exposure),
            "gains": world.exposure.gains(frames).tolist(),
            "lit_by": world.lit_by, "lamps": lamps, "ambient": world.lighting.ambient.tolist(),
            "walk": type(world.walk).__name__.lower(), "actors": len(world.vehicles)}


def _description(cameras: Cameras, masks: bool) -> dict:
    """The content of transforms.json; poses turn to OpenGL axes here."""
    K = cameras.K[0].double()
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    poses = cameras.to(torch.float64).world_from_camera @ flip
    frames = [{"file_path": f"images/{index:05d}.png", "depth_file_path": f"depths/{index:05d}.png",
               **({"mask_path": f"masks/{index:05d}.png"} if masks else {}),
               "transform_matrix": pose.tolist()} for index, pose in enumerate(poses)]
    return {"camera_model": "OPENCV", "w": cameras.width, "h": cameras.height, "fl_x": float(K[0, 0]),
            "fl_y": float(K[1, 1]),
            "cx": float(K[0, 2]), "cy": float(K[1, 2]), "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0,
            "ply_file_path": "sparse_pc.ply", "frames": frames}


def _write_points(path: Path, points: Tensor, colors: Tensor) -> None:
    kind = [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.zeros(len(points), dtype=kind)
    for axis, name in enumerate("xyz"):
        table[name] = points[:, axis].numpy()
    for channel, name in enumerate(("red", "green", "blue")):
        table[name] = (colors[:, channel] * 255).round().byte().numpy()
    types = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}",
              *(f"property {types[code]} {name}" for name, code in kind), "end_header"]
    path.write_bytes(("\n".join(header) + "\n").encode() + table.tobytes())
