"""Peak matrix throughput of known devices."""

# Dense bfloat16 peak without sparsity, FLOP/s, from the vendors' data sheets. The longer name stands first where
# one contains the other.
_BF16_PEAKS = {
    "B200": 2250e12,
    "H200": 989.5e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989.5e12,
    "GH200": 989.5e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71e12,
}


def peak_flops(device_name: str, precision: str) -> float | None:
    """Dense matrix FLOP/s of a device at "bf16", or None where it is not known; a wrong MFU is worse than none."""
    if precision != "bf16":
        return None
    return next((peak for name, peak in _BF16_PEAKS.items() if name in device_name), None)
