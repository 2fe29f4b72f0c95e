"""`groundup export` and `groundup import` as a user meets them."""

import os
from pathlib import Path

import pytest

from foreign_models import FAMILIES, foreign_model, made_run
from groundup.cli.main import main


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_there_and_back_by_command(tokenizer, tokens, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    there = foreign_model(tmp_path / "theirs", tokenizer, **FAMILIES["smollm"])
    code, out, _ = run("import", there, "--out", "runs/small", capsys=capsys)
    assert code == 0
    for said in ("LlamaForCausalLM", "parameters", "largest difference of a logit", "groundup generate runs/small"):
        assert said in out
    code, out, _ = run("runs", capsys=capsys)
    assert "imported" in out
    code, first, _ = run("generate", "small", "--prompt", "The cat", "--tokens", 5, "--temperature", 0, capsys=capsys)
    assert (code, first.startswith("The cat")) == (0, True)
    assert run("generate", "small", "--tokens", 5, capsys=capsys)[0] == 0
    text = tokens / "valid.txt"
    assert run("encode", text, "--tokenizer", "runs/small/tokenizer", "--out", "valid", capsys=capsys)[0] == 0
    code, out, _ = run("evaluate", "small", "--data", "valid", capsys=capsys)
    assert "step 0" in out
    code, out, _ = run("export", "small", capsys=capsys)
    assert code == 0
    assert "ids equal" in out
    assert (tmp_path / "exports" / "small" / "config.json").is_file()
    code, out, _ = run("export", "small", "--to", "folder", capsys=capsys)
    assert "groundup import exports/small-folder" in out
    code, out, _ = run("export", "small", "--to", "tiktoken", capsys=capsys)
    assert "--pattern gpt2" in out
    assert "<|endoftext|>=299" in out


def test_an_output_that_exists_is_replaced_on_request_only(tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs" / "mine", tokenizer)
    assert run("export", "mine", "--to", "folder", capsys=capsys)[0] == 0
    code, _, err = run("export", "mine", "--to", "folder", capsys=capsys)
    assert (code, "--overwrite" in err, err.count("\n")) == (2, True, 1)
    assert run("export", "mine", "--to", "folder", "--overwrite", capsys=capsys)[0] == 0
    (tmp_path / "exports" / "mine-folder" / "thesis.tex").touch()
    code, _, err = run("export", "mine", "--to", "folder", "--overwrite", capsys=capsys)
    assert (code, "thesis.tex" in err) == (2, True)
    assert (tmp_path / "exports" / "mine-folder" / "thesis.tex").exists()
    code, _, err = run("import", "exports/mine-folder", "--out", "runs/mine", "--overwrite", capsys=capsys)
    assert code == 2
    assert (Path("runs/mine/checkpoints/step-5")).is_dir()
    code, _, err = run("export", "mine", "--out", ".", capsys=capsys)
    assert (code, "current folder" in err) == (2, True)


def test_an_import_never_replaces_a_trained_run(tokenizer, tmp_path, capsys):
    there = foreign_model(tmp_path / "theirs", tokenizer, **FAMILIES["llama"])
    made_run(tmp_path / "trained", tokenizer)
    code, _, err = run("import", there, "--out", tmp_path / "trained", "--overwrite", capsys=capsys)
    assert (code, "trained" in err, err.count("\n")) == (2, True, 1)
    assert (tmp_path / "trained" / "checkpoints" / "step-5").is_dir()


NO_UTF_8 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("to", ["hugging-face", "gguf", "folder", "tiktoken"])
def test_a_path_that_is_no_utf_8_is_a_path(to, tokenizer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / NO_UTF_8 / "mine", tokenizer)
    code, out, err = run("export", f"{NO_UTF_8}/mine", "--to", to, "--out", f"{NO_UTF_8}/out", capsys=capsys)
    assert (code, err) == (0, "")
    assert "next" in out
    assert to not in ("hugging-face", "gguf") or any(name in out for name in ("transformers 5", "llama.cpp: "))
    if to == "tiktoken":
        return
    code, out, err = run("import", f"{NO_UTF_8}/out", "--out", f"{NO_UTF_8}/again", capsys=capsys)
    assert (code, err) == (0, "")
    for name in ("mine", "again"):
        code, _, err = run("generate", f"{NO_UTF_8}/{name}", "--tokens", 3, "--seed", 1, capsys=capsys)
        assert (code, err) == (0, "")
