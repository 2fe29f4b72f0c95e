import math

import pytest
import torch

from groundup.errors import ConfigError, TokenizerError
from groundup.generation import generate, next_token, stream
from groundup.nn import TransformerLM
from groundup.nn.fast.accelerate import accelerate

V, CONTEXT = 23, 8


def model(*, flash: bool = False, **options) -> TransformerLM:
    torch.manual_seed(0)
    lm = TransformerLM(V, CONTEXT, 16, 2, 2, 24, **options)
    accelerate(lm, kernels="plain", attention="flash" if flash else "plain")
    with torch.no_grad():
        lm.lm_head.weight *= 8  # away from uniform, so that a wrong context shows in what is chosen
    return lm


@torch.no_grad()
def naive(lm, prompt, max_tokens, temperature, top_p, eos=None, seed=None) -> list[int]:
    """The definition: the whole window through the whole model for each token."""
    random = None if seed is None else torch.Generator().manual_seed(seed)
    ids = list(prompt)
    for _ in range(max_tokens):
        logits = lm(torch.tensor([ids[-CONTEXT:]]))[0, -1]
        ids.append(next_token(logits, temperature, top_p, random))
        if ids[-1] == eos:
            break
    return ids


ABLATIONS = [
    {},
    {"flash": True},
    {"num_kv_heads": 1},
    {"position": "none"},
    {"norm": "post"},
    {"norm": "none", "ffn": "silu"},
]


class TestCache:
    """Only what is new runs through the model; that must not be seen in the result."""

    @pytest.mark.parametrize("length", [1, 5, CONTEXT - 1, CONTEXT, CONTEXT + 1, 3 * CONTEXT])
    @pytest.mark.parametrize("options", ABLATIONS, ids=str)
    def test_greedy_tokens_are_those_of_the_whole_window(self, options, length):
        lm, prompt = model(**options), [(7 * i + 3) % V for i in range(length)]
        assert generate(lm, prompt, 2 * CONTEXT, temperature=0) == naive(lm, prompt, 2 * CONTEXT, 0, 1.0)

    @pytest.mark.parametrize("length", [1, CONTEXT, CONTEXT + 1])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_sampled_tokens_are_those_of_the_whole_window(self, length, seed):
        lm, prompt = model(), [(5 * i + 1) % V for i in range(length)]
        random = torch.Generator().manual_seed(seed)
        found = generate(lm, prompt, 30, 0.9, 0.95, generator=random)
        assert found == naive(lm, prompt, 30, 0.9, 0.95, seed=seed)

    def test_it_follows_the_models_precision(self):
        lm = model()
        lm.compute_dtype = torch.bfloat16
        assert len(generate(lm, [1, 2], 12, generator=torch.Generator().manual_seed(0))) == 14


class TestEnd:
    def test_it_stops_after_the_end_token_and_includes_it(self):
        lm, prompt = model(), [3, 1]
        free = generate(lm, prompt, 20, temperature=0)
        end = free[6]
        stop = free.index(end, len(prompt))
        assert generate(lm, prompt, 20, temperature=0, eos_token_id=end) == free[: stop + 1]

    def test_an_end_token_within_the_prompt_ends_nothing(self):
        lm = model()
        free = generate(lm, [3, 1], 5, temperature=0)
        unused = next(i for i in range(V) if i not in free)
        assert len(generate(lm, [unused, 1], 5, temperature=0.0, eos_token_id=unused)) >= 3

    def test_it_stops_after_max_tokens(self):
        assert len(generate(model(), [3, 1], 7)) == 9
        assert generate(model(), [3, 1], 0) == [3, 1]


class TestRandomness:
    def test_a_generator_decides_alone(self):
        lm, found = model(), []
        for _ in range(2):
            torch.rand(3)
            found.append(generate(lm, [1], 30, 1.0, 1.0, generator=torch.Generator().manual_seed(4)))
        assert found[0] == found[1]
        assert generate(lm, [1], 30, 1.0, 1.0, generator=torch.Generator().manual_seed(5)) != found[0]

    def test_without_a_generator_torchs_seed_decides(self):
        lm, found = model(), []
        for _ in range(2):
            torch.manual_seed(9)
            found.append(generate(lm, [1], 30, 1.0, 1.0))
        assert found[0] == found[1]

    def test_with_a_generator_torchs_random_numbers_are_not_touched(self):
        lm = model()
        before = torch.get_rng_state()
        generate(lm, [1], 10, generator=torch.Generator().manual_seed(4))
        assert torch.equal(torch.get_rng_state(), before)


class TestModelState:
    @pytest.mark.parametrize("training", [True, False])
    def test_the_mode_is_put_back(self, training):
        lm = model().train(training)
        generate(lm, [1], 3)
        assert lm.training is training
        pieces = stream(lm, [1], 100)
        next(pieces)
        pieces.close()
        assert lm.training is training

    def test_the_mode_is_put_back_after_an_error(self, monkeypatch):
        lm = model().train()

        def broken(*args, **kwargs):
            raise RuntimeError("out of memory")

        monkeypatch.setattr(lm.layers[1], "forward", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            generate(lm, [1], 3)
        assert lm.training

    def test_gradients_stay_on_for_who_reads_the_stream(self):
        for _ in stream(model(), [1], 3):
            assert torch.is_grad_enabled()
        assert torch.is_grad_enabled()


def test_a_stream_gives_the_new_ids_one_at_a_time_and_leaves_the_prompt_alone():
    lm, prompt = model(), [3, 1]
    new = stream(lm, prompt, 5, temperature=0)
    first = next(new)
    assert prompt == [3, 1]
    assert [3, 1, first, *new] == generate(lm, prompt, 5, temperature=0)


@pytest.mark.parametrize("prompt", [torch.tensor([3, 1]), (3, 1)], ids=["tensor", "tuple"])
def test_a_prompt_may_be_any_sequence_of_integers(prompt):
    found = generate(model(), prompt, 2, temperature=0)
    assert found == generate(model(), [3, 1], 2, temperature=0)
    assert {type(i) for i in found} == {int}


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"temperature": -0.1}, ConfigError, r"temperature = -0\.1; expected .*0 "),
        ({"temperature": math.nan}, ConfigError, r"temperature = nan"),
        ({"temperature": math.inf}, ConfigError, r"temperature = inf"),
        ({"top_p": 0.0}, ConfigError, r"top_p = 0\.0; expected a number in \(0, 1\]"),
        ({"top_p": 1.01}, ConfigError, r"top_p = 1\.01"),
        ({"top_p": math.nan}, ConfigError, r"top_p = nan"),
        ({"max_tokens": -1}, ConfigError, r"max_tokens = -1; expected 0 or greater"),
        ({"prompt_ids": []}, ConfigError, r"prompt is empty; give at least one"),
        ({"prompt_ids": [3, V]}, TokenizerError, rf"prompt id {V} .*vocabulary of {V}"),
        ({"prompt_ids": [-1]}, TokenizerError, r"prompt id -1 "),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_runs(arguments, error, match):
    arguments = {"prompt_ids": [3, 1], "max_tokens": 2} | arguments
    with pytest.raises(error, match=match) as raised:
        stream(model(), **arguments)
    assert "\n" not in str(raised.value)
    with pytest.raises(error, match=match):
        generate(model(), **arguments)
