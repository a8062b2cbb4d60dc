"""What nerfstudio 1.1.5 needs to work beside current libraries, without root and without unsafe loading."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from chopgrad_ns.files import user_cache


def offer_bundled_ffmpeg() -> None:
    """Put imageio-ffmpeg's program on PATH as `ffmpeg` where there is none: `ns-render` insists on that name."""
    if shutil.which("ffmpeg") is not None:
        return
    try:
        import imageio_ffmpeg

        folder = user_cache() / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / "ffmpeg"
        program = imageio_ffmpeg.get_ffmpeg_exe()
        if not link.exists() or os.path.realpath(link) != os.path.realpath(program):
            temporary = folder / f".ffmpeg-{os.getpid()}"
            temporary.symlink_to(program)
            os.replace(temporary, link)
        os.environ["PATH"] = os.environ.get("PATH", "") + os.pathsep + str(folder)
    except (ImportError, OSError, RuntimeError):
        pass  # this module is imported by every ns-* command, most of which never write a video


def plain(state: Any) -> Any:
    """A copy of a checkpoint with numpy scalars as Python numbers.

    torch ≥ 2.6 loads weights only (nothing is unpickled) and refuses numpy scalars, which nerfstudio's learning-rate
    schedulers leave in optimizer states (nerfstudio #3683). A checkpoint without them loads everywhere, safely.
    """
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(plain(value) for value in state)
    return state.item() if isinstance(state, np.generic) else state


@contextlib.contextmanager
def no_perceptual_download(replacement: torch.nn.Module) -> Iterator[None]:
    """Let a nerfstudio model be built with `replacement` where it would construct torchmetrics' LPIPS.

    That class downloads AlexNet when constructed, so a machine without internet could not even load a checkpoint.
    """
    import torchmetrics.image.lpip as module

    original = module.LearnedPerceptualImagePatchSimilarity
    module.LearnedPerceptualImagePatchSimilarity = lambda *args, **kwargs: replacement
    try:
        yield
    finally:
        module.LearnedPerceptualImagePatchSimilarity = original
