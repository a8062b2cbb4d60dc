"""Gaussians as data: construction, 3DGS PLY files, pictures along trajectories."""

import struct

import pytest
import torch

from chopgrad_ns.errors import UserError
from chopgrad_ns.splat import Cameras, Gaussians, render
from tests.splat.scenes import HEIGHT, WIDTH, cameras, scene


def splat(degree: int = 2, count: int = 120) -> Gaussians:
    means, quats, scales, opacities, sh, *_ = scene(count=count, degree=degree)
    return Gaussians(means, scales.log(), quats, opacities.logit(eps=1e-3), sh)


def header_and_values(path):
    head, _, body = path.read_bytes().partition(b"end_header\n")
    names = [line.split()[2] for line in head.decode().splitlines() if line.startswith("property float")]
    return names, torch.tensor(list(struct.iter_unpack(f"<{len(names)}f", body)))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply_round_trip(tmp_path, degree):
    before = splat(degree)
    before.save(tmp_path / "new" / "splat.ply")
    after = Gaussians.load(tmp_path / "new" / "splat.ply")
    assert after.sh_degree == degree and len(after) == len(before)
    for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["splat.ply"]


def test_ply_layout_is_that_of_3dgs(tmp_path):
    one = splat(degree=1, count=5)
    one.save(tmp_path / "splat.ply")
    names, values = header_and_values(tmp_path / "splat.ply")
    assert names == (["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
                     + [f"f_rest_{i}" for i in range(9)]
                     + ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"])
    # the coefficients of one channel lie side by side: red's three, then green's, then blue's
    assert torch.equal(values[:, 9:12], one.sh[:, 1:, 0]) and torch.equal(values[:, 15:18], one.sh[:, 1:, 2])


def test_columns_may_come_in_any_order_and_type(tmp_path):
    before = splat(degree=0, count=4)
    names = ["opacity", "z", "y", "x", "rot_3", "rot_2", "rot_1", "rot_0", "f_dc_2", "f_dc_1", "f_dc_0",
             "scale_0", "scale_1", "scale_2", "label"]
    columns = [before.opacity_logits, *before.means.T.flip(0), *before.quats.T.flip(0),
               *before.sh[:, 0].T.flip(0), *before.log_scales.T]
    header = "ply\nformat binary_little_endian 1.0\ncomment by hand\nelement vertex 4\n"
    header += "".join(f"property {'uchar' if name == 'label' else 'double'} {name}\n" for name in names)
    header += "end_header\n"
    rows = torch.stack(columns, dim=1).double().tolist()
    path = tmp_path / "splat.ply"
    path.write_bytes(header.encode() + b"".join(struct.pack("<14dB", *row, 7) for row in rows))
    after = Gaussians.load(path)
    for name in ("means", "log_scales", "quats", "opacity_logits", "sh"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name))


def broken_files(good: bytes) -> dict[str, bytes]:
    return {
        "not binary little-endian": good.replace(b"binary_little_endian", b"ascii"),
        "not a binary": b"hello\n",
        "no end of header": good[:60],
        "cut short": good[:-8],
        "more than vertices": good.replace(b"end_header", b"element face 0\nend_header"),
        "no opacity": good.replace(b"property float opacity", b"property float opaqueness"),
        "odd harmonics": good.replace(b"property float nx", b"property float f_rest_9"),
        "unknown type": good.replace(b"property float x", b"property half x"),
        "list": good.replace(b"property float x", b"property list uchar int x"),
        "negative count": good.replace(b"element vertex 5", b"element vertex -5"),
        "no count": good.replace(b"element vertex 5\n", b""),
        "no properties": b"ply\nformat binary_little_endian 1.0\nelement vertex 5\nend_header\n",
    }


@pytest.mark.parametrize("fault", list(broken_files(b"")))
def test_bad_plys_are_refused_by_name(tmp_path, fault):
    splat(degree=1, count=5).save(tmp_path / "good.ply")
    path = tmp_path / "bad.ply"
    path.write_bytes(broken_files((tmp_path / "good.ply").read_bytes())[fault])
    with pytest.raises(UserError, match="bad.ply"):
        Gaussians.load(path)


def test_missing_ply_is_refused(tmp_path):
    with pytest.raises(UserError, match="none.ply"):
        Gaussians.load(tmp_path / "none.ply")


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
