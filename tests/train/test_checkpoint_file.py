import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.errors import CheckpointError, FileMissingError, GroundupError
from groundup.nn import TransformerLM, cross_entropy
from groundup.optim import SGD, AdamW
from groundup.train.checkpoint.single_file import load_checkpoint, save_checkpoint

V = 19


def make(seed: int = 0, *, optimizer=AdamW, **options):
    torch.manual_seed(seed)
    model = TransformerLM(**({"vocab_size": V, "context_length": 8, "d_model": 8, "num_layers": 2, "num_heads": 2,
                              "d_ff": 12} | options))  # fmt: skip
    return model, optimizer(model.parameters(), lr=1e-2)


def train(model, optimizer, steps: int) -> list[float]:
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(V, (2, 9), generator=generator)
        optimizer.zero_grad()
        loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def same(a, b) -> bool:
    """Equal to the last bit, through dictionaries and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def state(*objects) -> list:
    """A copy of what the objects are now."""
    content = io.BytesIO()
    torch.save([o.state_dict() for o in objects], content)
    content.seek(0)
    return torch.load(content, weights_only=True)


@pytest.fixture
def trained():
    model, optimizer = make()
    train(model, optimizer, 3)
    return model, optimizer


@pytest.fixture
def saved(trained, tmp_path) -> Path:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(*trained, 3, path)
    return path


class TestRoundTrip:
    @pytest.mark.parametrize("out", [Path, str], ids=["path", "string"])
    def test_model_optimizer_and_iteration_come_back_from_a_path(self, out, trained, tmp_path):
        where = out(tmp_path / "checkpoint.pt")
        save_checkpoint(model=trained[0], optimizer=trained[1], iteration=3, out=where)
        model, optimizer = make(1)
        assert load_checkpoint(src=where, model=model, optimizer=optimizer) == 3
        assert same(state(model, optimizer), state(*trained))
        assert os.listdir(tmp_path) == ["checkpoint.pt"]

    def test_they_come_back_from_an_open_file(self, trained, tmp_path):
        with (tmp_path / "checkpoint.pt").open("wb") as file:
            save_checkpoint(*trained, 3, file)
        model, optimizer = make(1)
        with (tmp_path / "checkpoint.pt").open("rb") as file:
            assert load_checkpoint(file, model, optimizer) == 3
        assert same(state(model, optimizer), state(*trained))

    @pytest.mark.parametrize("options", [{"optimizer": SGD}, {"tie_embeddings": True}], ids=str)
    def test_interrupted_is_never_interrupted(self, options):
        model, optimizer = make(**options)
        losses = train(model, optimizer, 6)

        first = make(**options)
        assert train(*first, 3) == losses[:3]
        file = io.BytesIO()
        save_checkpoint(*first, 3, file)
        file.seek(0)
        second = make(1, **options)
        load_checkpoint(file, *second)
        train(*first, 3)
        train(*second, 3)
        assert same(state(*first), state(*second))
        assert (second[0].lm_head.weight is second[0].token_embeddings.weight) == ("tie_embeddings" in options)

    def test_for_inference_no_optimizer_is_needed(self, trained, saved):
        model, _ = make(1)
        assert load_checkpoint(saved, model) == 3
        assert same(state(model), state(trained[0]))

    def test_any_integer_is_an_iteration(self, trained, tmp_path):
        save_checkpoint(*trained, np.int64(3), tmp_path / "checkpoint.pt")
        assert load_checkpoint(tmp_path / "checkpoint.pt", make(1)[0]) == 3

    def test_a_compiled_model_is_saved_under_the_names_of_the_model(self, trained, tmp_path):
        model, optimizer = trained
        save_checkpoint(torch.compile(model, backend="eager"), optimizer, 3, tmp_path / "checkpoint.pt")
        other, _ = make(1)
        load_checkpoint(tmp_path / "checkpoint.pt", other)
        assert same(state(other), state(model))


def saved_as(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def refused(src, match: str, model=None, optimizer=None, error=CheckpointError) -> None:
    """Loading is refused in one line, and leaves model and optimizer as they were."""
    if model is None:
        model, optimizer = make(1)
    objects = [model] if optimizer is None else [model, optimizer]
    before = state(*objects)
    with pytest.raises(error, match=match) as raised:
        load_checkpoint(src, model, optimizer)
    assert "\n" not in str(raised.value)
    assert same(state(*objects), before)


class TestDamage:
    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_file(self, saved, kept):
        content = saved.read_bytes()
        saved.write_bytes(content[: int(len(content) * kept)])
        refused(saved, r"checkpoint\.pt is truncated or not a checkpoint")
        refused(io.BytesIO(saved.read_bytes()), r"truncated or not a checkpoint")

    @pytest.mark.parametrize(
        "content",
        [
            b"It was a dark and stormy night.\n" * 50,
            bytes(1000),
            saved_as([1, 2]),
            saved_as({"weights": {}}),
            saved_as({"model": 3, "optimizer": {}, "iteration": 3}),
            saved_as({"model": {"token_embeddings.weight": 3}, "optimizer": {}, "iteration": 3}),
            saved_as({"model": {}, "optimizer": {}, "iteration": None}),
            pickle.dumps({"model": {}}),
        ],
        ids=["text", "zeros", "list", "other keys", "number", "numbers", "no iteration", "pickle"],
    )
    def test_a_foreign_file(self, content, tmp_path):
        path = tmp_path / "foreign.pt"
        path.write_bytes(content)
        refused(path, r"foreign\.pt")

    @pytest.mark.parametrize("content", [None, 3, {}, {"state": 3, "param_groups": []}], ids=str)
    def test_a_foreign_optimizer(self, content, tmp_path):
        model, _ = make(1)
        path = tmp_path / "foreign.pt"
        path.write_bytes(saved_as({"model": model.state_dict(), "optimizer": content, "iteration": 3}))
        refused(path, r"optimizer of .*foreign\.pt does not fit")

    def test_no_file(self, tmp_path):
        refused(tmp_path / "none.pt", r"no checkpoint .*none\.pt", error=FileMissingError)

    def test_a_fifo(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", r"pipe.*regular file")

    def test_a_folder(self, tmp_path):
        refused(tmp_path, str(tmp_path))


class TestAnotherModel:
    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"d_ff": 16}, r"layers\.0\.ffn\.w1\.weight has shape \(12, 8\), the model's has \(16, 8\)"),
            ({"vocab_size": 20}, r"token_embeddings\.weight has shape \(19, 8\), the model's has \(20, 8\)"),
            ({"num_layers": 3}, r"has no layers\.2\.\S+; it was made by another architecture"),
            ({"num_layers": 1}, r"has layers\.1\.\S+, which the model does not have"),
            ({"norm": "post"}, r"has ln_final\.weight, which the model does not have"),
            ({"ffn": "silu"}, r"has layers\.0\.ffn\.w3\.weight, which the model does not have"),
        ],
        ids=str,
    )
    def test_the_first_parameter_that_differs_is_named(self, options, match, saved):
        refused(saved, match, *make(1, **options))

    def test_untied_weights_do_not_go_into_a_tied_model(self, saved):
        refused(saved, r"lm_head\.weight|token_embeddings\.weight", make(1, tie_embeddings=True)[0])

    def test_an_optimizer_of_another_kind(self, saved):
        model, _ = make(1)
        groups = [{"params": [p]} for p in model.parameters()]
        refused(saved, r"optimizer of .*checkpoint\.pt does not fit", model, AdamW(groups))


def test_nothing_but_tensors_and_plain_values_is_unpickled(trained, tmp_path):
    trap = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(trap),)

    for name, content in (("a.pt", saved_as({"model": Malicious()})), ("b.pt", pickle.dumps(Malicious()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name, *trained)
        assert not trap.exists()


class TestWriting:
    def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(self, trained, saved, monkeypatch):
        old = saved.read_bytes()

        def full_disk(content, file):
            file.write(b"half of it")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", full_disk)
        with pytest.raises((OSError, CheckpointError), match="No space left on device"):
            save_checkpoint(*trained, 4, saved)
        assert saved.read_bytes() == old
        assert os.listdir(saved.parent) == [saved.name]

    def test_an_older_checkpoint_is_replaced(self, trained, saved):
        train(*trained, 1)
        save_checkpoint(*trained, 4, saved)
        model, optimizer = make(1)
        assert load_checkpoint(saved, model, optimizer) == 4
        assert same(state(model, optimizer), state(*trained))

    def test_a_folder_that_does_not_exist_is_named_in_one_line(self, trained, tmp_path):
        with pytest.raises(GroundupError, match="nowhere") as raised:
            save_checkpoint(*trained, 3, tmp_path / "nowhere" / "checkpoint.pt")
        assert "\n" not in str(raised.value)
