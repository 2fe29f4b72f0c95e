"""Models by name on a stand-in for the Hub, and pushing to it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer

from foreign_models import FAMILIES, foreign_model, made_run
from groundup.cli.main import main
from groundup.errors import ConfigError, MissingExtraError
from groundup.interop import hub
from groundup.interop.export import export_model
from hub_stand_in import COMMIT, hub_of


@pytest.fixture
def world(tmp_path, tokenizer, monkeypatch):
    """A hub with the model me/tiny, and its address."""
    foreign_model(tmp_path / "hub" / "me" / "tiny", tokenizer, **FAMILIES["qwen3"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    with hub_of(tmp_path / "hub") as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        url = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        yield address


def groundup(*arguments: object, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def in_own_process(world: str, tmp_path, *arguments: object) -> tuple[int, str, str]:
    """As a user calls it: nothing but groundup has imported parts of huggingface_hub."""
    settings = {"HF_ENDPOINT": world, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", "groundup", *map(str, arguments)], cwd=tmp_path, env={**os.environ, **settings},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return ran.returncode, ran.stdout, ran.stderr


def test_a_model_by_its_name_with_its_revision(world, tmp_path, capsys):
    code, _, err = in_own_process(world, tmp_path, "import", "hf://me/tiny", "--out", "runs/tiny")
    assert code == 0, err
    imported = json.loads((tmp_path / "runs" / "tiny" / "environment.json").read_text())["imported"]
    assert (imported["source"], imported["revision"]) == ("hf://me/tiny", COMMIT)
    code, _, err = groundup("import", "hf://me/absent", "--out", "runs/absent", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "me/absent" in err
    assert not (tmp_path / "runs" / "absent").exists()


def test_an_export_is_pushed_and_loads_by_its_name(world, tmp_path, tokenizer, capsys):
    made_run(tmp_path / "runs" / "mine", tokenizer, num_layers=1)
    code, out, err = in_own_process(world, tmp_path, "export", "mine", "--push", "me/new", "--license", "mit")
    assert code == 0, err
    assert f"{world}/me/new/commit/{COMMIT} (private)" in out
    assert json.loads((tmp_path / "hub" / "requests.jsonl").read_text())["visibility"] == "private"
    there, here = tmp_path / "hub" / "me" / "new", tmp_path / "exports" / "mine"
    assert {path.name for path in there.iterdir()} == {path.name for path in here.iterdir()}
    assert (there / "model.safetensors").read_bytes() == (here / "model.safetensors").read_bytes()
    assert '"me/new"' in (there / "README.md").read_text()
    cache = {"cache_dir": tmp_path / "cache"}
    model = AutoModelForCausalLM.from_pretrained("me/new", **cache)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert AutoTokenizer.from_pretrained("me/new", **cache).encode("The cat") == tokenizer.encode("The cat")


def test_gguf_goes_and_comes_by_its_name(world, tmp_path, tokenizer, capsys):
    made_run(tmp_path / "runs" / "mine", tokenizer, num_layers=1)
    code, out, err = in_own_process(world, tmp_path, "export", "mine", "--to", "gguf", "--push", "me/tiny")
    assert code == 0, err
    assert "(private)" not in out
    code, out, err = groundup("import", "hf://me/tiny/mine.gguf", "--out", "runs/again", capsys=capsys)
    assert code == 0, err


def test_a_hub_that_does_not_answer_leaves_the_export(world, tmp_path, tokenizer, capsys, monkeypatch):
    made_run(tmp_path / "runs" / "mine", tokenizer, num_layers=1)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = groundup("export", "mine", "--push", "me/new", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "exports/mine is written" in err
    assert (tmp_path / "exports" / "mine" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["hf://tiny", "hf://me/tiny/../../x.gguf/", "hf://", "hf://me/ti ny"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ConfigError, match="expected hf://ORG/NAME"):
        hub.download(name)


@pytest.mark.parametrize("name", ["tiny", "../x", "me/..", "me/a--b", "me/a/b", "me/a.git", "me/" + "x" * 97, "mé/a"])
def test_names_to_push_to_are_checked_before_any_work(name, tmp_path, tokenizer, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "runs" / "mine", tokenizer, num_layers=1)
    code, _, err = groundup("export", "mine", "--push", name, capsys=capsys)
    assert (code, err.count("\n"), "expected ORG/NAME" in err) == (2, 1, True)
    assert not (tmp_path / "exports").exists()


def test_a_name_to_push_to_is_checked_where_nothing_else_loaded_the_package(world, tmp_path, tokenizer):
    made_run(tmp_path / "runs" / "mine", tokenizer, num_layers=1)
    code, _, err = in_own_process(world, tmp_path, "export", "mine", "--push", "me/a--b")
    assert (code, err.count("\n"), "expected ORG/NAME" in err) == (2, 1, True)


def test_without_the_package_one_line_names_the_extra(monkeypatch, tmp_path, tokenizer):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"pip install huggingface_hub .*clone.* '\.\[hub\]'"):
        hub.download("hf://me/tiny")
    run = made_run(tmp_path / "run", tokenizer)
    with pytest.raises(MissingExtraError, match=r"pip install gguf .*clone.* '\.\[gguf\]'"):
        export_model(run, tmp_path / "new" / "x.gguf", "gguf")
    assert not (tmp_path / "new").exists()
    shutil.rmtree(run)
