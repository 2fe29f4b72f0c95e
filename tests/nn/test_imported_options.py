"""Options that imported models need: biases of queries, keys and values, the head size, rotary scaling, the embedding's
factor."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from account_measure import saved_by_autograd
from groundup.account.activations import saved_activations
from groundup.account.flops import forward_matmuls
from groundup.account.params import parameters
from groundup.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from groundup.errors import ConfigError
from groundup.nn import RotaryPositionalEmbedding, TransformerLM
from groundup.nn.attention import MultiHeadSelfAttention
from groundup.nn.fast.accelerate import accelerate
from groundup.optim import build_optimizer

SHAPE = {"vocab_size": 60, "context_length": 20, "d_model": 30, "num_layers": 2, "num_heads": 4, "head_size": 10}
WAYS = list(itertools.product(("plain", "fast"), ("plain", "flash")))
OPTIONS = [
    {"qkv_bias": True},
    {"qkv_bias": True, "num_kv_heads": 2, "qk_norm": True},
    {"qkv_bias": True, "num_kv_heads": 1, "position": "none"},
    {"num_kv_heads": 2},
]
LLAMA3 = {
    "rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 64, "rope_low_frequency": 1.0,
    "rope_high_frequency": 4.0,
}  # fmt: skip


def with_random_vectors(module):
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.copy_(1 + torch.rand(parameter.shape))
    return module


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("kernels", "attention"), WAYS)
def test_attention_is_the_formula(options, kernels, attention):
    torch.manual_seed(0)
    config = ModelConfig(**SHAPE | options)
    rope = RotaryPositionalEmbedding(10_000.0, 10, 20).double() if config.position == "rope" else None
    plain = with_random_vectors(MultiHeadSelfAttention(config, 0, rope, dtype=torch.float64))
    x = torch.randn(3, 20, 30, dtype=torch.float64)
    q, k, v = (
        F.linear(x, p.weight, p.bias).unflatten(-1, (-1, 10)).transpose(1, 2)
        for p in (plain.q_proj, plain.k_proj, plain.v_proj)
    )
    if config.qk_norm:
        q, k = (F.rms_norm(y, (10,), norm.weight, 1e-5) for y, norm in ((q, plain.q_norm), (k, plain.k_norm)))
    if rope is not None:
        q, k = rope(q), rope(k)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    layer = accelerate(plain, kernels=kernels, attention=attention)
    found = layer(x)
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(-2) @ plain.output_proj.weight.T)
    found.square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("options", [*OPTIONS, LLAMA3], ids=str)
def test_every_way_to_compute_has_the_same_gradients_and_uses_caches(options):
    ids = torch.randint(60, (2, 21), generator=torch.Generator().manual_seed(1))
    results = []
    for kernels, attention in WAYS:
        torch.manual_seed(0)
        model = with_random_vectors(TransformerLM(ModelConfig(**SHAPE | options), dtype=torch.float64))
        model = accelerate(model, kernels=kernels, attention=attention)
        model(ids[:, :-1], targets=ids[:, 1:]).backward()
        results.append([parameter.grad for parameter in model.parameters()])
        caches = model.new_caches(2)
        pieces = torch.cat([model(piece, caches=caches) for piece in ids[:, :20].split((7, 1, 12), 1)], 1)
        torch.testing.assert_close(pieces, model(ids[:, :20]), rtol=1e-10, atol=1e-10)
    for other in results[1:]:
        for found, expected in zip(other, results[0], strict=True):
            # Without rotation a bias of the keys has no effect, and its gradient is rounding.
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.long
def test_a_compiled_model_has_the_same_loss():
    torch.manual_seed(0)
    config = ModelConfig(**SHAPE, qkv_bias=True, **LLAMA3)
    model = accelerate(with_random_vectors(TransformerLM(config)))
    ids = torch.randint(60, (2, 20))
    torch.testing.assert_close(torch.compile(model)(ids), model(ids))


@pytest.mark.parametrize("options", [{"rope_scaling": "linear", "rope_factor": 4.0}, LLAMA3], ids=str)
def test_rotary_frequencies_are_those_of_transformers(options):
    config = ModelConfig(context_length=512, d_model=256, num_heads=2, rope_theta=500_000.0, **options)
    rope = TransformerLM(
        ModelConfig(**{**SHAPE, "head_size": 128, "context_length": 512, "rope_theta": 500_000.0} | options)
    ).layers[0].attn.rope  # fmt: skip
    theirs = LlamaConfig(
        hidden_size=256, num_attention_heads=2, max_position_embeddings=512,
        rope_parameters={
            "rope_type": config.rope_scaling, "rope_theta": 500_000.0, "factor": config.rope_factor,
            "original_max_position_embeddings": 64, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        } if config.rope_scaling == "llama3" else {"rope_type": "linear", "rope_theta": 500_000.0, "factor": 4.0},
    )  # fmt: skip
    frequencies, _ = ROPE_INIT_FUNCTIONS[config.rope_scaling](theirs, "cpu")
    unscaled = RotaryPositionalEmbedding(500_000.0, 128, 512)
    torch.testing.assert_close(rope.sin[1].double().asin(), frequencies.double(), rtol=1e-5, atol=1e-9)
    assert not torch.allclose(rope.cos, unscaled.cos)


def test_a_tied_model_can_be_one_without_a_factor():
    torch.manual_seed(0)
    ids = torch.randint(60, (1, 5))
    tied = TransformerLM(ModelConfig(**SHAPE, tie_embeddings=True, embedding_scale=1.0))
    untied = TransformerLM(ModelConfig(**SHAPE))
    weights = tied.state_dict()
    untied.load_state_dict(weights)
    assert torch.equal(tied(ids), untied(ids))
    twice = TransformerLM(ModelConfig(**SHAPE, embedding_scale=2.0))
    weights["token_embeddings.weight"] = weights["token_embeddings.weight"] / 2
    twice.load_state_dict(weights)
    assert torch.equal(twice(ids), untied(ids))


def test_off_they_change_nothing():
    shape = {"vocab_size": 60, "context_length": 20, "d_model": 32, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(0)
    before = TransformerLM(ModelConfig(**shape))
    torch.manual_seed(0)
    same = TransformerLM(ModelConfig(**shape, head_size=8, rope_scaling="linear", rope_factor=1.0))
    ids = torch.randint(60, (2, 20))
    assert not [name for name in before.state_dict() if name.endswith(".bias")]
    assert torch.equal(before(ids), same(ids))


def test_they_are_counted():
    bare, biased = (ModelConfig(**SHAPE, num_kv_heads=2, qkv_bias=value) for value in (False, True))
    added = 40 + 2 * 20
    for config in (bare, biased):
        assert parameters(config).total == sum(p.numel() for p in TransformerLM(config).parameters())
    assert parameters(biased).qkv == parameters(bare).qkv + added
    assert forward_matmuls(bare) == forward_matmuls(biased)
    sizes = {matmul.name: (matmul.n, matmul.p) for matmul in forward_matmuls(bare)}
    assert (sizes["q_proj"], sizes["k_proj"], sizes["output_proj"]) == ((30, 40), (30, 20), (40, 30))


def test_biases_are_not_decayed_by_default():
    optimizer = build_optimizer(TransformerLM(ModelConfig(**SHAPE, qkv_bias=True)), OptimConfig(weight_decay=0.1))
    vectors = next(group for group in optimizer.param_groups if group["name"] == "vectors")
    assert vectors["weight_decay"] == 0
    assert {40} <= {parameter.numel() for parameter in vectors["params"]}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kernels", "attention"), WAYS)
@pytest.mark.parametrize("options", [*OPTIONS, {"qkv_bias": True, "head_size": 0, "d_model": 32}, LLAMA3], ids=str)
def test_saved_activations_are_those_that_autograd_saves(options, kernels, attention, precision):
    train = TrainConfig(kernels=kernels, attention=attention, precision=precision)
    config = RunConfig(model=ModelConfig(**SHAPE | options), train=train, data=DataConfig(batch_size=3))
    counted = saved_activations(config.model, train, batch_size=3)
    assert sum(tensor.size for tensor in counted if tensor.by_autograd) == saved_by_autograd(config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head_size": 7}, "head_size = 7 is odd"),
        ({"head_size": -2}, r"head_size = -2; expected a positive"),
        ({"rope_scaling": "yarn"}, r"rope_scaling = 'yarn'; expected one of 'none', 'linear', 'llama3'"),
        ({"rope_scaling": "llama3"}, "needs model.rope_original_context"),
        ({"rope_factor": 0.5}, r"rope_factor = 0.5; expected a finite number from 1 on"),
        ({"rope_low_frequency": 4.0}, r"rope_high_frequency = 4.0; expected a finite number above"),
        ({"embedding_scale": -1.0}, "embedding_scale = -1.0"),
    ],
)
def test_impossible_values_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        ModelConfig(**SHAPE | options)
