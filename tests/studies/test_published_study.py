"""The plans of the published study, and the command that runs them all."""

import json
import re
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.config import load_toml
from groundup.errors import ConfigError, FileMissingError
from groundup.studies.published_study import BUDGETS, PLANS, find_texts, possible_plans
from groundup.sweeps.plan import find_plan, load_plan, read_plan

# Of the course's specification: the losses that the original report gives.
REPORTED = {
    "learning-rate": [1.529, 1.443, 1.377, 1.349, 1.350, 2.290, 2.529],
    "batch-size-fixed-rate": [3.597, 2.464, 1.824, 1.457, 1.349, 1.282, 1.228],
    "batch-size-tuned-rate": [2.834, 1.971, 1.638, 1.400, 1.271, 1.226],
    "corpora": [1.349, 3.799],
    "ladder": [3.738, 4.744, 3.816],
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", PLANS)
def test_every_plan_has_cells_at_every_budget(name, budget):
    plan = load_plan(name, budget)
    trials = plan.trials()
    assert len({trial.name for trial in trials}) == len(trials) >= 2
    assert any(trial.is_baseline for trial in trials)
    assert plan.question.endswith("?")
    for trial in trials:
        assert trial.config.optim.min_learning_rate <= trial.config.optim.max_learning_rate
        assert trial.config.data.train.startswith("data/")


def test_runs_of_a_plan_see_the_same_amount_of_text_or_time():
    for name in PLANS:
        trials = load_plan(name, "minutes").trials()
        tokens = {c.config.train.max_iters * c.config.data.batch_size * c.config.model.context_length for c in trials}
        minutes = {c.config.train.max_minutes for c in trials}
        assert minutes == {0.4} if name == "ladder" else max(tokens) - min(tokens) <= 64 * 128


def test_headline_comparisons_have_three_seeds():
    for name in ("learning-rate", "ablations", "corpora"):
        for budget in BUDGETS:
            assert len(load_plan(name, budget).seeds) >= 3


@pytest.mark.parametrize("name", REPORTED)
def test_plans_carry_the_figures_of_the_original_report(name):
    published = load_toml(find_plan(name))["published"]
    assert list(published["losses"].values()) == REPORTED[name]
    assert "report" in published["source"]


def test_tokens_may_lie_in_another_folder(tmp_path):
    trials = load_plan("corpora", "minutes", data=tmp_path).trials()
    assert {trial.config.data.train for trial in trials} == {
        str(tmp_path / "stories" / "train"),
        str(tmp_path / "web" / "train"),
    }


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"losses": {}}, "published.source = None; expected a sentence that names their source"),
        ({"source": "me", "losses": {"a": [1]}}, r"published.losses.a = \[1\]; expected a number, or a word in quotes"),
        ({"sauce": "me"}, "unknown key published.sauce"),
    ],
)
def test_published_figures_are_read_strictly(published, message):
    plan = {"name": "a", "question": "b?", "recipe": "minutes", "published": published}
    with pytest.raises(ConfigError, match=message):
        read_plan(plan, Path())


def test_a_budget_may_have_a_baseline_and_rules_of_its_own():
    plan = {
        "name": "a",
        "question": "b?",
        "recipe": "minutes",
        "axes": {"batch_size": [4, 8]},
        "baseline": {"batch_size": 4},
        "rules": {"max_learning_rate": "0.001 * batch_size", "min_learning_rate": "0"},
        "budgets": {"other": {"baseline": {"batch_size": 8}, "rules": {"max_learning_rate": "0.002 * batch_size"}}},
    }
    trials = read_plan(plan, Path(), budget="other").trials()
    assert [(c.config.optim.max_learning_rate, c.is_baseline) for c in trials] == [(0.008, False), (0.016, True)]


def write_texts(folder: Path, *places: str) -> None:
    for place in places:
        (folder / place).mkdir(parents=True)
        for split, count in (("train", 400), ("valid", 60)):
            text = "<|endoftext|>".join(f"Text {i} of {place}: the {i * i} cats sat.\n" for i in range(count))
            (folder / place / f"{split}.txt").write_text(text)


def test_texts_are_found_by_their_usual_names(tmp_path):
    write_texts(tmp_path, "tinystories", "web")
    assert [(text.name, text.train.parent.name) for text in find_texts(tmp_path)] == [
        ("stories", "tinystories"),
        ("web", "web"),
    ]
    with pytest.raises(FileMissingError, match=r"no text in .*; expected .*stories/train.txt and valid.txt"):
        find_texts(tmp_path / "tinystories")


def test_what_cannot_be_run_is_said_with_its_reason():
    possible, left_out = possible_plans("minutes", ["stories"])
    assert possible == ["learning-rate", "batch-size-fixed-rate", "batch-size-tuned-rate", "ablations"]
    assert left_out["corpora"] == "needs the web text, which is not there"
    assert possible_plans("paper", ["stories", "web"]) == (list(PLANS), {})
    with pytest.raises(ConfigError, match="--budget week; expected one of minutes, laptop, paper"):
        possible_plans("week", [])


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["reproduce", *map(str, arguments)])
    return int(end.value.code or 0), *capsys.readouterr()


def test_one_command_goes_from_texts_to_a_report_and_runs_nothing_twice(tmp_path, capsys, monkeypatch):
    from groundup.studies import published_study

    write_texts(tmp_path / "texts", "stories", "web")
    tiny = {
        "context_length": 8, "d_model": 8, "num_heads": 1, "num_layers": 1, "eval_interval": 5, "eval_windows": 4,
        "warmup_iters": 1, "batch_size": 2, "vocab_size": 0,
    }  # fmt: skip
    (tmp_path / "small.toml").write_text(
        'name = "corpora"\nquestion = "Which?"\nrecipe = "minutes"\nseeds = 2\nbaseline = "stories"\n'
        + "[options]\n"
        + "".join(f"{name} = {value}\n" for name, value in tiny.items())
        + "".join(
            f'[variants.{name}]\n"data.train" = "data/{name}/train"\n"data.valid" = "data/{name}/valid"\n'
            for name in ("stories", "web")
        )
        + '[budget]\nfixed = "steps"\namount = 5\n[published]\nsource = "Somebody"\nlosses = { web = 3.5 }\n'
        + "[budgets.minutes]\nseeds = 2\n[budgets.paper]\nseeds = 1\n"
    )
    small = str(tmp_path / "small.toml")
    monkeypatch.setattr(published_study, "PLANS", (small,))
    monkeypatch.setitem(published_study.BUDGETS, "minutes", {"stories": 270, "web": 270})
    monkeypatch.setattr("groundup.studies.reproduce.place_of", lambda place, name: place / Path(name).stem)
    options = ("--data", tmp_path / "texts", "--directory", tmp_path / "study", "--workers", 1)
    code, _, err = command(*options, capsys=capsys)
    assert (code, err) == (0, "")
    results = tmp_path / "study" / "small" / "results.jsonl"
    before = results.read_text()
    assert [json.loads(line)["status"] for line in before.splitlines()] == ["finished"] * 4
    report = (tmp_path / "study" / "report" / "report.md").read_text()
    assert re.search(r"\| web +\| +3\.500 +\| +\d\.\d{3} +\|", report)
    assert "Somebody." in report
    assert report.count(f"groundup reproduce --budget minutes --data {tmp_path / 'texts'}") == 2
    assert "## tokenizers" in report
    assert "On held-out web the tokenizer trained on it reaches" in report
    assert "- The ladder holds for one processor" in report
    assert (tmp_path / "study" / "report" / "report.html").exists()
    assert command(*options, capsys=capsys)[0] == 0
    assert results.read_text() == before
    # A chapter by itself stays in the report of all; other texts are refused.
    other = str(tmp_path / "other.toml")
    Path(other).write_text(Path(small).read_text().replace('"corpora"', '"other"').replace('"Which?"', '"Another?"'))
    monkeypatch.setattr(published_study, "PLANS", (small, other))
    assert command(*options, "--only", other, capsys=capsys)[0] == 0
    assert results.read_text() == before
    again = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "Which?" in again
    assert "Another?" in again
    code, _, err = command(*options, "--budget", "paper", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "study holds the study at the budget 'minutes'; choose another --directory for 'paper'" in err
    sweep = tmp_path / "study" / "small" / "sweep.json"
    whole = sweep.read_text()
    sweep.write_text("{")
    code, _, err = command(*options, capsys=capsys)
    assert (code, err.count("\n"), "sweep.json is damaged" in err) == (2, 1, True)
    sweep.write_text(whole)
    write_texts(tmp_path / "stories-only", "stories")
    code, _, err = command("--data", tmp_path / "stories-only", "--directory", tmp_path / "study", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "was begun with other texts (stories, web, now stories); give it the same --data" in err


def test_a_plan_that_is_not_of_the_study_is_refused(capsys):
    code, _, err = command("--only", "learning-rat", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "--only learning-rat is not a plan of the study; did you mean 'learning-rate'?" in err


def test_a_plan_that_was_asked_for_and_cannot_be_run_is_an_error(tmp_path, capsys):
    write_texts(tmp_path, "stories")
    code, _, err = command("--data", tmp_path, "--directory", tmp_path / "s", "--only", "corpora", capsys=capsys)
    assert (code, err) == (
        2, "groundup: --only corpora cannot be run: it needs the web text, which is not there\n"
    )  # fmt: skip


def test_a_report_that_could_not_be_written_is_refused_before_any_run(tmp_path, capsys, monkeypatch):
    from importlib import util

    there = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "plotly" else there(name, *rest))
    code, _, err = command("--directory", tmp_path / "study", capsys=capsys)
    assert code == 2
    assert err == (
        "groundup: a report needs the package plotly; install it with: pip install plotly "
        "(or, in a clone of groundup: pip install '.[report]')\n"
    )
    assert not (tmp_path / "study").exists()


def test_fewer_workers_than_one_are_refused_before_anything_is_written(tmp_path, capsys):
    code, _, err = command("--workers", 0, "--directory", tmp_path / "study", capsys=capsys)
    assert (code, err) == (2, "groundup: --workers 0; expected at least 1\n")
    assert not (tmp_path / "study").exists()
