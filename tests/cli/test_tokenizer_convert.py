"""`groundup tokenizer convert` as a user meets it."""

import base64
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.tokenizer import Tokenizer

SOURCE = Tokenizer(
    {byte: bytes([byte]) for byte in range(256)} | {256: b"th", 257: b"the"}, [(b"t", b"h"), (b"th", b"e")], ["<|x|>"]
)


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as stop:
        main(["tokenizer", "convert", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.mark.parametrize(
    ("name", "options", "summary"),
    [
        ("out", [], "out: folder, 259 tokens, 2 merges, pattern gpt2, special tokens: <|x|> = 258"),
        ("out.json", [], "out.json: json, 259 tokens, 2 merges, pattern gpt2, special tokens: <|x|> = 258"),
        (
            "tokenizer.json",
            ["--to", "hugging-face"],
            "tokenizer.json: hugging-face, 259 tokens, 2 merges, pattern gpt2",
        ),
        ("tokenizer.json", ["--to", "json"], "tokenizer.json: json, 259 tokens, 2 merges, pattern gpt2"),
        ("out.tiktoken", [], "tiktoken, 259 tokens, 2 merges, without what the format has no place for: pattern gpt2"),
        ("ranks.txt", ["--to", "tiktoken"], "ranks.txt: tiktoken, 259 tokens"),
    ],
)
def test_every_format_in_one_line(tmp_path, monkeypatch, capsys, name, options, summary):
    monkeypatch.chdir(tmp_path)
    SOURCE.save("in.json")
    code, out, err = run("in.json", name, *options, capsys=capsys)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert summary in out
    lacking = ["--pattern", "gpt2", "--special-token", "<|x|>=258"] if "tiktoken" in summary else []
    code, out, _ = run(name, "back.json", *lacking, capsys=capsys)
    assert code == 0
    back = Tokenizer.load("back.json")
    # The formats of other libraries have the character classes of their own engines.
    own = "hugging-face" not in summary and "tiktoken" not in summary
    assert back.unicode_version == (SOURCE.unicode_version if own else "16.0")
    assert (back.vocab, back.merges, back.pattern) == (SOURCE.vocab, SOURCE.merges, SOURCE.pattern)
    assert list(back.special_tokens) == list(SOURCE.special_tokens)


def test_a_tiktoken_file_with_its_pattern_and_special_tokens(tmp_path, capsys):
    SOURCE.save_tiktoken(tmp_path / "t.tiktoken")
    options = ["--pattern", "cl100k", "--special-tokens", "<|x|>=300", "<|=|>=305"]
    code, out, _ = run(tmp_path / "t.tiktoken", tmp_path / "t", *options, capsys=capsys)
    assert code == 0
    assert "pattern cl100k, special tokens: <|x|> = 300, <|=|> = 305" in out
    loaded = Tokenizer.load(tmp_path / "t")
    assert (loaded.token_id("<|x|>"), loaded.token_id("<|=|>"), loaded.pattern) == (300, 305, "cl100k")
    code, out, _ = run(
        tmp_path / "t.tiktoken", tmp_path / "u", "--pattern", "gpt2", "--special-token", "a=b", "cc", capsys=capsys
    )
    assert (code, "a=b = 258, cc = 259" in out) == (0, True)


def test_what_a_tokenizer_json_asks_for_beside_ids_is_named(tmp_path, capsys):
    SOURCE.save_hugging_face(tmp_path / "in.json")
    text = (tmp_path / "in.json").read_text(encoding="utf-8")
    text = text.replace('"post_processor": null', '"post_processor": {"type": "TemplateProcessing"}')
    (tmp_path / "in.json").write_text(text, encoding="utf-8")
    code, out, _ = run(tmp_path / "in.json", tmp_path / "out", capsys=capsys)
    assert (code, out.endswith("; left out: post_processor TemplateProcessing\n")) == (0, True)


def test_what_is_there_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    SOURCE.save("in.json")
    other = Tokenizer({0: b"a"}, [])
    other.save("folder")
    other.save("file.json")
    for out in ("folder", "file.json"):
        code, _, err = run("in.json", out, capsys=capsys)
        assert code == 2
        assert "exists already; choose another name, or replace it with --overwrite" in err
        assert Tokenizer.load(out).sha256 == other.sha256
        assert run("in.json", out, "--overwrite", capsys=capsys)[0] == 0
        assert Tokenizer.load(out).sha256 == SOURCE.sha256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "tokenizer nowhere does not exist"),
        (["in.json", "tokenizer.json"], "--to hugging-face or --to json"),
        (["in.json", "out.txt", "--to", "json"], "writes one file, whose name ends in .json; out.txt is not"),
        (["in.json", "out.json", "--to", "folder"], "out.json is the name of a file; leave .json away"),
        (["in.json", "."], "out is the current folder"),
        (["in.json", "taken.txt"], "taken.txt is a file or lies in one"),
        (["in.json", "out", "--pattern", "qwen2"], "in.json says that its pattern is 'gpt2', and 'qwen2' is asked for"),
        (["in.json", "out", "--special-token", "x"], "in.json says what its special tokens are"),
        (["in.json", "out", "--to", "gguf"], "--to"),
        (["in.tiktoken", "out"], "does not say how text is split"),
        (["in.tiktoken", "out", "--pattern", "gpt4"], "pattern 'gpt4' is not known"),
        (
            ["in.tiktoken", "out", "--pattern", "gpt2", "--special-token", "a=300", "b"],
            "gives 'a=300' an id and none to",
        ),
        (["in.tiktoken", "out", "--pattern", "gpt2", "--special-token", "a=9", "a=8"], "gives 'a' two ids"),
        (["in.tiktoken", "out", "--pattern", "gpt2", "--special-token", "<>=97"], "'<>' cannot have the id 97"),
        (["in.tiktoken", "out", "--pattern", "gpt2", "--special-token", "<>=" + "9" * 99], "has the id 9999999999"),
        (["holes.json", "out.tiktoken"], "cannot be written as .tiktoken: no token has the id 0"),
        (["cut.json", "out"], "cut.json is not valid JSON"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(arguments, message, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    SOURCE.save("in.json")
    SOURCE.save_tiktoken("in.tiktoken")
    Tokenizer({byte + 1: bytes([byte]) for byte in range(256)}, []).save("holes.json")
    Path("cut.json").write_bytes(Path("in.json").read_bytes()[:1000])
    Path("taken.txt").touch()
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = run(*arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("groundup: ")
    assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_the_tiktoken_file_is_what_it_says(tmp_path, capsys):
    SOURCE.save(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out.tiktoken", capsys=capsys)
    lines = (tmp_path / "out.tiktoken").read_text().splitlines()
    assert lines[-2:] == [f"{base64.b64encode(token).decode()} {rank}" for rank, token in ((256, b"th"), (257, b"the"))]
    assert len(lines) == 258
