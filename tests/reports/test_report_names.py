"""Reports of runs whose every text is hostile: pages and Markdown with the same elements as of harmless runs."""

import html.parser
import json
import os
import re
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.reports.report import write_report
from made_runs import ENVIRONMENT, make_run, make_sweep

for package in ("jinja2", "matplotlib", "plotly", "scipy"):
    pytest.importorskip(package)

MARKUP = "<img src=x onerror=alert(1)>\"'&amp;`|$x$[a](javascript:b)"


class Elements(html.parser.HTMLParser):
    """Tags with the names of their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.shown, self._quiet = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self._quiet = tag in ("script", "style")

    def handle_endtag(self, tag):
        self._quiet = False

    def handle_data(self, data):
        self.shown += "" if self._quiet else data


def hostile_environment(text: str) -> dict:
    changed = {key: text if isinstance(value, str) else value for key, value in ENVIRONMENT.items()}
    return changed | {"packages": {text: text}, "git": {"commit": text, "modified": True}}


def runs_with(text: str, folder: Path) -> tuple[Path, Path]:
    """A sweep and a folder of two runs in which every text is the given one."""
    cells = {
        name: {
            "variant": f"{name} {text}",
            "losses": losses,
            "sample": text,
            "varied": {"data.valid": f"{name} {text}"},
        }
        for name, losses in (("a", [1.4, 1.5, 1.6]), ("b", [2.4, 2.5, 2.6]))
    }
    published = {"source": text, "losses": {f"a {text}": 1.0, f"b {text}": text}}
    sweep = make_sweep(folder / f"sweep {text}".replace("/", "_"), cells, question=text, file=text, published=published)
    single = folder / "single"
    for number in (0, 1):
        options = {"data.train": f"{text} {number}"}
        make_run(single / f"run{number} {text}".replace("/", "_"), seed=number, sample=text, options=options)
    for run in [*sweep.glob("*/"), *single.glob("*/")]:
        if run.is_dir():
            (run / "environment.json").write_text(json.dumps(hostile_environment(text)))
            (run / "tags.json").write_text(json.dumps([text]))
    return sweep, single


def written_with(text: str, folder: Path, **options: str) -> tuple[str, str]:
    folder.mkdir()
    written = write_report(runs_with(text, folder), folder / "out", **options)
    return written.page.read_text(), written.markdown.read_text()


def test_no_text_of_a_run_adds_an_element_or_an_attribute_to_the_page(tmp_path: Path):
    harmless, _ = written_with("x", tmp_path / "harmless", title="x")
    hostile, markdown = written_with(MARKUP, tmp_path / "hostile", title=MARKUP)
    page = Elements(hostile)
    assert page.tags == Elements(harmless).tags
    assert page.shown.count(MARKUP) > 10
    # Outside of code no "<" of Markdown stands without the backslash that makes it a character.
    outside = re.sub(r"(?s)^(`{3,}).*?^\1", "", markdown, flags=re.M)
    assert "\\<img" in outside
    assert not re.search(r"(?<!\\)<img|(?<!\\)\[a\]", outside)


def test_no_text_of_a_run_adds_an_element_to_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tags = []
    for name, text in (("harmless", "x"), ("hostile", MARKUP)):
        (tmp_path / name).mkdir()
        _, single = runs_with(text, tmp_path / name)
        one, other = sorted(single.iterdir())
        with pytest.raises(SystemExit) as stop:
            main(["compare", str(one), str(other), "--html", str(tmp_path / f"{name}.html")])
        assert stop.value.code in (0, None), capsys.readouterr()
        tags.append(Elements((tmp_path / f"{name}.html").read_text()).tags)
    assert tags[0] == tags[1]


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"-x", b" a  b ", b"n" * 255, b"[red]", b"$(x);`y`"])
def test_runs_of_any_name_are_reported_compared_and_listed(
    name: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs", "plain"), seed=1)
    make_run(Path("runs", "made"))
    Path("runs", "made").rename(Path("runs", os.fsdecode(name)))
    run = f"runs/{os.fsdecode(name)}"
    for command in (
        *([["report", run, "--out", "out"]] if name in (b"caf\xe9", b"-x") else []),  # which takes seconds
        ["compare", run, "runs/plain"], ["runs", "--json"], ["runs", "--csv", "r.csv"],
        ["runs", "--tag", f"./{os.fsdecode(name)}", "good"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stop:
            main(command)
        shown = capsys.readouterr()
        assert (stop.value.code or 0, shown.err) == (0, ""), command
        if command == ["runs", "--json"]:
            assert os.fsdecode(name) in {row["run"] for row in json.loads(shown.out)}
    assert json.loads(Path(run, "tags.json").read_text()) == ["good"]
