"""The compiled step against the modules of the model."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from unittest import mock

import pytest
import torch

from groundup.cli.main import main
from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.generation import Engine, Sampling, generate
from groundup.generation.compiled import CompiledStep, FixedCache
from groundup.nn import TransformerLM
from groundup.nn.fast.accelerate import accelerate
from running_server import RUN

V, CONTEXT = 29, 24


def model(*, dtype=torch.float32, kernels: str = "plain", attention: str = "plain", **options) -> TransformerLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": V, "context_length": CONTEXT, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    lm = accelerate(TransformerLM(ModelConfig(**sizes | options)), kernels=kernels, attention=attention)
    with torch.no_grad():
        lm.lm_head.weight *= 8  # away from uniform, so that a wrong context shows in what is chosen
    return lm.to(dtype).eval()


def prompt(length: int, seed: int) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(V) for _ in range(length)]


def compiled_functions() -> tuple[int, int]:
    """Number of graphs that torch has compiled in this process, and of breaks between them."""
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@pytest.fixture
def traced() -> Iterator[None]:
    """Trace as always, but generate no code, which takes a C++ compiler many seconds for each model."""
    with tracing():
        yield


def tracing():
    return mock.patch.object(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Up to five texts: steps of 1, 2, 4 and 5 rows."""
    with tracing():
        return Engine(model(num_layers=1), rows=5, prefill_tokens=9, beyond="slide", compile=True)


def test_texts_that_arrive_slide_and_are_cancelled_at_random_are_each_as_without(engine, traced):
    before, breaks = compiled_functions()
    numbers, eager = random.Random(2), Engine(engine.model, rows=1, beyond="slide", native=False)
    wanted = [(prompt(numbers.randint(1, CONTEXT), seed), numbers.randint(1, 3 * CONTEXT)) for seed in range(24)]
    texts, most = [], 0
    while len(texts) < len(wanted) or not engine.is_idle:
        for _ in range(numbers.randint(0, 3)):
            if len(texts) < len(wanted):
                ids, count = wanted[len(texts)]
                texts.append(engine.submit(ids, Sampling(max_tokens=count, temperature=0)))
        if texts and numbers.random() < 0.02:
            texts[-1].cancel()
        engine.step()
        most = max(most, engine.running)
    assert most == 5
    assert len({text.finish_reason for text in texts}) == 2
    for text, (ids, count) in zip(texts, wanted, strict=True):
        expected = eager.submit(ids, Sampling(max_tokens=count, temperature=0))
        found = [token.token_id for token in eager.run(expected)]
        assert text.token_ids == found[: len(text.token_ids)]
        assert text.finish_reason == "cancelled" or len(text.token_ids) == count
    after, breaks_after = compiled_functions()
    assert after - before <= 3  # the one of 1 row is compiled with the engine
    assert breaks_after == breaks


def test_a_compiled_step_that_is_broken_off_leaves_no_trace(engine, traced):
    settings = Sampling(max_tokens=15, temperature=0)
    before, _ = compiled_functions()

    def interrupted(*_):
        raise KeyboardInterrupt

    broken = [engine.submit(prompt(5, 1), settings) for _ in range(2)]
    engine.step()
    compiled, engine._compiled.step = engine._compiled.step, interrupted
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    engine._compiled.step = compiled
    text = engine.submit(prompt(7, 2), settings)
    list(engine.run(text))
    assert text.token_ids == generate(engine.model, prompt(7, 2), 15, temperature=0)[7:]
    assert {other.finish_reason for other in broken} == {"cancelled"}
    assert compiled_functions()[0] == before


OPTIONS = [
    {"qkv_bias": True, "head_size": 12},
    {"kernels": "fast", "attention": "flash", "num_kv_heads": 1, "qk_norm": True, "tie_embeddings": True},
    {"position": "none", "norm": "post", "ffn": "relu2"},
    {"rope_scaling": "linear", "rope_factor": 2.0, "logit_softcap": 9.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_are_those_of_the_modules_within_rounding_of_float64_and_no_row_disturbs_another(options, traced):
    check_steps(**options)


def test_generated_code_computes_the_same():
    check_steps(num_layers=1, attention="flash", num_kv_heads=1)


@torch.inference_mode()
def check_steps(**options):
    """Steps of six and then five texts, computed as eight rows, with a prompt in the row after theirs."""
    lm, wide = (model(dtype=torch.float64, **options) for _ in range(2))
    cache = FixedCache(lm, limit=6, rows=8)
    step = CompiledStep(lm, cache)
    texts, begun = [prompt(4, seed) for seed in range(6)], prompt(3, 9)
    for row, ids in enumerate([*texts, begun]):
        lm(torch.tensor([ids]), cache.begin(slice(row, row + 1), len(ids)), cache.layers)
    for number in range(10):
        if number == 3:  # the first leaves
            cache.copy(5, 0)
            texts = [texts[5], *texts[1:5]]
            cache.copy(6, 5)
        for ids in texts:
            ids.append((5 * number + len(ids) + ids[0]) % V)
        found = step.step([ids[-1] for ids in texts])
        for logits, ids in zip(found, texts, strict=True):
            expected = windowed(wide, ids, 6)
            assert (logits - expected).abs().max() <= 1e-12 * expected.abs().max()
    begun.append(3)
    found = lm(torch.tensor([[3]]), cache.begin(slice(5, 6), 1), cache.layers)[0, -1]
    expected = windowed(wide, begun, 6)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def windowed(lm, ids: list[int], width: int) -> torch.Tensor:
    """Logits after the last token, each token attending to the last ``width`` ones."""
    positions = torch.arange(len(ids))
    band = (positions[:, None] >= positions) & (positions[:, None] < positions + width)
    for layer in lm.layers:
        attend = type(layer.attn).attend
        layer.attn.attend = lambda q, k, v, mask=None, attend=attend, attn=layer.attn: attend(attn, q, k, v, band)
    return lm(torch.tensor([ids]))[0, -1]


def test_without_a_compiler_the_command_line_says_so_in_one_line(tmp_path):
    command = [sys.executable, "-m", "groundup", "generate", str(RUN), "--compile", "--device", "cpu"]
    env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "CXX": "/nowhere/c++"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "torch.compile does not work here (" in line
    assert "leave out --compile" in line


def test_one_way_is_chosen():
    with pytest.raises(ConfigError, match="native and compile"):
        Engine(model(), native=True, compile=True)


def test_the_command_line_gives_the_same_text(capsys, traced):
    command = ["generate", str(RUN), "--prompt", "Once", "--temperature", "0", "--tokens", "20"]
    texts = []
    for flags in ([], ["--compile"]):
        with pytest.raises(SystemExit) as ended:
            main([*command, *flags])
        assert ended.value.code in (0, None)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
