"""Data sheets of accelerators: peak matmul throughput by precision, memory and its bandwidth."""

from __future__ import annotations

import difflib
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from groundup.errors import ConfigError

Precision = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class Card:
    """Data sheet of one card. Peaks are dense: sheets that state them "with sparsity" state twice as much."""

    key: str
    """Short name."""
    name: str
    """Regular expression that matches the driver's whole name."""
    fp32: float | None
    """TFLOP/s without tensor cores: float32 matmuls unless TF32 is allowed."""
    tf32: float | None
    """TFLOP/s of float32 matmuls rounded to 10 bits of mantissa."""
    bf16: float | None
    """TFLOP/s with float32 accumulation; fp16 is as fast on cards that have it."""
    memory: float | tuple[float, ...]
    """GB; several values where one name is sold in several sizes."""
    bandwidth: float
    """GB/s of the card's memory; the slowest where one name is sold in several forms."""
    source: str
    fp16: float | None = None
    """TFLOP/s where there is fp16 but no bf16."""


_V100, _T4 = "NVIDIA V100 data sheet, 2020", "NVIDIA T4 data sheet, 2019"
_A100, _A30 = "NVIDIA A100 data sheet, 2022", "NVIDIA A30 data sheet, 2022"
_GA102 = "NVIDIA Ampere GA102 white paper v2.1, tables 2, 9, 10"
_AMPERE_PRO = "NVIDIA A10, A40 and RTX A6000 data sheets, 2021"
_ADA, _L4 = "NVIDIA Ada white paper v2.1, appendix", "NVIDIA L4, L40 and L40S data sheets, 2023"
_H100, _H200 = "NVIDIA H100 data sheet, 2024", "NVIDIA H200 data sheet, 2024"
_GH200, _B200 = "NVIDIA GH200 data sheet, 2024", "NVIDIA DGX B200 data sheet, 2024, an eighth"
_APPLE = "Apple's announcements of the chips, 2020 to 2022, for the largest GPU of each; later ones name no figure"
_RTX50 = "NVIDIA RTX Blackwell white paper v1.1, appendix A"

# Only names whose every figure is on the data sheet. Laptop chips, partitions of a card (MIG) and cards for one market
# have similar names and lower peaks: they are not matched, since a wrong MFU is worse than none.
CARDS = (
    Card("v100", r"Tesla V100-SXM2-(16|32)GB.*", 15.7, None, None, (16, 32), 900, _V100, fp16=125),
    Card("v100-pcie", r"Tesla V100-PCIE-(16|32)GB", 14, None, None, (16, 32), 900, _V100, fp16=112),
    Card("t4", r"(Tesla|NVIDIA) T4", 8.1, None, None, 16, 320, _T4, fp16=65),
    Card("a100-40gb", r"(NVIDIA )?A100-(SXM4|PCIE)-40GB", 19.5, 156, 312, 40, 1555, _A100),
    Card("a100", r"(NVIDIA )?A100-SXM4-80GB", 19.5, 156, 312, 80, 2039, _A100),
    Card("a100-pcie", r"NVIDIA A100 80GB PCIe", 19.5, 156, 312, 80, 1935, _A100),
    Card("a30", r"NVIDIA A30", 10.3, 82, 165, 24, 933, _A30),
    Card("a10", r"NVIDIA A10", 31.2, 62.5, 125, 24, 600, _AMPERE_PRO),
    Card("a40", r"NVIDIA A40", 37.4, 74.8, 149.7, 48, 696, _AMPERE_PRO),
    Card("a6000", r"NVIDIA RTX A6000", 38.7, 77.4, 154.8, 48, 768, _AMPERE_PRO),
    Card("rtx3070", r"NVIDIA GeForce RTX 3070", 20.3, 20.3, 40.6, 8, 448, _GA102),
    Card("rtx3080", r"NVIDIA GeForce RTX 3080", 29.8, 29.8, 59.5, 10, 760, _GA102),
    Card("rtx3090", r"NVIDIA GeForce RTX 3090", 35.6, 35.6, 71, 24, 936, _GA102),
    Card("rtx3090ti", r"NVIDIA GeForce RTX 3090 Ti", 40, 40, 80, 24, 1008, _ADA),
    Card("rtx4080", r"NVIDIA GeForce RTX 4080", 48.7, 48.7, 97.5, 16, 717, _ADA),
    Card("rtx4090", r"NVIDIA GeForce RTX 4090", 82.6, 82.6, 165.2, 24, 1008, _ADA),
    Card("rtx6000-ada", r"NVIDIA RTX 6000 Ada Generation", 91.1, 182.1, 364.2, 48, 960, _ADA),
    Card("l4", r"NVIDIA L4", 30.3, 60, 121, 24, 300, _L4),
    Card("l40", r"NVIDIA L40", 90.5, 90.5, 181, 48, 864, _L4),
    Card("l40s", r"NVIDIA L40S", 91.6, 183, 362, 48, 864, _L4),
    Card("h100", r"NVIDIA H100 (80GB HBM3|SXM5.*)", 67, 494.7, 989.5, 80, 3350, _H100),
    Card("h100-pcie", r"NVIDIA H100 PCIe", 51, 378, 756, 80, 2000, _H100),
    Card("h100-nvl", r"NVIDIA H100 NVL", 60, 417.5, 835, 94, 3900, _H100),
    Card("h200", r"NVIDIA H200", 67, 494.7, 989.5, 141, 4800, _H200),
    Card("h200-nvl", r"NVIDIA H200 NVL", 60, 417.5, 835, 141, 4800, _H200),
    Card("gh200", r"NVIDIA GH200 480GB", 67, 494.7, 989.5, 96, 4000, _GH200),
    Card("gh200-144gb", r"NVIDIA GH200 144G HBM3e", 67, 494.7, 989.5, 144, 4900, _GH200),
    Card("b200", r"NVIDIA B200", None, 1125, 2250, 180, 8000, _B200),
    Card("rtx5070", r"NVIDIA GeForce RTX 5070", 30.9, 30.9, 61.7, 12, 672, _RTX50),
    Card("rtx5070ti", r"NVIDIA GeForce RTX 5070 Ti", 43.9, 43.9, 87.9, 16, 896, _RTX50),
    Card("rtx5080", r"NVIDIA GeForce RTX 5080", 56.3, 56.3, 112.6, 16, 960, _RTX50),
    Card("rtx5090", r"NVIDIA GeForce RTX 5090", 104.8, 104.8, 209.5, 32, 1792, _RTX50),
    Card("m1", r"Apple M1", 2.6, None, None, (8, 16), 68, _APPLE),
    Card("m1-pro", r"Apple M1 Pro", 5.2, None, None, (16, 32), 200, _APPLE),
    Card("m1-max", r"Apple M1 Max", 10.4, None, None, (32, 64), 400, _APPLE),
    Card("m1-ultra", r"Apple M1 Ultra", 21, None, None, (64, 128), 800, _APPLE),
    Card("m2", r"Apple M2", 3.6, None, None, (8, 16, 24), 100, _APPLE),
)


def find_card(device_name: str) -> Card | None:
    """Return the card by the driver's name, or None where its data sheet is not in the table."""
    return next((card for card in CARDS if re.fullmatch(card.name, device_name)), None)


def smallest_memory(card: Card) -> float:
    """Bytes of memory; the smallest of several sizes, since a run that fits it fits them all."""
    return 1e9 * (min(card.memory) if isinstance(card.memory, tuple) else card.memory)


def named_card(name: str) -> Card:
    """Return the card by short name ("h200", "A100-40GB") or by the driver's full name.

    Raises:
        ConfigError: no such card in the table.
    """
    wanted = re.sub(r"[\s_]+", "-", name.strip().lower())
    found = next((card for card in CARDS if card.key == wanted), None) or find_card(name.strip())
    if found is not None:
        return found
    known = [card.key for card in CARDS]
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; expected cpu or one of {', '.join(known)}"
    raise ConfigError(f"no device {name!r} in the table{hint}")


def peak_flops(device_name: str, precision: str) -> float | None:
    """Dense matmul FLOP/s of a device at "fp32", "tf32", "bf16" or "fp16", or None where it is not known."""
    card = find_card(device_name)
    return None if card is None else card_flops(card, precision)


def card_flops(card: Card, precision: str) -> float | None:
    """Dense matmul FLOP/s of a card, or None where its data sheet does not state it."""
    if precision not in get_args(Precision):
        return None
    teraflops: float | None = getattr(card, precision)
    if precision == "fp16" and teraflops is None:
        teraflops = card.bf16
    return None if teraflops is None else teraflops * 1e12


def cpu_name() -> str:
    """Name of the processor, as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
