"""A submission says what the run's own record says, says what is unknown, and is refused where it would mislead."""

import base64
import json
import os
import re
import shutil
import statistics
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from scipy import stats

from groundup.cli.main import main
from groundup.config import RunConfig, flatten, override
from groundup.errors import DataError, FileMissingError
from groundup.record.run import RunDirectory
from groundup.reports.submission import UNKNOWN, write_submission
from groundup.train import evaluate_run, train
from groundup.train.logging import working_git
from made_runs import make_run

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


def tiny(tokens: Path, folder: Path, name: str, seed: int, windows: int = 5) -> RunConfig:
    return override(
        RunConfig(),
        {
            "name": name, "runs_dir": str(folder), "train.seed": seed, "train.max_iters": 12,
            "model.context_length": 16, "model.d_model": 32, "model.num_layers": 1, "model.num_heads": 2,
            "data.train": str(tokens / "train"), "data.valid": str(tokens / "valid"), "data.batch_size": 4,
            "train.log_interval": 2, "train.eval_interval": 4, "train.eval_windows": windows, "sample.interval": 0,
            "train.peak_tflops": 0.5, "optim.warmup_iters": 2,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("seeds")
    return [train(tiny(tokens, folder, f"seed-{seed}", seed)).run_dir for seed in (0, 1, 2)]


def pairs(markdown: Path) -> dict[str, str]:
    text = markdown.read_text().replace("\\", "")
    return dict(re.findall(r"^- ([^:\n]+): (.*)$", text, re.MULTILINE))


def test_one_run_says_what_its_record_says(runs: list[Path], tmp_path: Path):
    made = write_submission(runs[:1], tmp_path)
    said, page = pairs(made.markdown), made.page.read_text()
    run = runs[0]
    summary, environment = (json.loads((run / f"{name}.json").read_text()) for name in ("summary", "environment"))
    # An independent way to the same number: the whole split by `groundup evaluate`.
    scored = evaluate_run(run, "latest")
    assert dict(made.results)["validation loss"] == said["validation loss"] == f"{scored.loss:.4f}"
    assert said["bits per byte"] == f"{scored.bits_per_byte:.4f}"
    assert said["scored tokens"] == f"{scored.tokens:,}"
    assert said["source"] == "computed for this page from the last checkpoint"
    assert said["context length"] == "16 tokens"
    assert said["tokens"] == f"{12 * 4 * 16:,}"
    assert said["parameters"] == f"{environment['parameters']:,}"
    assert f"({summary['wall_seconds']:,.1f} s)" in said["wall-clock time"]
    assert f"({summary['train_seconds']:,.1f} s)" in said["training steps only"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    spans = [(line["tokens"] - before["tokens"], line["tokens_per_second"]) for before, line in pairwise(lines)]
    seconds = sum(tokens / speed for tokens, speed in spans)  # the summary's are rounded to a tenth
    mfu = summary["tokens"] * environment["flops_per_token"] / seconds / 0.5e12
    assert float(said["MFU"].rstrip("%")) / 100 == pytest.approx(mfu, abs=0.02)
    data = environment["data"]
    index = json.loads((Path(RunDirectory(run).config.data.train) / "index.json").read_text())
    assert said["SHA-256 of the training shards"] == data["train"]
    assert said["SHA-256 of the validation shards"] == data["valid"]
    assert said["SHA-256 of the tokenizer"] == data["tokenizer"] == RunDirectory(run).tokenizer().sha256
    assert data["train"] in json.dumps(index) or len(data["train"]) == 64
    assert said["PyTorch"] == environment["packages"]["torch"]
    config, defaults = flatten(RunDirectory(run).config), flatten(RunConfig())
    for name, value in config.items():
        if value != defaults[name] and name not in ("name", "runs_dir", "train.seed"):
            assert name in said, name
    for text in (page, made.markdown.read_text()):
        assert (run / "config.toml").read_text().splitlines()[3] in text.replace("&#34;", '"')
    assert environment["commands"][0].split()[-1] in page
    # Nothing is loaded from elsewhere.
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    drawn = base64.b64decode(re.search(r"svg\+xml;base64,([^\"]+)", page)[1]).decode()
    assert "<svg" in drawn
    assert made.picture.read_bytes().startswith(b"\x89PNG")


def test_seeds_have_mean_deviation_and_interval(runs: list[Path], tmp_path: Path):
    said = pairs(write_submission(runs, tmp_path).markdown)
    losses = [evaluate_run(run, "latest").loss for run in runs]
    mean, deviation = statistics.fmean(losses), statistics.stdev(losses)
    low, high = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(losses))
    assert said["validation loss"] == (
        f"{mean:.4f} mean of 3 seeds, standard deviation {deviation:.4f}, 95 % confidence interval "
        f"{low:.4f} to {high:.4f}"
    )
    assert said["seeds"] == "0, 1, 2"
    assert said["tokens"] == "768, for each of 3 seeds"
    # The folder of the seeds is the same submission.
    assert (
        pairs(write_submission([runs[0].parent], tmp_path / "again").markdown)["validation loss"]
        == said["validation loss"]
    )


def test_a_whole_split_evaluation_of_the_run_is_taken_as_it_is(tokens: Path, tmp_path: Path):
    run = train(tiny(tokens, tmp_path, "whole", 0, windows=0)).run_dir
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(run / "checkpoints")  # nothing is computed
    said = pairs(write_submission([run], tmp_path / "out").markdown)
    assert said["validation loss"] == f"{lines[-1]['val_loss']:.4f}"
    assert said["source"] == "the run's own last evaluation"
    assert said["scored tokens"] == UNKNOWN


def test_what_an_older_record_does_not_have_is_unknown(tmp_path: Path):
    make_run(tmp_path / "old", options={"train.eval_windows": 0, "data.valid": "gone"})
    made = write_submission([tmp_path / "old"], tmp_path / "out")
    said = pairs(made.markdown)
    assert said["validation loss"] == "2.0000"
    for name in (
        "training steps only", "SHA-256 of the training shards", "SHA-256 of the tokenizer",
        "commit of your repository",
    ):  # fmt: skip
        assert said[name].startswith(UNKNOWN), name
    assert said["MFU"] == "unknown: the peak of the device is not known (train.peak_tflops)"
    assert said["commit of groundup"] == "0123456789abcdef"
    assert "unknown: old has no record of its command" in made.markdown.read_text()


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"status": "stopped"}, None, r"is stopped \(step 100\); a submission needs a finished run"),
        ({"status": "diverged"}, None, r"is diverged \(step"),
        ({"options": {}}, None, "has no validation split"),
        ({"options": {"data.valid": "gone"}}, None, r"data\.valid = 'gone' .* does not exist"),
        (
            {}, {"seed": 1, "options": {"optim.beta2": 0.9}},
            r"differ in more than the seed: optim\.beta2 = 0\.95 and 0\.9|optim\.beta2 = [\d.]+ and 0\.9;",
        ),
        ({}, {"seed": 0}, "2 of the runs have the seed 0"),
    ],
)  # fmt: skip
def test_what_would_mislead_is_refused_in_one_line(
    first: dict, second: dict | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = {"train.eval_windows": 0, "data.valid": "gone"}
    make_run(tmp_path / "a", **{"options": whole} | first)
    paths = [str(tmp_path / "a")]
    if second is not None:
        make_run(tmp_path / "b", **second | {"options": whole | second.get("options", {})})
        paths.append(str(tmp_path / "b"))
    with pytest.raises((DataError, FileMissingError), match=said):
        write_submission(paths, tmp_path / "out")
    with pytest.raises(SystemExit) as end:
        main(["report", *paths, "--submission", "--out", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert len((captured.out + captured.err).strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_changed_validation_data_are_refused(tokens: Path, tmp_path: Path):
    shutil.copytree(tokens / "train", tmp_path / "train")
    shutil.copytree(tokens / "valid", tmp_path / "valid")
    run = train(tiny(tmp_path, tmp_path, "changed", 0)).run_dir
    shutil.rmtree(tmp_path / "valid")
    shutil.copytree(tokens / "train", tmp_path / "valid")
    with pytest.raises(DataError, match=r"is not what .* was evaluated on"):
        write_submission([run], tmp_path / "out")


def test_the_users_own_commit_is_recorded(tmp_path: Path):
    assert working_git(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert working_git(tmp_path) == {"commit": head, "modified": False}
    (tmp_path / "file").write_text("2")
    assert working_git(tmp_path) == {"commit": head, "modified": True}


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_fits_its_window(runs: list[Path], tmp_path: Path, width: int):
    playwright = pytest.importorskip("playwright.sync_api")
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("no chromium; `apt-get install chromium` to run this test")
    page_file = write_submission(runs, tmp_path).page
    kept = Path(os.environ.get("GROUNDUP_SCREENSHOTS", tmp_path))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri())
        page.screenshot(path=kept / f"submission-{width}.png", full_page=True)
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelector('.picture').naturalWidth") > 0
        browser.close()
