"""Normalized queries and keys (model.qk_norm): the formula, the fast path, and what the option costs."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from account_measure import saved_by_autograd
from groundup.account.activations import saved_activations
from groundup.account.flops import forward_matmuls
from groundup.account.params import parameters
from groundup.config import DataConfig, ModelConfig, RunConfig, TrainConfig, from_dict
from groundup.nn import RotaryPositionalEmbedding, TransformerLM
from groundup.nn.attention import MultiHeadSelfAttention
from groundup.nn.fast.accelerate import accelerate
from groundup.train.build import build_model

SHAPE = {"vocab_size": 60, "context_length": 20, "d_model": 32, "num_layers": 2, "num_heads": 4}
WAYS = list(itertools.product(("plain", "fast"), ("plain", "flash")))
OPTIONS = [{}, {"num_kv_heads": 2}, {"position": "none"}, {"num_kv_heads": 1, "position": "none"}]


def config_of(**options) -> ModelConfig:
    return ModelConfig(**SHAPE, **options)


def with_random_gains(module):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "_norm" in name:
                parameter.copy_(1 + torch.rand(parameter.shape))
    return module


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kernels", "attention"), WAYS)
def test_heads_are_normalized_and_then_rotated(options, kernels, attention):
    torch.manual_seed(0)
    config = config_of(qk_norm=True, norm_eps=1e-3, **options)
    rope = RotaryPositionalEmbedding(10_000.0, 8, 20).double() if config.position == "rope" else None
    plain = with_random_gains(MultiHeadSelfAttention(config, 0, rope, dtype=torch.float64))
    x = torch.randn(3, 20, 32, dtype=torch.float64)
    q, k, v = (
        (x @ p.weight.T).unflatten(-1, (-1, 8)).transpose(1, 2) for p in (plain.q_proj, plain.k_proj, plain.v_proj)
    )
    q, k = (F.rms_norm(y, (8,), norm.weight, 1e-3) for y, norm in ((q, plain.q_norm), (k, plain.k_norm)))
    if rope is not None:
        q, k = rope(q), rope(k)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    layer = accelerate(plain, kernels=kernels, attention=attention)
    found = layer(x)
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(-2) @ plain.output_proj.weight.T)
    found.square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_every_way_to_compute_has_the_same_gradients_and_uses_caches(options, dtype):
    ids = torch.randint(60, (2, 21), generator=torch.Generator().manual_seed(1))
    results = []
    for kernels, attention in WAYS:
        torch.manual_seed(0)
        model = TransformerLM(
            config_of(qk_norm=True, **options), dtype=torch.float32 if dtype == torch.bfloat16 else dtype
        )
        model = accelerate(with_random_gains(model), kernels=kernels, attention=attention)
        model.compute_dtype = dtype
        model(ids[:, :-1], targets=ids[:, 1:]).backward()
        results.append([parameter.grad for parameter in model.parameters()])
        caches = model.new_caches(2)
        pieces = torch.cat([model(piece, caches=caches) for piece in ids[:, :20].split((7, 1, 12), 1)], 1)
        tolerance = 0.1 if dtype == torch.bfloat16 else 1e-10
        torch.testing.assert_close(pieces, model(ids[:, :20]), rtol=tolerance, atol=tolerance)
    tolerance = 0.05 if dtype == torch.bfloat16 else 1e-11
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            assert torch.linalg.vector_norm(found - expected) <= tolerance * torch.linalg.vector_norm(expected)


def test_off_it_adds_nothing_and_old_options_leave_it_off():
    on, off = TransformerLM(config_of(qk_norm=True)), TransformerLM(config_of())
    added = {f"layers.{i}.attn.{name}_norm.weight" for i in range(2) for name in "qk"}
    assert on.state_dict().keys() - off.state_dict().keys() == added
    assert not from_dict(ModelConfig, SHAPE).qk_norm


def test_it_is_counted():
    on, off = (config_of(qk_norm=value, num_kv_heads=2) for value in (True, False))
    assert parameters(on).total == parameters(off).total + 2 * 2 * 8
    assert parameters(on).block_norms == parameters(off).block_norms + 2 * 8
    assert forward_matmuls(on) == forward_matmuls(off)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kernels", "attention"), WAYS)
@pytest.mark.parametrize("options", [*OPTIONS, {"num_kv_heads": 1}, {"num_heads": 1}], ids=str)
def test_saved_activations_are_those_that_autograd_saves(options, kernels, attention, precision):
    train = TrainConfig(kernels=kernels, attention=attention, precision=precision)
    config = RunConfig(model=ModelConfig(**SHAPE | options, qk_norm=True), train=train, data=DataConfig(batch_size=3))
    counted = saved_activations(config.model, train, batch_size=3)
    tolerance = 0.05 if config.model.num_heads == 1 else 0  # as without the option: some copies are views there
    expected = pytest.approx(saved_by_autograd(config), rel=tolerance)
    assert sum(tensor.size for tensor in counted if tensor.by_autograd) == expected
    assert build_model(config, "cpu").layers[0].attn.q_norm is not None
