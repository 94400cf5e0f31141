"""Memory of a training step by category, counted tensor by tensor: on any device, and under fake tensors too.

A dispatch mode sees every tensor that an operation makes and is told when its storage is freed. So the count is exact
for tensors; what an operation needs inside itself (a library's workspace) is not seen. Under `FakeTensorMode` the same
operations run without their data, so the same bytes are counted and none is allocated.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# In the order in which tables and pictures show them.
CATEGORIES = ("parameters", "gradients", "optimizer", "average", "batch", "activations", "temporaries")
# What they are, for people.
MEANINGS = {
    "parameters": "weights and constants",
    "gradients": "one for each weight",
    "optimizer": "state of the optimizer, such as Adam's two moments",
    "average": "the moving average of the weights (EMA)",
    "batch": "inputs, targets and noise of one batch",
    "activations": "what the forward pass keeps for the backward pass",
    "temporaries": "what the backward pass and the optimizer make and free again",
}
# The CUDA caching allocator hands out multiples of this many bytes.
_CUDA_GRANULE = 512


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of live tensors by category while it is active, and keeps the moment of the peak.

    New tensors are activations while gradients are recorded (the forward pass, and its repetition under activation
    checkpointing), temporaries otherwise (the backward pass, the optimizer). What is known to be something else is
    labelled.

    Attributes:
        peak: category -> bytes at the moment when their sum was largest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
        self._now: Counter[str] = Counter()
        self._known: dict[int, tuple[str, int]] = {}  # address of a storage's owner -> category, bytes
        self._most = 0
        self._hooks: list[Any] = []

    def label(self, category: str, tensors: Iterable[Tensor]) -> None:
        """Say what tensors are: those that exist already, and those that were counted as something else."""
        for tensor in tensors:
            key = self._track(tensor, category)
            earlier, size = self._known[key]
            self._now[earlier] -= size
            self._now[category] += size
            self._known[key] = (category, size)
        self._compare()

    def watch(self, module: nn.Module, optimizer: torch.optim.Optimizer, average: Iterable[Tensor], batch: Any) -> None:
        """Label what a training step starts with, and each gradient as it arrives.

        Args:
            module: whose parameters are trained.
            optimizer: of these parameters, after its first step, so that its state is there.
            average: the tensors of the moving average of the module, if there is one.
            batch: any nest of tensors.
        """
        self.label("parameters", [*module.parameters(), *module.buffers()])
        self.label("average", average)
        self.label("optimizer", _tensors(list(optimizer.state.values())))
        self.label("batch", _tensors(batch))
        for parameter in module.parameters():
            self._label_gradient(parameter)
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._label_gradient))

    def _label_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.label("gradients", [parameter.grad])

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        category = "activations" if torch.is_grad_enabled() else "temporaries"
        for tensor in _tensors(result):
            self._track(tensor, category)
        self._compare()
        return result

    def _track(self, tensor: Tensor, category: str) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            size = _allocated(storage)
            self._known[key] = (category, size)
            self._now[category] += size
            weakref.finalize(storage, self._forget, key).atexit = False
        return key

    def _forget(self, key: int) -> None:
        category, size = self._known.pop(key)
        self._now[category] -= size

    def _compare(self) -> None:
        total = self._now.total()
        if total > self._most:
            self._most = total
            self.peak = {category: self._now[category] for category in CATEGORIES}


def _tensors(nest: Any) -> list[Tensor]:
    return [value for value in tree_iter(nest) if isinstance(value, Tensor)]


def _allocated(storage: torch.UntypedStorage) -> int:
    size: int = storage.nbytes()
    return -(-size // _CUDA_GRANULE) * _CUDA_GRANULE if storage.device.type == "cuda" else size
