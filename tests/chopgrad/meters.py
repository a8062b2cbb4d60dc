"""What a computation holds at once: activations saved for backward, and all that is allocated."""

import gc
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile


class SavedBytes:
    """Bytes that graphs keep for their backward, each memory counted once: now, and at most."""

    def __init__(self):
        self.now = self.peak = 0
        self.held = Counter()

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Held(self, tensor), lambda held: held.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        return self.hooks.__exit__(*error)

    def add(self, memory: tuple[int, int], sign: int):
        before = self.held[memory] > 0
        self.held[memory] += sign
        self.now += (int(self.held[memory] > 0) - int(before)) * memory[1]
        self.peak = max(self.peak, self.now)


class _Held:
    """A saved tensor; gone when its graph is."""

    def __init__(self, saved: SavedBytes, tensor: torch.Tensor):
        self.saved, self.tensor = saved, tensor.detach()  # a node that held its own output would never be freed
        storage = tensor.untyped_storage()
        self.memory = (storage.data_ptr(), 0 if isinstance(tensor, torch.nn.Parameter) else storage.nbytes())
        saved.add(self.memory, 1)

    def __del__(self):
        self.saved.add(self.memory, -1)


def allocated_peak(function) -> int:
    """The most bytes that `function` has allocated at once on the CPU, by the allocator's own account."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
