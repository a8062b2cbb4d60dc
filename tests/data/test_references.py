"""Photos warped by depth show what the target shows, and say where they do not."""

import math
import time
from dataclasses import replace

import pytest
import torch

from chopgrad_ns.data.clip import Clip
from chopgrad_ns.data.references import ReferencePhotos, blend_baseline, choose_references, lift, nearest, project, without_unused
from chopgrad_ns.sim.raycast import Raycaster
from chopgrad_ns.sim.world import make_world
from chopgrad_ns.splat.cameras import Cameras
from tests.sim.made import photos_of
from tests.worlds import DISTANCE, HEIGHT, WIDTH, plane_cameras, plane_photos


def psnr(a, b, mask):
    error = ((a - b) ** 2).mean(dim=-3, keepdim=True)
    return float(-10 * torch.log10((error * mask).sum() / mask.sum()))


def warp_references(cameras, depth, alpha, photos, photo_cameras, photo_depth, count, exclude=None):
    choice = choose_references(cameras, photo_cameras, count, exclude)
    return ReferencePhotos(photos, photo_cameras, photo_depth, choice).warp(cameras, depth, alpha)


def plane(count=5):
    cameras = plane_cameras(count)
    return cameras, plane_photos(cameras), torch.full((count, 1, HEIGHT, WIDTH), DISTANCE)


@pytest.fixture(scope="module")
def room():
    """A sample room from 9 places with true depth."""
    world = make_world("room", 5)
    return world, *photos_of(world, 33, 120, 80, slice(0, None, 4))


def test_lift_and_project_are_inverse():
    cameras, _, depth = plane()
    uv, z = project(lift(cameras[1], depth[1] * 1.3), cameras[1])
    assert torch.allclose(z, torch.full_like(z, DISTANCE * 1.3), atol=1e-5)
    assert torch.allclose(uv[0, WIDTH + 2], torch.tensor([2.5, 1.5]), atol=1e-3)


def test_lift_and_project_are_inverse_with_rolling_shutters():
    cameras, _, depth = plane()
    rolling = replace(cameras, readout=torch.tensor([[0.0, 0.05]]).repeat(5, 1),
                      motion=torch.tensor([[3.0, 0, 1, 0, 0.3, 0]]).repeat(5, 1))
    uv, z = project(lift(rolling[1], depth[1] * 1.3), rolling[1])
    assert torch.allclose(z, torch.full_like(z, DISTANCE * 1.3), atol=1e-2)
    whole = (uv[0] - project(lift(cameras[1], depth[1] * 1.3), cameras[1])[0][0]).norm(dim=1)
    assert whole.max() < 0.02 and (lift(rolling[1], depth[1]) - lift(cameras[1], depth[1])).norm(dim=1).max() > 0.05


def test_plane_is_reproduced():
    cameras, photos, depth = plane()
    index = torch.arange(5)
    references, masks = warp_references(cameras, depth, torch.ones_like(depth), photos, cameras, depth, 2,
                                        exclude=index)
    assert references.shape == (5, 2, 3, HEIGHT, WIDTH) and masks.shape == (5, 2, 1, HEIGHT, WIDTH)
    assert masks.mean() > 0.6
    assert psnr(references, photos[:, None], masks) > 40


def test_fine_detail_survives_being_moved():
    """Looked up between its pixels, a wave of four pixels keeps more of its height than bilinear interpolation leaves."""
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[64.0, 0, 32], [0, 64.0, 8], [0, 0, 1]]]), 64, 16)
    aside = Cameras(camera.camera_from_world.clone(), camera.K, 64, 16)
    aside.camera_from_world[0, 0, 3] = -0.5 / 64  # at depth 1 half a pixel
    wave = (0.5 + 0.4 * torch.cos(torch.pi / 2 * torch.arange(64.0))).expand(1, 3, 16, 64).contiguous()
    depth, alpha = torch.ones(1, 1, 16, 64), torch.ones(1, 1, 16, 64)
    warped, _ = ReferencePhotos(wave, camera, depth, torch.tensor([[0]])).warp(aside, depth, alpha)
    kept = float(warped[0, 0, :, :, 8:-8].amax() - warped[0, 0, :, :, 8:-8].amin())
    exact, bilinear = 0.8 * math.cos(math.pi / 4), 0.4
    assert bilinear + 0.3 * (exact - bilinear) < kept <= 0.8


def test_own_photo_comes_back_where_it_is_not_excluded():
    cameras, photos, depth = plane()
    references, masks = warp_references(cameras, depth, torch.ones_like(depth), photos, cameras, depth, 1)
    assert (references[:, 0] - photos).abs().max() < 1e-3 and masks.min() > 0.999


def test_nearest_prefers_near_and_same_direction():
    cameras, _, _ = plane()
    assert nearest(cameras, cameras, 1)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert 0 not in nearest(cameras[0], cameras, 2, exclude=torch.tensor([0])).tolist()[0]
    turned = cameras.camera_from_world.clone()
    turned[0] = torch.diag(torch.tensor([-1.0, 1, -1, 1])) @ turned[0]  # the nearest camera looks away
    other = type(cameras)(turned, cameras.K, WIDTH, HEIGHT)
    assert nearest(cameras[0], other, 1).item() == 1


def test_excluded_photo_is_never_used():
    cameras, photos, depth = plane(2)
    references, masks = warp_references(cameras, depth, torch.ones_like(depth), photos, cameras, depth, 2,
                                        exclude=torch.tensor([0, -1]))
    assert masks[0, 1].max() == 0 and references[0, 1].max() == 0
    changed = photos.clone()
    changed[0] = torch.rand_like(changed[0])
    again, _ = warp_references(cameras, depth, torch.ones_like(depth), changed, cameras, depth, 2,
                               exclude=torch.tensor([0, -1]))
    assert torch.equal(references[0], again[0]) and not torch.equal(references[1], again[1])


def test_confidence_is_zero_outside_behind_and_where_empty():
    cameras, photos, depth = plane()
    aside = cameras.camera_from_world.clone()
    aside[:, 0, 3] -= 100
    turned = torch.diag(torch.tensor([-1.0, 1, -1, 1])) @ cameras.camera_from_world
    for poses in (aside, turned):
        photo_cameras = type(cameras)(poses, cameras.K, WIDTH, HEIGHT)
        references, masks = warp_references(cameras, depth, torch.ones_like(depth), photos, photo_cameras,
                                            depth, 1)
        assert masks.max() == 0 and references.max() == 0
    _, masks = warp_references(cameras, depth, torch.zeros_like(depth), photos, cameras, depth, 1)
    assert masks.max() == 0
    _, masks = warp_references(cameras, depth * 0, torch.ones_like(depth), photos, cameras, depth, 1)
    assert masks.max() == 0


def test_confidence_falls_with_disagreement_of_depth():
    cameras, photos, depth = plane(2)
    means = [warp_references(cameras[0], depth[:1], torch.ones_like(depth[:1]), photos, cameras,
                             depth * factor, 1)[1].mean().item()
             for factor in (1.0, 1.02, 1.05, 1.2)]
    assert means[0] == pytest.approx(1, abs=1e-4) and means[2] == pytest.approx(0.368, abs=0.01)
    assert means[0] > means[1] > means[2] > means[3] and means[3] < 1e-6


def test_sample_world_is_reproduced(room):
    _, cameras, frames, depth = room
    references, masks = warp_references(cameras, depth, torch.ones_like(depth), frames, cameras, depth, 2,
                                        exclude=torch.arange(len(cameras)))
    sure = (masks > 0.98).float()
    assert sure.mean() > 0.4
    smooth = torch.nn.AvgPool2d(3, 1, 1)  # the warp resamples: its finest grain is not the target's
    flat = lambda x: smooth(x.flatten(0, 1)).reshape(x.shape)  # noqa: E731
    target = frames[:, None].expand_as(references)
    trusted = (flat(sure) > 0.999).float()
    assert psnr(flat(references), flat(target), trusted) > 27
    unwarped = frames.roll(1, 0)[:, None].expand_as(references)
    assert psnr(flat(references), flat(target), trusted) > psnr(flat(unwarped), flat(target), trusted) + 8


def test_occluded_pixels_have_no_confidence(room):
    """Against an oracle: shooting rays from the photo's centre to what the target shows."""
    world, cameras, frames, depth = room
    caster = Raycaster(world)
    hidden_pixels = 0
    for t, n in ((0, 2), (3, 5), (7, 4)):
        points = lift(cameras[t], depth[t])
        origin = cameras[n].centers[0]
        hits = caster.cast(origin.numpy(), (points - origin).numpy())["t_hit"].numpy()
        hidden = torch.from_numpy(hits < 0.7).reshape(1, *depth.shape[-2:])
        _, masks = warp_references(cameras[t], depth[t:t + 1], torch.ones_like(depth[:1]), frames[n:n + 1],
                                   cameras[n], depth[n:n + 1], 1)
        # Away from depth edges, where the photo's own pixel mixes the near and the far surface.
        wrong = (masks[0, 0] > 0.1) & hidden
        hidden_pixels += int(hidden.sum())
        assert wrong.sum() < 0.03 * hidden.sum()
    assert hidden_pixels > 1000


def test_speed():
    cameras = plane_cameras(24).resized(240, 135)
    photos, depth = torch.rand(24, 3, 135, 240), torch.full((24, 1, 135, 240), DISTANCE)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        warp_references(cameras, depth, torch.ones_like(depth), photos, cameras, depth, 2)
        times.append(time.perf_counter() - start)
    assert min(times) < 2.0  # 0.2 s on an idle machine


def test_blend_baseline():
    cameras, photos, depth = plane()
    degraded = (photos + 0.2).clamp(0, 1)
    references, masks = warp_references(cameras, depth, torch.ones_like(depth), photos, cameras, depth, 2)
    clip = Clip(degraded, cameras, references=references, reference_masks=masks)
    everywhere = torch.ones_like(depth)
    assert psnr(blend_baseline(clip), photos, everywhere) > psnr(degraded, photos, everywhere) + 3
    assert torch.equal(blend_baseline(Clip(degraded)), degraded)
    clip.reference_masks = torch.zeros_like(masks)
    assert torch.equal(blend_baseline(clip), degraded)


def test_unused_photos_can_be_left_out():
    cameras, photos, depth = plane()
    choice = torch.tensor([[3, 1], [3, -1], [4, 3]])
    kept, fewer = without_unused(choice)
    assert kept == [0, 1, 3, 4] and fewer.tolist() == [[2, 1], [2, -1], [3, 2]]
    every = ReferencePhotos(photos, cameras, depth, choice).warp(cameras[:3], depth[:3], torch.ones_like(depth[:3]))
    some = ReferencePhotos(photos[kept], cameras[kept], depth[kept], fewer).warp(cameras[:3], depth[:3], torch.ones_like(depth[:3]))
    assert all(torch.equal(a, b) for a, b in zip(every, some))


@pytest.mark.parametrize("wrong", [{"depth": torch.zeros(4, 1, HEIGHT, WIDTH)}, {"cameras": plane_cameras(4)},
                                   {"choice": torch.tensor([[5]])}, {"choice": torch.tensor([0])}])
def test_reference_photos_check_their_shapes(wrong):
    cameras, photos, depth = plane()
    with pytest.raises(ValueError, match="photos"):
        ReferencePhotos(**{"photos": photos, "cameras": cameras, "depth": depth, "choice": torch.tensor([[0]]), **wrong})
