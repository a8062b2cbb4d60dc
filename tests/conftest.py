"""Shared fixtures. Real captures are looked for in ``$CHOPGRAD_DATA`` or ``../shared/data``."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

import torch  # noqa: E402


def pytest_collection_modifyitems(items):
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
