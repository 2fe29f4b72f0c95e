"""Peak matrix throughput of known devices."""

import platform
import re
from pathlib import Path

# Dense bfloat16 peak without sparsity, FLOP/s, from the vendors' data sheets, by the whole name that the driver gives.
_BF16_PEAKS = {
    r"NVIDIA B200": 2250e12,
    r"NVIDIA H200": 989.5e12,
    r"NVIDIA GH200 (480GB|144G HBM3e)": 989.5e12,
    r"NVIDIA H100 (80GB HBM3|SXM5.*)": 989.5e12,
    r"NVIDIA H100 PCIe": 756e12,
    r"NVIDIA H100 NVL": 835e12,
    r"NVIDIA A100[- ].*|A100-.*": 312e12,
    r"NVIDIA L40S": 362e12,
    r"NVIDIA L4": 121e12,
    r"NVIDIA GeForce RTX 4090": 165.2e12,
    r"NVIDIA GeForce RTX 3090": 71e12,
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Dense matrix FLOP/s of a device at "bf16", or None where it is not known; a wrong MFU is worse than none."""
    if precision != "bf16" or "MIG" in device_name:
        return None
    return next((peak for name, peak in _BF16_PEAKS.items() if re.fullmatch(name, device_name)), None)


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
