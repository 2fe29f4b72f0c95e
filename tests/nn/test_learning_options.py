"""Options that change what a model learns: each in every way of computing, in generation, account and export."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from account_measure import saved_by_autograd
from groundup.account.activations import saved_activations
from groundup.account.params import parameters
from groundup.config import DataConfig, ModelConfig, RunConfig, TrainConfig, from_dict
from groundup.errors import ConfigError
from groundup.generation.engine import Engine
from groundup.generation.sampling import Sampling
from groundup.nn import TransformerLM, cross_entropy
from groundup.nn.fast.accelerate import accelerate
from groundup.nn.fast.linear_loss import linear_cross_entropy
from groundup.nn.layers import RMSNorm

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
        for token in text.token_ids:
            assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_parameters_are_counted(options):
    config = config_of(**options)
    assert parameters(config).total == sum(p.numel() for p in TransformerLM(config).parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kernels", "attention"), WAYS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_saved_activations_are_those_that_autograd_saves(options, kernels, attention, precision):
    train = TrainConfig(kernels=kernels, attention=attention, precision=precision)
    config = RunConfig(model=config_of(**options), train=train, data=DataConfig(batch_size=3))
    counted = saved_activations(config.model, train, batch_size=3)
    assert sum(tensor.size for tensor in counted if tensor.by_autograd) == saved_by_autograd(config)


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
        ({"ffn": "relu"}, "ffn = 'relu'"),
    ],
)  # fmt: skip
def test_values_without_a_meaning_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        config_of(**options)


def test_old_recipes_have_none_of_them():
    assert from_dict(ModelConfig, SHAPE) == ModelConfig(**SHAPE)
    assert config_of(ffn="relu2").ffn_dim == 4 * 32
