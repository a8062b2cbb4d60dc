"""Shared fixtures. Real captures are looked for in ``$CHOPGRAD_DATA`` or ``../shared/data``."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

import torch  # noqa: E402


def pytest_collection_modifyitems(items):
    # The longest file first: where several run side by side, it must not begin last.
    items.sort(key=lambda item: item.path.name != "test_job.py")
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real captures; the test skips where there is none."""
    repository = Path(__file__).resolve().parents[1]
    root = Path(os.environ.get("CHOPGRAD_DATA", repository.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real captures not found at {root}; set CHOPGRAD_DATA")
    return root


def forget_networks():
    from chopgrad_ns.losses import dists, lpips, perceptual, vgg_gram

    for network in (dists, lpips, perceptual, vgg_gram):
        network.cache_clear()


@pytest.fixture
def empty_hub(tmp_path, monkeypatch):
    """torch.hub's folder of weights, empty, and no way out: as on a machine without internet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    forget_networks()
    yield tmp_path / "hub" / "checkpoints"
    forget_networks()
