import re
from typing import get_args

import pytest

from groundup.account import peak_flops
from groundup.account.account import card_device
from groundup.account.hardware import CARDS, Precision, card_flops, find_card, named_card, smallest_memory
from groundup.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989.5),
        ("NVIDIA GH200 480GB", 989.5),
        ("NVIDIA B200", 2250),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA L40", 181),
    ],
)
def test_the_peak_of_the_data_sheet(name, teraflops):
    assert peak_flops(name, "bf16") == teraflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA RTX A1000",  # not an A100
        "NVIDIA GeForce RTX 4090 Laptop GPU",  # another chip than the card's
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",  # a seventh of the card
        "NVIDIA H20",
        "NVIDIA A800-SXM4-80GB",
        "AMD Instinct MI300X",
        "cpu",
        "",
    ],
)
def test_of_a_device_that_is_not_in_the_list_no_peak_is_claimed(name):
    assert peak_flops(name, "bf16") is None


def test_float32_is_multiplied_without_tensor_cores_unless_tf32_is_allowed():
    assert [peak_flops("NVIDIA H100 80GB HBM3", p) for p in ("fp32", "tf32", "bf16")] == [67e12, 494.7e12, 989.5e12]


def test_a_card_without_bfloat16_has_a_peak_for_float16_only():
    assert peak_flops("Tesla T4", "bf16") is None
    assert peak_flops("Tesla T4", "fp16") == 65e12
    assert peak_flops("NVIDIA A30", "fp16") == peak_flops("NVIDIA A30", "bf16") == 165e12


def test_an_unknown_precision_has_no_peak():
    assert peak_flops("NVIDIA H200", "int3") is None


def test_every_card_is_found_by_its_own_name_only():
    """A name is a pattern; a literal one has to find its card, and none before it in the table."""
    for card in CARDS:
        if re.escape(card.name).replace(r"\ ", " ").replace(r"\-", "-") == card.name:
            assert find_card(card.name) is card


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_sheet_is_plausible(card):
    """Tensor cores are never slower than what they replace, and "with sparsity" would be twice a known ratio."""
    peaks = [getattr(card, precision) for precision in get_args(Precision)]
    fp32, tf32, bf16, fp16 = (peak or 0 for peak in peaks)
    assert max(bf16, fp16) >= tf32 >= (fp32 if tf32 else 0)
    if tf32:
        assert bf16 / tf32 == pytest.approx(2, rel=0.02)
    assert card.bandwidth > 0
    assert card.source


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("h200", "NVIDIA H200"),
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("A100 40GB", "NVIDIA A100-SXM4-40GB"),
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("m1_max", "Apple M1 Max"),
    ],
)
def test_a_card_is_found_by_what_a_person_calls_it(said, name):
    assert named_card(said) is find_card(name)


def test_every_key_names_one_card():
    assert len({card.key for card in CARDS}) == len(CARDS)


@pytest.mark.parametrize(
    ("said", "hint"), [("h20", "did you mean .*h200"), ("abacus", "expected cpu or one of v100, ")]
)
def test_a_device_that_is_not_in_the_table_is_refused_with_what_is(said, hint):
    with pytest.raises(ConfigError, match=f"no device '{said}' in the table; {hint}"):
        named_card(said)


def test_a_sheet_without_tensor_cores_has_no_peak_for_bfloat16():
    assert card_flops(named_card("m1"), "bf16") is None
    assert card_flops(named_card("m1"), "fp32") == 2.6e12


def test_of_a_name_that_is_sold_in_several_sizes_the_smallest_is_promised():
    assert smallest_memory(named_card("v100")) == 16e9
    assert smallest_memory(named_card("h200")) == 141e9


@pytest.mark.parametrize(
    ("card", "precision", "matmul_precision", "found"),
    [
        ("h100", "auto", "highest", ("cuda", "bf16", 989.5e12)),
        ("t4", "auto", "highest", ("cuda", "fp32", 8.1e12)),
        ("h100", "fp32", "high", ("cuda", "tf32", 494.7e12)),
        ("t4", "fp32", "high", ("cuda", "fp32", 8.1e12)),
        ("m1", "auto", "highest", ("mps", "fp32", 2.6e12)),
        ("t4", "bf16", "highest", ("cuda", "bf16", None)),
    ],
)
def test_the_peak_is_that_of_the_precision_that_a_run_takes_there(card, precision, matmul_precision, found):
    device = card_device(named_card(card), precision, matmul_precision)
    assert (device.kind, device.precision, device.flops) == found
