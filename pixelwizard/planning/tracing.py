"""The cost of a computation without running it: live bytes, moved bytes, floating-point operations.

The real modules run on the meta device, where tensors have shapes and no content, so a trace at
full size takes seconds and no memory. Tensors created while a trace is active count as device
memory, earlier ones as host memory. Fused attention is one operation, as on a GPU: its scores
never count as memory.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

META = torch.device("meta")
ALLOCATION = 512
"""Bytes that the CUDA allocator rounds every tensor up to."""
KINDS = {"addmm": "matmul", "mm": "matmul", "bmm": "matmul", "convolution": "conv"}


@dataclass(frozen=True)
class Work:
    """Operations by kind, bytes moved on the device, bytes sent to other ranks."""

    flops: Counter[str] = field(default_factory=Counter)
    moved: int = 0
    sent: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.moved + other.moved, self.sent + other.sent)

    def __sub__(self, other: Work) -> Work:
        return Work(self.flops - other.flops, self.moved - other.moved, self.sent - other.sent)

    def __rmul__(self, times: float) -> Work:
        flops = Counter({kind: int(times * count) for kind, count in self.flops.items()})
        return Work(flops, int(times * self.moved), int(times * self.sent))


class Trace(TorchDispatchMode):
    """A context in which every operation on meta tensors is counted.

    ``computing``: the tensors are real ones, and attention is computed too. ``peak`` and ``live``
    are bytes; ``flops`` by kind (matmul, conv, attention); ``moved`` are the bytes that the other
    operations read and write.
    """

    def __init__(self, computing: bool = False) -> None:
        super().__init__()
        self.computing = computing
        self.live = self.peak = 0
        self.moved = 0
        self.flops: Counter[str] = Counter()
        self._sizes: dict[int, int] = {}
        self._attention = nullcontext() if computing else _Attention(self)

    def __enter__(self) -> Trace:
        self._attention.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._attention.__exit__(*error)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        outputs = _tensors(out if isinstance(out, (tuple, list)) else (out,))
        packet = func._overloadpacket
        if packet in flop_registry:
            kind = KINDS.get(packet.__name__, "matmul")
            self.flops[kind] += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        else:
            self.moved += sum(tensor.nbytes for tensor in [*_tensors(args), *outputs])
        for tensor in outputs:
            self.allocated(tensor)
        return out

    @property
    def work(self) -> Work:
        """The cost counted so far."""
        return Work(Counter(self.flops), self.moved)

    def restart_peak(self) -> None:
        """Restart the peak from the bytes that are live now."""
        self.peak = self.live

    def expect(self, extra: int) -> None:
        """Repeat something traced before that needs ``extra`` bytes."""
        self.peak = max(self.peak, self.live + extra)

    def move_to_host(self, tensor: Tensor) -> None:
        """No longer count this tensor as device memory."""
        self._forget(tensor.untyped_storage()._cdata)

    def allocated(self, tensor: Tensor) -> None:
        """Count a tensor's storage, if it is new, while it is alive."""
        if self.computing and tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        number = storage._cdata
        if number in self._sizes:
            return
        size = -(-storage.nbytes() // ALLOCATION) * ALLOCATION
        self._sizes[number] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, number)

    def _forget(self, number: int) -> None:
        self.live -= self._sizes.pop(number, 0)


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


class _Attention(TorchFunctionMode):
    """Replaces fused attention by its output and its count."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, _ = args
        batch, heads, length, dim = query.shape
        self.trace.flops["attention"] += 4 * batch * heads * length * key.shape[2] * dim
        return torch.empty_like(query)
