"""What an export may replace, and what a foreign model may not do."""

import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.cli.main import main
from groundup.errors import CheckpointError, ConfigError
from groundup.interop.export import export_model
from groundup.interop.hugging_face import _ends
from groundup.interop.importing import import_model
from groundup.interop.model import model_of_checkpoint, new_file, new_folder
from groundup.record.run import RunDirectory
from groundup.text.chat.templates import load_template

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version-0.1" / "runs" / "gathered"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    export_model(run, tmp_path / "model", "hugging-face")
    return tmp_path / "model"


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_no_code_of_a_model_is_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    marker = tmp_path / "marker"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass T: pass\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}, "tokenizer_class": "EvilTok"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    found = import_model(folder, tmp_path / "in")
    assert not marker.exists()
    assert any("not compared: transformers" in line for line in found.checks)


@pytest.mark.parametrize("to", ["hugging-face", "folder", "gguf", "tiktoken"])
@pytest.mark.parametrize("out", ["config.toml", "checkpoints/new", "tokenizer"])
def test_an_export_never_lies_in_a_run(run: Path, to, out):
    before = contents(run)
    with pytest.raises(ConfigError):
        export_model(run, run / out, to, overwrite=True)
    assert contents(run) == before


@pytest.mark.parametrize("to", ["hugging-face", "folder", "gguf", "tiktoken"])
def test_only_an_earlier_export_of_the_same_kind_is_replaced(run: Path, tmp_path: Path, to):
    thesis, link = tmp_path / "thesis.txt", tmp_path / "link"
    thesis.write_text("years of work")
    link.symlink_to(thesis)
    for place in (thesis, link):
        with pytest.raises(ConfigError, match="left alone"):
            export_model(run, place, to, overwrite=True)
    assert (thesis.read_text(), link.is_symlink()) == ("years of work", True)
    for overwrite in (False, True):
        export_model(run, tmp_path / "again", to, overwrite=overwrite)


def test_an_import_does_not_replace_its_source(folder: Path, run: Path, tmp_path: Path):
    export_model(run, tmp_path / "m.gguf", "gguf")
    before = (tmp_path / "m.gguf").read_bytes()
    for source, out in ((tmp_path / "m.gguf", tmp_path / "m.gguf"), (folder, folder), (folder, folder / "in")):
        with pytest.raises(ConfigError, match="lie in each other"):
            import_model(source, out, overwrite=True)
    assert (tmp_path / "m.gguf").read_bytes() == before


def test_weights_that_have_diverged_are_not_certified(folder: Path, run: Path, tmp_path: Path):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][-1, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"token_embeddings\.weight has values that are not finite"):
        import_model(folder, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_a_head_that_is_said_to_be_tied_and_is_not_is_named(folder: Path, tmp_path: Path):
    entries = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(entries | {"tie_word_embeddings": True}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not the embedding table"):
        import_model(folder, tmp_path / "in")


def test_a_hostile_template_does_not_reach_llama_cpp(run: Path, tmp_path: Path):
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}" * 1
    for text in (loops + "{% endfor %}{% endfor %}", "{% for m in messages %}"):
        RunDirectory(run).write_chat_template(text)
        found = export_model(run, tmp_path / "m.gguf", "gguf", overwrite=True)
        assert any("llama.cpp: largest difference" in line for line in found.checks)


def test_a_model_of_conversations_ends_its_turn_in_transformers(run: Path):
    directory = RunDirectory(run)
    tokenizer = directory.tokenizer().with_special_tokens(["<|im_start|>", "<|im_end|>"])
    plain = dataclasses.replace(model_of_checkpoint(directory, directory.checkpoint()), tokenizer=tokenizer)
    end, end_of_turn = tokenizer.token_id("<|endoftext|>"), tokenizer.token_id("<|im_end|>")
    assert _ends(plain, "<|endoftext|>") == end
    chat = dataclasses.replace(plain, chat_template=load_template("chatml", "<|endoftext|>").text)
    assert _ends(chat, "<|endoftext|>") == [end, end_of_turn]
    broken = dataclasses.replace(plain, chat_template="{% for m in messages %}")
    assert _ends(broken, "<|endoftext|>") == end


@pytest.mark.parametrize("license_name", ["apache-2.0", "a: [b", 'my "own"\n- license'])
def test_the_cards_front_matter_is_yaml(run: Path, tmp_path: Path, license_name):
    import yaml

    export_model(run, tmp_path / "out", "hugging-face", license_name=license_name)
    header = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header)["license"] == license_name


def test_a_failed_tokenizer_export_leaves_no_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["export", str(run), "--to", "tiktoken", "--out", f"new/{'x' * 300}"])
    assert end.value.code == 2
    assert not (tmp_path / "new").exists()


def test_an_imported_model_has_no_training_to_resume(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import_model(folder, tmp_path / "in")
    with pytest.raises(SystemExit) as end:
        main(["train", "--resume", str(tmp_path / "in")])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert f"--init {tmp_path / 'in'}" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, number):
    before = signal.getsignal(number)
    for make in (
        lambda out: new_folder(out, set(), overwrite=False),
        lambda out: new_file(out, lambda _: False, overwrite=False),
    ):
        with pytest.raises(BaseException) as end, make(tmp_path / "new" / "out") as place:  # noqa: PT012
            (place / "x" if place.is_dir() else place).write_text("half of it")
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert isinstance(end.value, KeyboardInterrupt if number == signal.SIGINT else SystemExit)
        assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before
