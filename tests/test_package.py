"""What gets installed: one top-level name, with the kernel's source and the data that it needs."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from chopgrad_ns.splat.cpu import compiler

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: setuptools leaves a folder `build` behind, and would take deleted modules out of an old one.
    skipped = shutil.ignore_patterns(".*", "build", "dist", "outputs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=skipped)
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder / "source"],
                   check=True, capture_output=True)
    made, = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel):
    """Paths inside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_only_one_top_level_name(names):
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"chopgrad_ns"}


def test_every_module_and_the_kernel_are_in_it(names):
    installed = {str(path.relative_to(ROOT)) for path in (ROOT / "chopgrad_ns").rglob("*.py")}
    for room in ("sim", "assets"):
        installed |= {f"chopgrad_ns/{path.relative_to(ROOT)}" for path in (ROOT / room).rglob("*.py")}
    assert installed <= set(names), sorted(installed - set(names))
    assert {f"chopgrad_ns/splat/cpu/{path.name}" for path in compiler.sources()} <= set(names)
    page = {path.relative_to(ROOT).as_posix() for path in (ROOT / "chopgrad_ns/evaluate/page/static").iterdir()}
    assert page <= set(names) and len(page) > 5
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_weights_that_are_shipped_are_in_it(names):
    shipped = {f"chopgrad_ns/{path.relative_to(ROOT)}" for path in (ROOT / "assets" / "tiny").rglob("*") if path.is_file()}
    assert {f"chopgrad_ns/assets/tiny/artifact-removal/{name}" for name in ("config.json", "model.safetensors")} <= shipped
    assert "chopgrad_ns/assets/tiny/README.md" in shipped and shipped <= set(names)
    assert sum(path.stat().st_size for path in (ROOT / "assets" / "tiny").rglob("*") if path.is_file()) <= 12e6


def test_it_carries_a_kernel_that_needs_no_compiler(wheel, names, tmp_path):
    expected = {f"chopgrad_ns/splat/cpu/prebuilt/{compiler.library_name(flags)}" for flags in compiler.variants()}
    assert {name for name in names if name.endswith(".so")} == expected
    assert wheel.name.endswith(f"-py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = ("import warnings; warnings.simplefilter('error')\nfrom chopgrad_ns.splat.cpu import build\n"
               "print(build.__file__, build.load()._name)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "CXX": "no-such-compiler",
                   "XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True,
                            capture_output=True, text=True)
    module, library = (Path(path) for path in result.stdout.split())
    assert module.is_relative_to(tmp_path / "site") and library.parent == module.parent / "prebuilt"
    assert not (tmp_path / "cache").exists()
