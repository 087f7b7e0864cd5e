"""A device that need not be there: what a computation needs of it, and how fast it computes.

The real modules run on the meta device, where tensors have shapes and no content, so a trace at
full size takes seconds and no memory. Tensors created while a trace is active count as device
memory, earlier ones as host memory. Fused attention is one operation, as on a GPU: its scores
never count as memory. Rates are those measured by ``bench``, else published ones.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from pixelwizard.config.geometry import Geometry
from pixelwizard.config.output import CODECS, VideoSettings
from pixelwizard.io.files import cache_folder, read_json
from pixelwizard.models.wan.kernels import Fused


@dataclass(frozen=True)
class DeviceRates:
    """Rates of one device: TFLOP/s of bfloat16 kernels, TB/s of its memory, GB/s from the host.

    ``memory_gb`` (1e9 bytes; None: not known) is what it is sold with. GB/s in one direction:
    ``link_gbs`` to the other devices of a machine (None: as from the host), ``network_gbs`` to
    those of other machines. ``processors``: the multiprocessors of a GPU (None: not known).
    ``reached``: the share of these rates that whole stages reach, by stage (1: not known).
    ``first_use``: seconds until a stage's kernels are there. ``loading_gbs``: weights from a file
    to the device. ``cores`` of the processor for each device, which encode videos.
    """

    name: str
    matmul: float
    attention: float
    conv: float
    memory_tbs: float
    host_gbs: float
    memory_gb: float | None = None
    link_gbs: float | None = None
    network_gbs: float = 12.5
    processors: int | None = None
    reached: Mapping[str, float] = field(default_factory=dict)
    first_use: float = 0.0
    loading_gbs: float = 3.0
    cores: int = 16

    def seconds(self, flops: Mapping[str, float], moved: float) -> float:
        """Time of operations by kind (matmul, attention, conv) and of ``moved`` bytes."""
        rates = {"matmul": self.matmul, "attention": self.attention, "conv": self.conv}
        computing = sum(count / (rates[kind] * 1e12) for kind, count in flops.items())
        return computing + moved / (self.memory_tbs * 1e12)

    def sending(self, sent: float, ranks: int) -> float:
        """Seconds for a rank to send bytes to others, all within ``ranks`` neighbours.

        A start-up time per message is not in it.
        """
        link = self.link_gbs or self.host_gbs
        return sent / (1e9 * (link if ranks <= MACHINE else self.network_gbs))

    def writing(self, settings: VideoSettings, clip: Geometry, ranks: int) -> float:
        """Seconds to encode a clip as a video file on the cores of the ``ranks`` of its machine."""
        megapixels = clip.frames * clip.width * clip.height / 1e6
        cores = self.cores * min(ranks, MACHINE)
        return megapixels * CODECS[settings.codec].seconds / cores


MACHINE = 8
"""Devices of one machine."""
FIRST_USE = 0.28
"""Of the 0.30 s that a text took on an H200 (docs/benchmarks.md) what was not its work."""
DEVICES = {
    "h200": DeviceRates("h200", 660, 590, 450, 3.3, 50, 141, 450, 50, 132, first_use=FIRST_USE),
    "h100": DeviceRates("h100", 640, 570, 450, 2.6, 50, 80, 450, 50, 132, first_use=FIRST_USE),
    "a100": DeviceRates("a100", 250, 215, 150, 1.5, 25, 80, 300, 25, 108, first_use=FIRST_USE),
    "rtx5090": DeviceRates(
        *("rtx5090", 200, 200, 110, 1.5, 50, 32, 64), processors=170, first_use=FIRST_USE
    ),
    "rtx4090": DeviceRates(
        *("rtx4090", 150, 150, 80, 0.85, 25, 24, 32), processors=128, first_use=FIRST_USE
    ),
}
"""Expected: published kernel rates (cuDNN attention, FlashAttention-2).

Of convolutions H200 and H100 have what the record of an H200's whole decode leaves for them.

Links are what data sheets say, in one direction: NVLink 4 (900 GB/s both ways) of H200 and H100
SXM, NVLink 3 (600 GB/s) of A100 SXM, PCIe 5.0 and 4.0 x16 of the RTX cards. Networks: one
InfiniBand port of 400 Gbit/s per device in NVIDIA's DGX H200 and H100, of 200 Gbit/s in DGX A100;
elsewhere 100 Gbit/s are assumed. Multiprocessors are those of the SXM and the desktop cards.
16 cores a device and 3 GB/s from a file (a drive, not the page cache) are assumed.
"""


def stored() -> Path:
    """The file in which ``bench`` saves the rates of this machine's device."""
    return cache_folder() / "ceilings.json"


def find(device: str) -> DeviceRates:
    """The rates of a device by name; ``auto``: those measured on this machine, else an h200's."""
    if device != "auto":
        return DEVICES[device]
    try:
        return DeviceRates(**read_json(stored()))
    except (OSError, ValueError, TypeError):
        return DEVICES["h200"]


META = torch.device("meta")
ALLOCATION = 512
"""Bytes that the CUDA allocator rounds every tensor up to."""
ROWS = {"index_select": 0, "index_copy_": 3}
"""Operations that read some rows and write as many: which argument has them (0: the result)."""


@register_flop_formula([torch.ops.aten._addmm_activation, torch.ops.mkldnn._linear_pointwise])
def _linear_flops(*shapes: Any, out_shape: Any = None, **others: Any) -> int:
    """(bias, x, weight) or (x, weight, bias): twice the outputs times the inner dimension."""
    inner = next(shape for shape in shapes if len(shape) > 1)[-1]
    return int(2 * math.prod(out_shape) * inner)


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
    operations read and write; ``on_host`` the most that was on the host at once.
    """

    def __init__(self, computing: bool = False) -> None:
        super().__init__()
        self.computing = computing
        self.live = self.peak = 0
        self.moved = self.on_host = self._host = 0
        self.flops: Counter[str] = Counter()
        self._sizes: dict[int, int] = {}
        self._within = False
        self._attention = nullcontext() if computing else _Attention(self)

    def __enter__(self) -> Trace:
        self._attention.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._attention.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = _result(func, args, kwargs or {})
        if self._within or func.is_view or func is torch.ops.aten._unsafe_view.default:
            return out
        outputs = _tensors(out if isinstance(out, (tuple, list)) else (out,))
        packet = func._overloadpacket
        if packet in flop_registry:
            kind = KINDS.get(packet.__name__, "matmul")
            self.flops[kind] += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        elif packet.__name__ in ROWS:
            place = ROWS[packet.__name__]
            self.moved += 2 * (args[place] if place else out).nbytes
        else:
            self.moved += sum(tensor.nbytes for tensor in [*_tensors(args), *outputs])
        for tensor in outputs:
            self.allocated(tensor)
        return out

    def fused(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Run a function that is one kernel: it moves its arguments and results, nothing else."""
        self._within = True
        try:
            out = function(*arguments)
        finally:
            self._within = False
        outputs = _tensors(out if isinstance(out, tuple) else (out,))
        self.moved += sum(tensor.nbytes for tensor in [*_tensors(arguments), *outputs])
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
        storage = tensor.untyped_storage()
        self._forget(storage._cdata)
        self._host += storage.nbytes()
        self.on_host = max(self.on_host, self._host)
        weakref.finalize(storage, self._leave_host, storage.nbytes())

    def allocated(self, tensor: Tensor) -> None:
        """Count a tensor's storage, if it is new, while it is alive."""
        if self.computing and tensor.is_meta:
            return
        opaque = tensor.is_mkldnn  # what oneDNN stores in its own order
        storage: Any = tensor if opaque else tensor.untyped_storage()
        number = storage._cdata
        if number in self._sizes:
            return
        size = -(-(tensor.nbytes if opaque else storage.nbytes()) // ALLOCATION) * ALLOCATION
        self._sizes[number] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, number)

    def _leave_host(self, size: int) -> None:
        self._host -= size

    def _forget(self, number: int) -> None:
        self.live -= self._sizes.pop(number, 0)


_shapes: dict[Any, tuple[torch.Size, tuple[int, ...], torch.dtype]] = {}
"""An operation and what its arguments are -> the result's shape, stride and type."""


def _result(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation; one on meta tensors is worked out once and then remembered.

    torch finds shapes in Python, which takes most of a trace, and a trace repeats itself.
    """
    if func.is_view:
        return func(*args, **kwargs)
    if func._schema.is_mutable:
        within = torch.Tag.pointwise in func.tags and func._schema.name.endswith("_")
        return args[0] if within and args[0].is_meta else func(*args, **kwargs)
    key = (func, _described(args), _described(kwargs.items()))
    if key in _shapes:
        shape, stride, dtype = _shapes[key]
        return torch.empty_strided(shape, stride, dtype=dtype, device=META)
    out = func(*args, **kwargs)
    given = map(_storage, _tensors(args))
    if isinstance(out, Tensor) and out.is_meta and _storage(out) not in given:
        _shapes[key] = out.shape, out.stride(), out.dtype
    return out


def _storage(tensor: Tensor) -> int:
    """The number of a tensor's memory, which views share."""
    return tensor.untyped_storage()._cdata


def _described(value: Any) -> Any:
    """All of an argument that the shape of a result depends on."""
    if isinstance(value, Tensor):
        return value.device, value.shape, value.stride(), value.dtype
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return type(value), value
    return tuple(map(_described, value))


def _tensors(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


class _Attention(TorchFunctionMode):
    """Replaces fused attention by its output and its count; counts fused functions as one."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, Fused):
            return self.trace.fused(func.function, args)
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, _ = args
        batch, heads, length, dim = query.shape
        self.trace.flops["attention"] += 4 * batch * heads * length * key.shape[2] * dim
        return torch.empty_like(query)
