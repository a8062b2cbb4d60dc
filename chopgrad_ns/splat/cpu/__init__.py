"""The C++ kernel, built on first use and called through ctypes."""
