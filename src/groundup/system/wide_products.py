"""Products of float32 matrices at the full width of an AMD processor.

torch multiplies float32 through MKL, which on a processor that is not Intel's takes kernels of half the width that
AVX-512 has. oneDNN, through which torch multiplies bfloat16, takes the full width: 2.2 times the speed on Zen 5, for
the same sums in another order, with two to three times the rounding error (docs/LAB.md).
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch


def use_wide_products() -> bool:
    """Let oneDNN multiply float32 on the CPU where that is as exact and certainly quicker.

    torch hands float32 to oneDNN only with the permission to round it to bfloat16. Without matrix tiles (AMX) there is
    no kernel that would: the products stay float32. That is not taken on trust; products that rounding would change
    are made once, and if one of them is not exact, the permission is not given.

    The choice depends on the processor alone and not on a clock, so that a run can be repeated bit for bit.
    :func:`torch.set_float32_matmul_precision` takes it back.

    Returns:
        Whether it took effect, for the whole process.
    """
    if suits := _suits_this_processor():
        # oneDNN's own switch would do, but torch.get_float32_matmul_precision(), which torch.compile asks when it
        # tunes, raises where the two differ. On a GPU, which such a run does not use, this allows TF32.
        torch.set_float32_matmul_precision("medium")
    return suits


@functools.cache
def _suits_this_processor() -> bool:
    if not _half_the_width_is_idle():
        return False
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        return _products_are_exact()
    finally:
        matmul.fp32_precision = before


def _half_the_width_is_idle() -> bool:
    return (
        hasattr(torch.backends.mkldnn, "matmul")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not torch.cpu._is_amx_tile_supported()
        and _vendor() == "AuthenticAMD"
    )


def _products_are_exact() -> bool:
    # 1 + 2^-12 would become 1; all sums below are exact in float32.
    for rows, inner, columns in ((8, 8, 8), (64, 128, 256), (300, 512, 1000), (2048, 256, 768)):
        a = torch.full((rows, inner), 1 + 2**-12)
        b = torch.ones(columns, inner)
        expected = inner + inner * 2**-12
        transposed = b.T.contiguous().T
        products = (a @ b.T, b @ a.T, a @ transposed.T, torch.bmm(a[None], b.T[None]))
        if not all(bool((product == expected).all()) for product in products):
            return False
    return True


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
