"""Normals of solids point out of them, as steep as their surface; sides of outlines are filled."""

import numpy as np
import pytest

from chopgrad_ns.sim.shapes import Builder


def geometric(corners):
    """Unit normals of triangles, of either sign."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


@pytest.mark.parametrize("start, end, radius, end_radius", [
    ((0, 0, 1.3), (0, 0, 1.5), 0.2, 0.6), ((0, 0, 0), (0, 0, 1.4), 0.5, 0.04), ((1, 2, 0), (2, 1, 3), 0.3, 0.3),
    ((1, 0, 2), (0.4, -0.3, 2), 0.1, 0.5)], ids=["bowl", "cone", "leaning", "lying"])
def test_normals_of_cones(start, end, radius, end_radius):
    b, sides = Builder(np.random.default_rng(0), [1.0]), 90
    b.rod(start, end, radius, 0, end_radius=end_radius, sides=sides)
    mesh = b.mesh()
    axis = np.subtract(end, start) / np.linalg.norm(np.subtract(end, start))
    coat, caps = slice(0, 2 * sides), slice(2 * sides, None)
    from_start = mesh.corners - np.asarray(start)
    radial = from_start - (from_start @ axis)[..., None] * axis
    flat = geometric(mesh.corners.astype(float))
    flat *= np.where(np.einsum("nc,nc->n", flat, radial.mean(axis=1)) < 0, -1, 1)[:, None]
    cosine = np.einsum("nkc,nc->nk", mesh.normals, flat)[coat]
    assert np.rad2deg(np.arccos(cosine.min())) < 3 and (np.einsum("nkc,nkc->nk", mesh.normals, radial)[coat] > 0).all()
    assert np.allclose(np.linalg.norm(mesh.normals, axis=-1), 1, atol=1e-5)
    assert np.allclose(mesh.normals[caps] @ axis, np.repeat([-1, 1], sides)[:, None], atol=1e-5)


def test_concave_outlines_are_filled_and_their_normals_point_out():
    """The van's, concave at the windscreen's foot, against the shoelace formula and the even-odd rule."""
    profile = np.array([(-2.5, 0.25), (-2.5, 2.0), (-2.35, 2.2), (0.95, 2.2), (1.65, 1.15), (2.4, 0.98), (2.5, 0.75),
                        (2.5, 0.25)])
    b = Builder(np.random.default_rng(0), [1.0])
    b.prism(profile, 2.0, 0)
    mesh = b.mesh()
    after = np.roll(profile, -1, axis=0)
    area = abs((profile[:, 0] * after[:, 1] - after[:, 0] * profile[:, 1]).sum()) / 2
    doubled = np.linalg.norm(np.cross(mesh.corners[:, 1] - mesh.corners[:, 0], mesh.corners[:, 2] - mesh.corners[:, 0]), axis=1)
    for sign in (-1, 1):
        assert np.isclose(doubled[mesh.normals[:, 0, 1] * sign > 0.9].sum() / 2, area, rtol=1e-5), "nothing twice"
    middle = mesh.corners.mean(axis=1)

    def inside(points):
        """Rays along +x cross the outline an odd number of times."""
        x, z = points[:, None, 0], points[:, None, 2]
        (x0, z0), (x1, z1) = profile.T, after.T
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = ((z0 > z) != (z1 > z)) & (x < x0 + (z - z0) / (z1 - z0) * (x1 - x0))
        return (crossing.sum(axis=1) % 2 == 1) & (np.abs(points[:, 1]) < 1)

    normal = mesh.normals.mean(axis=1)
    assert inside(middle - 1e-3 * normal).all() and not inside(middle + 1e-3 * normal).any()
