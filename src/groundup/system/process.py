"""Process-wide settings of a training run: matmul precision, the current GPU, random state and malloc. Restored when
it ends.

**Matmul.** torch multiplies float32 through MKL, which on an AMD processor takes kernels of half the width of AVX-512.
oneDNN, through which torch multiplies bfloat16, takes the full width: 2.2 times the speed on Zen 5, for the same sums
in another order, with two to three times the rounding error (docs/LAB.md).

**malloc.** A training step on a CPU allocates and frees the same tensors of some megabytes over and over. By default
glibc maps each anew, and the kernel clears it page by page: a sixth of a step.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
from collections.abc import Iterator
from pathlib import Path

# mallopt(3): parameters, and their values by default.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 128 * 1024}
_NEVER = 2**31 - 1


@contextlib.contextmanager
def training_settings(device: str, *, matmul_precision: str = "highest", fast: bool = True) -> Iterator[None]:
    """Within the block, the process multiplies and allocates as a training run on ``device`` wants it.

    Args:
        device: "cpu", "mps", "cuda" or "cuda:N"; a GPU becomes the current one.
        matmul_precision: of float32, as :func:`torch.set_float32_matmul_precision` takes it.
        fast: on a CPU, keep freed memory and multiply float32 at full width where that is as exact.
    """
    import torch

    on_cpu, on_gpu = device == "cpu" and fast, device.startswith("cuda")
    precision, random_state = torch.get_float32_matmul_precision(), torch.get_rng_state()
    gpu = torch.cuda.current_device() if on_gpu else 0
    try:
        torch.set_float32_matmul_precision(matmul_precision)
        if on_gpu:
            # Events are recorded on the current device. On another one they would say that copies from this one are
            # done.
            torch.cuda.set_device(device)
        if on_cpu:
            use_wide_matmul()
        with keep_freed_memory() if on_cpu else contextlib.nullcontext():
            yield
    finally:
        torch.set_rng_state(random_state)
        torch.set_float32_matmul_precision(precision)
        if on_gpu:
            torch.cuda.set_device(gpu)


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Within the block, glibc's malloc keeps large blocks that are freed instead of returning them to the system.

    Where the C library is another one, nothing happens.

    Yields:
        Whether it took effect.
    """
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    if libc is None:
        yield False
        return
    took_effect = bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, _NEVER))
    try:
        yield took_effect
    finally:
        for parameter, value in _DEFAULTS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


def use_wide_matmul() -> bool:
    """Let oneDNN multiply float32 on the CPU where that is as exact and certainly faster.

    torch hands float32 to oneDNN only with the permission to round it to bfloat16. Without matrix tiles (AMX) no
    kernel does so, and matmuls stay float32. This is checked once: if a matmul that rounding would change is not
    exact, the permission is not given.

    The choice depends on the processor alone and not on a measurement, so that a run can be repeated bit for bit.
    :func:`torch.set_float32_matmul_precision` takes it back.

    Returns:
        Whether it took effect, for the whole process.
    """
    import torch

    if suits := _suits_this_processor():
        # oneDNN's own switch would do, but torch.get_float32_matmul_precision(), which torch.compile asks when it
        # tunes, raises where the two differ. On a GPU, which such a run does not use, this allows TF32.
        torch.set_float32_matmul_precision("medium")
    return suits


@functools.cache
def _suits_this_processor() -> bool:
    import torch

    if not _half_the_width_is_idle():
        return False
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = "bf16"
    try:
        return _matmuls_are_exact()
    finally:
        matmul.fp32_precision = before


def _half_the_width_is_idle() -> bool:
    import torch

    return (
        hasattr(torch.backends.mkldnn, "matmul")
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and not torch.cpu._is_amx_tile_supported()
        and _vendor() == "AuthenticAMD"
    )


def _matmuls_are_exact() -> bool:
    import torch

    # 1 + 2^-12 would become 1; all sums below are exact in float32.
    for rows, inner, columns in ((8, 8, 8), (64, 128, 256), (300, 512, 1000), (2048, 256, 768)):
        a = torch.full((rows, inner), 1 + 2**-12)
        b = torch.ones(columns, inner)
        expected = inner + inner * 2**-12
        transposed = b.T.contiguous().T
        found = (a @ b.T, b @ a.T, a @ transposed.T, torch.bmm(a[None], b.T[None]))
        if not all(bool((each == expected).all()) for each in found):
            return False
    return True


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
