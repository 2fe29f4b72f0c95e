import pytest

from groundup.account import peak_flops


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
    ],
)
def test_the_peak_of_the_data_sheet(name, teraflops):
    assert peak_flops(name, "bf16") == teraflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA L40",  # not an L4: 181 TFLOP/s
        "NVIDIA RTX A1000",  # not an A100
        "NVIDIA GeForce RTX 4090 Laptop GPU",  # another chip than the card's
        "NVIDIA GeForce RTX 3090 Ti",
        "AMD Instinct MI300X",
        "cpu",
        "",
    ],
)
def test_of_a_device_that_is_not_in_the_list_no_peak_is_claimed(name):
    assert peak_flops(name, "bf16") is None


def test_no_peak_is_claimed_for_float32():
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp32") is None
