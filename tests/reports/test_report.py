"""A report is complete, needs nothing but itself, and shows hostile texts as texts."""

import base64
import html.parser
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from groundup.cli.tokenizer.report import report as tokenizer_report
from groundup.display.markdown import fenced, line, table
from groundup.errors import DataError, FileMissingError
from groundup.reports.comparison import compare_runs, comparison_sections
from groundup.reports.content import Preface, published_table
from groundup.reports.curves import lines_of, pack
from groundup.reports.finding import finding
from groundup.reports.method import method
from groundup.reports.report import write_report
from groundup.reports.settings import load_studies
from groundup.version import VERSION
from made_runs import ablations_sweep, make_run, make_sweep, rates_sweep

for package in ("jinja2", "matplotlib", "plotly", "scipy"):
    pytest.importorskip(package)

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = """</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 1"> | ``` $x_1$ "'&"""


class Page(html.parser.HTMLParser):
    """Elements with their attributes, the text a reader sees, and the texts of scripts by their id."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.shown, self.scripts, self._inside = "", {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = f"{tag}:{dict(attrs).get('id') or ''}"

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside.startswith(("script", "style")):
            self.scripts[self._inside.partition(":")[2]] = data
        else:
            self.shown += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    ablations_sweep(folder / "ablations")
    losses = {1e-3: [1.5, 1.51, 1.49], 2e-3: [1.4, 1.41, 1.39], 4e-3: [None, 1.45, 1.44], 8e-3: [None, None, None]}
    rates_sweep(folder / "rates", losses)
    return write_report([folder / "ablations", folder / "rates"], folder / "out")


def test_a_report_has_all_that_a_reader_asks_for(written):
    page, markdown = Page(written.page.read_text()).shown, written.markdown.read_text()
    for text in (page, markdown.replace("\\", "")):
        for part in (
            "Does each part of the block earn its place?", "Which learning rate is best?", "with the baseline",
            "1.4003 ± 0.0038", "3 of 3 diverged", "1.4450 ± 0.0635 (1 of 3 diverged)", "Limitations",
            "Differences smaller than", "Welch's t-test", "32 x 64 tokens", "temperature 0.8, top-p 0.9, seed 0",
            "Once there was a cat.", "TFLOPs", "Some Processor 9000", "torch 2.13.0", "commit 0123456789ab",
            "groundup sweep ablations.toml", "groundup report",
        ):  # fmt: skip
            assert part in text, part


def test_the_wording_is_that_of_the_golden_files(written, tmp_path):
    """After a change of the wording, copy the files that the failure names over the golden ones, and read the diff."""
    folder = str(written.markdown.parents[1])
    page = Page(written.page.read_text()).shown.replace(f"{VERSION} ·", "VERSION ·")
    shown = [line.strip() for line in page.splitlines()]
    sections = comparison_sections(compare_runs(f"{folder}/ablations/baseline-seed0", f"{folder}/ablations/nope-seed0"))
    texts = {
        "report.md": written.markdown.read_text(),
        "page.txt": "".join(line + "\n" for line in shown if line),
        "compare.md": "\n\n".join(f"{s.title}\n\n{table(s.header, s.rows)}\n\n{s.note}" for s in sections),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text.replace(folder, "FOLDER"))
        assert (tmp_path / name).read_text() == (GOLDEN / name).read_text(), f"cp {tmp_path / name} {GOLDEN / name}"


def test_markdown_shows_pictures_that_exist(written):
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", written.markdown.read_text())
    assert len(images) == 4
    for image in images:
        assert (written.markdown.parent / image).read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (written.markdown.parent / image).with_suffix(".svg").read_text()


def test_the_page_fetches_nothing(written):
    page = Page(written.page.read_text())
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, target)
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", "".join(
        text for name, text in page.scripts.items() if name not in ("plotly", "numbers", "data")
    ))  # fmt: skip


def test_what_stands_in_runs_cannot_leave_its_place(tmp_path):
    cells = {"a": {"variant": HOSTILE, "losses": [1.4, 1.5], "sample": HOSTILE}, "b": {"variant": "b", "losses": [1.4]}}
    make_sweep(tmp_path / "runs", cells, baseline="b", question=HOSTILE)
    written = write_report([tmp_path / "runs"], tmp_path / "out", title=HOSTILE)
    page = Page(written.page.read_text())
    assert [tag for tag, _ in page.elements].count("script") == 4
    assert "img" not in [tag for tag, _ in page.elements]
    assert page.shown.count(HOSTILE) >= 4
    assert json.loads(page.scripts["data"])["studies"][0]["settings"][0]["label"] == HOSTILE
    markdown = written.markdown.read_text()
    outside = re.sub(r"^(`{3,})text\n.*?\n\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "\\<img" in outside
    assert not re.search(r"(?<!\\)<", outside)


def test_figures_of_others_stand_beside_those_of_the_same_settings(tmp_path):
    losses = {"baseline": 1.349, "no position": 1.39, "no norm": "NaN", "another": 2}
    folder = ablations_sweep(tmp_path / "ablations", published={"source": "A paper. One seed", "losses": losses})
    found = published_table(load_studies([folder])[0])
    assert found.header == (
        "setting", "published", "ours", "published, less its baseline", "ours, less its baseline",
    )  # fmt: skip
    assert found.rows == [
        ("baseline", "1.349", "1.400", "+0.000", "+0.000"),
        ("no position", "1.390", "1.401", "+0.041", "+0.001"),
        ("no norm", "NaN", "diverged", "", ""),
        ("another", "2.000", "", "+0.651", ""),
    ]
    assert found.note == "Validation loss in nats per token. A paper. One seed."
    page, markdown = (text.read_text() for text in write_report([folder], tmp_path / "out")[:2])
    assert "A paper. One seed." in Page(page).shown
    assert "| no position | 1.390 | 1.401 | +0.041 | +0.001 |" in re.sub(" +", " ", markdown)


def test_published_values_along_an_axis_are_matched_as_numbers(tmp_path):
    published = {"source": "A paper", "losses": {"1e-3": 1.377, "5e-3": 2.29}}
    losses = {1e-3: [1.5], 2e-3: [1.4], 4e-3: [1.6]}
    folder = rates_sweep(tmp_path / "rates", losses, published=published, baseline={"max_learning_rate": 1e-3})
    found = published_table(load_studies([folder])[0])
    assert found.header == ("max_learning_rate", "published", "ours")
    assert found.rows == [("1e-3", "1.377", "1.500"), ("5e-3", "2.290", "")]


def test_the_method_says_what_the_plan_declares(tmp_path):
    folder = ablations_sweep(
        tmp_path / "ablations", recipe="small", budget={"fixed": "tokens", "amount": 400_000},
        rules={"optim.min_learning_rate": "max_learning_rate / 10"},
        variants={"baseline": {}, "tied": {"model.tie_embeddings": True, "optim.max_learning_rate": 5e-4}},
    )  # fmt: skip
    said = dict(method(load_studies([folder])[0]))
    assert said["held fixed"] == "400 thousand tokens"
    assert said["rules"] == "min_learning_rate = max_learning_rate / 10"
    assert said["baseline"] == "nothing changed"
    assert said["tied"] == "tie_embeddings = true, max_learning_rate = 0.0005"
    assert said["length"] == "200 steps, of which warm-up 200"


def test_the_method_of_runs_by_the_clock_has_no_number_of_steps(tmp_path):
    clock = {"train.max_minutes": 0.5, "train.finish_schedule": True, "train.max_iters": 1000}
    cells = {name: {"variant": name, "losses": [1.4], "varied": clock} for name in "ab"}
    folder = make_sweep(tmp_path / "ladder", cells, budget={"fixed": "minutes", "amount": 0.5})
    said = dict(method(load_studies([folder])[0]))
    assert said["held fixed"] == "0.5 minutes"
    assert said["length"] == "0.5 minutes of wall-clock time, of which warm-up takes 20%"


def test_figures_that_match_no_setting_stand_alone(tmp_path):
    published = {"source": "A paper", "losses": {"42 M": 3.7}}
    found = published_table(load_studies([ablations_sweep(tmp_path / "ladder", published=published)])[0])
    assert (found.header, found.rows) == (("setting", "published"), [("42 M", "3.700")])
    assert published_table(load_studies([ablations_sweep(tmp_path / "none")])[0]) is None


def test_a_report_on_tokenizers_is_a_chapter(tmp_path):
    text = tmp_path / "cats.txt"
    text.write_text("<|endoftext|>".join(f"The {i} cats sat on mat {i * i}.\n" for i in range(300)))
    tokenizers = tmp_path / "study" / "tokenizers"
    arguments = [f"cats={text}", "--vocab-size", "300", "--out", str(tokenizers)]
    tokenizer_report(arguments)
    rates_sweep(tmp_path / "study" / "rates", {1e-3: [1.5], 2e-3: [1.4]})
    for paths, chapters in (([tmp_path / "study"], 2), ([tokenizers], 1)):
        written = write_report(paths, tmp_path / "out")
        page, markdown = written.page.read_text(), written.markdown.read_text()
        for part in ("On held-out cats the tokenizer trained on it reaches", "Longest tokens", "original report"):
            assert part in Page(page).shown
            assert part in markdown
        assert ("## Findings" in markdown) == (chapters > 1)
        assert (tmp_path / "out" / "images" / "tokenizers-0.png").read_bytes().startswith(b"\x89PNG")
        assert "(images/tokenizers-0.png)" in markdown
        assert str(tmp_path) not in markdown.replace(f"{tmp_path}/out", "").replace(str(paths[0]), "")


@pytest.mark.parametrize(
    "content", ['{"format": "groundup-tokenizer-report"}', '{"format": "groundup-tokenizer-report", "corpora": 1}']
)
def test_a_damaged_report_on_tokenizers_is_named(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(DataError, match=r"report\.json is damaged \(.*\); make it again"):
        write_report([tmp_path], tmp_path / "out")


def test_the_preface_of_a_study_comes_first_and_has_its_own_command(tmp_path):
    folders = [ablations_sweep(tmp_path / "ablations"), rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4]})]
    preface = Preface("Of two <things>.", ["All is small."], "groundup reproduce --data texts")
    written = write_report(folders, tmp_path / "out", title="Two things", preface=preface)
    page, markdown = Page(written.page.read_text()).shown, written.markdown.read_text()
    for part in ("Two things", "Of two <things>.", "All is small.", "groundup reproduce --data texts --only rates"):
        assert part in page
        assert part in markdown.replace("\\", "")
    assert markdown.index("All is small") < markdown.index("## Cost") < markdown.index("\n## ablations")
    assert "groundup sweep" not in markdown
    for study in written.studies:
        assert markdown.count(finding(study).split(",")[0].replace("_", "\\_")) == 2  # in front, and in its chapter


def test_markdown_escapes():
    assert line("a | b\n# c") == r"a \| b \# c"
    assert fenced("```` x") == "`````text\n```` x\n`````"


def test_the_numbers_of_the_page_are_those_of_the_runs(tmp_path):
    make_run(tmp_path / "run", steps=400, every=1)
    (study,) = load_studies([tmp_path / "run"])
    (described,), packed = pack([lines_of(study)])
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(packed)), "<f4")
    by_measure = {about["m"]: about for about in described}
    assert sorted(by_measure) == ["train_loss", "val_loss"]  # bits per byte are a multiple of the loss
    assert by_measure["val_loss"]["b"] == pytest.approx(0.37)
    assert by_measure["val_loss"]["t"] == 32 * 64
    first = described[0]
    curve = study.settings[0].runs[0].curves[first["m"]]
    count = first["n"]
    assert numbers[:count] == pytest.approx(curve.steps)
    assert numbers[count : 2 * count] == pytest.approx(curve.values, rel=1e-6)
    assert numbers[2 * count : 3 * count] == pytest.approx(curve.seconds, rel=1e-6)


def test_a_report_is_the_same_again(tmp_path, written):
    again = write_report([run.folder for run in written.studies], tmp_path)
    assert again.markdown.read_text().replace(str(tmp_path), "") == written.markdown.read_text().replace(
        str(written.markdown.parent), ""
    )
    for one, other in zip(written.images, again.images, strict=True):
        if one.suffix == ".svg":
            assert one.read_bytes() == other.read_bytes()


def test_damaged_runs_are_reported_as_such(tmp_path):
    runs = rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4], 4e-3: [1.45]})
    (runs / "lr-0.001-seed0" / "config.toml").write_text("[[[")
    (runs / "lr-0.002-seed0" / "metrics.jsonl").write_text('{"step": 1, "train_loss": 2.0}\nnot json\n')
    with (runs / "results.jsonl").open("a") as file:
        file.write('{"cell": "gone", "run": "gone", "status": "crashed", "message": "no room"}\n')
    written = write_report([runs], tmp_path / "out")
    text = written.markdown.read_text().replace("\\", "")
    assert "config.toml cannot be read" in text
    assert "metrics.jsonl is damaged: line 2 is not a JSON object" in text
    assert "2 runs are broken and in no mean" in text
    assert "1 run is crashed and in no mean" in text


def test_a_damaged_line_in_the_middle_is_left_out_and_told(tmp_path):
    runs = rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4], 4e-3: [1.45]})
    path = runs / "lr-0.002-seed0" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0\0\0\n", *lines[3:]]))
    text = write_report([runs], tmp_path / "out").markdown.read_text().replace("\\", "")
    assert "lr-0.002-seed0: metrics.jsonl is damaged: line 3 is not a JSON object; left out." in text
    assert "in no mean" not in text


def test_a_damaged_line_of_results_is_told_and_those_after_it_count(tmp_path):
    runs = rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4], 4e-3: [1.45]})
    path = runs / "results.jsonl"
    crashed = b'{"cell": "gone", "run": "gone", "status": "crashed", "message": "no room"}\n'
    path.write_bytes(b"\0\0\0\n" + path.read_bytes() + b"[1]\n" + crashed)
    text = write_report([runs], tmp_path / "out").markdown.read_text().replace("\\", "")
    assert "results.jsonl is damaged: line 1 is not a JSON object, and 1 more lines; left out." in text
    assert "1 run is crashed and in no mean" in text


def test_a_record_with_every_line_twice_is_told_and_counts_once(tmp_path):
    runs = rates_sweep(tmp_path / "rates", {1e-3: [1.5, 1.6], 2e-3: [1.4, 1.3]})
    before = write_report([runs], tmp_path / "before").markdown.read_text()
    path = runs / "lr-0.002-seed0" / "metrics.jsonl"
    path.write_bytes(2 * path.read_bytes())
    after = write_report([runs], tmp_path / "after").markdown.read_text()
    assert "steps more than once; the later lines count" in after
    figures = [line for line in before.splitlines() if line.startswith("|")]
    assert [line for line in after.splitlines() if line.startswith("|")] == figures


def test_names_that_are_not_utf8_can_be_drawn(tmp_path):
    runs = rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4], 4e-3: [1.45]})
    sweep = json.loads((runs / "sweep.json").read_text())
    (sweep.get("plan") or sweep)["name"] = "caf\udce9"
    (runs / "sweep.json").write_text(json.dumps(sweep))
    assert all(image.stat().st_size for image in write_report([runs], tmp_path / "out").images)


@pytest.mark.parametrize("kind", ["folder", "dangling"])
def test_a_sweep_whose_record_is_no_file_is_refused(tmp_path, kind):
    runs = rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4]})
    (runs / "sweep.json").unlink()
    (runs / "sweep.json").mkdir() if kind == "folder" else (runs / "sweep.json").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"sweep\.json cannot be read"):
        write_report([runs], tmp_path / "out")


def test_a_damaged_run_does_not_change_what_the_others_are_compared_by(tmp_path):
    folder = rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4]})
    (folder / "lr-0.001-seed0" / "config.toml").write_text("x = [")
    (study,) = load_studies([folder])
    assert [run.status for run in study.runs] == ["broken", "finished"]
    assert study.measure == "val_loss"


def test_a_sweep_without_its_plan_or_its_results(tmp_path):
    runs = rates_sweep(tmp_path / "rates", {1e-3: [1.5], 2e-3: [1.4], 4e-3: [1.45]})
    (runs / "results.jsonl").unlink()
    (study,) = load_studies([runs])
    assert [setting.label for setting in study.settings] == [
        f"max_learning_rate = {rate}" for rate in (0.001, 0.002, 0.004)
    ]
    (runs / "sweep.json").write_text("{")
    with pytest.raises(DataError, match=r"sweep\.json cannot be read"):
        write_report([runs], tmp_path / "out")


def test_a_run_that_is_still_going_on_counts_in_its_setting(tmp_path):
    sweep = ablations_sweep(tmp_path / "sweep")
    make_run(sweep / "post-norm-seed3", loss=1.45, seed=3, status="stopped", options={"model.norm": "post"})
    (study,) = load_studies([sweep])
    labels = {setting.label: len(setting.runs) for setting in study.settings}
    assert labels == {"baseline": 3, "post-norm": 4, "no position": 3, "no norm": 3}


def test_nothing_to_report_on(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no run and no sweep"):
        write_report([tmp_path / "empty"])
    with pytest.raises(FileMissingError, match="no folder"):
        write_report([tmp_path / "absent"])
    done = subprocess.run([sys.executable, "-m", "groundup", "report"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "groundup: nothing to report on; give runs or sweeps, such as runs/NAME\n"


def test_the_verb_writes_it_and_says_what_was_found(tmp_path):
    ablations_sweep(tmp_path / "ablations")
    command = [sys.executable, "-m", "groundup", "report", tmp_path / "ablations", "--out", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert "post-norm is higher by 0.0500" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.long
def test_five_hundred_runs_of_five_thousand_points_keep_to_their_size(tmp_path):
    for number in range(500):
        options = {"optim.max_learning_rate": 1e-3 * (1 + number // 2 / 100)}
        loss = 1.4 + number * 7919 % 500 / 1000
        make_run(tmp_path / f"run-{number:03}", loss=loss, seed=number % 2, steps=5000, every=1, options=options)
    written = write_report([tmp_path], tmp_path / "out")
    assert written.page.stat().st_size <= 8e6
    assert len(written.studies[0].runs) == 500


def test_runs_named_one_by_one_and_a_link_to_their_folder_count_once(tmp_path: Path):
    for seed in range(2):
        make_run(tmp_path / "runs" / f"a{seed}", seed=seed)
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    (study,) = load_studies([tmp_path / "runs" / "a0", tmp_path / "runs", tmp_path / "link"])
    assert len(study.runs) == 2


def test_reading_runs_needs_no_torch(tmp_path):
    make_run(tmp_path / "run")
    code = (
        "import sys; from groundup.reports.report import write_report; from groundup.reports.run_list import "
        f"list_runs; write_report([{str(tmp_path)!r}]); list_runs(__import__('pathlib').Path({str(tmp_path)!r})); "
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_one_plan_in_two_folders_is_told_apart(tmp_path):
    for name in ("first", "second"):
        rates_sweep(tmp_path / name, {1e-3: [1.5], 2e-3: [1.4]})
        document = json.loads((tmp_path / name / "sweep.json").read_text())
        document["plan"]["name"], document["budget"] = "rates", "minutes"
        (tmp_path / name / "sweep.json").write_text(json.dumps(document))
    written = write_report([tmp_path], tmp_path / "out")
    text = written.markdown.read_text()
    assert "## rates (first)" in text
    assert "[rates (second)](#rates-second)" in text
    assert "groundup sweep rates.toml --budget minutes" in text
    assert len(set(written.images)) == len(written.images)
