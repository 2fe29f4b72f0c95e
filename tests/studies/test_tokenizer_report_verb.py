"""`groundup tokenizer report` as a user meets it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from groundup.cli.main import main
from groundup.studies.tokenizer_report import measure as report
from groundup.system.files import sealed
from groundup.tokenizer import Tokenizer

STORIES = [
    f"Once there was a {a} {b} in the {c}." for a in ("big", "red") for b in ("dog", "fox") for c in ("sun", "sea")
]
NUMBERS = [f"{i * i} = {i} * {i}" for i in range(30)]


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `groundup tokenizer report`."""
    with pytest.raises(SystemExit) as stop:
        main(["tokenizer", "report", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two texts in it. Passes are short."""
    monkeypatch.setattr(report, "COLD_PROCESSES", 1)
    monkeypatch.setattr(report, "WARM_SECONDS", 0.001)
    monkeypatch.chdir(tmp_path)
    for name, documents in (("stories", STORIES), ("numbers", NUMBERS), ("more", STORIES[::-1])):
        Path(f"{name}.txt").write_text("\n<|endoftext|>\n".join(documents))
    Path("one.txt").write_text("a single document")
    Path("empty.txt").touch()
    Path("theirs").mkdir()
    Path("theirs/precious.txt").touch()
    return tmp_path


def test_from_two_texts_to_tables_tokenizers_and_shards(texts: Path, capsys: pytest.CaptureFixture[str]):
    command = ["stories.txt", "digits=numbers.txt", "--vocab-size", 280, "--vocab-size", "digits=270", "--held-out",
               "stories=more.txt", "--out", "r", "--no-plot", "--shards"]  # fmt: skip
    code, out, err = run(*command, capsys=capsys)
    assert (code, err) == (0, "")
    for title in ("bytes per token", "training", "longest tokens", "tokens in common", "encoding", "token shards"):
        assert title in out
    assert "original report" in out
    assert "r: report.json, report.md, shards/, tokenizers/" in out
    found = json.loads(Path("r/report.json").read_text())
    assert [(t["name"], t["vocab_size"]) for t in found["tokenizers"]] == [("stories", 280), ("digits", 270)]
    assert [(c["inputs"], c["held_out"]) for c in found["corpora"]] == [
        (["stories.txt"], ["more.txt"]),
        (["numbers.txt"], "one document in 10"),
    ]
    for shards, documents in (("stories/train", STORIES), ("stories/valid", STORIES[::-1]), ("digits/train", NUMBERS)):
        vocab = Tokenizer.load(f"r/tokenizers/{shards.split('/')[0]}").vocab
        ids = np.fromfile(f"r/shards/{shards}/shard-00000.bin", dtype="<u2")
        assert b"".join(vocab[i] for i in ids.tolist()).decode() == "".join(d + "<|endoftext|>" for d in documents)

    code, _, err = run(*command, capsys=capsys)
    assert (code, err.count("\n"), "--overwrite" in err) == (2, 1, True)
    # A tokenizer of the report that is replaced is compared, and not lost.
    code, out, _ = run("stories.txt", "--no-train", "--tokenizer", "old=r/tokenizers/digits", "--out", "r", "--no-plot",
                       "--overwrite", "--json-output", capsys=capsys)  # fmt: skip
    assert code == 0
    assert sealed(json.loads(out)) == json.loads(Path("r/report.json").read_text())
    assert [t["name"] for t in json.loads(out)["tokenizers"]] == ["old"]
    assert Tokenizer.load("r/tokenizers/digits").vocab_size == 270


def test_draws_a_picture(texts: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    code, out, _ = run("stories.txt", "--vocab-size", 260, "--out", "r", capsys=capsys)
    assert (code, "report.png" in out) == (0, True)
    assert Path("r/report.png").read_bytes().startswith(b"\x89PNG")
    assert "(report.png)" in Path("r/report.md").read_text()


def test_without_matplotlib_it_says_so_before_any_work(
    texts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("stories.txt", "--out", "r", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install matplotlib" in err
    assert "--no-plot" in err
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "at least one corpus"),
        ("missing.txt", "missing.txt does not exist"),
        ("empty.txt", "empty.txt is empty"),
        ("one.txt", "single document"),
        ("stories.txt --held-out stories=missing.txt", "missing.txt does not exist"),
        ("stories.txt --held-out stroies=more.txt", "did you mean 'stories'"),
        ("stories.txt --held-out more.txt", "expected --held-out NAME=PATH"),
        ("a=stories.txt a=numbers.txt", "stories.txt and numbers.txt both have the name 'a'"),
        ("stories.txt ./stories.txt", "both have the name 'stories'"),
        ("stories.txt --vocab-size 256", "vocab_size = 256"),
        ("stories.txt --vocab-size many", "--vocab-size many; expected a number"),
        ("stories.txt --vocab-size other=300", "no text has the name 'other'"),
        ("stories.txt --vocab-size stories=300 --vocab-size stories=400", "stories has a size already"),
        ("stories.txt --tokenizer gpt2=nowhere", "nowhere"),
        ("stories.txt --tokenizer nowhere", "expected --tokenizer NAME=FOLDER"),
        ("stories.txt --no-train", "at least one tokenizer"),
        ("stories.txt --documents 0", "sampled documents = 0"),
        ("stories.txt --threads 0", "num_threads = 0"),
        ("a/b=stories.txt", "'a/b'"),
        ("-", "standard input"),
        ("stories.txt --out theirs", "left alone"),
        ("stories.txt --out theirs --overwrite", "left alone"),
        ("stories.txt --out numbers.txt", "is a file"),
        ("stories.txt --out numbers.txt/report", "not a folder"),
        ("stories.txt --out .", "current folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: str, message: str, texts: Path, capsys: pytest.CaptureFixture[str]
):
    before = sorted(texts.rglob("*"))
    out_option = [] if "--out" in arguments else ["--out", "r"]
    code, out, err = run(*arguments.split(), *out_option, "--no-plot", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("groundup: ")
    assert message in err
    assert sorted(texts.rglob("*")) == before
