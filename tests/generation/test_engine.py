"""The engine: many texts at once, each as if it were alone."""

import random

import pytest
import torch

from groundup.config import ModelConfig
from groundup.errors import ConfigError, TokenizerError
from groundup.generation import Engine, Sampling, generate
from groundup.generation.cache import BatchedCache
from groundup.nn import TransformerLM, scaled_dot_product_attention
from groundup.nn.fast.accelerate import accelerate

V, CONTEXT = 29, 24


def model(*, dtype: torch.dtype = torch.float32, kernels: str = "plain", attention: str = "plain", **options):
    torch.manual_seed(0)
    lm = TransformerLM(V, CONTEXT, 16, 2, 2, 24, **options)
    accelerate(lm, kernels=kernels, attention=attention)
    with torch.no_grad():
        lm.lm_head.weight *= 8  # away from uniform, so that a wrong context shows in what is chosen
    return lm.to(dtype).eval()


def prompt(length: int, seed: int = 0) -> list[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(V) for _ in range(length)]


def alone(lm: TransformerLM, ids: list[int], count: int) -> list[int]:
    """Greedy, by the definition: the whole sequence through the whole model for each token."""
    return generate(lm, ids, count, temperature=0)[len(ids) :]


OPTIONS = [
    {}, {"attention": "flash"}, {"kernels": "fast", "attention": "flash"}, {"num_kv_heads": 1}, {"position": "none"},
    {"norm": "post"}, {"norm": "none", "ffn": "silu"}, {"qk_norm": True}, {"tie_embeddings": True},
    {"qkv_bias": True, "head_size": 12}, {"rope_scaling": "linear", "rope_factor": 2.0},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_64_requests_that_arrive_at_random_are_each_as_alone(options):
    lm, numbers = model(**options), random.Random(1)
    engine = Engine(lm, rows=7, prefill_tokens=9)
    waiting = [(prompt(numbers.randint(1, CONTEXT), seed), numbers.randint(1, 12)) for seed in range(64)]
    expected = [alone(lm, ids, min(count, CONTEXT + 1 - len(ids))) for ids, count in waiting]
    texts, most = [], 0
    while len(texts) < 64 or not engine.is_idle:
        for _ in range(numbers.randint(0, 3)):
            if len(texts) < 64:
                ids, count = waiting[len(texts)]
                texts.append(engine.submit(ids, Sampling(max_tokens=count, temperature=0)))
        engine.step()
        most = max(most, engine.running)
    assert most == 7
    assert [text.token_ids for text in texts] == expected
    assert {text.finish_reason for text in texts} == {"length"}


def test_texts_that_end_with_their_first_token_leave_the_others_as_they_are():
    """All prompts in one step, so that the rows of those that follow move up before their second token."""
    lm = model()
    engine = Engine(lm, rows=8)
    counts = [1, 6, 5, 1, 7, 1, 4, 6]
    texts = [engine.submit(prompt(4, i), Sampling(max_tokens=n, temperature=0)) for i, n in enumerate(counts)]
    while not engine.is_idle:
        engine.step()
    assert [text.token_ids for text in texts] == [alone(lm, prompt(4, i), n) for i, n in enumerate(counts)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_logits_of_a_batch_are_those_of_each_text_within_rounding_of_float64(options):
    lm = model(dtype=torch.float64, **options)
    cache = BatchedCache(lm, limit=CONTEXT)
    prompts = [prompt(length, length) for length in (1, 5, 17, 9)]
    cache.reserve(4, 8)
    with torch.inference_mode():
        for row, ids in enumerate(prompts):
            cache.reserve(4, len(ids))
            for chunk in (ids[:4], ids[4:]):  # a prompt may come in pieces
                if chunk:
                    lm(torch.tensor([chunk]), cache.begin(slice(row, row + 1), len(chunk)), cache.layers)
        for step in range(3):
            cache.reserve(4, max(map(len, prompts)) + 1)
            for ids in prompts:
                ids.append((7 * step + len(ids)) % V)
            last = torch.tensor([ids[-1:] for ids in prompts])
            found = lm(last, cache.begin(slice(0, 4), 1), cache.layers)[:, -1]
            for row, ids in enumerate(prompts):
                expected = lm(torch.tensor([ids]))[0, -1]
                assert (found[row] - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("seed", range(4))
def test_sampled_texts_do_not_depend_on_their_company(seed):
    lm = model()
    sampling = Sampling(max_tokens=10, temperature=1.1, top_k=9, min_p=0.01, presence_penalty=0.3, seed=seed)
    engine = Engine(lm)
    by_itself = engine.submit(prompt(6, seed), sampling)
    list(engine.run(by_itself))
    others = [engine.submit(prompt(5, s), Sampling(max_tokens=8, seed=s)) for s in range(9)]
    engine.step()
    together = engine.submit(prompt(6, seed), sampling)
    list(engine.run(together))
    assert together.token_ids == by_itself.token_ids
    assert all(len(text.token_ids) >= 6 for text in others)


@pytest.mark.parametrize("options", [{}, {"ffn": "relu2"}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_prompts_computed_together_give_what_each_gives_alone(options, dtype):
    """With the C++ decoder (float32) and without it, where shorter prompts are padded."""
    lm = model(dtype=dtype, **options)
    prompts = [prompt(length, length) for length in (1, 9, 4, 9, 16)]
    settings = Sampling(max_tokens=8, temperature=0, log_probabilities=2)
    together, apart = Engine(lm, rows=5), [Engine(lm, rows=1) for _ in prompts]
    pairs = [
        (together.submit(ids, settings), engine.submit(ids, settings))
        for ids, engine in zip(prompts, apart, strict=True)
    ]
    together.step()
    assert together.running == 5
    for engine in (together, *apart):
        while not engine.is_idle:
            engine.step()
    for (one, other), ids in zip(pairs, prompts, strict=True):
        assert one.token_ids == other.token_ids == alone(lm, ids, 8)
        logs = [[token.log_probability for token in text.tokens] for text in (one, other)]
        assert logs[0] == pytest.approx(logs[1], abs=1e-12 if dtype == torch.float64 else 1e-5)


def test_a_text_that_slides_attends_to_the_last_tokens_of_the_context():
    """Against attention over all tokens with a banded mask, in float64."""
    lm = model(dtype=torch.float64)
    engine = Engine(lm, beyond="slide")
    texts = [engine.submit(prompt(n, n), Sampling(max_tokens=2 * CONTEXT, temperature=0)) for n in (3, CONTEXT, 11)]
    while not engine.is_idle:
        engine.step()

    def banded(ids: list[int]) -> torch.Tensor:
        wide = TransformerLM(V, 4 * CONTEXT, 16, 2, 2, 24).double()
        wide.load_state_dict(lm.state_dict())
        positions = torch.arange(len(ids))
        band = (positions[:, None] >= positions) & (positions[:, None] < positions + CONTEXT)
        for layer in wide.layers:
            layer.attn.attend = lambda q, k, v, mask=None: scaled_dot_product_attention(q, k, v, band)
        return wide(torch.tensor([ids]))[0]

    for text in texts:
        ids = [*text.prompt_ids, *text.token_ids]
        assert len(text.token_ids) == 2 * CONTEXT
        expected = banded(ids).argmax(-1).tolist()
        assert text.token_ids == expected[len(text.prompt_ids) - 1 : -1]


def test_a_prompt_beyond_the_context_is_refused_or_cut():
    lm = model()
    with pytest.raises(ConfigError, match=f"{CONTEXT + 1} tokens.*holds {CONTEXT}"):
        Engine(lm).submit(prompt(CONTEXT + 1))
    engine = Engine(lm, beyond="slide")
    text = engine.submit(prompt(CONTEXT + 5), Sampling(max_tokens=1, temperature=0))
    list(engine.run(text))
    assert text.token_ids == alone(lm, prompt(CONTEXT + 5)[-CONTEXT:], 1)


def test_a_full_context_gives_one_more_token_and_ends():
    lm = model()
    engine = Engine(lm)
    text = engine.submit(prompt(CONTEXT), Sampling(max_tokens=9, temperature=0))
    list(engine.run(text))
    assert (text.token_ids, text.finish_reason) == (alone(lm, prompt(CONTEXT), 1), "length")


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("look_up", [1, 4, 50])
def test_guessed_tokens_change_no_text(temperature, look_up):
    lm = model()
    with torch.no_grad():
        lm.lm_head.weight *= 3  # repeats itself, so that guesses hit
    sampling = Sampling(max_tokens=20, temperature=temperature, seed=5)
    plain, guessing = Engine(lm, native=False), Engine(lm, look_up=look_up, native=False)
    forwards = []
    lm.register_forward_hook(lambda *_: forwards.append(1))
    counts = []
    for engine in (plain, guessing):
        forwards.clear()
        texts = [engine.submit([3, 4, 5, 3, 4, 5, 3, 4], sampling) for _ in range(1)]
        list(engine.run(texts[0]))
        counts.append((texts[0].token_ids, texts[0].finish_reason, len(forwards)))
    assert counts[0][:2] == counts[1][:2]
    assert len(counts[0][0]) == CONTEXT - 8 + 1
    if look_up > 1 and temperature == 0:
        assert counts[1][2] < counts[0][2]


def test_a_cancelled_text_leaves_and_the_others_do_not_notice():
    lm = model()
    engine = Engine(lm, rows=3, prefill_tokens=5)
    prompts = [prompt(6, s) for s in range(6)]
    texts = [engine.submit(ids, Sampling(max_tokens=10, temperature=0)) for ids in prompts]
    for _ in range(4):
        engine.step()
    for i in (0, 2, 4):
        texts[i].cancel()
    while not engine.is_idle:
        engine.step()
    assert [text.finish_reason for text in texts] == ["cancelled", "length"] * 3
    for i in (1, 3, 5):
        assert texts[i].token_ids == alone(lm, prompts[i], 10)


def test_a_text_that_cannot_be_sampled_ends_alone():
    lm = model()
    engine = Engine(lm)
    good = engine.submit(prompt(4), Sampling(max_tokens=6, temperature=0))
    bad = engine.submit(prompt(4), Sampling(max_tokens=6, logit_bias=dict.fromkeys(range(V), -float("inf"))))
    with pytest.raises(ConfigError, match="logit_bias leaves no token"):
        list(engine.run(bad))
    list(engine.run(good))
    assert good.token_ids == alone(lm, prompt(4), 6)


def test_log_probabilities_are_those_of_the_model_before_temperature_and_penalties():
    lm = model()
    engine = Engine(lm)
    text = engine.submit(prompt(4), Sampling(max_tokens=5, temperature=0.5, top_k=3, seed=1, log_probabilities=4))
    list(engine.run(text))
    ids = [*text.prompt_ids, *text.token_ids]
    expected = lm(torch.tensor([ids]))[0].detach().double().log_softmax(-1)
    for i, token in enumerate(text.tokens):
        row = expected[len(text.prompt_ids) - 1 + i]
        assert token.log_probability == pytest.approx(float(row[token.token_id]), rel=1e-5)
        values, best = row.topk(4)
        assert [t for t, _ in token.alternatives] == best.tolist()
        assert [p for _, p in token.alternatives] == pytest.approx(values.tolist(), rel=1e-5)


@pytest.mark.parametrize("ids", [[], [V], [-1]])
def test_a_prompt_the_model_cannot_read_is_refused(ids):
    with pytest.raises((ConfigError, TokenizerError)):
        Engine(model()).submit(ids)


def test_nothing_is_generated_where_nothing_was_asked_for():
    engine = Engine(model())
    text = engine.submit([1], Sampling(max_tokens=0))
    assert (text.is_over, engine.is_idle, text.token_ids) == (True, True, [])


def test_a_step_that_is_broken_off_leaves_no_trace_in_later_texts():
    """As by Ctrl-C in a notebook, wherever it arrives: the text that follows is the one that it would be."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=50, context_length=16, d_model=32, num_layers=2, num_heads=2)
    settings = Sampling(max_tokens=60, temperature=0)
    expected = Engine(TransformerLM(config), rows=1, beyond="slide")
    weights = expected.model.state_dict()
    text = expected.submit([1, 2, 3], settings)
    list(expected.run(text))
    model = TransformerLM(config)
    model.load_state_dict(weights)
    engine = Engine(model, rows=1, beyond="slide")
    rope = engine._rope
    tables = rope._compute_tables

    def interrupted(*_):
        raise KeyboardInterrupt

    for owner, name in (("_rope", "_compute_tables"), ("cache", "begin"), ("cache", "reserve")):
        part = getattr(engine, owner)  # the cache is another one after each
        original = getattr(part, name)
        setattr(part, name, interrupted)
        broken = engine.submit([1, 2, 3], settings)
        with pytest.raises(KeyboardInterrupt):
            list(engine.run(broken))
        setattr(part, name, original)
        broken.cancel()
        again = engine.submit([1, 2, 3], settings)
        list(engine.run(again))
        assert again.token_ids == text.token_ids
        rope.max_seq_len = 16
        rope.cos, rope.sin = tables(rope.cos.device, rope.cos.dtype).values()
