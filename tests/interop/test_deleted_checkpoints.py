"""A run that is training deletes its older checkpoints: what is read of it is one checkpoint, and never half of two."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foreign_models import made_run
from groundup.errors import CheckpointError
from groundup.interop import export, gguf, hugging_face, plain
from groundup.interop.export import export_model
from groundup.language_model import load
from groundup.record.run import RunDirectory
from groundup.train.checkpoint import folder
from groundup.train.checkpoint.folder import CheckpointContent, read_state, write_folder, write_state

FIXTURE = Path(__file__).parents[1] / "fixtures" / "version-0.1" / "runs" / "sharded"


@pytest.fixture
def run(tmp_path: Path, tokenizer) -> RunDirectory:
    """A run whose newest checkpoint is step 5."""
    return RunDirectory(made_run(tmp_path / "run", tokenizer, num_layers=1))


def goes_on(run: RunDirectory) -> None:
    """What training does: a newer checkpoint, with other weights, and the older one is deleted."""
    before = run.checkpoint("latest")
    state = read_state(before)
    step = state["step"] + 1
    tensors = {name: tensor + step for name, tensor in load_file(before / "model.safetensors").items()}
    options = {name: value for name, value in state.items() if name not in ("content_sha256", "files")}
    write_folder(run.step_folder(step), CheckpointContent(tensors, {}, options | {"step": step}))
    run.point("latest", step)
    run.prune(1)
    assert not before.exists()


def once(function: Callable, before: Callable[[], None], times: int = 1) -> Callable:
    """A function before whose first calls something happens."""
    left = [times]

    def wrapped(*arguments, **options):
        if left[0]:
            left[0] -= 1
            before()
        return function(*arguments, **options)

    return wrapped


def table(path: Path, name: str = "model.embed_tokens.weight") -> torch.Tensor:
    return load_file(path / "model.safetensors")[name]


def test_a_checkpoint_that_is_deleted_before_it_is_read_is_chosen_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "read_state", once(read_state, lambda: goes_on(run)))
    assert load(run.path).step == 6
    monkeypatch.setattr("groundup.interop.model.read_state", once(read_state, lambda: goes_on(run)))
    export_model(run.path, tmp_path / "out")
    assert torch.equal(table(tmp_path / "out"), table(run.step_folder(7), "token_embeddings.weight"))
    assert "--checkpoint 7" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("to", ["hugging-face", "gguf", "folder"])
def test_a_checkpoint_that_is_deleted_while_it_is_exported_is_exported_all_the_same(to, run, tmp_path, monkeypatch):
    expected = table(run.step_folder(5), "token_embeddings.weight")
    for module, name in ((hugging_face, "write_folder"), (gguf, "write_gguf"), (plain, "write_plain")):
        monkeypatch.setattr(module, name, once(getattr(module, name), lambda: goes_on(run)))
    export_model(run.path, tmp_path / "out", to)
    if to == "gguf":
        assert torch.equal(gguf.read_gguf(tmp_path / "out").weights.tensor("token_embeddings.weight"), expected)
        return
    names = {"hugging-face": "model.embed_tokens.weight", "folder": "token_embeddings.weight"}
    assert torch.equal(table(tmp_path / "out", names[to]), expected)


def test_one_that_many_ranks_wrote_is_read_again_from_the_beginning(tmp_path, monkeypatch):
    shutil.copytree(FIXTURE, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    old, new = run.checkpoint("latest"), run.step_folder(99)

    def go_on() -> None:
        shutil.copytree(old, new)
        state = {name: value for name, value in read_state(old).items() if name != "content_sha256"}
        write_state(new, state | {"step": 99})
        run.point("latest", 99)
        shutil.rmtree(old)

    (run.checkpoints / "best").unlink()
    monkeypatch.setattr(export.hugging_face, "write_folder", once(hugging_face.write_folder, go_on))
    export_model(run.path, tmp_path / "out")
    assert "--checkpoint 99" in (tmp_path / "out" / "README.md").read_text()


def test_a_step_that_is_named_is_not_another_one(run, tmp_path, monkeypatch):
    monkeypatch.setattr("groundup.interop.model.read_state", once(read_state, lambda: goes_on(run)))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*step-5"):
        export_model(run.path, tmp_path / "new" / "out", checkpoint="5")
    assert not (tmp_path / "new").exists()


def test_a_run_that_is_faster_than_the_reader_is_one_line(run, monkeypatch):
    monkeypatch.setattr(folder, "read_state", once(read_state, lambda: goes_on(run), times=99))
    with pytest.raises(CheckpointError, match=r"step-9 was deleted while it was read, .*keep_checkpoints"):
        load(run.path)
