"""Find the kernel that a wheel brought, or compile it once per machine into the user's cache."""

import ctypes
import functools
import warnings
from pathlib import Path

from chopgrad_ns.files import one_at_a_time, user_cache
from chopgrad_ns.splat.cpu import compiler


def _build(flags: list[str], library: Path) -> None:
    """Compile `library` unless another process has done so meanwhile."""
    command = compiler.find_compiler()
    with one_at_a_time(library):
        if not library.exists():
            compiler.compile_kernel(command, flags, library)


def _open() -> ctypes.CDLL:
    flags = compiler.best_variant()
    name = compiler.library_name(flags)
    prebuilt = compiler.PREBUILT / name
    if prebuilt.exists():
        try:
            return ctypes.CDLL(str(prebuilt))
        except OSError:
            pass  # made for a newer C library than this machine's: one of its own will do
    library = user_cache() / "kernel" / name
    if not library.exists():
        _build(flags, library)
    return ctypes.CDLL(str(library))


@functools.lru_cache(maxsize=None)
def load() -> ctypes.CDLL | None:
    """The kernel, built where there is none yet; None, with a warning, where that fails."""
    try:
        loaded = _open()
    except (OSError, ImportError) as error:
        warnings.warn(f"The fast CPU rasteriser could not be built ({error}); the torch one, some eighty times "
                      "slower, takes over. Install a C++ compiler or set CXX, and let the cache folder "
                      "(XDG_CACHE_HOME) be writable.", RuntimeWarning, stacklevel=2)
        return None
    loaded.chopgrad_sort.restype = ctypes.c_int64
    return loaded
