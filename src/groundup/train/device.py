"""Device of a run: its choice and settings, name, matmul throughput and memory."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from contextlib import AbstractContextManager
from typing import Literal

import torch

from groundup.account.account import Device
from groundup.account.hardware import cpu_name, peak_flops
from groundup.config import TrainConfig
from groundup.errors import ConfigError
from groundup.system.process import training_settings

MFU_CONVENTION = "2mnp FLOPs a matmul, attention in full, backward twice the forward"
"""What MFU counts (:mod:`groundup.account.flops`); other projects halve attention for the causal mask, or leave it
out."""


def choose_device(name: str) -> str:
    """Resolve "auto" to the best device; check other names.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
            raise RuntimeError("expected auto, cpu, cuda, cuda:N or mps")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return name


def choose_precision(name: Literal["fp32", "bf16", "auto"], device: str) -> Literal["fp32", "bf16"]:
    """Resolve "auto" to bf16 where the device has instructions for it, to fp32 elsewhere; keep other names."""
    if name != "auto":
        return name
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device != "cpu":
        return "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def process_settings(config: TrainConfig, device: str) -> AbstractContextManager[None]:
    """Settings of the process that a run on this device wants; they are restored afterwards."""
    return training_settings(device, matmul_precision=config.matmul_precision, fast=config.kernels == "fast")


def device_name(device: str) -> str:
    """Return the accelerator's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu_name()


def multiplied_in(config: TrainConfig, device: str) -> str:
    """The precision in which a run's matrices are multiplied: its own, or TF32 for float32 on a card that may."""
    tensor_cores = config.precision == "fp32" and config.matmul_precision == "high" and device.startswith("cuda")
    return "tf32" if tensor_cores else config.precision


def known_peak(config: TrainConfig, device: str) -> float | None:
    """FLOP/s to measure MFU by: train.peak_tflops, or the data sheet's; None where neither is there."""
    if config.peak_tflops:
        return config.peak_tflops * 1e12
    return peak_flops(device_name(device), multiplied_in(config, device))


def measure_matmul_flops(
    device: str = "cpu", precision: str = "fp32", *, threads: int | None = None, size: int = 0, rounds: int = 7
) -> float:
    """Measure the FLOP/s of one square matmul, the median of a few rounds: the machine's peak.

    Args:
        precision: "fp32", "bf16" or "fp16"; "tf32" is float32, as torch is set to multiply it.
        threads: of the CPU; torch's number by default.
        size: rows and columns; 0 takes one that keeps the device busy for some milliseconds.
    """
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    size = size or (1024 if device == "cpu" else 8192)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        # A separate generator: measuring must not advance the caller's random numbers.
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
        out = torch.empty_like(a)
        times = []
        for _ in range(rounds + 2):  # the first two allocate, choose a kernel and wake the threads
            synchronize(device)
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            synchronize(device)
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / statistics.median(times[2:])


def peak_memory(device: str) -> int:
    """Most bytes held so far: by tensors on a CUDA device, or by the whole process on any other."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def total_memory(device: str) -> int:
    """Bytes of memory of the CUDA device, or of the machine."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def measured_cpu(config: TrainConfig) -> Device:
    """Return this machine's processor, for an account: its matmul throughput, measured now, and its memory."""
    precision = choose_precision(config.precision, "cpu")
    with process_settings(config, "cpu"):
        flops = measure_matmul_flops("cpu", precision)
    threads = torch.get_num_threads()
    how = f"measured now on {threads} thread{'s' if threads > 1 else ''}"
    return Device("cpu", "cpu", precision, flops, float(total_memory("cpu")), how, measured=True)
