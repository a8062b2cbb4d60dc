"""`chopgrad splat`: the table, and what is written."""

import math

import pytest
import torch

from chopgrad_ns.cli.main import main
from chopgrad_ns.splat import Gaussians
from tests.cli.refusals import refused
from tests.splat.scenes import splat

FIELDS = ("means", "log_scales", "quats", "opacity_logits", "sh")


@pytest.fixture
def two(tmp_path):
    """Splats of 400 Gaussians of degree 2 and 50 of degree 1 in two formats."""
    first, second = tmp_path / "first.ply", tmp_path / "second.spz"
    splat(2, count=400).save(first)
    splat(1, count=50).save(second)
    return first, second


def splat_command(*arguments) -> None:
    main(["splat", *map(str, arguments)])


def test_tells_what_the_files_hold(two, capsys):
    splat_command(*two)
    first, second = capsys.readouterr().out.split(str(two[1]))
    words = {line.split("  ")[1]: line[22:] for line in first.splitlines()[1:]}
    assert words["format"] == "3DGS PLY" and words["Gaussians"] == "400" and words["SH degree"] == "2"
    low, high = splat(2, count=400).bounding_box().tolist()
    assert all(f"{value:.4g}" in words["box of the means"] for value in (*low, *high))
    opacities, shares = splat(2, count=400).opacity_logits.sigmoid(), torch.tensor([0.05, 0.5, 0.95])
    quantiles = opacities.quantile(shares, interpolation="lower").tolist()
    assert words["opacity"] == "5 % {:.3g}, median {:.3g}, 95 % {:.3g}".format(*quantiles)
    assert "SPZ" in second and "not finite" not in first


def test_an_empty_splat_and_broken_gaussians_are_told_of(tmp_path, capsys):
    one = splat(0, count=4)
    one.means[1, 2] = math.nan
    one.save(tmp_path / "broken.ply")
    one[:0].save(tmp_path / "empty.ply")
    splat_command(tmp_path / "broken.ply", tmp_path / "empty.ply")
    shown = capsys.readouterr().out
    assert "not finite          1" in shown and "Gaussians           0" in shown


@pytest.mark.parametrize("name, kind", [("new.ply", "3DGS PLY"), ("new.compressed.ply", "compressed PLY"),
                                        ("new.spz", "SPZ")])
def test_merges_into_any_format(two, tmp_path, capsys, name, kind):
    splat_command(*two, "--output", tmp_path / name)
    made = Gaussians.load(tmp_path / name)
    assert len(made) == 450 and made.sh_degree == 2
    assert f"{tmp_path / name}\n  format              {kind}" in capsys.readouterr().out
    whole = Gaussians.merged([Gaussians.load(path) for path in two])
    torch.testing.assert_close(made.means, whole.means, atol=0.01, rtol=0)
    if name == "new.ply":  # what is not moved keeps its numbers
        assert all(torch.equal(getattr(made, name), getattr(whole, name)) for name in FIELDS)


def test_scales_then_turns_about_x_y_z_then_moves(two, tmp_path):
    moves = ["--scale", 2, "--rotate", 90, 0, 90, "--translate", 0, -1, 5]
    splat_command(two[0], "--output", tmp_path / "new.ply", *moves)
    made, x, y, z = Gaussians.load(tmp_path / "new.ply"), *splat(2, count=400).means.T
    # x: (x, y, z) becomes (x, −z, y); then z: (x, y, z) becomes (−y, x, z)
    torch.testing.assert_close(made.means, 2 * torch.stack([z, x, y], dim=1) + torch.tensor([0.0, -1, 5]))
    torch.testing.assert_close(made.log_scales, splat(2, count=400).log_scales + math.log(2))
    assert not torch.allclose(made.sh[:, 1:], splat(2, count=400).sh[:, 1:], atol=0.1)
    splat_command(two[0], "--output", tmp_path / "y.ply", "--rotate", 0, 90, 0)
    torch.testing.assert_close(Gaussians.load(tmp_path / "y.ply").means, torch.stack([z, y, -x], dim=1))


def test_crops_what_was_moved_and_lowers_the_degree(two, tmp_path):
    splat_command(two[0], "--output", tmp_path / "new.ply", "--translate", 10, 0, 0, "--crop", 9, -1, -9, 11, 1, 9,
                  "--sh-degree", 1)
    made, before = Gaussians.load(tmp_path / "new.ply"), splat(2, count=400)
    inside = (before.means[:, 0].abs() < 1) & (before.means[:, 1].abs() < 1)
    assert 10 < len(made) == inside.sum() < 390 and made.sh_degree == 1
    torch.testing.assert_close(made.opacity_logits, before.opacity_logits[inside])
    splat_command(tmp_path / "new.ply", "--output", tmp_path / "new.ply", "--sh-degree", 3)
    assert Gaussians.load(tmp_path / "new.ply").sh_degree == 1


def test_refusals(two, tmp_path, capsys):
    new, before = tmp_path / "new.ply", sorted(tmp_path.iterdir())
    refused(capsys, "splat", message="no splat to tell about")
    refused(capsys, "splat", tmp_path / "none.ply", message="cannot be read")
    refused(capsys, "splat", two[0], "--scale", 2, message="give --output")
    refused(capsys, "splat", *two, "--output", tmp_path / "new.glb", message="cannot be written as new.glb")
    refused(capsys, "splat", two[0], "--output", new, "--scale", 0, message="--scale is 0.0")
    refused(capsys, "splat", two[0], "--output", new, "--rotate", 0, "nan", 0, message="finite")
    refused(capsys, "splat", two[0], "--output", new, "--sh-degree", 4, message="--sh-degree is 4")
    refused(capsys, "splat", two[0], "--output", new, "--crop", 0, 0, 0, 1, -1, 1, message="inside out")
    refused(capsys, "splat", two[0], "--output", new, "--crop", 70, 0, 0, 71, 1, 1, message="most of the splat is in (")
    (tmp_path / "bad.spz").write_bytes(two[1].read_bytes()[:-9])
    refused(capsys, "splat", two[0], tmp_path / "bad.spz", "--output", new, message="bad.spz is not a sound SPZ")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "bad.spz"])
