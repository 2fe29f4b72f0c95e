"""The sentence says what is true of made data, and no more than its seeds show."""

from pathlib import Path

import pytest

pytest.importorskip("scipy")

from groundup.reports.finding import finding, listed
from groundup.reports.settings import load_studies
from made_runs import ablations_sweep, make_run, make_sweep, rates_sweep


def sentence(folder: Path) -> str:
    (study,) = load_studies([folder])
    return finding(study)


def near(loss: float) -> list[float | None]:
    return [loss - 0.001, loss, loss + 0.001]


def test_a_sweep_names_the_best_its_equals_and_where_it_diverges(tmp_path):
    losses = {
        3e-4: near(1.5),
        1e-3: near(1.4),
        2e-3: near(1.35),
        3e-3: near(1.3505),
        1e-2: [None] * 3,
        2e-2: [None] * 3,
    }
    text = sentence(rates_sweep(tmp_path / "rates", losses))
    for fact in (
        "lowest at max_learning_rate = 0.002: 1.3500 ± 0.0025 (3 seeds)",
        "0.003 is not statistically significant at p < 0.01",
        "other 2 values that finished are higher (p < 0.01)",
        "diverges at 0.01 and above",
        "edge of stability lies between 0.003 and 0.01",
        "20% to 67%",
    ):
        assert fact in text


def test_a_best_at_the_edge_is_said_to_be_there(tmp_path):
    text = sentence(rates_sweep(tmp_path / "rates", {1e-3: near(1.5), 2e-3: near(1.4), 4e-3: near(1.3)}))
    assert text.endswith("the largest value tried, so a better one may lie above.")
    assert "all other 2 values that finished are higher" in text


def test_a_baseline_that_lost_a_seed_is_said_to_have(tmp_path):
    cells = {
        "a": {"variant": "a", "losses": [1.4, None, 1.41]},
        "b": {"variant": "b", "losses": near(1.5), "varied": {"model.norm": "post"}},
    }
    text = sentence(make_sweep(tmp_path / "sweep", cells, baseline="a"))
    assert "b is 0.0950 higher, without a test because seeds of the baseline diverged" in text
    assert text.endswith("1 of 3 seeds of a diverged and is not in the mean.")
    assert "too few" not in text


def test_many_variants_that_have_not_finished_are_no_error(tmp_path):
    cells = {f"v{i}": {"variant": f"v{i}", "losses": near(1.4) if i == 0 else [None, 1.5]} for i in range(8)}
    text = sentence(make_sweep(tmp_path / "sweep", cells, baseline="v0"))
    assert "of 7 other settings none has a result yet; the lowest is v0" in text


def test_where_losses_rise_above_their_start_is_the_edge_of_stability(tmp_path):
    option, start = "optim.max_learning_rate", 6.9
    cells = {
        f"lr-{rate}": {"varied": {option: rate}, "losses": near(loss), "peak": peak}
        for rate, loss, peak in ((1e-3, 1.5, None), (2e-3, 1.4, 1.04 * start), (4e-3, 2.0, 1.1 * start))
    }
    (study,) = load_studies([make_sweep(tmp_path / "rates", cells)])
    assert [setting.unstable for setting in study.settings] == [0, 0, 3]
    assert "at 0.004 the loss rises above that of the untrained model" in finding(study)
    assert "between 0.002 and 0.004" in finding(study)
    assert "50% to 100%" in finding(study)


def test_some_unstable_seeds_are_no_edge(tmp_path):
    option = "optim.max_learning_rate"
    cells = {f"lr-{rate}": {"varied": {option: rate}, "losses": near(1.5 + rate)} for rate in (1e-3, 2e-3, 4e-3)}
    folder = make_sweep(tmp_path / "rates", cells)
    metrics = folder / "lr-0.004-seed1" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 201, "train_loss": 20.0}\n')
    (study,) = load_studies([folder])
    assert [setting.unstable for setting in study.settings] == [0, 0, 1]
    assert "edge" not in finding(study)


def test_one_seed_claims_nothing(tmp_path):
    text = sentence(rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.3], 4e-3: [1.4]}))
    assert "1.3000 (one seed)" in text
    assert "no confidence interval" in text
    assert "higher" not in text
    assert "significant" not in text


def test_a_seed_that_diverges_is_told_and_left_out(tmp_path):
    text = sentence(
        rates_sweep(tmp_path / "rates", {1e-3: near(1.5), 2e-3: near(1.4), 4e-3: [None, 1.2, 1.2], 8e-3: near(2)})
    )
    assert "lowest at max_learning_rate = 0.002" in text  # not at 0.004, whose other seeds were lucky
    assert "1 of 3 seeds of max_learning_rate = 0.004 diverged and is not in the mean" in text


def test_variants_are_compared_with_the_baseline(tmp_path):
    text = sentence(ablations_sweep(tmp_path / "ablations"))
    assert text.startswith(
        "Compared with the baseline (validation loss 1.4003 ± 0.0038, 3 seeds), post-norm is higher by 0.0500 "
    )
    assert "no position is not statistically significant at p < 0.01 (+0.0007 ± 0.0041, p = 0.67; 0.0109 is" in text
    assert "no norm diverges with all 3 seeds" in text
    for fact in ("Welch's t-test", "95 % confidence intervals", "Holm's correction for 2"):
        assert fact in text


def test_noise_alone_is_hardly_ever_called_a_difference(tmp_path):
    import random

    rng, claims = random.Random(3), 0
    for study in range(15):
        cells = {
            f"v{i}": {"variant": f"v{i}", "losses": [rng.gauss(1.4, 0.01) for _ in range(3)], "steps": 20}
            for i in range(5)
        }
        text = sentence(make_sweep(tmp_path / str(study), cells, baseline="v0"))
        claims += "lower by" in text or "higher by" in text
    assert claims <= 1


def test_many_variants_are_counted(tmp_path):
    cells = {f"v{i}": {"variant": f"v{i}", "losses": near(1.4 + 0.1 * (i % 3)), "steps": 20} for i in range(8)}
    cells["v7"]["losses"] = [None] * 3
    cells["v6"]["losses"] = [1.2]
    text = sentence(make_sweep(tmp_path / "many", cells, baseline="v0"))
    for fact in (
        "baseline v0 (validation loss 1.4000 ± 0.0025, 3 seeds)",
        "of 7 other settings",
        "4 are higher (v1 +0.1000, v2 +0.2000, v4 +0.1000 and v5 +0.2000)",
        "1 is not significantly different (v3 +0.0000)",
        "1 diverged",
        "1 has too few seeds",
        "lowest is v6 (1.2000)",
    ):
        assert fact in text


def test_a_grid_names_the_lowest_setting(tmp_path):
    cells = {
        f"{d}-{n}": {"varied": {"model.d_model": d, "model.num_layers": n}, "losses": near(2 - d / 128 - n / 10)}
        for d in (32, 64)
        for n in (1, 2)
    }
    text = sentence(make_sweep(tmp_path / "grid", cells))
    assert text.startswith(
        "Of 4 settings, d_model = 64, num_layers = 2 has the lowest validation loss: 1.3000 ± 0.0025"
    )
    assert "3 are higher (p < 0.01)" in text


def test_plain_runs_are_grouped_by_what_differs(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"a{seed}", seed=seed, loss=1.4 + seed / 1000, options={"model.norm": "pre"})
        make_run(tmp_path / f"b{seed}", seed=seed, loss=1.5 + seed / 1000, options={"model.norm": "post"})
    (study,) = load_studies([tmp_path])
    assert [setting.label for setting in study.settings] == ["norm = post", "norm = pre"]
    assert "norm = pre has the lowest validation loss: 1.4010 ± 0.0025 (3 seeds); 1 is higher" in finding(study)


def test_a_run_alone_and_a_run_that_never_ended(tmp_path):
    make_run(tmp_path / "one", loss=1.5)
    assert sentence(tmp_path / "one") == "The validation loss is 1.5000, from one seed, without a confidence interval."
    make_run(tmp_path / "two", status="diverged")
    assert sentence(tmp_path / "two") == "No run has finished; 1 of 1 diverged."


def test_other_tokenizers_are_compared_by_bits_per_byte(tmp_path):
    for size in (500, 1000):
        make_run(tmp_path / str(size), loss=1.5, options={"model.vocab_size": size})
    (study,) = load_studies([tmp_path])
    assert study.measure == "val_bpb"
    assert "bits per byte" in finding(study)


def test_words_in_a_list():
    assert [listed(words) for words in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
