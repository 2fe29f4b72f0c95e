"""Process-wide settings of a training run: matmul precision, current GPU, random state and malloc.

They are restored when the run ends.

**Matmul.** torch runs float32 matmuls through MKL, which uses kernels of half the AVX-512 width on AMD processors.
oneDNN, which torch uses for bfloat16, uses the full width: 2.2 times the speed on Zen 5. It adds the same terms in
another order, with two to three times the rounding error (docs/LAB.md).

**malloc.** A training step on a CPU allocates and frees the same tensors of a few MB again and again. By default glibc
maps new memory for each, and the kernel clears it page by page. This takes a sixth of a step.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

# mallopt(3): parameters and their default values.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_MMAP_MAX: 65_536, _TRIM_THRESHOLD: 128 * 1024}
_NEVER = 2**31 - 1


@contextlib.contextmanager
def training_settings(device: str, *, matmul_precision: str = "highest", fast: bool = True) -> Iterator[None]:
    """Context manager with the process settings of a training run on ``device``.

    Args:
        device: "cpu", "mps", "cuda" or "cuda:N"; a GPU becomes the current device.
        matmul_precision: float32 precision, for :func:`torch.set_float32_matmul_precision`.
        fast: on a CPU, keep freed memory, and run float32 matmuls at full width where that is as exact.
    """
    import torch

    on_cpu, on_gpu = device == "cpu" and fast, device.startswith("cuda")
    precision, random_state = torch.get_float32_matmul_precision(), torch.get_rng_state()
    gpu = torch.cuda.current_device() if on_gpu else 0
    try:
        torch.set_float32_matmul_precision(matmul_precision)
        if on_gpu:
            # Events are recorded on the current device. On another device they would not wait for copies from this one.
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
    """Context manager in which glibc's malloc keeps large freed blocks instead of returning them to the system.

    With another C library it does nothing.

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
    """Use oneDNN for float32 matmuls on the CPU if that is as exact and faster on this processor.

    torch passes float32 to oneDNN only if rounding to bfloat16 is allowed. Without matrix tiles (AMX) no kernel rounds,
    and matmuls stay in float32. This is checked once: if a matmul that rounding would change is not exact, rounding is
    not allowed.

    The choice depends on the processor alone, not on a measurement, so a run can be repeated bit for bit.
    :func:`torch.set_float32_matmul_precision` undoes it.

    Returns:
        Whether it took effect, for the whole process.
    """
    import torch

    if suits := _suits_this_processor():
        # Not oneDNN's own switch: where the two differ, torch.get_float32_matmul_precision() raises, and torch.compile
        # calls it when it tunes. On a GPU, which such a run does not use, this allows TF32.
        torch.set_float32_matmul_precision("medium")
    return suits


@contextlib.contextmanager
def wide_matmul() -> Iterator[None]:
    """Context manager in which float32 matmuls on the CPU run as :func:`use_wide_matmul` lets them."""
    import torch

    before = torch.get_float32_matmul_precision()
    use_wide_matmul()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _suits_this_processor() -> bool:
    import torch

    if not _half_the_width_is_idle():
        return False
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch sets it at run time
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

    # Rounded to bfloat16, 1 + 2^-12 becomes 1. All sums below are exact in float32.
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


def peak_memory() -> int:
    """Peak resident memory of this process, in bytes, mapped files included; 0 where it cannot be read."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
