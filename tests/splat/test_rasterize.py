"""The C++ kernel against tiled torch in float64, and that against a dense oracle."""

import inspect

import pytest
import torch
from gsplat.rendering import rasterization

from chopgrad_ns.splat import rasterize
from tests.oracles.splat_dense import rasterize_dense
from tests.splat.scenes import (
    HEIGHT, NAMES, WIDTH, assert_same_picture, cameras, clear_pixels, leaves, relative, scene, weigh)

KINDS = ["plain", "behind", "huge", "tiny", "faint", "opaque", "close", "degenerate"]


def draw(inputs, backend, degree=3, width=WIDTH, height=HEIGHT, **options):
    return rasterize(*inputs, width, height, sh_degree=degree, backend=backend, packed=False, **options)


def compare(inputs, degree=3, bound=1e-3, scale=1.0, width=WIDTH, height=HEIGHT, mode="RGB", **options):
    """Values and every gradient of the kernel against the torch backend in float64."""
    fast, slow = leaves(inputs), leaves(inputs, torch.float64)
    ours = draw(fast, "cpu", degree, width, height, render_mode=mode, **options)
    truth = draw(slow, "torch", degree, width, height, render_mode=mode, **options)
    clear = clear_pixels(inputs, width, height, degree, **options)
    assert_same_picture(ours[0], truth[0], clear, scale)
    assert_same_picture(ours[1], truth[1], clear)
    weigh(ours).backward()
    weigh(truth).backward()
    for name, a, b in zip(NAMES, fast, slow):
        assert torch.isfinite(a.grad).all()
        if b.grad is None:  # colours, where only depth is drawn
            assert a.grad is None or not a.grad.any()
        else:
            assert relative(a.grad, b.grad) <= bound, f"{name}: {relative(a.grad, b.grad):.1e}"
    return ours, truth


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_tiled_torch_equals_dense_oracle(kind, antialiased):
    tensors = [t.double() for t in scene(kind, views=1)]
    u, _, v = torch.linalg.svd(tensors[5][:, :3, :3])
    tensors[5][:, :3, :3] = u @ v  # a rotation to the last bit
    inputs, plain = leaves(tensors, torch.float64), leaves(tensors, torch.float64)
    mode = "antialiased" if antialiased else "classic"
    image, alpha, _ = draw(inputs, "torch", render_mode="RGB+D", rasterize_mode=mode)
    expected, expected_alpha, _ = rasterize_dense(
        *plain[:5], plain[5][0], plain[6][0], WIDTH, HEIGHT, 3, antialiased)
    torch.testing.assert_close(image[0], expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(alpha[0, ..., 0], expected_alpha, rtol=1e-7, atol=1e-9)
    weigh((image[0], alpha[0, ..., 0])).backward()
    weigh((expected, expected_alpha)).backward()
    # Cameras may move rigidly only: the two differ in how a matrix that is no rotation would be inverted.
    for name, a, b in zip(NAMES[:5], inputs, plain):
        assert relative(a.grad, b.grad) <= 1e-6, name
    assert relative(rigid(inputs[5]), rigid(plain[5])) <= 1e-6


def rigid(views):
    """Gradient for small turns and shifts of the cameras."""
    gradient, view = views.grad[:, :3], views.detach()[:, :3]
    turn = gradient @ view.transpose(1, 2)
    return torch.cat([turn - turn.transpose(1, 2), gradient[..., 3:]], dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_equals_torch(kind):
    compare(scene(kind))


@pytest.mark.parametrize("width, height", [(1, 1), (16, 16), (17, 33), (5, 3), (70, 2)])
def test_sizes(width, height):
    compare([*scene()[:5], *cameras(2, width, height)], width=width, height=height)


def test_many_gaussians_in_one_camera_and_one_in_many():
    compare(scene(count=2100, views=1))  # more than two of the kernel's chunks
    compare(scene(count=1, views=5))


def test_gaussians_on_the_near_plane_are_left_out():
    inputs = scene(views=1)
    inputs[5][:] = torch.eye(4)
    inputs[0][:60, 2] = torch.tensor(0.5)
    (_, _, meta), _ = compare(inputs, near_plane=0.5, bound=2e-3)
    assert not meta["radii"][0, :60].any() and meta["radii"][0, 60:].any()


@pytest.mark.parametrize("mode", ["D", "ED", "RGB+D", "RGB+ED"])
def test_render_modes(mode):
    compare(scene(), mode=mode, scale=4.0)  # depths are about 4


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_lower_degrees_of_harmonics(degree):
    compare(scene(), degree=degree)


@pytest.mark.parametrize("kind", ["plain", "tiny", "huge"])
def test_antialiased(kind):
    compare(scene(kind), rasterize_mode="antialiased")


def test_planes_radius_clip_and_blur_are_honoured():
    (_, _, meta), _ = compare(scene(), near_plane=3.5, far_plane=5.0, radius_clip=4.0, eps2d=0.1)
    shown = meta["radii"] > 0
    assert 0 < shown.sum() < shown.numel() / 2
    assert (meta["depths"][shown] > 3.5).all() and (meta["depths"][shown] < 5).all()
    assert meta["radii"][shown].min() > 4


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("each_camera", [False, True])
def test_any_number_of_colour_channels(channels, each_camera):
    means, quats, scales, opacities, _, views, Ks = scene()
    shape = (2, len(means), channels) if each_camera else (len(means), channels)
    colors = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    gradients = []
    for backend, dtype in (("cpu", torch.float32), ("torch", torch.float64)):
        inputs = leaves([means, quats, scales, opacities, colors, views, Ks], dtype)
        outputs = rasterize(*inputs, WIDTH, HEIGHT, backend=backend)
        weigh(outputs).backward()
        gradients.append([outputs[0].detach(), *(t.grad for t in inputs[:-1])])
    assert gradients[0][0].shape == (2, HEIGHT, WIDTH, channels)
    assert_same_picture(gradients[0][0], gradients[1][0], clear_pixels(scene(), WIDTH, HEIGHT))
    assert max(relative(a, b) for a, b in zip(gradients[0][1:], gradients[1][1:])) <= 1e-3


def test_harmonics_of_each_camera():
    inputs = scene()
    both = draw([*inputs[:4], torch.stack([inputs[4], -inputs[4]]), *inputs[5:]], "cpu")[0]
    for camera, sign in enumerate((1, -1)):
        one = [*inputs[:4], sign * inputs[4], inputs[5][camera:camera + 1], inputs[6][camera:camera + 1]]
        assert torch.equal(both[camera], draw(one, "cpu")[0][0])


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_packed_meta_lists_what_is_drawn(backend):
    found = []
    for packed in (False, True):
        inputs = leaves(scene("behind"))
        outputs = rasterize(*inputs, WIDTH, HEIGHT, sh_degree=3, packed=packed, absgrad=True, backend=backend,
                            rasterize_mode="antialiased")
        outputs[2]["means2d"].retain_grad()
        weigh(outputs).backward()
        found.append((inputs, *outputs))
    (dense, *pictures, whole), (listed, *same, meta) = found
    assert all(torch.equal(a, b) for a, b in zip(pictures, same))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(dense[:6], listed[:6]))
    drawn = meta["camera_ids"], meta["gaussian_ids"]
    assert torch.equal(torch.stack(drawn, dim=1), torch.nonzero(whole["radii"] > 0)) and whole["camera_ids"] is None
    for name in ("means2d", "radii", "depths", "conics", "opacities"):
        assert torch.equal(meta[name], whole[name][drawn]), name
    assert torch.equal(meta["means2d"].grad, whole["means2d"].grad[drawn])
    assert torch.equal(meta["means2d"].absgrad, whole["means2d"].absgrad[drawn])


def test_signature_and_meta_are_gsplats():
    ours, theirs = (list(inspect.signature(f).parameters.values()) for f in (rasterize, rasterization))
    shared = len(ours) - 1  # the last is the backend
    assert ours[-1].name == "backend"
    assert [(p.name, p.default) for p in ours[:shared]] == [(p.name, p.default) for p in theirs[:shared]]
    meta = rasterize(*scene(), WIDTH, HEIGHT, sh_degree=3, packed=False, backend="cpu")[2]
    assert (meta["tile_width"], meta["tile_height"], meta["n_cameras"]) == (4, 3, 2)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_background_shows_where_the_splat_does_not(backend):
    inputs = scene()
    background = torch.tensor([[0.2, 0.5, 0.9], [1.0, 0.0, 0.3]], requires_grad=True)
    image, alpha, _ = draw(inputs, backend, backgrounds=background, render_mode="RGB+ED")
    bare = draw(inputs, backend, render_mode="RGB+ED")[0]
    torch.testing.assert_close(image[..., :3], bare[..., :3] + (1 - alpha) * background[:, None, None])
    assert torch.equal(image[..., 3], bare[..., 3])
    image[..., :3].sum().backward()
    torch.testing.assert_close(background.grad, (1 - alpha).sum(dim=(1, 2)).expand(-1, 3))


@pytest.mark.parametrize("backend", ["cpu", "torch"])
@pytest.mark.parametrize("kind", ["outside", "none"])
def test_nothing_to_see(kind, backend):
    inputs = scene("outside")
    if kind == "none":
        inputs[:5] = [t[:0] for t in inputs[:5]]
    inputs = leaves(inputs)
    image, alpha, meta = draw(inputs, backend, render_mode="RGB+ED")
    assert not image.any() and not alpha.any() and not (meta["radii"] > 0).any()
    weigh((image, alpha)).backward()
    assert not any(t.grad.any() for t in inputs[:-1])


def test_gaussians_that_are_not_numbers_are_left_out():
    inputs, broken = scene(), scene()
    for field, value in ((0, float("nan")), (1, float("nan")), (2, float("inf")), (3, float("nan"))):
        broken[field][field] = value
    broken[0][10, 0] = float("inf")
    hurt = [0, 1, 2, 3, 10]
    whole = [i for i in range(len(inputs[0])) if i not in hurt]
    expected = draw([t[whole] if i < 5 else t for i, t in enumerate(inputs)], "cpu")[0]
    torch.testing.assert_close(draw(broken, "cpu")[0], expected)


def test_picture_smaller_than_a_tile_and_a_single_gaussian():
    means, quats, scales, opacities, sh, views, Ks = (t[:1] for t in scene(degree=0))
    means = torch.tensor([[0.0, 0.0, 3.0]])
    K = torch.tensor([[[9.0, 0, 2.5], [0, 9.0, 1.5], [0, 0, 1]]])
    image, alpha, _ = rasterize(means, quats, scales, opacities, sh, torch.eye(4)[None], K, 5, 3, sh_degree=0)
    assert image.shape == (1, 3, 5, 3)
    assert alpha[0, ..., 0].argmax() == 1 * 5 + 2  # pixel (row 1, column 2) is centred at (2.5, 1.5)
    torch.testing.assert_close(alpha[0, 1, 2, 0], opacities[0])


def test_torch_backend_passes_gradcheck():
    inputs = [t.double() for t in scene(count=3, degree=1, views=1)]
    inputs[2] *= 5
    K = torch.tensor([[[6.0, 0, 3.0], [0, 6.0, 3.0], [0, 0, 1]]]).double()

    def function(*differentiable):
        return draw([*differentiable, K], "torch", 1, 6, 6, render_mode="RGB+ED")[:2]

    leaves = [t.requires_grad_() for t in inputs[:6]]
    torch.autograd.gradcheck(function, leaves, eps=1e-7, atol=1e-5, rtol=1e-3)


def test_bad_requests_are_refused():
    inputs = scene(degree=1)
    for options, message in (({"degree": 2}, "needs 9 coefficients"), ({"degree": 4}, "one of 0, 1, 2, 3"),
                             ({"degree": 1, "render_mode": "rgb"}, "render_mode"),
                             ({"degree": 1, "sparse_grad": True}, "no sparse_grad"),
                             ({"degree": 1, "tile_size": 8}, "tiles of 16"),
                             ({"degree": None}, "colors has shape")):
        with pytest.raises(ValueError, match=message):
            draw(inputs, "cpu", **options)
    with pytest.raises(ValueError, match="backend"):
        draw(inputs, "warp", 1)
    for index, name in enumerate([*NAMES[:4], "colors", "viewmats", "Ks"]):
        with pytest.raises(ValueError, match="colors" if name == "colors" else f"{name} has shape"):
            draw([*inputs[:index], inputs[index][..., None], *inputs[index + 1:]], "cpu", 1)
