"""Compiling the kernel. Standard library only: wheels are built with it before anything else is installed."""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PREBUILT = HERE / "prebuilt"
"""Where a wheel carries its kernels; not there in a checkout."""


def sources() -> list[Path]:
    """The kernel's files, kernel.cpp among them."""
    return sorted(path for path in HERE.iterdir() if path.suffix in (".cpp", ".h"))


def variants() -> list[list[str]]:
    """Flags of each build for this kind of machine, the fastest first; -march=native would bind it to one model."""
    base = ["-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math",
            "-ffp-contract=fast", "-Wno-psabi"]
    if platform.machine() in ("x86_64", "AMD64"):
        # x86-64-v3, spelled out because compilers before GCC 11 do not know it by that name.
        return [[*base, "-mavx2", "-mfma", "-mbmi", "-mbmi2"], base]
    return [base]


def best_variant() -> list[str]:
    """Flags of the fastest build that this processor runs."""
    return variants()[0] if has_v3() else variants()[-1]


def has_v3() -> bool:
    """Whether the processor has what x86-64-v3 adds and the kernel uses."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return False
    return {"avx2", "fma", "bmi1", "bmi2"} <= set(flags)


def library_name(flags: list[str]) -> str:
    """File name of a build: another for other sources, flags or kinds of machine."""
    digest = hashlib.sha256(" ".join([*flags, platform.machine()]).encode())
    for path in sources():
        digest.update(path.read_bytes())
    return f"splat-{digest.hexdigest()[:16]}.so"


def find_compiler() -> list[str]:
    """$CXX or the first compiler on the path, as a command. Raises OSError where there is none."""
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    compiler = shlex.split(os.environ.get("CXX", "")) or ([found] if found else [])
    if not compiler:
        raise OSError("no C++ compiler was found")
    return compiler


def compile_kernel(compiler: list[str], flags: list[str], library: Path) -> None:
    """Write `library`, all at once. Raises OSError with what the compiler said where it fails."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [*compiler, *flags, str(HERE / "kernel.cpp"), "-o", str(built)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise OSError(result.stderr.strip()[-500:] or f"{compiler[0]} failed")
        os.replace(built, library)
