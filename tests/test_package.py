"""What gets installed: one top-level name, with the kernel's source and the data that it needs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Paths inside the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves a folder `build` behind, and would take deleted modules out of an old one.
    skipped = shutil.ignore_patterns(".*", "build", "dist", "outputs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=skipped)
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source"],
                   check=True, capture_output=True)
    wheel, = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_only_one_top_level_name(names):
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"chopgrad_ns"}


def test_every_module_and_the_kernel_are_in_it(names):
    installed = {str(path.relative_to(ROOT)) for path in (ROOT / "chopgrad_ns").rglob("*.py")}
    for room in ("sim", "assets"):
        installed |= {f"chopgrad_ns/{path.relative_to(ROOT)}" for path in (ROOT / room).rglob("*.py")}
    assert installed <= set(names), sorted(installed - set(names))
    assert "chopgrad_ns/splat/cpu/kernel.cpp" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
