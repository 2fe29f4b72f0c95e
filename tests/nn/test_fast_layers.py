"""The fast layers have the results and gradients of the plain ones, their parameters and their names."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.nn import RMSNorm, SwiGLU, TransformerLM, cross_entropy
from groundup.nn.fast.accelerate import accelerate
from groundup.nn.fast.attention import rotated_heads
from groundup.nn.fast.layers import pack, packed_linear, rms_norm, silu_gate

CONFIG = ModelConfig(vocab_size=97, context_length=24, d_model=32, num_layers=2, num_heads=2)
ABLATIONS: list[dict[str, object]] = [
    {},
    {"tie_embeddings": True},
    {"norm": "post"},
    {"norm": "none"},
    {"position": "none"},
    {"ffn": "silu"},
    {"num_kv_heads": 1},
]


@pytest.mark.parametrize("rows", [1, 7, 5000])  # more rows than one block takes
def test_gradients_are_those_of_finite_differences(rows: int):
    torch.manual_seed(rows)
    x = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, dtype=torch.float64, requires_grad=True)
    fast = {"fast_mode": True}  # a random direction instead of every coordinate
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-5), (x, weight), **fast)
    assert torch.autograd.gradcheck(silu_gate, (x,), **fast)


def test_gradients_of_rotated_heads_are_those_of_finite_differences():
    rotations = torch.polar(torch.ones(5, 2, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64))
    for heads, kv_heads in ((2, 2), (4, 1), (4, 2)):
        qkv = torch.randn(2, 5, (heads + 2 * kv_heads) * 4, dtype=torch.float64, requires_grad=True)
        for some in (rotations, None):
            assert torch.autograd.gradcheck(lambda qkv, *rest: rotated_heads(qkv, *rest), (qkv, some, heads, kv_heads))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), together=st.booleans())
def test_a_packed_linear_layer_is_the_layers_side_by_side(sizes: list[int], together: bool):
    x = torch.randn(3, 4, 6, dtype=torch.float64, requires_grad=True)
    weights = [torch.nn.Parameter(torch.randn(n, 6, dtype=torch.float64)) for n in sizes]
    plain = copy.deepcopy(weights)
    if together:
        pack(weights)
    upstream = torch.randn(3, 4, sum(sizes), dtype=torch.float64)
    ours = packed_linear(x, weights)
    theirs = torch.cat([torch.nn.functional.linear(x, w) for w in plain], -1)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for found, expected in zip(
        torch.autograd.grad(ours, (x, *weights), upstream),
        torch.autograd.grad(theirs, (x, *plain), upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: "-".join(map(str, a.values())) or "default")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flash", [True, False])
def test_a_fast_model_starts_and_learns_like_a_plain_one(ablation: dict[str, object], dtype: torch.dtype, flash: bool):
    config = dataclasses.replace(CONFIG, **ablation)
    ids = torch.randint(97, (3, 25), generator=torch.Generator().manual_seed(5))
    x, y = ids[:, :-1], ids[:, 1:]
    results = []
    for fast in (False, True):
        torch.manual_seed(0)
        wide = torch.float32 if dtype == torch.bfloat16 else dtype
        model = TransformerLM(config, dtype=wide)
        accelerate(model, kernels="fast" if fast else "plain", attention="flash" if flash else "plain")
        model.compute_dtype = dtype
        loss = model(x, targets=y) if fast else cross_entropy(model(x), y)
        loss.backward()
        results.append((loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (plain_loss, plain), (fast_loss, fast_gradients) = results
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 0.05}[dtype]
    torch.testing.assert_close(fast_loss, plain_loss, rtol=tolerance, atol=0)
    assert plain.keys() == fast_gradients.keys()
    for name, expected in plain.items():
        assert expected is not None
        error = torch.linalg.vector_norm(fast_gradients[name] - expected) / torch.linalg.vector_norm(expected)
        assert error < tolerance, name


def test_a_fast_model_generates_like_a_plain_one():
    torch.manual_seed(0)
    plain = TransformerLM(CONFIG).eval()
    fast = accelerate(copy.deepcopy(plain))
    assert not any(module.training for module in fast.modules())
    ids = torch.randint(97, (2, 9))
    caches = fast.new_caches(2)
    with torch.no_grad():
        expected = plain(ids)
        torch.testing.assert_close(fast(ids), expected)
        stepwise = torch.cat([fast(ids[:, i : i + 1], caches=caches) for i in range(9)], 1)
    torch.testing.assert_close(stepwise, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("move", ["cast", "copy", "load", "assign"])
def test_weights_that_were_moved_apart_still_count(move: str):
    """Packing is an optimization: weights that are separated again give the same results."""
    layer = accelerate(SwiGLU(16, 24))
    wanted = SwiGLU(16, 24)
    match move:
        case "cast":
            layer, wanted = layer.to(torch.float64), wanted.to(torch.float64)
        case "copy":
            layer = copy.deepcopy(layer)
    layer.load_state_dict(wanted.state_dict(), assign=move == "assign")
    x = torch.randn(5, 16, dtype=layer.w1.weight.dtype)
    torch.testing.assert_close(layer(x), wanted(x))
    with torch.no_grad():
        layer.w3.weight.zero_()
    assert not layer(x).any()


def test_a_frozen_weight_gets_no_gradient():
    layer = accelerate(SwiGLU(16, 24))
    layer.w1.weight.requires_grad_(False)
    layer(torch.randn(5, 16)).sum().backward()
    assert layer.w1.weight.grad is None
    assert layer.w3.weight.grad is not None


def test_rms_norm_in_bfloat16_keeps_float32_statistics():
    x = (torch.randn(300, 64) * 30).to(torch.bfloat16)
    norm = accelerate(RMSNorm(64))
    expected = torch.nn.functional.rms_norm(x.double(), (64,), norm.weight.double(), 1e-5)
    torch.testing.assert_close(norm(x).double(), expected, rtol=2**-8, atol=0)


def test_a_sequence_that_is_too_long_is_refused():
    with pytest.raises(ConfigError, match="context_length = 24"):
        accelerate(TransformerLM(CONFIG), attention="plain")(torch.zeros(1, 25, dtype=torch.long))


@pytest.mark.parametrize("attention", ["plain", "flash"])
@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda a: "-".join(map(str, a.values())) or "default")
def test_the_layers_are_replaced_and_the_parameters_are_the_same_objects(ablation, kernels, attention):
    model = TransformerLM(dataclasses.replace(CONFIG, **ablation))
    before, layers = dict(model.named_parameters()), dict(model.named_modules())
    values = {name: p.detach().clone() for name, p in before.items()}
    names = list(model.state_dict())
    assert accelerate(model, kernels=kernels, attention=attention) is model
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] and torch.equal(after[name], values[name]) for name in before)
    assert list(model.state_dict()) == names
    replaced = {name for name, module in model.named_modules() if module is not layers[name]}
    fast = (
        {name for name, layer in layers.items() if isinstance(layer, RMSNorm | SwiGLU)} if kernels == "fast" else set()
    )
    changes_attention = (kernels, attention) != ("plain", "plain")
    assert replaced == fast | ({"layers.0.attn", "layers.1.attn"} if changes_attention else set())


def test_accelerating_twice_changes_nothing():
    model = accelerate(TransformerLM(CONFIG))
    layers = list(model.modules())
    accelerate(model)
    assert all(a is b for a, b in zip(layers, model.modules(), strict=True))


def test_weights_of_one_matmul_are_packed():
    layer = accelerate(TransformerLM(CONFIG)).layers[0]
    for weights in (
        [layer.attn.q_proj.weight, layer.attn.k_proj.weight, layer.attn.v_proj.weight],
        [layer.ffn.w1.weight, layer.ffn.w3.weight],
    ):
        assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
