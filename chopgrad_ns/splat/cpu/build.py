"""Compile the kernel once per machine, into the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

from chopgrad_ns.files import user_cache

SOURCE = Path(__file__).with_name("kernel.cpp")


def _has_avx2() -> bool:
    """Whether the processor has AVX2 and FMA; -march=native would bind the file to one model."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return False
    return {"avx2", "fma"} <= set(flags)


def _flags() -> list[str]:
    flags = ["-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno", "-fno-trapping-math",
             "-ffp-contract=fast"]
    if platform.machine() in ("x86_64", "AMD64") and _has_avx2():
        flags += ["-mavx2", "-mfma"]  # not -march=x86-64-v3, which compilers before GCC 11 do not know
    return flags


def _compile(compiler: list[str], flags: list[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [*compiler, *flags, str(SOURCE), "-o", str(built)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise OSError(result.stderr.strip()[-500:] or f"{compiler[0]} failed")
        os.replace(built, library)


def _build(library: Path) -> None:
    """Compile `library` unless another process has done so meanwhile."""
    import fcntl  # not on Windows, where torch takes over

    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    compiler = shlex.split(os.environ.get("CXX", "")) or ([found] if found else [])
    if not compiler:
        raise OSError("no C++ compiler was found")
    library.parent.mkdir(parents=True, exist_ok=True)
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _compile(compiler, _flags(), library)


@functools.lru_cache(maxsize=None)
def load() -> ctypes.CDLL | None:
    """The kernel, built where it is not in the cache yet; None, with a warning, where that fails."""
    recipe = " ".join([*_flags(), platform.machine()])
    key = hashlib.sha256(SOURCE.read_bytes() + recipe.encode()).hexdigest()[:16]
    library = user_cache() / "kernel" / f"splat-{key}.so"
    try:
        if not library.exists():
            _build(library)
        loaded = ctypes.CDLL(str(library))
    except (OSError, ImportError) as error:
        warnings.warn(f"The fast CPU rasteriser could not be built ({error}); the torch one, some thirty times "
                      "slower, takes over. Install a C++ compiler or set CXX, and let the cache folder "
                      "(XDG_CACHE_HOME) be writable.", RuntimeWarning, stacklevel=2)
        return None
    loaded.chopgrad_count_tiles.restype = ctypes.c_int64
    return loaded
