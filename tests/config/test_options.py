import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    TrackConfig,
    TrainConfig,
    check_sampling,
    from_dict,
)
from groundup.errors import ConfigError

SECTIONS = [ModelConfig, OptimConfig, DataConfig, TrainConfig, SampleConfig, TrackConfig]

IMPOSSIBLE = [
    (ModelConfig, {"vocab_size": -1}, r"model\.vocab_size = -1; expected 0 .* or a positive number"),
    (ModelConfig, {"context_length": 0}, r"model\.context_length = 0; expected at least 1"),
    (ModelConfig, {"d_model": 0}, r"model\.d_model = 0; expected at least 1"),
    (ModelConfig, {"num_layers": 0}, r"model\.num_layers = 0; expected at least 1"),
    (ModelConfig, {"num_heads": 0}, r"model\.num_heads = 0; expected at least 1"),
    (ModelConfig, {"num_heads": 7}, r"num_heads = 7 does not divide model\.d_model = 512; nearest that do: 4, 8$"),
    (ModelConfig, {"num_heads": 600}, r"num_heads = 600 does not divide model\.d_model = 512; nearest that do: 512$"),
    (
        ModelConfig,
        {"num_kv_heads": 3},
        r"num_kv_heads = 3 does not divide model\.num_heads = 16; nearest that do: 2, 4$",
    ),
    (
        ModelConfig,
        {"num_kv_heads": -2},
        r"num_kv_heads = -2 does not divide model\.num_heads = 16; nearest that do: 1$",
    ),
    (ModelConfig, {"d_model": 48, "num_heads": 16}, r"48 / 16 = 3 is odd.*num_heads.*or position = 'none'"),
    (ModelConfig, {"d_ff": -1}, r"model\.d_ff = -1; expected a positive number, or 0"),
    (ModelConfig, {"rope_theta": 0.0}, r"model\.rope_theta = 0\.0; expected a positive, finite number"),
    (ModelConfig, {"norm_eps": 0.0}, r"model\.norm_eps = 0\.0; expected a positive, finite number"),
    (OptimConfig, {"max_learning_rate": -1.0}, r"optim\.max_learning_rate = -1\.0; expected a finite number, 0 or"),
    (OptimConfig, {"min_learning_rate": -1.0}, r"optim\.min_learning_rate = -1\.0; expected a finite number, 0 or"),
    (
        OptimConfig,
        {"min_learning_rate": 2e-3},
        r"optim\.min_learning_rate = 0\.002; expected at most optim\.max_learning_rate = 0\.001",
    ),
    (OptimConfig, {"warmup_iters": -1}, r"optim\.warmup_iters = -1; expected a finite number, 0 or greater"),
    (OptimConfig, {"beta1": 1.0}, r"optim\.beta1 = 1\.0; expected a number in \[0, 1\)"),
    (OptimConfig, {"beta2": -0.1}, r"optim\.beta2 = -0\.1; expected a number in \[0, 1\)"),
    (OptimConfig, {"eps": 0.0}, r"optim\.eps = 0\.0; expected a positive, finite number"),
    (OptimConfig, {"weight_decay": -0.1}, r"optim\.weight_decay = -0\.1; expected a finite number, 0 or greater"),
    (OptimConfig, {"grad_clip": -1.0}, r"optim\.grad_clip = -1\.0; expected a finite number, 0 or greater"),
    (DataConfig, {"batch_size": 0}, r"data\.batch_size = 0; expected at least 1"),
    (DataConfig, {"micro_batch_size": -1}, r"data\.micro_batch_size = -1; expected a positive number, or 0"),
    (
        DataConfig,
        {"micro_batch_size": 5},
        r"data\.micro_batch_size = 5 does not divide data\.batch_size = 32; nearest that do: 4, 8$",
    ),
    (DataConfig, {"vocab": "vocab.json"}, r"data\.vocab and data\.merges = .*; expected both or neither"),
    (TrainConfig, {"max_iters": 0}, r"train\.max_iters = 0; expected at least 1"),
    (TrainConfig, {"log_interval": 0}, r"train\.log_interval = 0; expected at least 1"),
    (TrainConfig, {"eval_interval": 0}, r"train\.eval_interval = 0; expected at least 1"),
    (TrainConfig, {"eval_batch_size": 0}, r"train\.eval_batch_size = 0; expected at least 1"),
    (TrainConfig, {"checkpoint_interval": 0}, r"train\.checkpoint_interval = 0; expected at least 1"),
    (TrainConfig, {"seed": -1}, r"train\.seed = -1; expected 0 or greater"),
    (TrainConfig, {"eval_windows": -1}, r"train\.eval_windows = -1; expected 0 or greater"),
    (TrainConfig, {"keep_checkpoints": -1}, r"train\.keep_checkpoints = -1; expected 0 or greater"),
    (SampleConfig, {"interval": -1}, r"sample\.interval = -1; expected 0 or greater"),
    (SampleConfig, {"tokens": 0}, r"sample\.tokens = 0; expected at least 1"),
    (SampleConfig, {"temperature": -0.5}, r"temperature = -0\.5; expected a finite number, 0 "),
    (SampleConfig, {"top_p": 0.0}, r"top_p = 0\.0; expected a number in \(0, 1\]"),
    (SampleConfig, {"top_p": 1.5}, r"top_p = 1\.5; expected a number in \(0, 1\]"),
    (RunConfig, {"name": ""}, r"name = ''; expected one folder's name"),
    (RunConfig, {"name": ".."}, r"name = '\.\.'; expected one folder's name"),
]


@pytest.mark.parametrize(("section", "values", "match"), IMPOSSIBLE, ids=lambda value: str(value)[:60])
def test_an_impossible_value_is_named_with_what_would_do(section, values, match):
    with pytest.raises(ConfigError, match=match) as raised:
        section(**values)
    assert "\n" not in str(raised.value)


FLOATS = [(section, f.name) for section in SECTIONS for f in dataclasses.fields(section) if f.type == "float"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("section", "name"), FLOATS, ids=lambda value: getattr(value, "__name__", value))
def test_a_number_that_is_not_finite_is_refused_wherever_a_number_is_expected(section, name, value):
    with pytest.raises(ConfigError, match=rf"{name} = {value}"):
        section(**{name: value})


@pytest.mark.parametrize(("section", "name"), [(ModelConfig, "d_model"), (TrainConfig, "seed")])
def test_a_config_cannot_change_after_it_was_checked(section, name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section(), name, 7)


@pytest.mark.parametrize("section", [*SECTIONS, RunConfig], ids=lambda section: section.__name__)
def test_the_defaults_are_possible_values(section):
    section()


class TestDerived:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"d_model": 512}, 1408),
            ({"d_model": 512, "d_ff": 1344}, 1344),
            ({"d_model": 512, "ffn": "silu"}, 2048),
            ({"d_model": 512, "ffn": "silu", "d_ff": 100}, 100),
            ({"d_model": 640, "num_heads": 10}, 1728),
            ({"d_model": 192, "num_heads": 3}, 512),
            ({"d_model": 768, "num_heads": 12}, 2048),
            ({"d_model": 2, "num_heads": 1}, 64),
        ],
        ids=str,
    )
    def test_the_inner_width(self, options, expected):
        assert ModelConfig(**options).ffn_dim == expected

    @given(pairs=st.integers(1, 4000))
    def test_the_inner_width_of_swiglu_is_the_next_multiple_of_64(self, pairs):
        width = ModelConfig(d_model=2 * pairs, num_heads=1).ffn_dim
        assert width % 64 == 0
        assert 0 <= 3 * width - 8 * 2 * pairs < 3 * 64

    @given(heads=st.integers(1, 64), size=st.integers(1, 64))
    def test_head_size_times_heads_is_the_width(self, heads, size):
        assert ModelConfig(d_model=2 * size * heads, num_heads=heads).head_dim == 2 * size

    @given(micro=st.integers(1, 64), steps=st.integers(1, 64))
    def test_micro_batches_make_up_the_batch(self, micro, steps):
        assert DataConfig(batch_size=micro * steps, micro_batch_size=micro).accumulation_steps == steps
        assert DataConfig(batch_size=micro * steps).accumulation_steps == 1

    def test_an_odd_head_size_is_fine_where_nothing_turns_pairs(self):
        assert ModelConfig(d_model=48, num_heads=16, position="none").head_dim == 3


@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1), (0.0, 1e-300), (5e-324, 1.0), (1e300, 0.5)])
def test_extreme_sampling_that_has_a_meaning_is_allowed(temperature, top_p):
    check_sampling(temperature, top_p)
    with pytest.raises(ConfigError):
        check_sampling(-temperature - 1, top_p)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"hed": {"rate": 1.0}}, r"unknown option optim\.groups\.hed; did you mean 'head'\?"),
        ({"head": {"rat": 1.0}}, r"unknown option optim\.groups\.head\.rat; did you mean 'rate'\?"),
        ({"head": 3}, r"optim\.groups\.head = 3; expected a table"),
        ({"head": {"rate": -1}}, r"optim\.groups\.head\.rate = -1\.0; expected a finite number, 0 or greater"),
        ({"head": {"decay": -0.1}}, r"optim\.groups\.head\.decay = -0\.1; expected a finite number"),
        ({"head": {"betas": [0.9]}}, r"optim\.groups\.head\.betas = \[0\.9\]; expected two numbers in \[0, 1\)"),
        ({"head": {"betas": [0.9, 1]}}, r"optim\.groups\.head\.betas = \[0\.9, 1\]; expected two numbers"),
        ({"head": {"betas": [0.9, 0.9], "beta1": 0.8}}, r"head\.betas = \[0\.9, 0\.9\] beside beta1 = 0\.8; leave"),
        ({"head": {"beta2": 1.5}}, r"optim\.groups\.head\.beta2 = 1\.5; expected a number in \[0, 1\)"),
        ({"embedding": {"rate": 2}}, r"optim\.embedding_rate_scale = 3\.0 and optim\.groups\.embedding\.rate = 2"),
        ({"matrices": {"beta1": 0.5}}, r"optim\.groups\.matrices\.beta1 does not apply to Muon"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_group_is_named(groups, says):
    with pytest.raises(ConfigError, match=says):
        from_dict(OptimConfig, {"optimizer": "muon", "embedding_rate_scale": 3.0, "groups": groups}, place="optim")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("muon_coefficients", "x", "'jordan' or 'polar-express'"), ("muon_variance", 1.0, r"a number in \[0, 1\)"),
        ("muon_dtype", "float16", "'auto' or 'float32' or 'bfloat16'"), ("muon_momentum_warmup", -1, "a finite number"),
        ("muon_momentum_cooldown", -1, "a finite number"),
    ],
)  # fmt: skip
def test_impossible_options_of_muon_are_refused(option, value, expected):
    with pytest.raises(ConfigError, match=f"optim.{option} = {value!r}; expected {expected}"):
        OptimConfig(**{option: value})
