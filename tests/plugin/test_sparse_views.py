"""Options for few views in the plugin: depth maps of the scene, MCMC, and how both reach training."""

import copy
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers

from chopgrad_ns.cli.scenes import open_scene
from chopgrad_ns.errors import UserError
from chopgrad_ns.plugin.config import RefineTrainerConfig, chopgrad_refine
from chopgrad_ns.plugin.model import RefinedSplatConfig
from chopgrad_ns.sim.sample import make_world, write_scene
from chopgrad_ns.splat.mcmc import AnyDeviceMCMC
from tests.data.broken import BROKEN
from tests.plugin.conftest import write_plane_scene


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A sample world with depth maps, its world not the unit one that nerfstudio makes of it."""
    scene = tmp_path_factory.mktemp("sparse") / "room"
    write_scene(scene, make_world("room", 4), frames=8, width=64, height=48)
    return scene


def scene_units(scene, views, every):
    """Depth maps as written, in metres, brought to the units of the views' cameras by their distances."""
    files = sorted((scene / "depths").iterdir())[::every]
    metres = np.stack([cv2.imread(str(file), cv2.IMREAD_ANYDEPTH) for file in files]) / 1000
    frames = json.loads((scene / "transforms.json").read_text())["frames"][::every]
    first, last = (np.array(frames[index]["transform_matrix"])[:3, 3] for index in (0, -1))
    scale = float((views.cameras.centers[-1] - views.cameras.centers[0]).norm()) / np.linalg.norm(last - first)
    return torch.from_numpy(metres).float()[:, None] * scale, scale


def test_depth_maps_are_in_the_units_of_the_cameras(sample):
    views = open_scene(sample, 2, 64, "metric").training_views()
    expected, scale = scene_units(sample, views, every=2)
    assert abs(scale - 1) > 0.1, "else the test could not tell"
    assert torch.allclose(views.depths, expected, rtol=1e-4)


def test_depth_maps_are_scaled_with_the_photos(sample):
    views = open_scene(sample, 2, 32, "metric").training_views()
    whole = open_scene(sample, 2, 64, "metric").training_views().depths
    blocks = whole.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert views.depths.shape[-2:] == (24, 32)
    assert (views.depths[..., None] == blocks).any(dim=-1).all(), "each is one of the four pixels that it covers"


def test_depths_are_only_read_when_asked_for_and_never_of_held_out_views(sample, tmp_path):
    scene = shutil.copytree(sample, tmp_path / "room")
    for index in (1, 3, 5, 7):  # held out
        (scene / f"depths/{index:05d}.png").unlink()
    assert (open_scene(scene, 2, 64, "metric").training_views().depths > 0).any()
    (scene / "depths/00002.png").write_bytes(b"")
    assert open_scene(scene, 2, 64).training_views().depths is None
    with pytest.raises(UserError, match="00002.png cannot be read"):
        open_scene(scene, 2, 64, "metric").training_views()


def test_broken_photos_and_masks_are_named(tmp_path):
    """Photos whose pixels cannot be decoded, and masks, which are not opened before nerfstudio does."""
    scene = write_plane_scene(tmp_path / "plane")
    photo, good = scene / "images/004.png", (scene / "images/004.png").read_bytes()
    for bad in (good[:len(good) // 2], BROKEN["pixels"]):
        photo.write_bytes(bad)
        with pytest.raises(UserError, match="The image .*004.png cannot be read; save it again"):
            open_scene(scene, 2, 64).training_views()
    photo.write_bytes(good)
    meta = json.loads((scene / "transforms.json").read_text())
    for index, frame in enumerate(meta["frames"]):
        frame["mask_path"] = f"mask{index}.png"
        cv2.imwrite(str(scene / frame["mask_path"]), np.full((48, 64), 255, np.uint8))
    (scene / "transforms.json").write_text(json.dumps(meta))
    assert open_scene(scene, 2, 64).training_views().masks.all()
    for how, content in BROKEN.items():
        (scene / "mask2.png").write_bytes(content)
        with pytest.raises(UserError, match="The mask .*mask2.png cannot be read; save it again"):
            open_scene(scene, 2, 64).training_views()


@pytest.mark.parametrize("content", [b"", b"PK\3\4no archive", b"no array"])
def test_broken_arrays_of_depth_are_named(sample, tmp_path, content):
    scene = shutil.copytree(sample, tmp_path / "room")
    meta = json.loads((scene / "transforms.json").read_text())
    meta["frames"][2]["depth_file_path"] = "depths/bad.npy"
    (scene / "transforms.json").write_text(json.dumps(meta))
    (scene / "depths/bad.npy").write_bytes(content)
    with pytest.raises(UserError, match="bad.npy cannot be read"):
        open_scene(scene, 2, 64, "metric").training_views()


def test_depth_of_a_distorted_photo(sample, tmp_path):
    """A plane through a lens: undistorted by our map, it matches what the undistorted camera sees of it."""
    scene = shutil.copytree(sample, tmp_path / "room")
    meta = json.loads((scene / "transforms.json").read_text())
    K = np.array([[meta["fl_x"], 0, meta["cx"] - 0.5], [0, meta["fl_y"], meta["cy"] - 0.5], [0, 0, 1]])
    meta["k1"] = -0.2
    del meta["ply_file_path"]  # its points are of another scene than the depth maps drawn here
    (scene / "transforms.json").write_text(json.dumps(meta))
    columns, rows = np.meshgrid(np.arange(64.0), np.arange(48.0))
    rays = cv2.undistortPoints(np.stack([columns, rows], -1).reshape(-1, 1, 2), K, np.array([-0.2, 0, 0, 0]))[:, 0, 0]
    sloped = 1 / (0.5 + 0.4 * rays)  # z on a plane slanted in x, as the lens sees it
    for frame in meta["frames"]:
        cv2.imwrite(str(scene / frame["depth_file_path"]), np.rint(sloped.reshape(48, 64) * 1000).astype(np.uint16))
    views = open_scene(scene, 2, 64, "metric").training_views()
    _, scale = scene_units(sample, views, every=2)
    x = (torch.arange(views.cameras.width) + 0.5 - views.cameras.K[0, 0, 2]) / views.cameras.K[0, 0, 0]
    expected = (scale / (0.5 + 0.4 * x)).expand_as(views.depths)
    assert views.cameras.K[0, 0, 0] != pytest.approx(meta["fl_x"], rel=0.01), "else nothing was undistorted"
    error = ((views.depths - expected) / expected).abs()
    assert error.max() < 0.03, "the nearest pixel is taken; the lens displaces by 10 % at the edge"


def test_points_tell_depth_where_asked(tmp_path):
    scene = write_plane_scene(tmp_path / "plane")
    assert open_scene(scene, 2, 64, "metric").training_views().depths is None
    views = open_scene(scene, 2, 64, "points").training_views()
    known = views.depths > 0
    assert 0.02 < known.float().mean() < 0.5
    spread = views.depths[known]
    assert spread.std() < 1e-3 * spread.mean(), "all on the plane"


def test_depth_maps_in_other_units_are_refused(sample, tmp_path):
    scene = shutil.copytree(sample, tmp_path / "room")
    for file in (scene / "depths").iterdir():
        cv2.imwrite(str(file), (cv2.imread(str(file), cv2.IMREAD_ANYDEPTH) // 10).astype(np.uint16))
    with pytest.raises(UserError, match=r"0\.(1|0999) times as far away"):
        open_scene(scene, 2, 64, "metric").training_views()
    assert open_scene(scene, 2, 64, "relative").training_views().depths is not None


def test_asked_for_and_not_there(tmp_path):
    scene = write_plane_scene(tmp_path / "plane")
    meta = json.loads((scene / "transforms.json").read_text())
    del meta["ply_file_path"]
    (scene / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="no depth maps"):
        open_scene(scene, 2, 64, "relative").training_views()
    with pytest.raises(UserError, match="no point cloud"):
        open_scene(scene, 2, 64, "points").training_views()  # the random points that seed it tell nothing


def test_the_models_options_reach_data_and_folds():
    config = copy.deepcopy(chopgrad_refine.config)
    assert isinstance(config, RefineTrainerConfig) and config.pipeline.datamanager.depth_prior == "metric"
    model = config.pipeline.model
    model.strategy, model.depth_prior, model.opacity_reg = "mcmc", "relative", 0.2
    config.__post_init__()
    assert config.pipeline.datamanager.depth_prior == "relative"
    settings = model.fit_settings(7)
    chosen = settings.steps, settings.strategy, settings.depth_prior, settings.opacity_reg
    assert chosen == (7, "mcmc", "relative", 0.2)
    model.depth_weight = 0
    config.__post_init__()
    assert config.pipeline.datamanager.depth_prior is None


def train(scene, steps, **options):
    """A model trained for some real steps, as nerfstudio's trainer does it, and the losses of every step."""
    manager = open_scene(scene, 2, 64, "metric" if options.get("depth_weight", 0) else None)
    metadata = manager.train_dataparser_outputs.metadata
    torch.manual_seed(0)
    model = RefinedSplatConfig(reconstruct_steps=steps, warmup_length=5, refine_every=10, **options).setup(
        scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])), num_train_data=len(manager.train_dataset),
        seed_points=(metadata["points3D_xyz"], metadata["points3D_rgb"]), device="cpu", metadata={}).train()
    groups = {name: values for name, values in model.get_param_groups().items() if values}
    optimizers = Optimizers({name: chopgrad_refine.config.optimizers[name] for name in groups}, groups)
    callbacks = model.get_training_callbacks(TrainingCallbackAttributes(optimizers, None, None, None))
    history = []
    for step in range(steps):
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
        camera, batch = manager.next_train(step)
        losses = model.get_loss_dict(model(camera), batch)
        optimizers.zero_grad_all()
        sum(losses.values()).backward()
        optimizers.optimizer_step_all()
        for callback in callbacks:
            callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        history.append({name: float(value.detach()) for name, value in losses.items()})
    return model, history


def mean(history, name):
    return sum(losses[name] for losses in history) / len(history)


def test_mcmc_trains_on_the_cpu(sample):
    start = len(open_scene(sample, 2, 64).training_views().points)
    model, history = train(sample, 40, strategy="mcmc", max_gaussians=start + 100)
    assert isinstance(model.strategy, AnyDeviceMCMC) and model.num_points == start + 100
    assert mean(history[-8:], "main_loss") < 0.9 * mean(history[:8], "main_loss")
    assert mean(history, "gaussian_reg") > 0 and "depth_loss" not in history[0]


def test_depth_is_trained_on_where_asked(sample):
    _, without = train(sample, 1)
    assert set(without[0]) == {"main_loss", "scale_reg"}
    (_, faint), (_, strong) = (train(sample, 30, depth_weight=weight) for weight in (1e-6, 10.0))
    assert mean(strong[-8:], "depth_loss") / 10 < 0.8 * mean(faint[-8:], "depth_loss") * 1e6
