"""open3d on bare systems: it links to libusb, which PyPI's `libusb-package` carries where the system has none."""

import contextlib
import ctypes
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

LIBUSB = "libusb-1.0.so.0"


def lend_libusb() -> None:
    """Put a link to the packaged libusb where open3d's loader looks first: beside its own libraries.

    With it `import open3d` works in every program of the environment, `ns-export` among them, without root. Does
    nothing where the system has the library, where open3d is not installed, or where its folder cannot be written.
    """
    with contextlib.suppress(OSError, ImportError, AttributeError):
        if sys.platform != "linux" or _system_has_it():
            return
        root = Path(next(iter(importlib.util.find_spec("open3d").submodule_search_locations)))
        package = Path(next(iter(importlib.util.find_spec("libusb_package").submodule_search_locations)))
        # Beside its package or one level down, by version: looking no deeper keeps every ns-* command's start short.
        for folder in {path.parent for pattern in ("pybind*.so", "*/pybind*.so") for path in root.glob(pattern)}:
            link = folder / LIBUSB
            if not link.exists():
                temporary = folder / f".{LIBUSB}-{os.getpid()}"
                temporary.symlink_to(os.path.relpath(package / "libusb-1.0.so", folder))
                os.replace(temporary, link)


def _system_has_it() -> bool:
    try:
        ctypes.CDLL(LIBUSB)
        return True
    except OSError:
        return False


def import_open3d() -> ModuleType:
    """Import open3d, lending it libusb where needed; also from folders that cannot be written."""
    if "open3d" not in sys.modules and not _system_has_it():
        import libusb_package

        ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
    import open3d

    return open3d
