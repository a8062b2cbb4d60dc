"""The kernel as a program: determinism, threads, what densification reads, and life without a compiler."""

import gc
import multiprocessing
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gsplat.strategy import DefaultStrategy

from chopgrad_ns.splat import rasterize
from chopgrad_ns.splat.cpu import build, compiler
from chopgrad_ns.splat.torch_backend import clear_pixels
from tests.splat.scenes import HEIGHT, WIDTH, assert_same_picture, leaves, relative, scene, weigh


def everything(seed: int = 0) -> list[torch.Tensor]:
    """Picture, alpha and all gradients of a scene of more than one chunk of Gaussians."""
    inputs = leaves(scene(count=2500, seed=seed))
    outputs = rasterize(*inputs, WIDTH, HEIGHT, sh_degree=3, render_mode="RGB+ED", backend="cpu")
    weigh(outputs).backward()
    return [*(output.detach() for output in outputs[:2]), *(t.grad for t in inputs[:-1])]


def clear(count: int = 120) -> torch.Tensor:
    """Pixels of `scene` on which rasterisers must agree."""
    inputs = [t.double() for t in scene(count=count)]
    return clear_pixels(lambda: rasterize(*inputs, WIDTH, HEIGHT, sh_degree=3, backend="torch")[0])


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second))


def test_bits_do_not_depend_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(everything())
    finally:
        torch.set_num_threads(before)
    assert same(results[0], results[1]) and same(results[0], results[2])


def test_two_python_threads_at_once():
    alone = [everything(seed) for seed in range(4)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(everything, range(4)))
    assert all(same(a, b) for a, b in zip(alone, together))


def test_survives_a_fork():
    everything()  # in the parent first, as a trainer would
    inputs = scene()  # made here: torch's own thread pool does not survive forks

    def checksum() -> float:
        return rasterize(*inputs, WIDTH, HEIGHT, sh_degree=3, backend="cpu")[0].double().sum().item()

    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=lambda: results.put(checksum()))
    process.start()
    process.join(30)
    alive = process.is_alive()
    process.kill()
    assert not alive
    assert results.get() == checksum()


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_means2d_keeps_its_gradient_and_its_absolute_gradient(backend):
    inputs = leaves(scene())
    image, alpha, meta = rasterize(*inputs, WIDTH, HEIGHT, sh_degree=3, packed=False, absgrad=True, backend=backend)
    meta["means2d"].retain_grad()
    weigh((image, alpha)).backward()
    gradient, absolute = meta["means2d"].grad, meta["means2d"].absgrad
    assert gradient.shape == absolute.shape == (2, len(inputs[0]), 2)
    assert (absolute >= gradient.abs() * (1 - 1e-4)).all() and (absolute.sum() > 1.2 * gradient.abs().sum())
    assert not absolute[meta["radii"] == 0].any()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_nothing_outlives_a_step(backend, packed):
    outputs = rasterize(*leaves(scene()), WIDTH, HEIGHT, sh_degree=3, packed=packed, absgrad=True, backend=backend)
    weigh(outputs).backward()
    means2d = weakref.ref(outputs[2]["means2d"])
    assert means2d().absgrad.any()
    del outputs
    gc.collect()
    assert means2d() is None


def test_absolute_gradients_of_both_backends_agree():
    found = []
    for backend, dtype in (("cpu", torch.float32), ("torch", torch.float64)):
        inputs = leaves(scene(), dtype)
        outputs = rasterize(*inputs, WIDTH, HEIGHT, sh_degree=3, packed=False, absgrad=True, backend=backend)
        weigh(outputs).backward()
        found.append(outputs[2]["means2d"].absgrad)
    assert relative(*found) <= 1e-3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("absgrad", [False, True])
def test_gsplats_densification_reads_the_meta(absgrad, packed):
    means, quats, scales, opacities, sh, views, Ks = scene(views=1)
    raw = {"means": means, "quats": quats, "scales": scales.log(), "opacities": opacities.logit(1e-3), "sh": sh}
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in raw.items()})
    optimizers = {name: torch.optim.Adam([value], lr=1e-3) for name, value in params.items()}
    strategy = DefaultStrategy(refine_start_iter=0, refine_every=2, grow_grad2d=1e-9, absgrad=absgrad)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    for step in (1, 2):
        outputs = rasterize(
            params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(),
            params["sh"], views, Ks, WIDTH, HEIGHT, sh_degree=3, absgrad=absgrad, packed=packed, backend="cpu")
        strategy.step_pre_backward(params, optimizers, state, step, outputs[2])
        weigh(outputs).backward()
        strategy.step_post_backward(params, optimizers, state, step, outputs[2], packed=packed)
    assert len(params["means"]) > len(means)


def test_without_a_compiler_torch_takes_over_with_one_warning(monkeypatch, tmp_path):
    expected = rasterize(*scene(), WIDTH, HEIGHT, sh_degree=3, backend="torch")[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.load.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="torch one") as caught:
            drawn = [rasterize(*scene(), WIDTH, HEIGHT, sh_degree=3)[0] for _ in range(2)]
        assert len([w for w in caught if "rasteriser" in str(w.message)]) == 1
        assert all(torch.equal(image, expected) for image in drawn)
        assert not list(tmp_path.rglob("*.so"))
    finally:
        build.load.cache_clear()


def test_compiler_errors_leave_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false --whatever")
    with pytest.raises(OSError, match="false failed"):
        (tmp_path / "kernel").mkdir()
        build._build(compiler.best_variant(), tmp_path / "kernel" / "splat-0.so")
    assert [path.name for path in (tmp_path / "kernel").iterdir()] == ["splat-0.lock"]


@pytest.mark.parametrize("extra", [[], ["-U__SSE2__", "-U__AVX__"]], ids=["plain x86", "no intrinsics, as on ARM"])
def test_builds_for_other_processors_draw_the_same(monkeypatch, tmp_path, extra):
    expected, base = everything(), compiler.variants()[-1]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "best_variant", lambda: [*base, *extra])
    build.load.cache_clear()
    try:
        measured = everything()
        assert len(list(tmp_path.rglob("*.so"))) == 1
    finally:
        build.load.cache_clear()
    assert_same_picture(measured[0][..., :3], expected[0][..., :3], clear(2500))
    assert all(relative(a, b) <= 1e-3 for a, b in zip(measured[1:], expected[1:]))


@pytest.mark.gpu
def test_gsplat_draws_the_same():
    found = []
    for device in ("cpu", "cuda"):
        inputs = leaves([t.to(device) for t in scene()])
        outputs = rasterize(*inputs, WIDTH, HEIGHT, sh_degree=3)
        weigh([output.cpu() for output in outputs[:2]]).backward()
        found.append([outputs[0].detach().cpu(), *(t.grad.cpu() for t in inputs[:5])])
    assert_same_picture(found[1][0], found[0][0], clear())
    assert all(relative(a, b) <= 1e-2 for a, b in zip(found[1][1:], found[0][1:]))
