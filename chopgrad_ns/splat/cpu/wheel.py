"""setuptools commands that put compiled kernels into wheels. Named in pyproject.toml; not imported at run time."""

import importlib.util
import os
from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

# By path: the packages above import torch, which is not there while a wheel is being built.
_spec = importlib.util.spec_from_file_location("kernel_compiler", Path(__file__).with_name("compiler.py"))
compiler = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(compiler)

STATIC = ["-static-libstdc++", "-static-libgcc"]
"""The wheel's kernels ask nothing of the machine but its C library."""


class BuildKernel(build_py):
    """Adds the kernel, in all variants for this kind of machine. Without a compiler it is built on first use."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # a checkout's kernel changes; it is built on first use
        folder = Path(self.build_lib, "chopgrad_ns", "splat", "cpu", "prebuilt")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            command = compiler.find_compiler()
            for flags in compiler.variants():
                compiler.compile_kernel(command, [*flags, *STATIC], folder / compiler.library_name(flags))
        except OSError as error:
            self.warn(f"this wheel has no compiled rasteriser and will build it on first use: {error}")


class KernelWheel(bdist_wheel):
    """A wheel for one kind of machine and any Python 3: the kernel is not linked against it."""

    def finalize_options(self) -> None:
        # setuptools decides by this what is bound to a platform, and where its files go.
        self.distribution.has_ext_modules = lambda: os.name == "posix"
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        return tag if self.root_is_pure else ("py3", "none", tag[2])
