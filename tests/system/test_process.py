"""Process-wide settings: full-width matmul as exact as MKL's, memory reused between steps, all of it restored."""

import platform
import subprocess
import sys

import pytest
import torch

from groundup.system import process
from groundup.system.process import training_settings, use_wide_matmul


@pytest.fixture(autouse=True)
def as_before():
    matmul = torch.backends.mkldnn.matmul
    before = matmul.fp32_precision
    process._suits_this_processor.cache_clear()
    yield
    torch.set_float32_matmul_precision("highest")
    matmul.fp32_precision = before
    process._suits_this_processor.cache_clear()


@pytest.mark.parametrize(("m", "k", "n"), [(1, 7, 3), (8, 64, 8), (33, 129, 65), (300, 512, 1000), (1024, 1408, 512)])
def test_matmuls_have_the_precision_of_float32(m: int, k: int, n: int):
    """Against float64: a few of float32's roundings (2^-24), and thousands of times less than bfloat16's (2^-9)."""
    use_wide_matmul()
    generator = torch.Generator().manual_seed(m)
    a, b = torch.randn(m, k, generator=generator), torch.randn(n, k, generator=generator)
    exact = a.double() @ b.double().T
    size = a.double().abs() @ b.double().abs().T
    for found in (a @ b.T, (b @ a.T).T, torch.bmm(a[None], b.T[None])[0], a.T.contiguous().T @ b.T):
        assert float(((found - exact).abs() / size).max()) < 2**-21


def test_the_permission_is_not_given_where_matmuls_are_rounded(monkeypatch: pytest.MonkeyPatch):
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(process, "_half_the_width_is_idle", lambda: True)
    monkeypatch.setattr(torch, "bmm", lambda a, b: (a.bfloat16() @ b.bfloat16()).float())
    assert not use_wide_matmul()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_torch_can_still_say_how_it_multiplies():
    """It raises where its two ways to set that differ, and torch.compile asks when it tunes."""
    torch.set_float32_matmul_precision("highest")
    taken = use_wide_matmul()
    assert torch.get_float32_matmul_precision() == ("medium" if taken else "highest")
    torch.set_float32_matmul_precision("highest")
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


@pytest.mark.parametrize("vendor", ["GenuineIntel", ""])
def test_other_processors_keep_torchs_choice(monkeypatch: pytest.MonkeyPatch, vendor: str):
    before = torch.backends.mkldnn.matmul.fp32_precision
    monkeypatch.setattr(process, "_vendor", lambda: vendor)
    assert not use_wide_matmul()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def permissions(*settings: str) -> list[str]:
    """torch's permission to round in a new process: at first, and within and after a run with each of these kernels."""
    program = (
        "import sys, torch\n"
        "from groundup.system.process import training_settings\n"
        "seen = lambda: torch.backends.mkldnn.matmul.fp32_precision + '/' + torch.get_float32_matmul_precision()\n"
        "found = [seen()]\n"
        "for kernels in sys.argv[1:]:\n"
        "    with training_settings('cpu', fast=kernels == 'fast'):\n"
        "        found.append(seen())\n"
        "    found.append(seen())\n"
        "print(*found)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_second_run_in_a_process_multiplies_as_the_first():
    _, first, between, second, after = permissions("fast", "fast")
    assert (first, between) == (second, after)


def test_the_matmul_precision_is_what_it_was_after_a_run():
    for kernels in ("fast", "plain"):
        before, _, after = permissions(kernels)
        assert after.split("/")[1] == before.split("/")[1] == "highest"
        assert after.split("/")[0] in (before.split("/")[0], "ieee")


def test_the_gpu_of_a_run_is_the_current_one_within_it(monkeypatch: pytest.MonkeyPatch):
    """Events and kernels go to the current device, which would be the first one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    with training_settings("cuda:1"):
        assert chosen == ["cuda:1"]
    assert chosen == ["cuda:1", 0]
    with training_settings("cpu"):
        assert len(chosen) == 2


PROGRAM = """
import resource, torch
from groundup.system.process import keep_freed_memory

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        (torch.ones(8 << 20) + 1).sum()  # 32 MB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_a_step()
before = faults_of_a_step()
with keep_freed_memory() as kept:
    faults_of_a_step()
    within = faults_of_a_step()
faults_of_a_step()
print(kept, before, within, faults_of_a_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_freed_tensors_are_not_fetched_from_the_system_again_within_the_block():
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    kept, before, within, after = output.split()
    assert kept == "True"
    assert int(within) < int(before) / 100
    # One of a step's two tensors may lie in a freed block below the heap's top, which malloc keeps for good.
    assert int(after) > int(before) / 4
