import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from account_measure import saved_by_autograd
from groundup.account.activations import saved_activations
from groundup.config import DataConfig, ModelConfig, RunConfig, TrainConfig

BASE = {"vocab_size": 500, "context_length": 48, "d_model": 64, "num_layers": 3, "num_heads": 4, "d_ff": 160}


def run(model: ModelConfig, train: TrainConfig, batch_size: int) -> RunConfig:
    return RunConfig(model=model, train=train, data=DataConfig(batch_size=batch_size))


def predicted(model: ModelConfig, train: TrainConfig, batch_size: int) -> int:
    return sum(tensor.size for tensor in saved_activations(model, train, batch_size=batch_size) if tensor.by_autograd)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["plain", "flash"])
@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ffn": "silu"},
        {"norm": "post", "tie_embeddings": True},
        {"norm": "none"},
        {"position": "none"},
        {"num_kv_heads": 2},
        {"num_kv_heads": 1, "position": "none"},
    ],
    ids=str,
)
def test_bytes_are_those_that_autograd_saves(options, kernels, attention, precision):
    model = ModelConfig(**BASE, **options)
    train = TrainConfig(kernels=kernels, attention=attention, precision=precision)
    assert predicted(model, train, 5) == saved_by_autograd(run(model, train, 5))


@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_checkpointing_a_block_keeps_its_input(kernels, precision):
    model = ModelConfig(**BASE)
    train = TrainConfig(kernels=kernels, precision=precision, activation_checkpointing=True)
    assert predicted(model, train, 5) == saved_by_autograd(run(model, train, 5))


@pytest.mark.parametrize(
    ("precision", "kernels", "rotated", "copies"),
    [
        ("bf16", "plain", "rope", 1),
        ("fp32", "plain", "rope", 0),
        ("bf16", "plain", "none", 0),
        ("bf16", "fast", "rope", 0),
    ],
)
def test_on_a_gpu_the_result_of_attention_is_copied_where_it_lies_head_after_head(precision, kernels, rotated, copies):
    """flash attention makes its result with the strides of the queries, the kernel for float32 position after position:
    so say torch's own descriptions of the two (torch._meta_registrations), which need no GPU.
    """
    model = ModelConfig(**BASE, position=rotated)
    train = TrainConfig(kernels=kernels, precision=precision)
    kept = saved_activations(model, train, batch_size=5, device="cuda")
    assert sum(tensor.name == "weighted values, head after head" for tensor in kept) == copies
    whole = torch.empty(5, 4, 48, 16, device="meta", dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    if kernels == "fast" or rotated == "none":
        whole = whole.transpose(1, 2).contiguous().transpose(1, 2)
    fused = torch.ops.aten._scaled_dot_product_flash_attention if precision == "bf16" else None
    out = (
        fused(whole, whole, whole)
        if fused
        else torch.ops.aten._scaled_dot_product_efficient_attention(whole, whole, whole, None, True)
    )[0]
    assert (not out.transpose(1, 2).is_contiguous()) == bool(copies)


@given(
    vocab_size=st.integers(2, 300),
    context_length=st.integers(2, 40),
    shared=st.integers(2, 3),
    kv_heads=st.integers(1, 3),
    pairs=st.integers(1, 5),
    layers=st.integers(1, 3),
    d_ff=st.integers(1, 90),
    batch_size=st.integers(2, 5),
    options=st.fixed_dictionaries(
        {
            "norm": st.sampled_from(["pre", "post", "none"]),
            "position": st.sampled_from(["rope", "none"]),
            "ffn": st.sampled_from(["swiglu", "silu"]),
            "tie_embeddings": st.booleans(),
        }
    ),
    train=st.builds(
        TrainConfig,
        kernels=st.sampled_from(["fast", "plain"]),
        attention=st.sampled_from(["flash", "plain"]),
        precision=st.sampled_from(["fp32", "bf16"]),
        activation_checkpointing=st.booleans(),
    ),
)
@settings(deadline=None, max_examples=100)
def test_so_they_are_for_every_shape_and_way_to_compute(
    vocab_size, context_length, shared, kv_heads, pairs, layers, d_ff, batch_size, options, train
):
    heads = shared * kv_heads
    model = ModelConfig(
        vocab_size=vocab_size, context_length=context_length, d_model=2 * pairs * heads, num_layers=layers,
        num_heads=heads, num_kv_heads=kv_heads, d_ff=d_ff, **options,
    )  # fmt: skip
    assert predicted(model, train, batch_size) == saved_by_autograd(run(model, train, batch_size))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["plain", "flash"])
@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("options", [{}, {"num_heads": 1}, {"num_kv_heads": 1}], ids=str)
def test_of_a_single_sequence_or_head_some_copies_are_none(options, kernels, attention, precision):
    """Where an axis has length one a transposed tensor is contiguous as it is, and what else were a copy is the same
    memory.
    """
    model = ModelConfig(**{**BASE, **options})
    train = TrainConfig(kernels=kernels, attention=attention, precision=precision)
    assert predicted(model, train, 1) == pytest.approx(saved_by_autograd(run(model, train, 1)), rel=0.05)
