"""Splats turned, scaled and moved look as before from cameras moved along; crops, merges and boxes."""

import math

import pytest
import torch

from chopgrad_ns.splat import Cameras, Gaussians, geometry, rasterize, render
from chopgrad_ns.splat.torch_backend import harmonics
from tests.splat.scenes import HEIGHT, WIDTH, cameras, splat

FIELDS = ("means", "log_scales", "quats", "opacity_logits", "sh")


def motion(seed: int, scale: float = 1.0) -> torch.Tensor:
    """A random similarity, float64."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.eye(4, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    matrix[:3, :3] = scale * rotation * torch.linalg.det(rotation)
    matrix[:3, 3] = 3 * torch.randn(3, generator=generator, dtype=torch.float64)
    return matrix


def exact_camera() -> tuple[torch.Tensor, torch.Tensor]:
    """One camera, rigid to float64's precision."""
    view, K = (value.double() for value in cameras(1))
    left, _, right = torch.linalg.svd(view[:, :3, :3])
    view[:, :3, :3] = left @ right
    return view, K


def drawn(shown: Gaussians, view: torch.Tensor, K: torch.Tensor, scale: float = 1.0):
    """Colour and depth, and alpha, by the plain backend; near and far planes in the splat's units."""
    image, alpha, _ = rasterize(
        shown.means, shown.quats, shown.log_scales.exp(), shown.opacity_logits.sigmoid(), shown.sh, view, K,
        WIDTH, HEIGHT, near_plane=0.01 * scale, far_plane=100 * scale, sh_degree=shown.sh_degree, render_mode="RGB+D", backend="torch")
    return image, alpha


def moved_along(view: torch.Tensor, target_from_source: torch.Tensor, scale: float) -> torch.Tensor:
    """Rigid camera_from_target of cameras that were at `view` in the source; what they see is `scale` times as far."""
    moved = view @ torch.linalg.inv(target_from_source)
    moved[:, :3] *= scale
    return moved


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("scale", [0.02, 1.0, 7.0])
def test_looks_as_before_from_cameras_moved_along(degree, scale):
    before, matrix = splat(degree, count=60).to(torch.float64), motion(degree, scale)
    view, K = exact_camera()
    image, alpha = drawn(before, view, K)
    found, covered = drawn(before.transformed(matrix), moved_along(view, matrix, scale), K, scale)
    assert alpha.max() > 0.5
    torch.testing.assert_close(covered, alpha, atol=1e-9, rtol=0)
    torch.testing.assert_close(found[..., :3], image[..., :3], atol=1e-9, rtol=0)
    torch.testing.assert_close(found[..., 3], scale * image[..., 3], atol=1e-8 * scale, rtol=0)


@pytest.mark.parametrize("kept", ["sh", "quats", "log_scales"])
def test_every_part_of_the_transform_shows(kept):
    """What the test above measures changes visibly where one of the parts is left as it was."""
    before, matrix = splat(3, count=60).to(torch.float64), motion(3, 2.0)
    view, K = exact_camera()
    half = before.transformed(matrix)
    setattr(half, kept, getattr(before, kept))
    difference = drawn(half, moved_along(view, matrix, 2.0), K, 2.0)[0] - drawn(before, view, K)[0]
    assert difference[..., :3].abs().max() > 0.05


def test_harmonics_of_one_degree_mix_with_each_other_only():
    rotation = motion(1)[:3, :3]
    each = torch.eye(16, dtype=torch.float64)[..., None].expand(16, 16, 3)
    matrix = geometry.rotate_harmonics(rotation, each)[..., 0]
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(16, dtype=torch.float64))
    degree = torch.arange(16).double().sqrt().floor()
    assert matrix[degree[:, None] != degree].abs().max() < 1e-12
    directions = torch.nn.functional.normalize(torch.randn(9, 3, dtype=torch.float64), dim=1)
    torch.testing.assert_close(harmonics(3, directions) @ matrix.T, harmonics(3, directions @ rotation))


def same(found: Gaussians, truth: Gaussians) -> None:
    """But for the signs of quaternions."""
    for name in FIELDS:
        a, b = getattr(found, name), getattr(truth, name)
        if name == "quats":
            a = a * (a * b).sum(dim=1, keepdim=True).sign()
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_transforms_compose_and_invert():
    before, first, second = splat(3).to(torch.float64), motion(1, 0.3), motion(2, 4.0)
    same(before.transformed(first).transformed(second), before.transformed(second @ first))
    same(before.transformed(first).transformed(torch.linalg.inv(first)), before)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns(axis):
    """Where one component of the quaternion is all there is."""
    matrix = -torch.eye(4)
    matrix[axis, axis] = matrix[3, 3] = 1
    turned = geometry.rotate_quaternions(matrix[:3, :3], torch.tensor([[1.0, 0, 0, 0]]))
    assert turned[0, axis + 1].abs() == 1 and turned.abs().sum() == 1
    before = splat(3)
    torch.testing.assert_close(before.transformed(matrix).means, before.means @ matrix[:3, :3])


def test_gradients_flow():
    values = [getattr(splat(3, count=3).to(torch.float64), name).requires_grad_() for name in FIELDS]
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in values]

    def weighed(pose, *values):
        turn = torch.linalg.matrix_exp(torch.stack([  # stays a similarity, whatever `pose` [7] is
            torch.stack([pose[6], -pose[2], pose[1]]), torch.stack([pose[2], pose[6], -pose[0]]),
            torch.stack([-pose[1], pose[0], pose[6]])]))
        matrix = torch.cat([torch.cat([turn, pose[3:6, None]], dim=1), pose.new_tensor([[0, 0, 0, 1]])])
        moved = Gaussians(*values).transformed(matrix)
        return sum((getattr(moved, name) * weight).sum() for name, weight in zip(FIELDS, weights))

    pose = torch.tensor([0.3, -0.8, 0.5, 1, 2, 3, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(weighed, (pose, *values))


def no_similarity() -> dict[str, torch.Tensor]:
    good = motion(0, 2.0)
    mirror, shear, stretch, project = (good.clone() for _ in range(4))
    mirror[:3, 0] *= -1
    shear[:3, 0] += 0.01 * shear[:3, 1]
    stretch[0, :3] *= 1.01
    project[3, 0] = 0.1
    return {"mirror": mirror, "shear": shear, "stretch": stretch, "projection": project, "flat": good * 0,
            "not finite": good * math.nan, "rotation alone": good[:3, :3]}


@pytest.mark.parametrize("fault", no_similarity())
def test_what_is_no_similarity_is_refused(fault):
    with pytest.raises(ValueError, match="similarity|4, 4"):
        splat(1).transformed(no_similarity()[fault])


def test_harmonics_above_degree_3_are_refused():
    before = splat(0).with_sh_degree(4)
    with pytest.raises(ValueError, match="degree 4"):
        before.transformed(torch.eye(4))


def test_some_of_the_gaussians():
    before = splat(1, count=5)
    mask = torch.tensor([True, False, False, True, False])
    for some in (before[mask], before[torch.tensor([0, 3])], before[[0, 3]], before[::3]):
        assert len(some) == 2
        assert all(torch.equal(getattr(some, name), getattr(before, name)[::3]) for name in FIELDS)
    assert len(before[3]) == 1 and torch.equal(before[3].sh, before.sh[3:4])


def test_crop_and_bounding_box():
    points = torch.tensor([[0.0, 0, 0], [1, 2, 3], [-1, 5, 2], [1, 2, 3.001], [math.nan, 0, 0]])
    made = Gaussians.from_points(points[:4], torch.rand(4, 3))
    assert torch.equal(made.bounding_box(), torch.tensor([[-1, 0, 0], [1, 5, 3.001]]))
    inside = made.cropped(torch.tensor([0.0, 0, 0]), torch.tensor([1.0, 2, 3]))
    assert torch.equal(inside.means, points[:2])
    made.means[2] = points[4]
    assert torch.equal(made.bounding_box(), torch.tensor([[0, 0, 0], [1, 2, 3.001]]))
    assert len(made.cropped(torch.full((3,), -9.0), torch.full((3,), 9.0))) == 3
    with pytest.raises(ValueError, match="inside out"):
        made.cropped(torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 0, 1]))
    with pytest.raises(ValueError, match="no finite means"):
        made[:0].bounding_box()
    with pytest.raises(ValueError, match="share"):
        made.bounding_box(0)


def test_robust_box_leaves_out_floaters():
    line = torch.linspace(-1, 1, 201)
    points = torch.stack([line, 2 * line, 3 * line], dim=1)
    points[0], points[200] = torch.tensor([-900.0, 900, 0]), torch.tensor([0.0, 0, 900])
    made = Gaussians.from_points(points, torch.rand(201, 3))
    assert made.bounding_box().abs().max() == 900
    inner = 0.9 * torch.tensor([[-1.0, -2, -3], [1, 2, 3]])
    torch.testing.assert_close(made.bounding_box(0.9), inner, atol=0.04, rtol=0)


def test_merged_splats_are_drawn_together():
    low, high = splat(1, count=40), splat(3, count=50)
    low.means += 0.3
    merged = Gaussians.merged([low, high])
    assert len(merged) == 90 and merged.sh_degree == 3
    view, K = cameras(1)
    path = Cameras(view, K, WIDTH, HEIGHT)
    sh = torch.cat([torch.cat([low.sh, torch.zeros(40, 12, 3)], dim=1), high.sh])
    together = Gaussians(*(torch.cat([getattr(low, name), getattr(high, name)]) for name in FIELDS[:4]), sh)
    assert torch.equal(render(merged, path).rgb, render(together, path).rgb)
    same(merged[:40].with_sh_degree(1), low)
    with pytest.raises(ValueError, match="nothing"):
        Gaussians.merged([])
