"""What the machine at hand does, and by which figure MFU is measured."""

from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.config import TrainConfig
from groundup.train import device as measure
from groundup.train.device import known_peak, measure_matmul_flops, multiplied_in, peak_memory, total_memory


@pytest.mark.parametrize(
    ("options", "device", "expected"),
    [
        ({}, "cpu", "fp32"),
        ({"matmul_precision": "high"}, "cpu", "fp32"),
        ({}, "cuda", "fp32"),
        ({"matmul_precision": "high"}, "cuda:1", "tf32"),
        ({"matmul_precision": "high", "precision": "bf16"}, "cuda", "bf16"),
    ],
)
def test_the_precision_in_which_products_are_made(options: dict, device: str, expected: str):
    assert multiplied_in(TrainConfig(**options), device) == expected


def test_the_peak_is_the_one_set_or_the_data_sheets_or_unknown(monkeypatch: pytest.MonkeyPatch):
    names = {"cpu": "Some Processor", "cuda": "NVIDIA H100 80GB HBM3"}
    monkeypatch.setattr(measure, "device_name", names.__getitem__)
    assert known_peak(TrainConfig(), "cpu") is None
    assert known_peak(TrainConfig(peak_tflops=1.5), "cpu") == 1.5e12
    assert known_peak(TrainConfig(peak_tflops=100), "cuda") == 100e12
    assert known_peak(TrainConfig(), "cuda") == 67e12
    assert known_peak(TrainConfig(matmul_precision="high"), "cuda") == 494.7e12
    assert known_peak(TrainConfig(precision="bf16"), "cuda") == 989.5e12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_measuring_a_product_moves_neither_random_numbers_nor_threads(precision: str):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0 < measure_matmul_flops("cpu", precision, threads=2, size=64, rounds=3) < 1e15
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells it there")
def test_the_most_memory_grows_with_what_was_held_and_never_shrinks():
    def told_by_the_system() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    before = peak_memory("cpu")
    held = np.ones(5_000_000)
    assert peak_memory("cpu") >= max(before, held.nbytes)
    del held
    assert peak_memory("cpu") == pytest.approx(told_by_the_system(), rel=0.02)
    assert before <= peak_memory("cpu") < total_memory("cpu")
