"""Weights and matmuls as they are read from the modules."""

import subprocess
import sys

import pytest
import torch

from groundup.account import modules
from groundup.account.flops import forward_matmuls
from groundup.account.params import hidden_matrices, parameters
from groundup.config import ModelConfig
from groundup.nn import Linear, SwiGLU, TransformerLM

MODEL = ModelConfig(vocab_size=50, context_length=8, d_model=24, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=40)


@pytest.fixture
def no_cache():
    """Walk the modules as they are now, and forget them after the test."""
    caches = (modules._walk, parameters, forward_matmuls)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_new_layer_is_counted_without_a_formula(no_cache, monkeypatch):
    class WithOneMore(SwiGLU):
        def __init__(self, d_model, d_ff, *rest):
            super().__init__(d_model, d_ff, *rest)
            self.w4 = Linear(d_ff, d_ff, *rest)
            self.bias = torch.nn.Parameter(torch.zeros(3 * d_model))

        def forward(self, x):
            return self.w2(self.w4(self.w1(x)) * self.w3(x))

    before, sizes = parameters(MODEL), [matmul.name for matmul in forward_matmuls(MODEL)]
    for cache in (modules._walk, parameters, forward_matmuls):
        cache.cache_clear()
    monkeypatch.setattr("groundup.nn.transformer.SwiGLU", WithOneMore)
    assert parameters(MODEL).total == before.total + 2 * (40 * 40 + 3 * 24)
    assert parameters(MODEL).ffn == before.ffn + 40 * 40
    matmuls = forward_matmuls(MODEL, batch_size=3)
    assert [matmul.name for matmul in matmuls] == [*sizes[:-3], "w4", "w3", "w2", "lm_head"]
    added = next(matmul for matmul in matmuls if matmul.name == "w4")
    assert (added.component, added.m, added.n, added.p, added.count) == ("ffn", 3 * 8, 40, 40, 2)


def test_hidden_matrices_are_those_of_the_model():
    found = hidden_matrices(MODEL)
    shapes = [tuple(p.shape) for name, p in TransformerLM(MODEL).named_parameters() if "layers" in name and p.ndim == 2]
    assert dict(found) == {shape: shapes.count(shape) for shape in shapes}


@pytest.mark.parametrize("number", [101, 2 * 131 * 113 * 113, 7 * 107 * 109, 1, 97])
def test_a_dimension_is_the_product_of_its_sizes(number):
    assert modules._value(modules.dimension_of(number), modules._PROBE) == number


def test_a_dimension_of_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match=r"211 is not a product of the sizes batch_size, .*head_dim"):
        modules.dimension_of(211)


def test_a_walk_leaves_the_random_numbers_of_a_run_as_they_are(no_cache):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    parameters(MODEL)
    assert forward_matmuls(MODEL)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_counting_loads_torch():
    code = """
import sys
from groundup.account import account, fit, flops, memory, params, sections, sweep, time
print("torch" in sys.modules)
from groundup.account.presets import PRESETS
params.parameter_count(PRESETS["gpt2-small"][1].model)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
