"""A toy scene on disk and one finished run on it, shared by the tests of the whole job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.worlds import FOCAL, HEIGHT, WIDTH, plane_cameras, plane_photos, plane_points

LOSSES = "robust_l1=1,ssim=0.2,frame_difference=0.5@1+2"
TOY = ["--refine.every", "2", "--refine.reconstruct-steps", "40", "--refine.folds", "2", "--refine.fold-steps", "30",
       "--refine.sample-worlds", "1", "--refine.finetune-steps", "3", "--refine.rounds", "2", "--refine.round-steps", "6",
       "--refine.round-frames", "8", "--refine.losses", LOSSES]


def write_plane_scene(folder: Path, count: int = 9, noise_on: tuple[int, ...] = ()) -> Path:
    """A nerfstudio scene of the textured plane; photos at indices `noise_on` hold noise instead."""
    cameras = plane_cameras(count)
    photos = plane_photos(cameras)
    for index in noise_on:
        photos[index] = torch.rand(photos[index].shape, generator=torch.Generator().manual_seed(index))
    (folder / "images").mkdir(parents=True)
    frames = []
    for index in range(count):
        name = f"images/{index:03d}.png"
        Image.fromarray((photos[index].permute(1, 2, 0) * 255).round().byte().numpy()).save(folder / name)
        c2w = cameras.world_from_camera[index] @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
        frames.append({"file_path": name, "transform_matrix": c2w.tolist()})
    points, colors = plane_points(600)
    rows = [f"{x} {y} {z} {r} {g} {b}" for (x, y, z), (r, g, b) in
            zip(points.tolist(), (colors * 255).round().int().tolist())]
    header = ["ply", "format ascii 1.0", f"element vertex {len(rows)}", *(f"property float {a}" for a in "xyz"),
              *(f"property uchar {a}" for a in ("red", "green", "blue")), "end_header"]
    (folder / "sparse_pc.ply").write_text("\n".join(header + rows) + "\n")
    (folder / "transforms.json").write_text(json.dumps({
        "w": WIDTH, "h": HEIGHT, "fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2,
        "ply_file_path": "sparse_pc.ply", "frames": frames}))
    return folder


def command(scene: Path, output: Path, *arguments: str) -> list[str]:
    """`ns-train chopgrad-refine` at toy size; later arguments override the toy's."""
    return [str(Path(sys.executable).with_name("ns-train")), "chopgrad-refine", "--data", str(scene), "--output-dir",
            str(output), "--vis", "tensorboard", *TOY, *arguments]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_WAIT_POLICY": "passive"}


def ns_train(scene: Path, output: Path, *arguments: str, cache: Path, check: bool = True) -> subprocess.CompletedProcess:
    """The real command in a process of its own, with a cache of its own."""
    result = subprocess.run(command(scene, output, *arguments), capture_output=True, text=True,
                            env=environment(cache), timeout=500)
    if check and result.returncode:
        raise AssertionError(result.stdout[-4000:] + result.stderr[-4000:])
    return result


@pytest.fixture(scope="session")
def toy_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory, toy_cache) -> Path:
    """Folder of a finished toy run."""
    base = tmp_path_factory.mktemp("job")
    scene = write_plane_scene(base / "plane")
    ns_train(scene, base / "outputs", "--timestamp", "run", cache=toy_cache)
    return base / "outputs" / "plane" / "chopgrad-refine" / "run"
