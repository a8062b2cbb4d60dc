"""The memory that a computation takes, by the allocator's account."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable

import torch


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `function()` has allocated on a device at once, beyond what was allocated before.

    On CUDA the caching allocator's own peak, on the CPU the sum over the profiler's record of allocations; both
    count temporaries and the work space of operations. Elsewhere (MPS, XPU) there is no such account.

    Raises:
        ValueError: for a device that is neither CUDA nor the CPU.
    """
    gc.collect()  # garbage that is freed meanwhile would count as memory given back
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if device.type != "cpu":
        raise ValueError(f"memory cannot be measured on {device}; only on CUDA devices and the CPU")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler reports each start on stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
