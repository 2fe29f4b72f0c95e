"""`groundup fit`: the law comes out of runs that follow it, and the answers are those of its formulas."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize

from groundup.account import parameter_count, training_flops_per_token
from groundup.cli.main import main
from groundup.config import RunConfig, override
from groundup.reports.scaling.answers import Family, Oracle, seconds_per_token
from groundup.reports.scaling.law import HUBER, fit, interval
from groundup.reports.scaling.points import read_points
from made_runs import MODEL, make_run

Floats = NDArray[np.float64]
TRUTH = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}  # Hoffmann et al. 2022, equation 10


def true_loss(n: Floats, d: Floats) -> Floats:
    return np.asarray(TRUTH["E"] + TRUTH["A"] / n ** TRUTH["alpha"] + TRUTH["B"] / d ** TRUTH["beta"])


def grid(noise: float, seed: int) -> tuple[dict[str, Floats], Floats]:
    """Sizes, tokens and noisy losses of 16 runs."""
    sizes, tokens = np.array([1e6, 3e6, 1e7, 3e7]), np.array([2e7, 1e8, 5e8, 2e9])
    n, d = (values.ravel() for values in np.meshgrid(sizes, tokens))
    return {"N": n, "D": d}, true_loss(n, d) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))


def test_without_noise_the_law_is_the_one_that_made_the_losses():
    sizes, losses = grid(0.0, 0)
    law = fit(sizes, losses, np.arange(len(losses)))
    assert {name: values[0] for name, values in law.values().items()} == pytest.approx(TRUTH, rel=1e-6)


def test_with_noise_the_truth_lies_inside_most_intervals():
    draws = 6
    inside = dict.fromkeys(TRUTH, 0)
    for seed in range(draws):
        sizes, losses = grid(0.005, seed)
        for name, values in fit(sizes, losses, np.arange(len(losses)), seed=seed).values().items():
            _, low, high = interval(values)
            inside[name] += low <= TRUTH[name] <= high
            assert low < high
    assert min(inside.values()) >= draws - 2, inside


def test_no_start_of_scipy_finds_a_lower_objective():
    sizes, losses = grid(0.01, 3)
    logs = np.stack([np.log(sizes["N"]), np.log(sizes["D"])], axis=1)

    def objective(p: Floats) -> float:
        parts = np.stack([np.full(len(losses), p[0]), p[1] - p[2] * logs[:, 0], p[3] - p[4] * logs[:, 1]])
        off = np.abs(np.logaddexp.reduce(parts, axis=0) - np.log(losses)) / HUBER
        return float(np.where(off > 1, off - 0.5, 0.5 * off**2).sum())

    values = {name: found[0] for name, found in fit(sizes, losses, np.arange(len(losses))).values().items()}
    ours = np.array(
        [math.log(values["E"]), math.log(values["A"]), values["alpha"], math.log(values["B"]), values["beta"]]
    )
    starts = [ours, *(ours + 0.05 * np.random.default_rng(seed).standard_normal(5) for seed in range(4))]
    theirs = [
        optimize.minimize(objective, start, method="Nelder-Mead", options={"maxiter": 4000, "fatol": 1e-9}).fun
        for start in starts
    ]
    assert objective(ours) <= min(theirs) + 1e-3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs that follow a law exactly, one that diverged and one that was stopped."""
    folder = tmp_path_factory.mktemp("runs")
    for width, layers in ((32, 1), (64, 2), (128, 4)):
        for steps in (100, 400, 1600, 6400):
            lawful_run(folder / f"d{width}-s{steps}", width, layers, steps)
    make_run(folder / "diverged", status="diverged")
    make_run(folder / "stopped", status="stopped")
    return folder


def lawful_run(folder: Path, width: int, layers: int, steps: int, **options: Any) -> None:
    own = {"model.d_model": width, "model.num_layers": layers, **options}
    config = override(RunConfig(), {**MODEL, **own})
    count, tokens = parameter_count(config.model), steps * config.data.batch_size * config.model.context_length
    make_run(folder, loss=1.2 + 30 / count**0.3 + 800 / tokens**0.4, steps=steps, every=steps // 20, options=own)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"parameters": count}))


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture(scope="module")
def oracle(runs: Path) -> Oracle:
    points = read_points([runs])
    family = Family(points.runs)
    law = fit(points.sizes, points.column("loss"), points.column("run").astype(np.int64))
    return Oracle(law, points, family, seconds_per_token(points, family.flops()))


def test_the_law_of_runs_as_json(runs: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(runs, "--json", capsys=capsys)
    document = json.loads(out)
    law = {name: value["value"] for name, value in document["law"].items()}
    assert law == pytest.approx({"E": 1.2, "A": 30, "alpha": 0.3, "B": 800, "beta": 0.4}, rel=1e-3)
    assert {Path(path).name: why.partition(":")[0] for path, why in document["left_out"].items()} == {
        "diverged": "diverged",
        "stopped": "stopped",
    }
    assert (code, len(document["points"]), len(document["answers"])) == (0, 12, 3)


def test_a_budget_has_the_size_of_least_loss(oracle: Oracle):
    found = oracle.answer("", flops=1e14)
    best = found.parameters.value
    assert found.flops == pytest.approx(1e14, rel=1e-6)
    assert found.shape is not None
    own = {f"model.{name}": found.shape[name] for name in ("d_model", "num_layers", "num_heads")}
    model = override(RunConfig(), MODEL | own).model
    assert parameter_count(model) == found.shape["parameters"]
    # The FLOPs of a token are those of account: 6 N would count the table that is looked up, and no attention.
    counted = training_flops_per_token(model) * found.tokens.value
    assert counted == pytest.approx(1e14 * found.shape["parameters"] / best, rel=0.2)
    for factor in (0.8, 1.25):
        other = oracle.answer("", flops=1e14, parameters=best * factor)
        assert other.loss.value > found.loss.value
        assert other.flops == pytest.approx(1e14, rel=1e-6)
        same = oracle.answer("", flops=1e14, tokens=other.tokens.value)
        assert same.parameters.value == pytest.approx(best * factor, rel=1e-3)


def test_what_is_given_and_what_is_best_for_it_agree(oracle: Oracle):
    best = oracle.answer("", flops=1e14)
    size, tokens = best.parameters.value, best.tokens.value
    for given in ({"parameters": size}, {"tokens": tokens}):
        found = oracle.answer("", **given)
        assert found.flops == pytest.approx(1e14, rel=0.1)
        assert found.loss.value == pytest.approx(best.loss.value, rel=1e-3)
    both = oracle.answer("", parameters=size, tokens=tokens)
    assert both.loss.value == pytest.approx(1.2 + 30 / size**0.3 + 800 / tokens**0.4, rel=1e-4)


def test_minutes_are_those_of_the_runs(oracle: Oracle):
    # The runs made about 1e5 tokens/s at every size.
    timed = oracle.answer("", minutes=2, parameters=100_000)
    assert timed.tokens.value == pytest.approx(2 * 60 * 1e5, rel=0.05)
    assert timed.minutes == pytest.approx(2)
    whole = oracle.answer("", minutes=2)
    assert whole.minutes == pytest.approx(2)
    assert whole.loss.value <= timed.loss.value


def test_tables_and_a_picture(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run(runs, "--flops", "1e14", "--plot", tmp_path / "law.svg", capsys=capsys)
    assert code == 0
    assert "loss = E + A / N^alpha + B / D^beta" in out
    assert "as the runs measured them on Some Processor 9000" in out
    assert "stopped: its schedule has not ended" in out
    assert (tmp_path / "law.svg").read_text().count("<use ") >= 12  # a mark for each run


def test_of_one_size_the_tokens_alone_are_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for steps in (100, 200, 400, 800, 1600):
        lawful_run(tmp_path / f"s{steps}", 64, 2, steps)
    code, out, _ = run(tmp_path, "--json", capsys=capsys)
    document = json.loads(out)
    assert (code, document["terms"]) == (0, ["D"])
    assert document["law"]["beta"]["value"] == pytest.approx(0.4, rel=1e-3)
    (found,) = json.loads(run(tmp_path, "--tokens", "1e7", "--json", capsys=capsys)[1])["answers"]
    size = found["parameters"]["value"]
    assert found["loss"]["value"] == pytest.approx(1.2 + 30 / size**0.3 + 800 / 1e7**0.4, rel=1e-3)
    code, _, err = run(tmp_path, "--parameters", "5M", "--flops", "1e12", capsys=capsys)
    assert (code, "all runs have one size" in err) == (2, True)


def test_curves_of_constant_runs_give_every_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number, (width, layers) in enumerate(((32, 1), (64, 2), (128, 4), (128, 2), (64, 4), (64, 1), (32, 2))):
        own = {"model.d_model": width, "model.num_layers": layers, "optim.schedule": "constant"}
        make_run(tmp_path / str(number), steps=800, every=20, options=own)
        summary = json.loads((tmp_path / str(number) / "summary.json").read_text())
        count = parameter_count(override(RunConfig(), MODEL | own).model)
        (tmp_path / str(number) / "summary.json").write_text(json.dumps(summary | {"parameters": count}))
    code, out, _ = run(tmp_path, "--curves", "--json", capsys=capsys)
    points = json.loads(out)["points"]
    # Of the evaluations every 200 steps, those after the warm-up of 200.
    assert (code, {point["tokens"] for point in points}) == (0, {steps * 32 * 64.0 for steps in (400, 600, 800)})
    assert len(points) == 7 * 3
    code, out, _ = run(tmp_path, capsys=capsys)
    assert (code, "The learning rate was constant" in " ".join(out.split())) == (0, True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model.vocab_size": 2000}, "differ in model.vocab_size (1000, 2000), so their losses cannot be compared"),
        ({"model.context_length": 128}, "differ in model.context_length (64, 128)"),
        ({"data.valid": "other/valid"}, "differ in data.valid (, other/valid)"),
        ({"train.eval_windows": 7}, "differ in train.eval_windows"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(
    options: dict[str, Any], said: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    make_run(tmp_path / "other", options=options)
    code, out, err = run(runs, tmp_path / "other", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert str(tmp_path / "other") in err


def test_other_tokenizers_and_validation_data_are_told_by_their_content(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, hashes in (("a", ("t" * 64, "v" * 64)), ("b", ("u" * 64, "v" * 64)), ("c", ("t" * 64, "w" * 64))):
        make_run(tmp_path / name)
        state = tmp_path / name / "checkpoints" / "step-200"
        state.mkdir(parents=True)
        content = {"tokenizer_sha256": hashes[0], "evaluated_on": [hashes[1], 640]}
        (state / "state.json").write_text(json.dumps(content))
    assert "differ in tokenizer (SHA-256 tttt" in run(tmp_path / "a", tmp_path / "b", capsys=capsys)[2]
    assert "differ in validation data (SHA-256 vvvv" in run(tmp_path / "a", tmp_path / "c", capsys=capsys)[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to fit; give runs"),
        (["nowhere"], "no folder nowhere"),
        (["RUNS/d32-s100", "RUNS/d64-s100", "RUNS/diverged"], "2 usable runs (1 left out; "),
        (["RUNS/d32-s100", "RUNS/d32-s100"], "1 usable run; expected at least 5"),
        (["RUNS/d32-s100", "--flops", "lots"], "'lots' is not a number"),
        (["RUNS", "--flops", "1e12", "--minutes", "3"], "give one of them"),
        (["RUNS", "--minutes", "-3"], "--minutes -3; expected a positive number"),
        (["RUNS", "--flops", "1e12", "--tokens", "1e6", "--parameters", "1e5"], "leave nothing to choose"),
        (["RUNS", "--plot", "law.txt"], "expected a file that ends in .png"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], said: str, runs: Path, capsys: pytest.CaptureFixture[str]):
    code, out, err = run(*(word.replace("RUNS", str(runs)) for word in arguments), capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_two_sizes_are_too_few(runs: Path, capsys: pytest.CaptureFixture[str]):
    code, _, err = run(*runs.glob("d32-*"), *runs.glob("d64-*"), capsys=capsys)
    assert (code, "the runs have 2 values of the model size" in err) == (2, True)


def test_times_of_two_devices_are_not_mixed(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lawful_run(tmp_path / "other", 64, 2, 1000)
    place = tmp_path / "other" / "environment.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"device_name": "Some Card"}))
    code, _, err = run(runs, tmp_path / "other", "--minutes", 2, capsys=capsys)
    assert (code, "ran on Some Processor 9000 and" in err, "Some Card" in err) == (2, True, True)
    assert run(runs, tmp_path / "other", "--flops", "1e14", capsys=capsys)[0] == 0


def test_damaged_runs_are_left_out_and_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    damages = {
        "metrics.jsonl": "it has no validation loss",
        "config.toml": "config.toml cannot be read",
        "summary.json": "summary.json cannot be read",
        "environment.json": "environment.json cannot be read",
    }
    for name in damages:
        lawful_run(tmp_path / name, 64, 2, 500)
        (tmp_path / name / name).write_bytes(b"\x00\xff{ torn")
    code, out, _ = run(runs, tmp_path, "--json", capsys=capsys)
    document = json.loads(out)
    assert (code, len(document["points"])) == (0, 12)
    for name, said in damages.items():
        assert said in document["left_out"][str(tmp_path / name)]


def test_of_runs_whose_loss_does_not_fall_no_size_is_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number, (width, layers) in enumerate(((32, 1), (64, 2), (128, 4))):
        for steps in (100, 400, 1600):
            own = {"model.d_model": width, "model.num_layers": layers}
            folder = tmp_path / f"{width}-{steps}"
            make_run(folder, loss=2 + 0.1 * number + 30 / steps**0.5, steps=steps, every=steps // 20, options=own)
            count = parameter_count(override(RunConfig(), MODEL | own).model)
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(json.dumps(summary | {"parameters": count}))
    code, _, err = run(tmp_path, "--flops", "1e12", capsys=capsys)
    assert (code, "does not fall with larger models (alpha = -" in err, err.count("\n")) == (2, True, 1)
    code, out, _ = run(tmp_path, "--plot", tmp_path / "law.png", capsys=capsys)
    assert (code, "the best model" in out, "hardly determine alpha" in " ".join(out.split())) == (0, False, True)
