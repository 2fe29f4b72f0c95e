"""`groundup generate --file`, and `groundup chat` with a model of plain text."""

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import groundup
from groundup.cli.main import main
from groundup.system.files import sealed

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
        (b'{"prompt": "a"}\r\n{"prompt": "\\ud800 x"}\n', ":2 has \\ud800"),
        (b'{"prompt": "a", "\\udcff": 1}\n', ":1 has \\udcff"),
        (b'{"prompt": "a", "x": [NaN]}\n', ":1 has a number that JSON does not have"),
        (b'{"prompt": "a", "x": 1e999}\n', ":1 has a number that JSON does not have"),
        (b'{"prompt": ' + b"[" * 100_000 + b"\n", ":1 is not JSON"),
        (b'\xef\xbb\xbf{"prompt": "\xff"}', "byte 15 is not UTF-8"),
    ],
)
def test_bad_prompts_are_told_by_line(content, said, tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)
    code, _, error = generate(capsys, path)
    assert code == 2
    assert said in error


def test_lines_end_at_line_breaks_alone_and_a_byte_order_mark_is_no_text(tmp_path, capsys):
    texts = ["A\u2028B", "C\x85D\x0cE", "F"]
    rows = "\r\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in texts)
    for name, content in (("prompts.jsonl", rows), ("prompts.txt", "\r\n".join(texts))):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        code, out, _ = generate(capsys, tmp_path / name)
        assert code == 0
        assert [json.loads(line)["prompt"] for line in out.strip("\n").split("\n")] == texts


@pytest.mark.parametrize("content", [b"The cat\nA dog\n", b'{"prompt": "The cat", "id": 1}\n{"prompt": "A dog"}\n'])
def test_prompts_come_through_standard_input(content, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(content)))
    code, out, _ = generate(capsys, Path("-"))
    assert code == 0
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["The cat", "A dog"]


def test_a_text_says_how_it_was_sampled_and_why_it_ended(prompts, capsys):
    _, out, _ = generate(capsys, prompts, "--top-k", 3)
    of_file = [json.loads(line) for line in out.splitlines()]
    assert [row["sampling"]["seed"] for row in of_file] == [5, 6, 7, 8, 9]
    assert (of_file[0]["sampling"]["max_tokens"], of_file[0]["sampling"]["top_k"]) == (9, 3)
    _, out, _ = run(capsys, "generate", RUN, "--prompt", "The cat", "--seed", 5, "--json-output")
    alone = json.loads(out)
    assert alone["sampling"] == {
        "max_tokens": 8, "temperature": 0.8, "top_p": 0.9, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
        "stop": [], "seed": 5,
    }  # fmt: skip
    assert alone["finish_reason"] in ("end", "length")
    assert alone.keys() - {"settings"} == of_file[0].keys() - {"settings"}


def test_a_line_break_can_be_typed_as_a_stop_string(capsys):
    model = groundup.load(RUN)
    texts = {seed: model.generate("The cat", max_tokens=200, seed=seed) for seed in range(20)}
    seed = next(seed for seed, text in texts.items() if "\n" in text)
    arguments = ("generate", RUN, "--prompt", "The cat", "--tokens", 200, "--seed", seed, "--json-output", "--stop")
    found = json.loads(run(capsys, *arguments, r"\n")[1])
    assert (found["text"], found["finish_reason"]) == (texts[seed].partition("\n")[0], "stop")
    assert json.loads(run(capsys, *arguments, r"\\n")[1])["sampling"]["stop"] == [r"\n"]


def copied(source: Path, out: Path, change: float = 0.0) -> Path:
    """A run like another, with weights that differ."""
    shutil.copytree(source, out)
    file = out / "checkpoints" / "step-12" / "model.safetensors"
    tensors = load_file(file)
    tensors["ln_final.weight"] = tensors["ln_final.weight"] + change
    save_file(tensors, file)
    state = json.loads((file.parent / "state.json").read_text())
    state["files"]["model.safetensors"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parent / "state.json").write_text(json.dumps(sealed(state)))
    return out


def test_texts_go_on_with_the_same_weights_under_any_path_and_with_no_others(prompts, tmp_path, capsys):
    path, name = tmp_path / "texts.jsonl", tmp_path / "runs" / "mine"
    copied(Path(RUN), name)
    arguments = ("--tokens", 9, "--temperature", 0.8, "--seed", 5, "--file", prompts, "--out", path)
    assert generate(capsys, prompts, "--out", path)[0] == 0
    before = path.read_bytes()
    prompts.write_text(prompts.read_text() + "One more\n", encoding="utf-8")
    assert run(capsys, "generate", name, *arguments)[0] == 0
    assert path.read_bytes().startswith(before)
    before = path.read_bytes()
    shutil.rmtree(name)
    copied(Path(RUN), name, change=0.1)
    prompts.write_text(prompts.read_text() + "And another\n", encoding="utf-8")
    code, _, error = run(capsys, "generate", name, *arguments)
    assert (code, "another model" in error, path.read_bytes()) == (2, True, before)


def test_two_processes_do_not_write_one_file(prompts, tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    holds = "import sys; from pathlib import Path; from groundup.generation.prompts import _alone\n"
    holds += f"with _alone(Path({str(path)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", holds], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, error = generate(capsys, prompts, "--out", path)
        assert (code, error.count("\n"), f"process {other.pid}" in error, path.exists()) == (2, 1, True, False)
        other.communicate("")
    assert generate(capsys, prompts, "--out", path)[0] == 0
    assert sorted(tmp_path.iterdir()) == [prompts, path]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", 3], "--rows applies to --file"),
        (["--out", "x"], "--out applies to --file"),
        (["--system", "x"], "--system applies to --chat"),
        (["--file", "x", "--json-output"], "--json-output does not apply to --file"),
        (["--file", "x", "--prompt", "y"], "--prompt does not apply to --file"),
        (["--tokens", 0], "--tokens 0; expected at least 1"),
        (["--samples", 0], "--samples 0; expected at least 1"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used here"),
        (["--stop", ""], "--stop ''; expected at least one character"),
        (["--prompt", "bad \udcff"], "--prompt: byte 4 is not UTF-8"),
        (["--stop", "\udcff"], "--stop: byte 0 is not UTF-8"),
    ],
)
def test_options_that_have_no_effect_or_no_meaning_are_refused_by_name(arguments, said, capsys):
    code, out, error = run(capsys, "generate", RUN, *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"groundup: {said}")


def test_a_prompt_that_is_not_utf8_is_refused_from_standard_input_too(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"bad \xff"), errors="surrogateescape"))
    code, out, error = run(capsys, "generate", RUN, "--prompt", "-")
    assert (code, out, "standard input: byte 4" in error) == (2, "", True)


@pytest.mark.parametrize("stdout_is_terminal", [True, False])
def test_rows_are_whole_lines_of_standard_output_beside_a_terminal(stdout_is_terminal, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("The cat sat on the mat and looked at the moon. " * 4 + "\n")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "groundup", "generate", RUN, "--file", str(path), "--tokens", "3", "--seed", "1"]
    done = subprocess.run(
        command, stderr=follower, stdout=follower if stdout_is_terminal else subprocess.PIPE, timeout=120, check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(follower)
    shown = os.read(leader, 100_000) if stdout_is_terminal else done.stdout
    os.close(leader)
    (row,) = [json.loads(line) for line in shown.splitlines() if line.startswith(b"{")]
    assert row["prompt"] == path.read_text().removesuffix("\n")


def test_a_model_of_plain_text_continues_what_is_written(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"The cat\n\nA dog\n/quit\nnot read\n")))
    code, out, _ = run(capsys, "chat", RUN, "--tokens", 6, "--temperature", 0)
    model = groundup.load(RUN)
    expected = [model.generate(line, max_tokens=6, temperature=0, top_p=1.0) for line in ("The cat", "A dog")]
    assert (code, out) == (0, "".join(f"{text}\n" for text in expected))
    code, _, error = run(capsys, "chat", RUN, "--system", "Be kind.")
    assert code == 2
    assert "not" in error
