"""Texts whose prompts begin as finished ones are those that they would be without."""

import random

import pytest
import torch

from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.generation import Engine, Sampling
from groundup.nn import TransformerLM

V, CONTEXT = 29, 64


@pytest.fixture(scope="module")
def models() -> dict[torch.dtype, TransformerLM]:
    """The same weights in both types."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        sizes = {"vocab_size": V, "context_length": CONTEXT, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32}
        lm = TransformerLM(ModelConfig(**sizes))
        with torch.no_grad():
            lm.lm_head.weight *= 8  # away from uniform, so that a wrong context shows in what is chosen
        found[dtype] = lm.to(dtype).eval()
    return found


def conversations(seed: int, count: int = 5, turns: int = 6):
    """Prompts of turns that are taken in a random order; each is given the reply to the one before."""
    numbers = random.Random(seed)
    histories: list[list[int]] = [[numbers.randrange(V) for _ in range(5)] for _ in range(count)]
    for _ in range(count * turns):
        which = numbers.randrange(count)
        history = histories[which]
        if numbers.random() < 0.2:  # an earlier message is edited
            history[len(history) // 2 :] = []
        if len(history) > CONTEXT - 20:  # too long: the oldest are left out
            history[5:20] = []
        history += [numbers.randrange(V) for _ in range(numbers.randint(1, 9))]
        length = numbers.choice([1, 4, 9, 9, CONTEXT])
        reply = yield list(history), length, numbers.random() < 0.15
        history += reply[: CONTEXT - 20 - len(history)]


def computed(lm: TransformerLM, counts: list[int]):
    """Count the tokens that the modules compute, in each call."""
    return lm.token_embeddings.register_forward_pre_hook(lambda _, args: counts.append(args[0].numel()))


@pytest.mark.parametrize("beyond", ["stop", "slide"])
@pytest.mark.parametrize(("dtype", "native"), [(torch.float32, True), (torch.float32, False), (torch.float64, False)])
def test_random_conversations_are_those_of_an_engine_that_keeps_nothing(models, dtype, native, beyond):
    lm = models[dtype]
    keeping = Engine(lm, rows=3, native=native, beyond=beyond, prefill_tokens=20, reuse=3)
    fresh = Engine(lm, rows=3, native=native, beyond=beyond, prefill_tokens=20)
    other = keeping.submit([1, 2, 3], Sampling(max_tokens=30, temperature=0))  # beside them for a while
    talk = conversations(seed=len(str(dtype)) + native)
    ids, length, is_cancelled = next(talk)
    while True:
        texts = []
        for engine in (keeping, fresh):
            text = engine.submit(ids, Sampling(max_tokens=length, temperature=0, log_probabilities=2))
            for _ in engine.run(text):
                if is_cancelled and len(text.tokens) == 3:
                    text.cancel()
            texts.append(text)
        kept, expected = texts
        assert kept.token_ids == expected.token_ids
        found, wanted = ([token.log_probability for token in text.tokens] for text in texts)
        if native:
            assert found == wanted  # the same bits
        else:
            assert found == pytest.approx(wanted, abs=1e-12 if dtype == torch.float64 else 1e-4)
        assert len(keeping._kept) <= 3
        assert keeping._kept.bytes <= 3 * keeping.cache.bytes_of_full_row
        try:
            ids, length, is_cancelled = talk.send(kept.token_ids)
        except StopIteration:
            break
    assert other.is_over


def test_only_what_follows_the_common_beginning_is_computed(models):
    lm, counts = models[torch.float64], []
    engine = Engine(lm, rows=1, reuse=1)
    settings = Sampling(max_tokens=6, temperature=0)
    first = engine.submit(range(20), settings)
    list(engine.run(first))
    with computed(lm, counts):
        second = engine.submit([*range(20), *first.token_ids, 7, 8, 9], settings)
        list(engine.run(second))
        assert counts[0] == 4  # the last token of the first text was never computed
        counts.clear()
        branch = engine.submit([*range(15), 3, 3], settings)
        list(engine.run(branch))
        assert counts[0] == 2
        counts.clear()
        scored = Sampling(max_tokens=1, temperature=0, log_probabilities=0, scores_prompt=True)
        list(engine.run(engine.submit([*range(15), 3, 3], scored)))
        assert counts[0] == 17


def test_nothing_is_kept_of_a_text_that_has_slid_or_failed(models):
    lm, counts = models[torch.float64], []
    engine = Engine(lm, rows=1, beyond="slide", reuse=2)
    slid = engine.submit(range(20), Sampling(max_tokens=CONTEXT, temperature=0))
    list(engine.run(slid))
    failing = Sampling(max_tokens=9, logit_bias=dict.fromkeys(range(V), -float("inf")))
    with pytest.raises(ConfigError, match="no token"):
        list(engine.run(engine.submit(range(20), failing)))
    with computed(lm, counts):
        list(engine.run(engine.submit(range(20), Sampling(max_tokens=2, temperature=0))))
    assert counts[0] == 20


def test_a_step_that_is_broken_off_leaves_only_whole_texts(models):
    lm = models[torch.float64]
    engine, settings = Engine(lm, rows=2, reuse=2), Sampling(max_tokens=9, temperature=0)
    expected = Engine(lm, rows=1)
    wanted = [expected.submit(ids, settings) for ids in ([*range(12), 5], [*range(20), 5])]
    while not expected.is_idle:
        expected.step()
    list(engine.run(engine.submit(range(12), settings)))
    for part in ("fill", "copied", "begin"):
        setattr(engine.cache, part, interrupt := lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            list(engine.run(engine.submit(range(20), settings)))
        assert interrupt is getattr(engine.cache, part)
        for text in wanted:
            again = engine.submit(text.prompt_ids, settings)
            list(engine.run(again))
            assert again.token_ids == text.token_ids


def test_a_negative_number_is_refused(models):
    with pytest.raises(ConfigError, match="reuse = -1"):
        Engine(models[torch.float32], reuse=-1)
