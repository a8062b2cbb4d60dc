"""Compile the kernel once per machine, into the user's cache."""

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from chopgrad_ns.files import user_cache

SOURCE = Path(__file__).with_name("kernel.cpp")
ABI = 1
"""Must equal `chopgrad_abi()` of the source."""


def _has_x86_64_v3() -> bool:
    """Whether the processor has AVX2, FMA and their companions; -march=native would bind the file to one model."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return False
    return {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"} <= set(flags)


def _flags() -> list[str]:
    flags = ["-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-ffp-contract=fast"]
    if platform.machine() in ("x86_64", "AMD64") and _has_x86_64_v3():
        flags.append("-march=x86-64-v3")
    return flags


def _compile(compiler: str, flags: list[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        result = subprocess.run([compiler, *flags, str(SOURCE), "-o", str(built)], capture_output=True, text=True)
        if result.returncode:
            raise OSError(result.stderr.strip()[-500:] or f"{compiler} failed")
        os.replace(built, library)


@functools.lru_cache(maxsize=None)
def load() -> ctypes.CDLL | None:
    """The kernel, or None (with one warning) where it can be neither found nor built."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    flags = _flags()
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join([*flags, platform.machine()]).encode()).hexdigest()[:16]
    library = user_cache() / "kernel" / f"splat-{key}.so"
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        if not library.exists():
            if compiler is None:
                raise OSError("no C++ compiler was found")
            with open(library.with_suffix(".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may start at once
                if not library.exists():
                    _compile(compiler, flags, library)
        loaded = ctypes.CDLL(str(library))
        if loaded.chopgrad_abi() != ABI:
            raise OSError(f"{library} has another interface")
    except OSError as error:
        warnings.warn(f"The fast CPU rasteriser could not be built ({error}); the torch one, about ten times slower, takes "
                      "over. Install a C++ compiler or set CXX.", RuntimeWarning, stacklevel=2)
        return None
    loaded.chopgrad_count_tiles.restype = ctypes.c_int64
    return loaded
