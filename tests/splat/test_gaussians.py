"""Gaussians as data: construction, pictures along trajectories."""

import pytest
import torch

from chopgrad_ns.splat import Cameras, Gaussians, render
from tests.splat.scenes import HEIGHT, WIDTH, cameras, splat


def test_points_become_faint_round_gaussians():
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 3], [float("nan"), 0, 0]])
    rgb = torch.linspace(0, 1, 18).view(6, 3)
    made = Gaussians.from_points(xyz, rgb, sh_degree=1)
    assert len(made) == 5 and made.sh.shape == (5, 4, 3)
    torch.testing.assert_close(made.log_scales[0].exp(), torch.full((3,), 2.0))  # mean of 1, 2 and 3
    torch.testing.assert_close(made.opacity_logits.sigmoid(), torch.full((5,), 0.1))
    torch.testing.assert_close(0.5 + 0.28209479177387814 * made.sh[:, 0], rgb[:5])
    assert not made.sh[:, 1:].any()


def test_coinciding_points_keep_a_width():
    cloud = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    made = Gaussians.from_points(torch.cat([cloud, cloud[:1].expand(6, 3)]), torch.rand(46, 3))
    assert torch.isfinite(made.log_scales).all()
    assert made.log_scales.exp().min() > 0.005 * made.log_scales.exp().median()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_points(count):
    assert len(Gaussians.from_points(torch.rand(count, 3), torch.rand(count, 3))) == count


def test_wrong_shapes_are_refused_by_name():
    good = splat()
    with pytest.raises(ValueError, match="quats"):
        Gaussians(good.means, good.log_scales, good.quats[:, :3], good.opacity_logits, good.sh)
    with pytest.raises(ValueError, match="square"):
        Gaussians(good.means, good.log_scales, good.quats, good.opacity_logits, good.sh[:, :5])


def test_render_draws_frames_alpha_and_depth():
    view, K = cameras(3)
    path = Cameras(view, K, WIDTH, HEIGHT)
    near = Gaussians.from_points(torch.tensor([[0.0, 0, 4.0]]), torch.tensor([[1.0, 0, 0]]))
    near.log_scales[:], near.opacity_logits[:] = 0.0, 10.0
    drawn = render(near, path)
    assert drawn.rgb.shape == (3, 3, HEIGHT, WIDTH)
    assert drawn.alpha.shape == drawn.depth.shape == (3, 1, HEIGHT, WIDTH)
    assert drawn.rgb.min() >= 0 and drawn.rgb.max() <= 1
    seen = drawn.alpha > 0.1
    depth = (view[:, :3, :3] @ torch.tensor([0.0, 0, 4.0]) + view[:, :3, 3])[:, 2]
    for frame in range(3):
        found = drawn.depth[frame][seen[frame]]
        torch.testing.assert_close(found, depth[frame].expand(len(found)))
    assert not drawn.depth[drawn.alpha == 0].any() and (drawn.alpha == 0).any()
    white = render(near, path, background=torch.ones(3))
    torch.testing.assert_close(white.rgb, (drawn.rgb + 1 - drawn.alpha).clamp(0, 1))


def test_render_can_be_held_to_a_lower_degree():
    view, K = cameras(1)
    full = splat(degree=2)
    flat = Gaussians(full.means, full.log_scales, full.quats, full.opacity_logits, full.sh[:, :1])
    path = Cameras(view, K, WIDTH, HEIGHT)
    assert torch.equal(render(full, path, sh_degree=0).rgb, render(flat, path, sh_degree=3).rgb)
