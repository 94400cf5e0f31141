"""Memory of a training step by category, counted per tensor, on any device and under fake tensors.

A dispatch mode sees every tensor that an operation creates, and a finalizer tells when its storage is freed. The count
is exact for tensors but excludes an operation's internal workspace. Under `FakeTensorMode` the same operations run
without data, so the same bytes are counted and none is allocated.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

# What the categories mean, in the order in which tables and pictures show them.
MEANINGS = {
    "parameters": "weights and constants",
    "gradients": "one for each weight",
    "optimizer": "state of the optimizer, such as Adam's two moments",
    "average": "the moving average of the weights (EMA)",
    "batch": "inputs, targets and noise of one batch",
    "activations": "what the forward pass keeps for the backward pass",
    "temporaries": "what the backward pass and the optimizer make and free again",
}
CATEGORIES = tuple(MEANINGS)
# The CUDA caching allocator rounds allocations up to multiples of this many bytes.
_CUDA_GRANULE = 512
_counting = ContextVar("counting", default=True)


@contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing that is made inside: what stands for compiled code, whose inner tensors nobody sees."""
    token = _counting.set(False)
    try:
        yield
    finally:
        _counting.reset(token)


class MemoryTracker(TorchDispatchMode):
    """Context manager that counts the bytes of live tensors by category and records the peak.

    A new tensor is an activation while gradients are recorded (the forward pass, and its recomputation under activation
    checkpointing) and a temporary otherwise (the backward pass, the optimizer), unless `label` says what it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = dict.fromkeys(CATEGORIES, 0)  # category -> bytes at the moment of the largest total
        self._now: Counter[str] = Counter()
        self._known: dict[int, tuple[str, int]] = {}  # address of a storage's owner -> category, bytes
        self._most = 0
        self._hooks: list[Any] = []

    def label(self, category: str, tensors: Iterable[Tensor]) -> None:
        """Assign tensors to a category, whether they are new or were counted in another one."""
        for tensor in tensors:
            key = self._track(tensor, category)
            earlier, size = self._known[key]
            self._now[earlier] -= size
            self._now[category] += size
            self._known[key] = (category, size)
        self._compare()

    def watch(self, module: nn.Module, optimizer: torch.optim.Optimizer, average: Iterable[Tensor], batch: Any) -> None:
        """Label the tensors that exist before a training step, and each gradient when it is accumulated.

        The optimizer must have made a first step, which creates its state. `average` is empty without a moving average.
        """
        self.label("average", average)
        self.label("parameters", [*module.parameters(), *module.buffers()])  # with what the average shares with them
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
        """Stop counting and remove the gradient hooks."""
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its results."""
        result = func(*args, **(kwargs or {}))
        if not _counting.get():
            return result
        category = "activations" if torch.is_grad_enabled() else "temporaries"
        for tensor in _tensors(result):
            self._track(tensor, category)
        self._compare()
        return result

    def _track(self, tensor: Tensor, category: str) -> int:
        # Views share a storage and are counted once.
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            size = storage.nbytes()
            if storage.device.type == "cuda":
                size = -(-size // _CUDA_GRANULE) * _CUDA_GRANULE  # rounded up
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
    return [part for value in tree_iter(nest) if isinstance(value, Tensor) for part in _stored(value)]


def _stored(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold the numbers: a quantized one is a wrapper around codes and scales."""
    if not is_traceable_wrapper_subclass(tensor) or isinstance(tensor, FakeTensor | DTensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _stored(getattr(tensor, name))]
