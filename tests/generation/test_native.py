"""The C++ decoder against the modules of the model, in float64."""

import os
import subprocess
import sys

import pytest
import torch

from groundup.config import ModelConfig
from groundup.generation import Engine, Sampling, native
from groundup.generation.cache import BatchedCache
from groundup.generation.weights import QuantizedLinear, quantize
from groundup.nn import Linear, TransformerLM
from groundup.nn.fast.accelerate import accelerate

OPTIONS = [
    {}, {"num_kv_heads": 2}, {"num_kv_heads": 1}, {"position": "none"}, {"norm": "post"},
    {"norm": "none", "ffn": "silu"}, {"qk_norm": True}, {"tie_embeddings": True}, {"qkv_bias": True, "head_size": 10},
    {"d_model": 40, "d_ff": 51},
    {"rope_scaling": "linear", "rope_factor": 2.0}, {"vocab_size": 7, "d_model": 4, "num_heads": 2, "d_ff": 3},
]  # fmt: skip


def model(**options) -> TransformerLM:
    torch.manual_seed(1)
    sizes = {"vocab_size": 61, "context_length": 40, "d_model": 48, "num_layers": 3, "num_heads": 4, "d_ff": 72}
    lm = TransformerLM(ModelConfig(**sizes | options)).eval()
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            if parameter.ndim == 1:  # gains and biases that show
                parameter.copy_(torch.linspace(0.5, 1.5, len(parameter)) * (0.1 if "bias" in name else 1))
    return lm


@pytest.mark.parametrize("batch", [1, 2, 3, 9])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_its_logits_are_those_of_the_modules(options, batch):
    lm = model(**options)
    assert native.suits(lm)
    decoder, cache = native.NativeDecoder(lm), BatchedCache(lm, limit=12)
    cache.reserve(batch + 1, 12)
    wide = model(**options).double()
    ids_BS = torch.randint(lm.vocab_size, (batch, 10), generator=torch.Generator().manual_seed(batch))
    rows = slice(1, batch + 1)
    for step in range(10):
        if step == 6:  # some by the modules, on the same cache
            found = lm(ids_BS[:, step : step + 1], cache.begin(rows, 1), cache.layers)[:, 0]
        else:
            positions = cache.begin(rows, 1)[:, 0]
            found = decoder.step(ids_BS[:, step], positions, torch.arange(rows.start, rows.stop), cache)
        expected = wide(ids_BS[:, : step + 1])[:, -1]
        assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_smaller_weights_are_rounded_once_and_computed_in_float32(options, weights):
    lm, wide = quantize(model(**options), weights), model(**options).double()
    parts = dict(lm.named_modules())
    for name, linear in wide.named_modules():
        if isinstance(linear, Linear):
            rounded = parts[name]
            assert isinstance(rounded, QuantizedLinear)
            value = rounded.weight.double() * (1 if rounded.scales is None else rounded.scales.double()[:, None])
            limit = linear.weight.abs() * 2**-8 if weights == "bfloat16" else rounded.scales[:, None].double() * 0.5001
            assert ((value - linear.weight).abs() <= limit).all()
            linear.weight = torch.nn.Parameter(value)
    decoder, cache = native.NativeDecoder(lm), BatchedCache(lm, limit=12)
    cache.reserve(2, 12)
    ids_BS = torch.randint(lm.vocab_size, (2, 6), generator=torch.Generator().manual_seed(3))
    for step in range(6):
        found = decoder.step(ids_BS[:, step], cache.begin(slice(0, 2), 1)[:, 0], torch.arange(2), cache)
        expected = wide(ids_BS[:, : step + 1])[:, -1]
        assert (found - expected).abs().max() <= 4e-6 * expected.abs().max()
    torch.testing.assert_close(lm(ids_BS), wide(ids_BS).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_prompts_of_several_rows_at_once_are_those_of_the_modules(options, threads):
    lm, wide = model(**options), model(**options).double()
    decoder = native.NativeDecoder(lm, threads=threads)
    lengths, generator = [3, 1, 7], torch.Generator().manual_seed(4)
    prompts = [torch.randint(lm.vocab_size, (length,), generator=generator) for length in lengths]
    cache = BatchedCache(lm, limit=12)
    cache.reserve(4, 12)
    positions = torch.cat([torch.arange(length) for length in lengths])
    rows = torch.arange(1, 4).repeat_interleave(torch.tensor(lengths))
    last = torch.tensor(lengths).cumsum(0) - 1
    found = decoder.step(torch.cat(prompts), positions, rows, cache, last)
    following = torch.tensor([1, 2, 0])
    after = decoder.step(following, torch.tensor(lengths), torch.arange(1, 4), cache)
    for i, ids in enumerate(prompts):
        expected = wide(torch.cat([ids, following[i : i + 1]])[None])[0]
        for one, other in ((found[i], expected[-2]), (after[i], expected[-1])):
            assert (one - other).abs().max() <= 4e-6 * other.abs().max()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    lm = model(num_kv_heads=2)
    found = []
    for count in (1, threads):
        engine = Engine(lm, native=True, threads=count)
        texts = [engine.submit(range(1, n + 2), Sampling(max_tokens=20, temperature=0)) for n in range(5)]
        while not engine.is_idle:
            engine.step()
        found.append([text.token_ids for text in texts])
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "options", [{}, {"d_model": 20, "num_heads": 2, "d_ff": 24}, {"d_model": 40, "d_ff": 51}], ids=str
)
@torch.no_grad()
def test_a_text_has_the_same_bits_in_every_batch(options):
    lm = model(**options)
    decoder, positions = native.NativeDecoder(lm), torch.zeros(12, dtype=torch.long)
    ids_B, rows_B = torch.arange(12), torch.arange(12)
    found = []
    for batch in range(1, 13):
        cache = BatchedCache(lm, limit=4)
        cache.reserve(batch, 4)
        found.append(decoder.step(ids_B[:batch], positions[:batch], rows_B[:batch], cache).clone())
    assert all(torch.equal(logits_BV, found[-1][: len(logits_BV)]) for logits_BV in found)


def test_a_context_that_slides_is_the_same_by_both_ways():
    lm, found = model(), []
    for by in (True, False):
        engine = Engine(lm, native=by, beyond="slide")
        text = engine.submit([1, 2, 3], Sampling(max_tokens=100, temperature=0))
        found.append([token.token_id for token in engine.run(text)])
    assert len(found[0]) == 100
    assert found[0] == found[1]


def test_packed_weights_are_shared_and_not_copied():
    lm = accelerate(model())
    decoder = native.NativeDecoder(lm)
    addresses = {tensor.data_ptr() for tensor in decoder._alive}
    for layer in lm.layers:
        for weight in (
            layer.attn.q_proj.weight,
            layer.attn.output_proj.weight,
            layer.ffn.w1.weight,
            layer.ffn.w2.weight,
        ):
            assert weight.data_ptr() in addresses


def test_what_it_does_not_know_is_left_to_the_modules():
    assert not native.suits(model().double())
    lm = model()
    lm.compute_dtype = torch.bfloat16
    assert not native.suits(lm)


@pytest.mark.parametrize("kernels", ["portable", "avx2"])
def test_every_instruction_set_computes_the_same(kernels):
    code = f"""
import sys, pytest
from groundup.generation import _decoder
assert _decoder.kernels() == {kernels!r}
sys.exit(pytest.main(["-q", "-k", "modules or smaller", "-p", "no:cacheprovider", {__file__!r}]))
"""
    env = os.environ | {"GROUNDUP_SIMD": kernels}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:]
