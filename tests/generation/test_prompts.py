"""`groundup generate --file`, and `groundup chat` with a model of plain text."""

import json
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

import groundup
from groundup.cli.main import main

RUN = str(Path(__file__).parents[1] / "fixtures" / "version-0.1" / "runs" / "gathered")
PROMPTS = ["The cat", "", "Once upon a time there", "ü🙂", "A dog"]


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"{prompt}\n" for prompt in PROMPTS), encoding="utf-8")
    return path


def generate(capsys, prompts: Path, *more: object) -> tuple[int, str, str]:
    return run(capsys, "generate", RUN, "--tokens", 9, "--temperature", 0.8, "--seed", 5, "--file", prompts, *more)


def test_each_prompt_of_a_file_is_continued_as_alone(prompts, capsys):
    code, out, _ = generate(capsys, prompts, "--samples", 2, "--rows", 3)
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [record["prompt"] for record in records] == [prompt for prompt in PROMPTS for _ in range(2)]
    model = groundup.load(RUN)
    top_p = model.sample.top_p
    for number, record in enumerate(records):
        alone = model.generate(record["prompt"], max_tokens=9, temperature=0.8, top_p=top_p, seed=5 + number)
        assert record["text"] == alone


def test_keys_of_json_prompts_are_kept(tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "The", "id": [7]}\n\n{"prompt": "A\\nB", "id": null}\n', encoding="utf-8")
    records = [json.loads(line) for line in generate(capsys, path)[1].splitlines()]
    assert [(record["prompt"], record["id"]) for record in records] == [("The", [7]), ("A\nB", None)]


@pytest.mark.parametrize("cut", [0, 1, 200, -1, None])
def test_a_file_that_was_broken_off_is_completed(cut, prompts, tmp_path, capsys):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert generate(capsys, prompts, "--out", whole)[0] == 0
    part.write_bytes(whole.read_bytes()[:cut])
    assert generate(capsys, prompts, "--out", part)[0] == 0
    assert part.read_bytes() == whole.read_bytes()


def test_texts_of_rounded_weights_are_not_mixed_with_others(prompts, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    assert generate(capsys, prompts, "--out", path)[0] == 0
    code, _, error = generate(capsys, prompts, "--out", path, "--weights", "int8")
    assert (code, "another model" in error) == (2, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path, prompts: None, "other settings"),
        (lambda path, prompts: path.write_text('{"prompt": "B", "settings": ""}\n'), "another prompt"),
        (lambda path, prompts: path.write_text("my notes\n"), "not a line of generated text"),
        (lambda path, prompts: prompts.write_text("The cat\n"), "5 texts, but 1"),
    ],
)
def test_texts_of_something_else_are_not_mixed_in(change, said, prompts, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    generate(capsys, prompts, "--out", path)
    change(path, prompts)
    before = path.read_bytes()
    code, _, error = generate(capsys, prompts, "--out", path, "--top-k", 3)
    assert (code, path.read_bytes()) == (2, before)
    assert said in error


def test_a_prompt_that_is_too_long_keeps_no_other_waiting(tmp_path, capsys):
    path = tmp_path / "prompts.txt"
    path.write_text("The cat\n" + "dog " * 500 + "\nA dog\n")
    code, out, error = generate(capsys, path, "--beyond", "stop")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 2
    assert "1 of 3 prompts" in error
    assert [record["finish_reason"] == "error" for record in records] == [False, True, False]
    assert "context" in records[1]["error"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no prompts"),
        (b"\xff\n", "not UTF-8"),
        (b'{"prompt": 3}\n', ":1 has no text"),
        (b'{"prompt": "a"}\n{"prompt"\n', ":2 is not JSON"),
    ],
)
def test_bad_prompts_are_told_by_line(content, said, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    code, _, error = generate(capsys, path)
    assert code == 2
    assert said in error


def test_a_model_of_plain_text_continues_what_is_written(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"The cat\n\nA dog\n/quit\nnot read\n")))
    code, out, _ = run(capsys, "chat", RUN, "--tokens", 6, "--temperature", 0)
    model = groundup.load(RUN)
    expected = [model.generate(line, max_tokens=6, temperature=0, top_p=1.0) for line in ("The cat", "A dog")]
    assert (code, out) == (0, "".join(f"{text}\n" for text in expected))
    code, _, error = run(capsys, "chat", RUN, "--system", "Be kind.")
    assert code == 2
    assert "not" in error
