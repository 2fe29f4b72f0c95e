"""`groundup data info`, `check` and `show`, and what `groundup encode` says of special tokens, as a user meets them."""

import json
import os
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.data.encode import encode_files
from groundup.tokenizer import Tokenizer

DOCUMENTS = ["one fish", "two <|pad|> fish", "日本 \x07 fish\n"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)
    merges = [(b"f", b"i"), (b"s", b"h"), (b"fi", b"sh")]
    tokens = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    Tokenizer(dict(enumerate(tokens)), merges, ["<|endoftext|>", "<|pad|>"]).save("tokenizer")
    Path("rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS), encoding="utf-8")
    encode_files("rows.jsonl", Tokenizer.load("tokenizer"), "out", shard_tokens=20)
    return Path("out")


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_info_says_what_is_there_and_how_it_was_made(folder, capsys):
    code, out, _ = run("data", "info", folder, capsys=capsys)
    assert code == 0
    for fact in ("<|pad|> × 1", "taken as text", "rows.jsonl", "<|endoftext|> = 259"):
        assert fact in out
    code, out, _ = run("data", "info", folder, "--json-output", capsys=capsys)
    found, index = json.loads(out), json.loads((folder / "index.json").read_text())
    assert code == 0
    for name in ("documents", "tokens", "bytes", "dtype", "inputs", "special_tokens_met", "shards", "groundup"):
        assert found[name] == index[name]
    assert found["tokenizer"]["sha256"] == index["tokenizer_sha256"]


def test_info_of_an_array_and_of_nothing(tmp_path, capsys):
    import numpy as np

    np.save(tmp_path / "a.npy", np.arange(100, dtype=np.uint16))
    code, out, _ = run("data", "info", tmp_path / "a.npy", "--json", capsys=capsys)
    assert (code, json.loads(out)["tokens"]) == (0, 100)
    for place in (tmp_path, tmp_path / "nowhere"):
        code, _, err = run("data", "info", place, capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)


def test_check_finds_every_fault_and_encode_repairs(folder, capsys):
    assert run("data", "check", folder, capsys=capsys)[0] == 0
    os.truncate(folder / "shard-00001.bin", 6)
    (folder / "token_lengths.npy").unlink()
    code, out, err = run("data", "check", folder, capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "shard-00001.bin is truncated" in err
    assert "token_lengths.npy is missing" in out
    code, out, _ = run("data", "check", folder, "--json-output", capsys=capsys)
    assert code == 2
    assert [fault["file"] for fault in json.loads(out)["faults"]] == ["shard-00001.bin", "token_lengths.npy"]
    encode = ["encode", "rows.jsonl", "--tokenizer", "tokenizer", "--out", folder, "--shard-tokens", 20]
    code, out, _ = run(*encode, capsys=capsys)
    assert code == 0
    assert "written again: shard-00001.bin, token_lengths.npy" in out
    assert run("data", "check", folder, capsys=capsys)[0] == 0


def test_show_prints_ids_and_text_of_any_document(folder, capsys):
    tokenizer = Tokenizer.load("tokenizer")
    for number, text in [(0, DOCUMENTS[0]), (1, DOCUMENTS[1]), (-1, DOCUMENTS[-1]), (-3, DOCUMENTS[0])]:
        code, out, _ = run("data", "show", folder, number, capsys=capsys)
        rows = [line.split(maxsplit=1) for line in out.splitlines()]
        assert code == 0
        assert rows.pop() == ["259", "<|endoftext|>"]
        ids = [int(word) for line in out.splitlines() for word in line.split() if word.isdigit()]
        assert set(tokenizer.encode_ordinary(text)) <= set(ids)
    code, out, _ = run("data", "show", folder, capsys=capsys)
    assert [line.split(maxsplit=1)[1] for line in out.splitlines()] == [
        "'o'", "'n'", "'e'", "' '", "'fish'", "<|endoftext|>"
    ]  # fmt: skip
    for number in (3, -4):
        code, _, err = run("data", "show", folder, number, capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)
        assert "0 to 2, or -3 to -1" in err


def test_show_on_a_terminal_has_the_whole_text_in_two_colours(folder, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    code, out, _ = run("data", "show", folder, 2, capsys=capsys)
    assert code == 0
    colours = {part.split("m")[0] for part in out.split("\x1b[")[1:]}
    assert len(colours) >= 4  # the heading, two for tokens, the special token; and the reset
    assert "日" in out
    assert "\x07" not in out


def test_encode_says_which_names_it_met_and_refuses_them_if_asked(folder, capsys):
    encode = ["encode", "rows.jsonl", "--tokenizer", "tokenizer"]
    code, out, _ = run(*encode, "--out", "a", capsys=capsys)
    assert (code, "taken as text" in out, "<|pad|> × 1" in out) == (0, True, True)
    code, out, _ = run(*encode, "--out", "b", "--special-tokens", "encode", capsys=capsys)
    assert (code, "taken as special tokens" in out) == (0, True)
    code, _, err = run(*encode, "--out", "c", "--special-tokens", "error", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "rows.jsonl, document 2 has the special token '<|pad|>'" in err
