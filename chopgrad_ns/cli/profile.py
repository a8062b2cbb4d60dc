"""Measure gradients through a causal video decoder: memory and time of each way, errors of truncation, locality.

Example: chopgrad profile --decoder wan2.1 --base-dim 16 --height 64 --width 128 --frames 9 17 33 --output profile
"""

import math
from pathlib import Path
from typing import Optional


def run(output: Path, decoder: str = "wan2.1", height: int = 480, width: int = 832, frames: tuple[int, ...] = (17, 33, 49),
        base_dim: Optional[int] = None, dtype: str = "float32", device: Optional[str] = None, methods: tuple[str, ...] = (),
        repeats: int = 3, train_decoder: bool = False, limit_gb: float = math.inf, time_limit: float = math.inf,
        latents: Optional[Path] = None, locality_frames: Optional[int] = None, skip: tuple[str, ...] = ()) -> None:
    """Measure, and write profile.json, profile.md and plots.

    Args:
        output: folder to write; profile.json is whole after every number of frames, so that a run can be stopped
        decoder: wan2.1, wan2.2, cogvideox or mochi with random weights, or a local folder with a diffusers autoencoder
        height: of frames, pixels
        width: of frames, pixels
        frames: numbers of frames; of each, the shortest clip that has as many
        base_dim: channels of a random decoder's first level; as published if not given
        dtype: float32, float64 or bfloat16
        device: cpu or cuda; cuda if there is one
        methods: ways to the gradient whose memory and time are measured, by name; all if not given
        repeats: runs whose median time is reported, the ways taking turns; the first of each way is not among them
        train_decoder: make gradients of decoder parameters too when memory and time are measured
        limit_gb: a way that takes more memory (GiB) is not tried at more frames
        time_limit: seconds after which no measurement of memory and time is begun
        latents: .pth or .safetensors with one tensor [1, C, T, h, w] in the decoder's space; random if not given
        locality_frames: frames of the clip on which errors and influence are measured; the fewest of --frames if not given
        skip: parts to leave out: cost, error, influence
    """
    from chopgrad_ns.chopgrad.profile import ProfileSettings, run_profile

    settings = ProfileSettings(decoder, height, width, frames, base_dim, dtype, device, methods, repeats, train_decoder,
                               limit_gb, time_limit, latents, locality_frames, skip)
    run_profile(settings, output)
    print(f"Profile in {output}: profile.md, profile.json and plots")
