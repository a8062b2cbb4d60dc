"""Sample worlds dressed in photographs."""

import numpy as np
import pytest
import torch
from PIL import Image

from chopgrad_ns.errors import UserError
from chopgrad_ns.sim.dressing import PLAIN, dress
from chopgrad_ns.sim.sample import make_world, sample_clip
from chopgrad_ns.sim.textures import SIZE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures of one colour each, and one with a gradient."""
    path = tmp_path_factory.mktemp("photographs")
    for name, color in (("red", (200, 20, 20)), ("blue", (20, 20, 200))):
        Image.new("RGB", (90, 120), color).save(path / f"{name}.png")
    ramp = np.broadcast_to(np.linspace(0, 255, 120).astype(np.uint8)[None, :, None], (80, 120, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(path / "ramp.jpg")
    return path


def texels(world, material: int) -> np.ndarray:
    start = material * world.atlas.start[-1]
    return world.atlas.texels[start:start + SIZE**2].reshape(SIZE, SIZE, 3)


def test_most_surfaces_are_dressed_without_seams_and_what_shines_is_not(folder):
    world, plain = make_world("room", 3, 0.0), make_world("room", 3, 0.0)
    dress(world, folder, 3)
    changed = [k for k in range(len(world.atlas.period)) if not np.array_equal(texels(world, k), texels(plain, k))]
    assert 0.4 * len(world.atlas.period) < len(changed) < len(world.atlas.period)
    assert not {getattr(world.palette, name) for name in PLAIN} & set(changed)
    for k in changed:
        picture = texels(world, k)
        for axis in (0, 1):  # it goes on where it ends, and is its own mirror image
            np.testing.assert_allclose(picture.take(0, axis), picture.take(-1, axis), atol=1e-6)
            np.testing.assert_allclose(picture, np.flip(picture, axis), atol=1e-6)


def test_pictures_show_the_photographs_where_geometry_is_the_same(folder):
    bare = sample_clip("room", 3, 2, 48, 32, 0.0)
    first, again = (sample_clip("room", 3, 2, 48, 32, 0.0, folder) for _ in range(2))
    assert torch.equal(first.frames, again.frames) and torch.equal(first.depth, bare.depth)
    assert (first.frames - bare.frames).abs().mean() > 0.05
    assert (first.frames[:, 0] - first.frames[:, 1]).abs().mean() > 2 * (bare.frames[:, 0] - bare.frames[:, 1]).abs().mean()


def test_what_cannot_dress_a_world_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="holds no pictures"):
        dress(make_world("objects", 1), tmp_path, 1)
    Image.new("RGB", (20, 200)).save(tmp_path / "strip.png")
    with pytest.raises(UserError, match="strip.png has 20×200 pixels"):
        dress(make_world("objects", 1), tmp_path, 1)
