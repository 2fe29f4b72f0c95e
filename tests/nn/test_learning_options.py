"""Options that change what a model learns: each in every way of computing, in generation, account and export."""

import itertools
import math
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from account_measure import saved_by_autograd
from groundup.account.activations import saved_activations
from groundup.account.flops import forward_flops
from groundup.account.params import hidden_matrices, parameters
from groundup.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, from_dict
from groundup.errors import ConfigError
from groundup.generation import native
from groundup.generation.cache import BatchedCache
from groundup.generation.engine import Engine
from groundup.generation.sampling import Sampling
from groundup.nn import TransformerLM, cross_entropy
from groundup.nn.fast.accelerate import accelerate
from groundup.nn.fast.linear_loss import linear_cross_entropy
from groundup.nn.layers import RMSNorm
from groundup.optim import build_optimizer, parameter_groups

SHAPE = {"vocab_size": 60, "context_length": 20, "d_model": 32, "num_layers": 2, "num_heads": 4}
WAYS = list(itertools.product(("plain", "fast"), ("plain", "flash")))
OPTIONS = [
    {"ffn": "relu2"}, {"norm_gains": False}, {"norm_gains": False, "qk_norm": True}, {"embedding_norm": True},
    {"embedding_norm": True, "tie_embeddings": True}, {"logit_softcap": 0.5}, {"output_init": "zero"},
    {"ffn": "relu2", "norm_gains": False, "qk_norm": True, "embedding_norm": True, "logit_softcap": 2.0,
     "output_init": "depth"},
    {"value_embeddings": "alternate"}, {"value_embeddings": "alternate", "num_kv_heads": 2, "num_layers": 3},
    {"residual_scalars": True}, {"qk_norm": True, "qk_scale": 1.2},
    {"value_embeddings": "alternate", "residual_scalars": True, "qk_norm": True, "qk_scale": 1.5, "norm_gains": False,
     "embedding_norm": True, "tie_embeddings": True, "num_kv_heads": 1},
]  # fmt: skip


def config_of(**options) -> ModelConfig:
    return ModelConfig(**SHAPE | options)


def random(model: TransformerLM) -> TransformerLM:
    """Weights that no option begins with, so that every layer counts."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, dtype=parameter.dtype))
    return model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_way_to_compute_has_the_same_loss_and_gradients(options):
    ids = torch.randint(60, (2, 21), generator=torch.Generator().manual_seed(1))
    results = []
    for kernels, attention in WAYS:
        torch.manual_seed(0)
        model = accelerate(
            random(TransformerLM(config_of(**options), dtype=torch.float64)), kernels=kernels, attention=attention
        )
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        expected = torch.autograd.grad(loss, list(model.parameters()))
        model.checkpoint_activations = True
        chunked = model(ids[:, :-1], targets=ids[:, 1:])
        torch.testing.assert_close(chunked, loss)
        found = torch.autograd.grad(chunked, list(model.parameters()))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        results.append([loss, *found])
    for other in results[1:]:
        for one, first in zip(other, results[0], strict=True):
            torch.testing.assert_close(one, first, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_texts_are_those_of_the_whole_forward_pass(options):
    torch.manual_seed(0)
    model = random(TransformerLM(config_of(**options), dtype=torch.float64)).eval()
    engine = Engine(model, rows=2)
    texts = [engine.submit(prompt, Sampling(max_tokens=12, temperature=0)) for prompt in ([1, 2, 3], [7])]
    while not engine.is_idle:
        engine.step()
    for text in texts:
        ids = list(text.prompt_ids)
        assert len(text.token_ids) == 12
        for token in text.token_ids:
            assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_token_by_token_the_logits_are_those_of_the_whole_forward_pass(options):
    torch.manual_seed(0)
    model = random(TransformerLM(config_of(**options), dtype=torch.float64)).eval()
    ids = torch.randint(60, (2, 20))
    caches, batched = model.new_caches(2), BatchedCache(model, limit=20)
    batched.reserve(2, 20)
    parts, batched_parts = [], []
    with torch.no_grad():
        for part in ids.split([5, 1, 1, 6, 7], dim=1):
            parts.append(model(part, caches=caches))
            positions = batched.begin(slice(0, 2), part.shape[1])
            batched_parts.append(model(part, positions, batched.layers))
        for found in (parts, batched_parts):
            torch.testing.assert_close(torch.cat(found, 1), model(ids), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parameters_matrices_and_flops_are_counted(options):
    config = config_of(**options)
    model = TransformerLM(config)
    assert parameters(config).total == sum(p.numel() for p in model.parameters())
    matrices = Counter(tuple(p.shape) for p in parameter_groups(model)["matrices"])
    assert hidden_matrices(config) == matrices
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 20, dtype=torch.int64))
    assert forward_flops(config) == counter.get_total_flops()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kernels", "attention"), WAYS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_saved_activations_are_those_that_autograd_saves(options, kernels, attention, precision):
    train = TrainConfig(kernels=kernels, attention=attention, precision=precision)
    config = RunConfig(model=config_of(**options), train=train, data=DataConfig(batch_size=3))
    counted = saved_activations(config.model, train, batch_size=3)
    assert sum(tensor.size for tensor in counted if tensor.by_autograd) == saved_by_autograd(config)


@pytest.mark.parametrize(
    "options",
    [
        {"value_embeddings": "alternate"}, {"value_embeddings": "alternate", "num_layers": 3, "num_kv_heads": 2},
        {"value_embeddings": "alternate", "num_layers": 1}, {"residual_scalars": True},
        {"residual_scalars": True, "embedding_norm": True}, {"qk_norm": True, "qk_scale": 1.2},
        {"value_embeddings": "alternate", "residual_scalars": True, "num_layers": 4, "qk_norm": True, "qk_scale": 1.3},
    ],
    ids=str,
)  # fmt: skip
def test_the_formulas(options):
    """Against the model written down once more, with torch's own functions."""
    torch.manual_seed(0)
    config = config_of(position="none", norm_gains=False, ffn="relu2", **options)
    model = random(TransformerLM(config, dtype=torch.float64))
    w = dict(model.named_parameters())
    ids, layers = torch.randint(60, (2, 20)), config.num_layers
    x = w["token_embeddings.weight"][ids]
    x0 = x = F.rms_norm(x, (32,), eps=config.norm_eps) if config.embedding_norm else x
    for i in range(layers):
        a, f = f"layers.{i}.attn", f"layers.{i}.ffn"
        if config.residual_scalars:
            x = w["residual_scalars"][i] * x + w["first_scalars"][i] * x0
        h = F.rms_norm(x, (32,), eps=config.norm_eps)
        q, k, v = ((h @ w[f"{a}.{n}_proj.weight"].T).unflatten(-1, (-1, 8)) for n in "qkv")
        if config.value_embeddings == "alternate" and (layers - 1 - i) % 2 == 0:
            gate = 2 * torch.sigmoid(h[..., :12] @ w[f"{a}.value_gate.weight"].T)
            v = v + gate[..., None] * w[f"value_embeddings.{i}.weight"][ids].unflatten(-1, (-1, 8))
        if config.qk_norm:
            q, k = (config.qk_scale * F.rms_norm(y, (8,), eps=config.norm_eps) for y in (q, k))
        heads = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)), is_causal=True, enable_gqa=True)
        x = x + heads.transpose(1, 2).flatten(-2) @ w[f"{a}.output_proj.weight"].T
        h = F.rms_norm(x, (32,), eps=config.norm_eps)
        x = x + torch.relu(h @ w[f"{f}.w1.weight"].T) ** 2 @ w[f"{f}.w2.weight"].T
    expected = F.rms_norm(x, (32,), eps=config.norm_eps) @ w["lm_head.weight"].T
    torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-12)


def test_what_value_embeddings_and_scalars_begin_with():
    torch.manual_seed(0)
    plain = dict(TransformerLM(config_of(num_layers=3)).named_parameters())
    torch.manual_seed(0)
    options = {"value_embeddings": "alternate", "residual_scalars": True, "num_kv_heads": 2, "vocab_size": 2000}
    model = TransformerLM(config_of(num_layers=3, value_embeddings="alternate", residual_scalars=True))
    added = {name: p for name, p in model.named_parameters() if name not in plain}
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in plain.items())
    shapes = {"residual_scalars": (3,), "first_scalars": (3,)}
    shapes |= {f"value_embeddings.{i}.weight": (60, 32) for i in (0, 2)}
    shapes |= {f"layers.{i}.attn.value_gate.weight": (4, 12) for i in (0, 2)}
    assert {name: tuple(p.shape) for name, p in added.items()} == shapes
    assert added["residual_scalars"].tolist() == [1, 1, 1]
    assert added["first_scalars"].tolist() == pytest.approx([0.1] * 3)
    assert not added["layers.2.attn.value_gate.weight"].any()
    table = TransformerLM(config_of(**options)).get_parameter("value_embeddings.1.weight")
    assert table.shape == (2000, 16)
    assert table.abs().max() <= (3 / 32) ** 0.5  # uniform, with a standard deviation of 1 / sqrt(d_model)
    assert table.std().item() == pytest.approx(32**-0.5, rel=0.02)


def test_compiled_the_gradients_are_the_same():
    torch.manual_seed(0)
    model = random(TransformerLM(config_of(**OPTIONS[-1], num_layers=3), dtype=torch.float64))
    accelerate(model)
    ids = torch.randint(60, (2, 20))
    compiled = torch.compile(model.hidden, backend="aot_eager", fullgraph=True)
    results = []
    for hidden in (model.hidden, compiled):
        loss = model.logits(hidden(ids)).square().mean()
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_tables_gates_and_scalars_are_not_muons():
    model = TransformerLM(config_of(value_embeddings="alternate", residual_scalars=True))
    optimizer = build_optimizer(model, OptimConfig(optimizer="muon"))
    names = {id(p): name for name, p in model.named_parameters()}
    of_muon = {names[id(p)] for g in optimizer.param_groups if g["algorithm"] == "muon" for p in g["params"]}
    kinds = ("q_proj", "k_proj", "v_proj", "output_proj")
    assert of_muon == {
        *(f"layers.{i}.attn.{kind}.weight" for i in (0, 1) for kind in kinds),
        *(f"layers.{i}.ffn.{kind}.weight" for i in (0, 1) for kind in ("w1", "w2", "w3")),
    }


def test_the_native_decoder_leaves_them_to_the_modules():
    for options in ({"value_embeddings": "alternate"}, {"residual_scalars": True}, {"qk_norm": True, "qk_scale": 1.2}):
        assert not native.knows(config_of(**options))
    assert native.knows(config_of(qk_norm=True))


def test_queries_and_keys_are_normalized_without_gains():
    layer = TransformerLM(config_of(qk_norm=True, norm_gains=False)).layers[0].attn
    assert {name for name, _ in layer.named_parameters()} == {
        f"{kind}_proj.weight" for kind in ("q", "k", "v", "output")
    }
    q, k, _ = layer.project(100 * torch.randn(1, 5, 32), None, None)
    for heads in (q, k):  # a rotation keeps the size
        torch.testing.assert_close(heads.square().mean(-1), torch.ones(heads.shape[:-1]))


def test_the_bound_of_the_logits():
    torch.manual_seed(0)
    hidden = torch.randn(50, 32, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(60, 32, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(60, (50,))
    bounded = 3 * torch.tanh(hidden @ weight.T / 3)
    expected = F.cross_entropy(bounded, targets)
    for compile in (False, True):
        found = linear_cross_entropy(hidden, weight, targets, softcap=3.0, compile=compile)
        torch.testing.assert_close(found, expected)
        for one, other in zip(
            torch.autograd.grad(found, (hidden, weight)),
            torch.autograd.grad(expected, (hidden, weight), retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets[:6], softcap=3.0), (hidden[:6], weight)
    )
    model = TransformerLM(config_of(logit_softcap=0.01))
    assert model(torch.tensor([[1, 2, 3]])).abs().max() <= 0.01
    unbounded = TransformerLM(config_of())
    unbounded.load_state_dict(model.state_dict())
    logits = unbounded(torch.tensor([[1, 2, 3]]))
    torch.testing.assert_close(model(torch.tensor([[1, 2, 3]])), 0.01 * torch.tanh(logits / 0.01))
    assert cross_entropy(logits, torch.tensor([[1, 2, 3]])).isfinite()


def test_what_blocks_begin_with():
    x = torch.randn(2, 5, 32)
    weights = {}
    for init in ("glorot", "depth", "zero"):
        torch.manual_seed(0)
        weights[init] = TransformerLM(config_of(output_init=init, num_layers=8)).layers
    assert torch.equal(weights["zero"][3](x), x)
    for name in ("attn.output_proj", "ffn.w2"):
        plain, depth = (weights[init][3].get_submodule(name).weight for init in ("glorot", "depth"))
        torch.testing.assert_close(depth, plain / 4)
    assert torch.equal(weights["zero"][3].attn.q_proj.weight, weights["glorot"][3].attn.q_proj.weight)


def test_a_norm_without_gains_is_torchs():
    x = torch.randn(3, 32, dtype=torch.float64, requires_grad=True)
    for norm in (RMSNorm(32, 1e-5, gains=False), accelerate(RMSNorm(32, 1e-5, gains=False))):
        assert list(norm.parameters()) == []
        expected = F.rms_norm(x, (32,), None, 1e-5)
        torch.testing.assert_close(norm(x), expected)
        upstream = torch.randn(3, 32, dtype=torch.float64)
        torch.testing.assert_close(
            torch.autograd.grad(norm(x), x, upstream), torch.autograd.grad(expected, x, upstream), rtol=1e-9, atol=1e-12
        )


def test_embeddings_enter_with_unit_variance_whatever_their_size():
    torch.manual_seed(0)
    config = config_of(embedding_norm=True, tie_embeddings=True)
    assert config.input_scale == 1
    model = TransformerLM(config)
    entering = []
    model.layers[0].register_forward_pre_hook(lambda module, inputs: entering.append(inputs[0]))
    model(torch.arange(20)[None])
    assert entering[0].square().mean().item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"logit_softcap": -1.0}, "logit_softcap = -1"), ({"logit_softcap": math.inf}, "logit_softcap = inf"),
        ({"logit_softcap": math.nan}, "logit_softcap = nan"), ({"output_init": "ones"}, "output_init = 'ones'"),
        ({"ffn": "relu"}, "ffn = 'relu'"), ({"value_embeddings": "all"}, "value_embeddings = 'all'"),
        ({"value_embeddings": "alternate", "d_model": 8}, r"d_model = 8 is too small .* 12 features"),
        ({"qk_scale": 1.2}, r"qk_scale = 1\.2 .*qk_norm = true"), ({"qk_scale": 0.0, "qk_norm": True}, "qk_scale = 0"),
        ({"qk_scale": math.nan, "qk_norm": True}, "qk_scale = nan"),
    ],
)  # fmt: skip
def test_values_without_a_meaning_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        config_of(**options)


def test_old_recipes_have_none_of_them():
    assert from_dict(ModelConfig, SHAPE) == ModelConfig(**SHAPE)
    assert config_of(ffn="relu2").ffn_dim == 4 * 32
