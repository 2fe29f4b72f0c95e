"""float32 products by oneDNN: as exact as by MKL, and taken only where they are."""

import subprocess
import sys

import pytest
import torch
from groundup.system.wide_products import use_wide_products

from groundup.system import wide_products


@pytest.fixture(autouse=True)
def as_before():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    wide_products._suits_this_processor.cache_clear()
    yield
    torch.set_float32_matmul_precision("highest")
    matmul.fp32_precision = before
    wide_products._suits_this_processor.cache_clear()


@pytest.mark.parametrize(("m", "k", "n"), [(1, 7, 3), (8, 64, 8), (33, 129, 65), (300, 512, 1000), (1024, 1408, 512)])
def test_products_have_the_precision_of_float32(m: int, k: int, n: int):
    """Against float64: a few of float32's roundings (2^-24), and thousands of times less than bfloat16's (2^-9)."""
    use_wide_products()
    generator = torch.Generator().manual_seed(m)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    exact = a.double() @ b.double().T
    size = a.double().abs() @ b.double().abs().T
    for product in (a @ b.T, (b @ a.T).T, torch.bmm(a[None], b.T[None])[0], a.T.contiguous().T @ b.T):
        assert float(((product - exact).abs() / size).max()) < 2**-21


def test_the_permission_is_not_given_where_products_are_rounded(monkeypatch: pytest.MonkeyPatch):
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(wide_products, "_half_the_width_is_idle", lambda: True)
    monkeypatch.setattr(torch, "bmm", lambda a, b: (a.bfloat16() @ b.bfloat16()).float())
    assert not use_wide_products()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_torch_can_still_say_how_it_multiplies():
    """It raises where its two ways to set that differ, and torch.compile asks when it tunes."""
    torch.set_float32_matmul_precision("highest")
    taken = use_wide_products()
    assert torch.get_float32_matmul_precision() == ("medium" if taken else "highest")
    torch.set_float32_matmul_precision("highest")
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


@pytest.mark.parametrize("vendor", ["GenuineIntel", ""])
def test_other_processors_keep_what_torch_takes(monkeypatch: pytest.MonkeyPatch, vendor: str):
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(wide_products, "_vendor", lambda: vendor)
    assert not use_wide_products()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def permissions(*settings: str) -> list[str]:
    """torch's permission to round in a new process: at first, and after a run has begun with each of these options."""
    program = (
        "import sys, torch\n"
        "seen = [torch.backends.mkldnn.matmul.fp32_precision]\n"
        "from groundup.config import TrainConfig\n"
        "from groundup.train.build import prepare_device\n"
        "for kernels in sys.argv[1:]:\n"
        "    prepare_device(TrainConfig(kernels=kernels), 'cpu')\n"
        "    seen.append(torch.backends.mkldnn.matmul.fp32_precision)\n"
        "print(*seen)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_second_run_in_a_process_multiplies_as_the_first():
    """Setting the matmul precision, as every run does, takes the permission back."""
    _, first, second = permissions("fast", "fast")
    assert first == second


def test_the_plain_path_leaves_torch_as_it_is():
    before, after = permissions("plain")
    assert after in (before, "ieee")
