"""The C++ kernel, loaded with ctypes; built on first use where the wheel does not carry it."""
