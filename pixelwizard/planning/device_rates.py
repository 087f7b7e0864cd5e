"""Rates and memory of a device: measured by ``bench``, else published. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DeviceRates:
    """Rates of one device: TFLOP/s of bfloat16 kernels, TB/s of its memory, GB/s from the host.

    ``memory_gb`` (1e9 bytes; None: not known) is what it is sold with. GB/s in one direction:
    ``link_gbs`` to the other devices of a machine (None: as from the host), ``network_gbs`` to
    those of other machines.
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


MACHINE = 8
"""Devices of one machine."""
DEVICES = {
    "h200": DeviceRates("h200", 660, 590, 350, 3.3, 50, 141, 450, 50),
    "h100": DeviceRates("h100", 640, 570, 350, 2.6, 50, 80, 450, 50),
    "a100": DeviceRates("a100", 250, 215, 150, 1.5, 25, 80, 300, 25),
    "rtx5090": DeviceRates("rtx5090", 200, 200, 110, 1.5, 50, 32, 64),
    "rtx4090": DeviceRates("rtx4090", 150, 150, 80, 0.85, 25, 24, 32),
}
"""Expected, not measured here: published kernel rates (cuDNN attention, FlashAttention-2).

Links are what data sheets say, in one direction: NVLink 4 (900 GB/s both ways) of H200 and H100
SXM, NVLink 3 (600 GB/s) of A100 SXM, PCIe 5.0 and 4.0 x16 of the RTX cards. Networks: one
InfiniBand port of 400 Gbit/s per device in NVIDIA's DGX H200 and H100, of 200 Gbit/s in DGX A100;
elsewhere 100 Gbit/s are assumed.
"""


def stored() -> Path:
    """The file in which ``bench`` saves the rates of this machine's device."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pixelwizard" / "ceilings.json"


def find(device: str) -> DeviceRates:
    """The rates of a device by name; ``auto``: those measured on this machine, else an h200's."""
    if device != "auto":
        return DEVICES[device]
    try:
        return DeviceRates(**json.loads(stored().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return DEVICES["h200"]
