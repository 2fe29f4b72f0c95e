"""Plans are read strictly, and expand to exactly the trials they declare."""

import dataclasses
import itertools
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.account import training_flops_per_token
from groundup.config import RunConfig, flatten, from_dict
from groundup.display.units import value_text
from groundup.errors import ConfigError, FileMissingError
from groundup.sweeps.axes import axis_values, spaced
from groundup.sweeps.budget import Budget
from groundup.sweeps.plan import Plan, find_plan, load_plan, read_plan
from groundup.sweeps.trials import nested

MakePlan = Callable[..., Plan]
ROOT = Path(__file__).resolve().parents[2]


def plan_of(**tables: Any) -> Plan:
    """Over a shipped recipe, whose data need not be there."""
    return read_plan({"name": "p", "question": "Why?", "recipe": "tinystories-cpu"} | tables, Path())


AXES = {
    "max_learning_rate": st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=3, unique_by=value_text),
    "batch_size": st.lists(st.integers(1, 64), min_size=1, max_size=3, unique=True),
    "norm": st.lists(st.sampled_from(["pre", "post", "none"]), min_size=1, max_size=3, unique=True),
    "tie_embeddings": st.just([True, False]),
}


@given(st.data())
def test_the_cells_are_all_combinations_once_each(data: st.DataObject):
    names = data.draw(st.lists(st.sampled_from(list(AXES)), unique=True))
    axes = {name: data.draw(AXES[name]) for name in names}
    seeds = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
    variants = {
        name: {"weight_decay": decay} for name, decay in data.draw(st.sampled_from([{}, {"a": 0.1, "b": 0.2}])).items()
    }
    plan = plan_of(axes=axes, seeds=seeds, variants=variants, options={"min_learning_rate": 1e-4})
    trials = plan.trials()
    expected = list(itertools.product(variants or [None], *axes.values(), seeds))
    assert [(trial.variant, *trial.varied.values(), trial.seed) for trial in trials] == expected
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        options = flatten(trial.config)
        assert all(options[name] == value for name, value in trial.varied.items())
        assert options["train.seed"] == trial.seed
        assert options["optim.weight_decay"] == (variants[trial.variant]["weight_decay"] if trial.variant else 0.1)
        assert trial.config.run_dir == Path("runs/p") / trial.name
        assert trial.name == f"{trial.setting},seed-{trial.seed}" or trial.setting == "all"
        unchanged = flatten(plan.base) | trial.varied
        different = {name for name, value in unchanged.items() if options[name] != value}
        assert different <= {"name", "runs_dir", "train.seed", "track.group", "optim.weight_decay"}


def test_lists_that_are_zipped_move_together():
    plan = plan_of(zipped=[{"batch_size": [8, 32], "max_learning_rate": [1e-3, 2e-3]}], axes={"norm": ["pre", "post"]})
    found = [tuple(trial.varied.values()) for trial in plan.trials()]
    assert found == [("pre", 8, 1e-3), ("pre", 32, 2e-3), ("post", 8, 1e-3), ("post", 32, 2e-3)]
    assert plan.trials()[1].name == "norm=pre,batch_size=32,max_learning_rate=0.002,seed-0"


@given(low=st.floats(1e-6, 1.0), ratio=st.floats(1.5, 1e6), points=st.integers(2, 20))
def test_points_of_a_log_axis_have_equal_ratios_and_exact_ends(low: float, ratio: float, points: int):
    values = spaced(low, low * ratio, points, log=True)
    assert (values[0], values[-1], len(values)) == (low, low * ratio, points)
    for i, value in enumerate(values):
        assert math.log(value / low) == pytest.approx(math.log(ratio) * i / (points - 1), abs=6e-3)
        assert 0 < i < points - 1 or value_text(value) == value_text(value)
    assert all(len(value_text(v).replace(".", "").strip("0").partition("e")[0]) <= 4 for v in values[1:-1])


def test_an_axis_of_a_whole_number_has_whole_numbers():
    assert axis_values("model.d_model", {"log": [64, 1024], "points": 5}, "d_model") == (64, 128, 256, 512, 1024)
    assert axis_values("optim.eps", [1, 2.5], "eps") == (1.0, 2.5)
    assert axis_values("optim.eps", {"linear": [0, 1], "points": 3}, "eps") == (0.0, 0.5, 1.0)


def test_rules_follow_the_cell_and_the_budget():
    plan = plan_of(
        axes={"batch_size": [32, 128]},
        rules={
            "warmup_iters": "round(0.05 * max_iters)",
            "max_learning_rate": "2e-3 * sqrt(batch_size / 128)",
            "min_learning_rate": "max_learning_rate / 10",
        },
        budget={"fixed": "tokens", "amount": 3_276_800},
    )
    small, large = (trial.config for trial in plan.trials())
    assert (small.optim.max_learning_rate, large.optim.max_learning_rate) == (1e-3, 2e-3)
    assert (small.optim.min_learning_rate, large.optim.min_learning_rate) == (1e-4, 2e-4)
    assert (small.train.max_iters, large.train.max_iters) == (400, 100)
    assert (small.optim.warmup_iters, large.optim.warmup_iters) == (20, 5)


def test_a_variant_may_say_what_a_rule_says_for_the_others():
    plan = plan_of(
        rules={"max_learning_rate": "1e-3 * 2"},
        variants={"base": {}, "slow": {"max_learning_rate": 1e-3}, "no-norm": {"model": {"norm": "none"}}},
        baseline="base",
    )
    assert [trial.config.optim.max_learning_rate for trial in plan.trials()] == [2e-3, 1e-3, 2e-3]
    assert [trial.is_baseline for trial in plan.trials()] == [True, False, False]
    assert plan.trials()[2].config.model.norm == "none"


def test_a_baseline_is_given_by_values_too():
    plan = plan_of(
        axes={"max_learning_rate": [1e-3, 2e-3], "batch_size": [8, 16]},
        baseline={"max_learning_rate": 1e-3, "batch_size": 8},
    )
    assert [trial.is_baseline for trial in plan.trials()] == [True, False, False, False]


@given(
    batch=st.integers(1, 512),
    context=st.integers(1, 512),
    amount=st.floats(1, 1e12),
    kind=st.sampled_from(["tokens", "flops", "steps"]),
)
def test_a_budget_is_kept_to_half_a_step(batch: int, context: int, amount: float, kind: str):
    config = RunConfig()
    options = flatten(config) | {"data.batch_size": batch, "model.context_length": context, "model.vocab_size": 1000}
    steps = Budget(fixed=kind, amount=amount).options(options)["train.max_iters"]
    model = from_dict(RunConfig, nested(options)).model
    step = {"steps": 1, "tokens": batch * context, "flops": batch * context * training_flops_per_token(model)}[kind]
    assert steps == 1 or abs(steps * step - amount) <= step / 2 * (1 + 1e-9)


def test_a_budget_shortens_the_warmup_with_the_run():
    plan = plan_of(axes={"batch_size": [8, 64]}, budget={"fixed": "tokens", "amount": 8 * 256 * 1500})
    assert [(c.config.train.max_iters, c.config.optim.warmup_iters) for c in plan.trials()] == [(1500, 50), (188, 6)]


def test_minutes_are_a_limit_by_which_the_schedule_is_finished():
    (trial,) = plan_of(budget={"fixed": "minutes", "amount": 2}).trials()
    assert (trial.config.train.max_minutes, trial.config.train.finish_schedule) == (2.0, True)


def test_a_budget_is_chosen_by_name():
    tables = {
        "axes": {"max_learning_rate": [1e-3, 2e-3, 3e-3]},
        "seeds": 3,
        "options": {"d_model": 96},
        "budgets": {
            "minutes": {"seeds": 1, "axes": {"max_learning_rate": [2e-3]}, "budget": {"fixed": "steps", "amount": 200}},
            "paper": {"recipe": "tinystories", "options": {"d_model": 512}},
        },
    }
    document = {"name": "p", "question": "Why?", "recipe": "tinystories-cpu"} | tables
    assert len(read_plan(document, Path()).trials()) == 9
    small = read_plan(document, Path(), budget="minutes")
    (trial,) = small.trials()
    assert (trial.config.train.max_iters, small.default_directory) == (200, Path("runs/p-minutes"))
    assert read_plan(document, Path(), budget="paper").base.model.d_model == 512
    with pytest.raises(ConfigError, match="unknown budget 'papr'; did you mean 'paper'"):
        read_plan(document, Path(), budget="papr")
    with pytest.raises(ConfigError, match=r"the plan has no \[budgets\]"):
        read_plan({"name": "p", "question": "?", "recipe": "demo"}, Path(), budget="paper")


def test_a_budget_may_change_variants_and_have_more_of_them():
    document = {
        "name": "p", "question": "Why?", "recipe": "tinystories-cpu",
        "variants": {"base": {}, "narrow": {"d_model": 96, "model": {"num_heads": 3}}},
        "budgets": {"small": {"variants": {"narrow": {"model.d_model": 48}, "deep": {"num_layers": 8}}}, "large": {}},
    }  # fmt: skip

    def shapes(budget: str | None) -> list[tuple[str | None, int, int, int]]:
        trials = read_plan(document, Path(), budget=budget).trials()
        models = [trial.config.model for trial in trials]
        return [(c.variant, m.d_model, m.num_heads, m.num_layers) for c, m in zip(trials, models, strict=True)]

    assert shapes(None) == shapes("large") == [("base", 192, 3, 4), ("narrow", 96, 3, 4)]
    assert shapes("small") == [("base", 192, 3, 4), ("narrow", 48, 3, 4), ("deep", 192, 3, 8)]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"axis": {}}, r"unknown key axis; did you mean 'axes'"),
        ({"axes": {"batchsize": [1]}}, r"unknown option batchsize; did you mean 'batch_size'"),
        ({"axes": {"batch_size": []}}, r"axes\.data\.batch_size is empty"),
        ({"axes": {"batch_size": 8}}, r"axes\.data\.batch_size = 8; expected a list of values"),
        ({"axes": {"batch_size": [8, 8]}}, r"has 8 twice"),
        ({"axes": {"batch_size": [8], "data": {"batch_size": [8]}}}, r"has data\.batch_size twice"),
        ({"axes": {"eps": {"log": [1e-8, 1e-6]}}}, r"with at least 2 points"),
        ({"axes": {"eps": {"log": [0, 1], "points": 3}}}, r"both ends must be positive"),
        ({"axes": {"eps": {"log": [1, 1e-8], "points": 3}}}, r"two numbers in ascending order"),
        ({"axes": {"eps": {"log": [1e-8, 1], "point": 3}}}, r"unknown key axes.optim.eps.point; did you mean"),
        ({"axes": {"seed": [1, 2]}}, r"\[axes\] train\.seed cannot be set by a plan: write seeds"),
        ({"options": {"name": "x"}}, r"\[options\] name cannot be set by a plan"),
        ({"options": {"d_modl": 8}}, r"\[options\] unknown option d_modl; did you mean 'd_model'"),
        ({"zipped": [{"batch_size": [1, 2], "eps": [1.0]}]}, r"data\.batch_size has 2, optim\.eps has 1"),
        ({"zipped": [{"batch_size": [1]}], "axes": {"batch_size": [1]}}, r"set by \[axes\] and by \[\[zipped\]\]"),
        ({"rules": {"batch_size": "2 *"}}, r"rules\.data\.batch_size: '2 \*' is not a formula"),
        ({"rules": {"batch_size": 2}}, r"expected a formula in quotes"),
        ({"rules": {"batch_size": "8"}, "axes": {"batch_size": [1]}}, r"set by \[axes\] and by \[rules\]"),
        ({"rules": {"max_iters": "8"}, "budget": {"fixed": "steps", "amount": 1}}, r"by \[rules\] and by \[budget\]"),
        ({"budget": {"fixed": "token", "amount": 1}}, r"budget\.fixed = 'token'; expected one of"),
        ({"budget": {"fixed": "steps", "amount": 0}}, r"budget\.amount = 0\.0; expected a positive"),
        ({"seeds": 0}, r"seeds = 0; expected how many"),
        ({"seeds": [1, 1]}, r"has a seed twice"),
        ({"seeds": True}, r"seeds = True"),
        ({"question": ""}, r"question = ''; expected the sentence"),
        ({"recipe": "nothing"}, r"no recipe named 'nothing'"),
        ({"name": "a/b"}, r"name = 'a/b'; expected one folder's name"),
        ({"baseline": "x", "variants": {"y": {}}}, r"baseline = 'x' is not a variant"),
        ({"variants": {"y": {"norm": "none"}}, "axes": {"norm": ["pre"]}}, r"set by \[axes\] and by \[variants\.y\]"),
        ({"stop": {"rule": "mean", "at": [0.5]}}, r"stop\.rule = 'mean'"),
        ({"stop": {"rule": "median", "at": [0.5, 0.25]}}, r"in ascending order"),
        ({"stop": {"rule": "median", "at": [0.5], "keeps": 1}}, r"unknown key stop\.keeps; did you mean 'keep'"),
        ({"stop": {"rule": "median", "at": [0.5]}, "budget": {"fixed": "minutes", "amount": 1}}, r"equal shares"),
        ({"search": {"trials": 3}}, r"search\.space is empty"),
        ({"search": {"space": {"batch_size": {"log": [1.5, 8]}}}}, r"expected whole numbers"),
        ({"search": {"space": {"batch_size": [1, 2]}}, "axes": {"eps": [1.0]}}, r"\[search\] chooses the settings"),
        ({"budgets": {"m": {"seed": 1}}}, r"unknown key budgets\.m\.seed; did you mean 'seeds'"),
        ({"budgets": {"m": {"variants": {"y": {"nrm": 1}}}}}, r"\[budgets\.m\.variants\.y\] unknown option nrm"),
        ({"axes": [1]}, r"axes = \[1\]; expected a table"),
    ],
)  # fmt: skip
def test_what_is_no_plan_is_refused_with_the_place(tables: dict[str, Any], said: str):
    with pytest.raises((ConfigError, FileMissingError), match=said):
        plan_of(**tables)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"axes": {"num_heads": [3, 5]}}, r"setting num_heads=5: model\.num_heads = 5 does not divide"),
        ({"axes": {"max_iters": [50]}}, r"setting max_iters=50: optim\.warmup_iters = 100 is longer"),
        ({"axes": {"data": {"train": ["a/b", "a b"]}}}, r"two trials are named train=a-b,seed-0"),
        ({"axes": {"batch_size": [8]}, "rules": {"warmup_iters": "batch_size / 3"}}, r"batch_size=8: .* put round"),
        ({"axes": {"batch_size": [8]}, "baseline": {"batch_size": 16}}, r"is none of the settings: batch_size=8"),
        ({"axes": {"batch_size": [8, 16], "eps": [1e-8, 1e-6]}, "baseline": {"eps": 1e-8}}, r"matches 2 settings \("),
        ({"axes": {"batch_size": [8, 16]}, "baseline": {}}, r"matches 2 settings \(batch_size=8, batch_size=16\)"),
        ({"axes": {"batch_size": [8, 16]}, "variants": {"a": {}}, "baseline": "a"}, r"variant = … where there are"),
        ({"axes": {"norm": ["pre", 3]}}, r"setting norm=3: model\.norm = 3; expected one of"),
        ({"rules": {"batch_size": "max_iters"}, "budget": {"fixed": "tokens", "amount": 1e6}}, r"circle"),
        ({"stop": {"rule": "median", "at": [0.5]}, "options": {"eval_interval": 5000}}, r"all: .* evaluate it more"),
    ],
)  # fmt: skip
def test_a_cell_that_cannot_be_is_named(tables: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        plan_of(**tables).trials()


def test_a_baseline_among_variants_and_axes_names_both():
    tables = {"axes": {"batch_size": [8, 16]}, "variants": {"a": {}, "b": {"norm": "none"}}}
    trials = plan_of(**tables, baseline={"variant": "b", "batch_size": 16}).trials()
    assert [trial.setting for trial in trials if trial.is_baseline] == ["b,batch_size=16"]
    with pytest.raises(ConfigError, match=r"baseline = 'c' is not a variant"):
        plan_of(**tables, baseline={"variant": "c"})


def test_the_plan_in_the_documentation_can_be_run():
    page = (ROOT / "docs" / "reference" / "sweep-plans.md").read_text(encoding="utf-8")
    example = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0]
    document = tomllib.loads(example)
    for budget in (None, *document["budgets"]):
        trials = read_plan(document, Path(), budget=budget).trials()
        assert sum(trial.is_baseline for trial in trials) == len({trial.seed for trial in trials})


def test_names_are_legal_however_long_their_values_are():
    values = ["x" * 300, "x" * 299 + "y", "../../etc", "a:b*c?", "naïve 火"]
    names = [trial.name for trial in plan_of(axes={"data": {"train": values}}).trials()]
    assert len(set(names)) == len(names)
    assert all(len(name.encode()) < 200 and not set(name) & set('/\\:*?"<>|\0 ') for name in names)


def test_a_plan_is_found_by_path_and_its_recipe_beside_it(make_plan: MakePlan, tmp_path: Path):
    plan = make_plan(axes={"batch_size": [2, 4]})
    assert [trial.config.data.batch_size for trial in plan.trials(tmp_path)] == [2, 4]
    assert len(plan.sha256) == 64
    with pytest.raises(FileMissingError, match="no plan"):
        find_plan(str(tmp_path / "other.toml"))
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_plan(str(tmp_path / "broken.toml"))


def test_flops_take_the_vocabulary_of_the_data(make_plan: MakePlan):
    plan = make_plan(budget={"fixed": "flops", "amount": 1e9}, axes={"batch_size": [2, 4]})
    steps = [trial.config.train.max_iters for trial in plan.trials()]
    model = dataclasses.replace(plan.base.model, vocab_size=300)
    for batch, found in zip((2, 4), steps, strict=True):
        assert found == round(1e9 / (batch * 16 * training_flops_per_token(model)))
