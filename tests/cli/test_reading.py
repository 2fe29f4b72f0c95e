"""The options of reading, as the commands that read text take them."""

import gzip
import io
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.data.shards import TokenShards
from groundup.tokenizer import PretokenCounts

LINES = "".join(json.dumps({"title": f"T{i}", "body": f"some words, number {i}"}) + "\n" for i in range(50)).encode()


@pytest.fixture
def run(capsys):
    """Exit code, standard output and standard error of a command."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def send(monkeypatch):
    """Put bytes on standard input."""
    return lambda data: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def texts_of(folder: Path) -> list[str]:
    shards = TokenShards.open(folder, verify=True)
    offsets, tokenizer = shards.document_offsets.tolist(), shards.tokenizer()
    return [tokenizer.decode(shards.read(begin, end - begin - 1)) for begin, end in pairwise(offsets)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_standard_input_is_read_as_what_it_is(run, send, tokens, tmp_path, pack):
    send(pack(LINES))
    out = tmp_path / "tokens"
    code, said, _ = run("encode", "-", "--field", "body", "--tokenizer", tokens / "tokenizer", "--out", out)
    assert (code, "standard input is read as JSON lines" in said) == (0, True)
    assert texts_of(out) == [json.loads(line)["body"] for line in LINES.splitlines()]


def test_a_template_and_skipped_rows(run, tokens, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES + b'{"title": null, "body": "x"}\nnot JSON\n')
    encode = [
        "encode",
        path,
        "--template",
        r"{title}\n\n{body}",
        "--tokenizer",
        tokens / "tokenizer",
        "--out",
        tmp_path / "o",
    ]
    code, _, err = run(*encode)
    assert (code, err.count("\n")) == (2, 1)
    assert f"{path}, line 51" in err
    code, said, _ = run(*encode, "--on-bad-row", "skip")
    assert code == 0
    assert "skipped 2 rows" in said
    assert f"{path}, line 51" in said
    rows = map(json.loads, LINES.splitlines())
    assert texts_of(tmp_path / "o") == [f"{row['title']}\n\n{row['body']}" for row in rows]
    code, _, err = run(*encode, "--on-bad-row", "skip", "--field", "body")
    assert (code, err.count("\n"), "template" in err) == (2, 1, True)


def test_an_encoding(run, tokens, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("hello wörld\r\n".encode("utf-16"))
    encode = ["encode", path, "--tokenizer", tokens / "tokenizer", "--out", tmp_path / "o"]
    code, _, err = run(*encode)
    assert (code, err.count("\n"), "--encoding utf-16" in err) == (2, 1, True)
    assert run(*encode, "--encoding", "utf-16")[0] == 0
    assert texts_of(tmp_path / "o") == ["hello wörld\r\n"]


def test_folders_say_what_they_leave_out(run, tokens, tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "x.ndjson").write_bytes(b'{"text": "from below"}\n')
    (tmp_path / "in" / "readme.md").write_bytes(b"about")
    encode = ["encode", tmp_path / "in", "--tokenizer", tokens / "tokenizer", "--out", tmp_path / "o"]
    code, said, _ = run(*encode)
    assert code == 0
    assert "left out 1 in" in said
    assert "readme.md (no known suffix)" in said
    assert texts_of(tmp_path / "o") == ["from below"]
    (tmp_path / "in" / "sub" / "gone.txt").symlink_to("nowhere")
    code, _, err = run(*encode, "--overwrite")
    assert (code, err.count("\n"), "gone.txt" in err) == (2, 1, True)


def test_few_bytes_a_token_are_warned_of(run, tokens, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Ζεὺς δὲ θεοὺς ἀγορὴν ποιήσατο\n".encode() * 20)
    code, said, _ = run("encode", path, "--tokenizer", tokens / "tokenizer", "--out", tmp_path / "o")
    assert (code, "warning: only 1.0" in said) == (0, True)
    path.write_text("The cat sat on the mat and looked at the moon. " * 20, encoding="utf-8")
    code, said, _ = run("encode", path, "--tokenizer", tokens / "tokenizer", "--out", tmp_path / "p")
    assert (code, "warning" in said) == (0, False)


@pytest.mark.parametrize("verb", ["encode", "tokenizer train", "tokenizer count"])
def test_options_without_meaning_and_binary_input(run, send, tokens, tmp_path, verb):
    rest = {
        "encode": ["--tokenizer", tokens / "tokenizer", "--out", tmp_path / "out"],
        "tokenizer train": ["--vocab-size", 300, "--out", tmp_path / "out"],
        "tokenizer count": ["--out", tmp_path / "out.npz"],
    }[verb]
    (tmp_path / "a.txt").write_bytes(b"plain text")
    (tmp_path / "b.txt").write_bytes(b"\x89PNG\r\n\x1a\n")
    for inputs in (
        [tmp_path / "a.txt", "--field", "body"],
        [tmp_path / "b.txt"],
        [tmp_path / "a.txt", "--encoding", "utf-99"],
        ["/dev/zero"],
    ):
        code, _, err = run(*verb.split(), *inputs, *rest)
        assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()
    send(b"plain text")
    assert run(*verb.split(), "-", "--field", "body", *rest)[0] == 2


def test_counting_reads_what_encoding_reads(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(gzip.compress(LINES))  # its name does not say so
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbfmarked")
    (folder / "c.txt").write_bytes(b"plain\n<|endoftext|>\nplain")
    (folder / "d.txt").write_bytes("wide".encode("utf-16")[2:] * 4)
    code, _, err = run("tokenizer", "count", folder, "--field", "body", "--out", tmp_path / "c.npz")
    assert (code, "d.txt looks like UTF-16" in err) == (2, True)
    (folder / "d.txt").unlink()
    code, said, _ = run("tokenizer", "count", folder, "--field", "body", "--out", tmp_path / "c.npz")
    assert (code, "byte order mark" in said) == (0, True)
    expected = PretokenCounts(special_tokens=["<|endoftext|>"])
    expected.add_documents([*(json.loads(line)["body"] for line in LINES.splitlines()), "marked", "plain", "plain"])
    assert dict(PretokenCounts.load(tmp_path / "c.npz").items()) == dict(expected.items())


@pytest.mark.parametrize("data", [b"Once upon a time", LINES])
def test_text_where_tokens_are_expected(run, tmp_path, data):
    path = tmp_path / "my story.txt"
    path.write_bytes(data)
    code, _, err = run("train", "--train_path", path, "--val_path", path)
    assert (code, err.count("\n")) == (2, 1)
    assert f"groundup encode '{path}'" in err
    assert "pickle" not in err
