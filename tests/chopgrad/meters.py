"""What a computation holds at once of activations."""

from collections import Counter

import torch


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
