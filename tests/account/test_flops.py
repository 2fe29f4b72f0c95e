"""FLOPs, against what torch counts on the real model."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from groundup.account import forward_flops, training_flops_per_token
from groundup.account.flops import backward_flops, forward_matmuls, recomputed_flops
from groundup.account.presets import PRESETS
from groundup.config import ModelConfig, RunConfig, TrainConfig
from groundup.nn import TransformerLM
from groundup.nn.fast import attention as fast_attention
from groundup.train.build import build_model
from groundup.train.step import build_loss

SMALL = {"vocab_size": 96, "context_length": 24, "d_model": 32, "num_layers": 3, "num_heads": 4}
ABLATIONS: list[dict[str, Any]] = [
    {},
    {"ffn": "silu"},
    {"norm": "post", "position": "none"},
    {"norm": "none", "tie_embeddings": True},
    {"d_ff": 40},
    {"num_kv_heads": 2},
    {"num_kv_heads": 1, "ffn": "silu"},
]


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("tokens", [None, 1, 7])
def test_they_are_those_that_torch_counts(options, tokens):
    config = ModelConfig(**SMALL, **options)
    model = TransformerLM.from_config(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens or config.context_length, dtype=torch.int64))
    assert forward_flops(config, tokens) == counter.get_total_flops()


_raw = fast_attention.causal_attention._init_fn, fast_attention._backward._init_fn


def _counted_attention(q, k, v):
    return _Counted.apply(q, k, v)


class _Counted(torch.autograd.Function):
    """Our attention for CPUs without its cover of an operator, under which torch would not see the products."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return _raw[0](q, k, v)

    @staticmethod
    def backward(ctx, u):
        return _raw[1](u, *ctx.saved_tensors)


def as_counted(formula):
    """A formula of torch's registry, marked as one that takes tensors."""

    def count(*args, **kwargs):
        return formula(*args, **kwargs)

    count._get_raw = True
    return count


def counted(model: ModelConfig, train: TrainConfig) -> tuple[int, int]:
    """FLOPs of the forward and of the backward pass of one sequence."""
    lm = build_model(RunConfig(model=model, train=train), "cpu")
    loss = build_loss(lm, compile=False, chunked=train.kernels == "fast")
    x = torch.zeros(1, model.context_length, dtype=torch.int64)
    # torch has formulas for the fused attention of GPUs, and none for its twin on a CPU; nor for products in place.
    aten = torch.ops.aten
    twins = {
        aten.baddbmm_: aten.baddbmm,
        aten._scaled_dot_product_flash_attention_for_cpu: aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: aten._scaled_dot_product_flash_attention_backward,
    }
    formulas = {operator: as_counted(flop_registry[twin]) for operator, twin in twins.items()}
    with FlopCounterMode(display=False, custom_mapping=formulas) as forward:
        result = loss(x, x)
    with FlopCounterMode(display=False, custom_mapping=formulas) as backward:
        result.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_forward_and_backward_of_the_formulas_are_those_that_torch_counts(options):
    model = ModelConfig(**SMALL, **options)
    assert counted(model, TrainConfig(kernels="plain", attention="plain")) == (
        forward_flops(model),
        backward_flops(model),
    )


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "made again"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["plain", "flash"])
@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("options", [*ABLATIONS, {"context_length": 300}], ids=str)
def test_every_way_to_compute_costs_the_model_and_what_it_repeats(
    options, kernels, attention, precision, checkpointing, monkeypatch
):
    monkeypatch.setattr(fast_attention, "causal_attention", _counted_attention)
    model = ModelConfig(**{**SMALL, **options})
    train = TrainConfig(
        kernels=kernels, attention=attention, precision=precision, activation_checkpointing=checkpointing
    )
    expected = forward_flops(model) + backward_flops(model) + recomputed_flops(model, train)
    assert sum(counted(model, train)) == expected


@pytest.mark.parametrize(
    ("preset", "context_length", "published"),
    [
        ("gpt2-small", 1024, 349_630_365_696),
        ("gpt2-medium", 1024, 1_033_109_504_000),
        ("gpt2-large", 1024, 2_257_754_521_600),
        ("gpt2-xl", 1024, 4_513_336_524_800),
        ("gpt2-xl", 16_384, 149_522_795_724_800),
    ],
)
def test_published_counts(preset, context_length, published):
    config = PRESETS[preset][1].model
    assert forward_flops(config, context_length) == published
    at_length = ModelConfig(**{**vars(config), "context_length": context_length})
    assert training_flops_per_token(at_length) * context_length == pytest.approx(3 * published)


def test_a_batch_is_so_many_sequences():
    model = ModelConfig(**SMALL)
    assert sum(product.flops for product in forward_matmuls(model, batch_size=7)) == 7 * forward_flops(model)


def test_no_tokens_cost_nothing():
    assert forward_flops(ModelConfig(**SMALL), tokens=0) == 0


def test_a_shape_beyond_all_machines_is_counted_exactly():
    model = ModelConfig(
        vocab_size=10**15, context_length=10**12, d_model=2 * 10**10, num_layers=10**6, num_heads=10**10
    )
    s, d, f = 10**12, 2 * 10**10, model.ffn_dim
    assert forward_flops(model) == 10**6 * (8 * s * d * d + 4 * s * s * d + 6 * s * d * f) + 2 * s * d * 10**15
