"""open3d on bare systems."""

import ctypes
import sys
from types import ModuleType


def import_open3d() -> ModuleType:
    """Import open3d, lending it the libusb that it links to where the system has none (no root needed)."""
    if "open3d" not in sys.modules:
        try:
            ctypes.CDLL("libusb-1.0.so.0")
        except OSError:
            import libusb_package

            ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
    import open3d

    return open3d
