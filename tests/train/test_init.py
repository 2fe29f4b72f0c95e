"""A run that begins with another run's weights: which weights, which model, which ids, and what is recorded of it."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from groundup.account.terminal import find_run
from groundup.cli.main import main
from groundup.config import RunConfig, override, save_toml
from groundup.data.encode import encode_files
from groundup.errors import CheckpointError, ConfigError, FileMissingError
from groundup.interop.export import export_model
from groundup.record import read_object
from groundup.record.read import read_run
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.reports.run_list import list_runs
from groundup.reports.settings import load_studies
from groundup.sweeps.plan import read_plan
from groundup.tokenizer import Tokenizer, train_bpe
from groundup.train import train
from groundup.train.checkpoint.folder import load_model, read_state
from records import record, without_hashes

TABLES = ("token_embeddings.weight", "lm_head.weight")


def command(*arguments: object) -> int:
    """Exit code of `groundup` with these arguments."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return int(end.value.code or 0)


def weights(run: Path, which: str = "latest") -> dict[str, torch.Tensor]:
    return load_file(RunDirectory(run).checkpoint(which) / "model.safetensors")


def first_weights(config: RunConfig) -> dict[str, torch.Tensor]:
    """The weights that a run has before its first step."""
    return weights(train(config, pause=lambda done: True).run_dir)


def equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def validation_losses(run: Path) -> dict[int, float]:
    return {line["step"]: line["val_loss"] for line in read_jsonl(run / "metrics.jsonl") if "val_loss" in line}


@pytest.fixture
def parent(config: RunConfig) -> RunConfig:
    """A run of 12 steps, whose best checkpoint is step-8."""
    config = override(config, {"name": "parent", "train.max_iters": 12})
    run = RunDirectory(train(config).run_dir)
    run.point("best", 8)
    return config


@pytest.fixture
def child(config: RunConfig, parent: RunConfig) -> RunConfig:
    return override(config, {"name": "child", "train.init": str(parent.run_dir), "train.seed": 5})


@pytest.fixture
def grown(tokens: Path, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Options of data whose tokenizer is that of the parent and some special tokens."""

    def make(*more: str) -> dict[str, str]:
        old = Tokenizer.load(tokens / "tokenizer")
        new = Tokenizer(old.vocab, old.merges, ["<|endoftext|>", *more])
        assert len(new.vocab) == len(old.vocab) + len(more)
        for name in ("train", "valid"):
            encode_files(tokens / f"{name}.txt", new, tmp_path / "grown" / name, overwrite=True)
        return {f"data.{name}": str(tmp_path / "grown" / name) for name in ("train", "valid")}

    return make


# Which weights


def test_from_the_weights_of_another_runs_start_it_is_that_run(config: RunConfig):
    """Optimizer state and data order are those of a new run: only the weights come from the parent."""
    train(override(config, {"name": "parent"}), pause=lambda done: True)
    whole = record(train(override(config, {"name": "whole"})).run_dir)
    assert record(train(override(config, {"train.init": f"{config.runs_dir}/parent@0"})).run_dir) == whole


def test_it_begins_with_the_loss_of_the_parent(child: RunConfig, parent: RunConfig):
    run = train(child).run_dir
    assert validation_losses(run)[0] == validation_losses(parent.run_dir)[8]
    assert equal(weights(train(override(child, {"name": "again"})).run_dir), weights(run))


@pytest.mark.parametrize(
    ("suffix", "which"),
    [("", "best"), ("@12", "12"), ("@step-6", "6"), ("@latest", "latest"), ("/checkpoints/step-6", "6")],
)
def test_the_parent_is_a_run_or_one_of_its_checkpoints(child: RunConfig, parent: RunConfig, suffix: str, which: str):
    child = override(child, {"train.init": f"{parent.run_dir}{suffix}"})
    assert equal(first_weights(child), weights(parent.run_dir, which))


def test_a_run_in_runs_is_found_by_its_name(
    child: RunConfig, parent: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(parent.run_dir, tmp_path / "elsewhere" / "runs" / "base@v2")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for init, which in (("base@v2", "best"), ("base@v2@12", "12")):
        child = override(child, {"train.init": init})
        assert equal(first_weights(override(child, {"name": f"child-{which}"})), weights(parent.run_dir, which))
        written = RunDirectory(child.run_dir.with_name(f"child-{which}")).config.train.init
        assert written == str(tmp_path / "elsewhere" / "runs" / init)


def test_a_checkpoint_taken_out_of_its_run_is_enough(child: RunConfig, parent: RunConfig, tmp_path: Path):
    expected = weights(parent.run_dir, "12")
    shutil.copytree(parent.run_dir / "checkpoints" / "step-12", tmp_path / "step-12")
    shutil.rmtree(parent.run_dir)
    assert equal(first_weights(override(child, {"train.init": str(tmp_path / "step-12")})), expected)


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("parnt", r"train\.init = '.*parnt': no run .*did you mean 'parent'"),
        ("parent@7", r"has no checkpoint '7'; it has best, latest, 6, 8, 12"),
    ],
)
def test_a_parent_that_is_not_there_is_one_line(child: RunConfig, init: str, says: str):
    with pytest.raises((FileMissingError, CheckpointError), match=says) as error:
        train(override(child, {"train.init": f"{child.runs_dir}/{init}"}))
    assert "\n" not in str(error.value)
    assert not child.run_dir.exists()


def test_another_programs_model_is_to_be_imported_first(child: RunConfig, tmp_path: Path):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    for init in (str(tmp_path / "llama"), str(tmp_path / "llama.gguf"), "hf://me/llama"):
        with pytest.raises(FileMissingError, match=rf"`groundup import {init} --out runs/imported`, then --init imp"):
            train(override(child, {"train.init": init}))


def test_a_model_exported_as_a_folder_is_to_be_imported_first(child: RunConfig, parent: RunConfig, tmp_path: Path):
    export_model(parent.run_dir, tmp_path / "folder", "folder")
    with pytest.raises(FileMissingError, match=rf"`groundup import {tmp_path}/folder --out runs/imported`"):
        train(override(child, {"train.init": str(tmp_path / "folder")}))


def test_a_damaged_parent_deletes_nothing(child: RunConfig, parent: RunConfig):
    before = record(train(override(child, {"train.init": ""})).run_dir)
    (parent.run_dir / "checkpoints" / "step-8" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"step-8.model\.safetensors was changed"):
        train(child, overwrite=True)
    assert record(child.run_dir) == before
    (parent.run_dir / "checkpoints" / "step-8" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read"):
        train(child, overwrite=True)
    assert record(child.run_dir) == before


def test_a_run_is_not_overwritten_by_one_that_begins_with_it(parent: RunConfig):
    with pytest.raises(ConfigError, match=r"lies in .*parent itself; choose another --name"):
        train(override(parent, {"train.init": str(parent.run_dir)}), overwrite=True)
    assert weights(parent.run_dir, "8")


def test_sharded_weights_and_those_of_an_older_version_are_read(child: RunConfig, parent: RunConfig, config: RunConfig):
    sharded = override(parent, {"name": "sharded", "train.checkpoint_format": "sharded"})
    RunDirectory(train(sharded).run_dir).point("best", 8)
    for folder in (parent.run_dir / "checkpoints").glob("step-*"):
        without_hashes(folder)
    found = [
        first_weights(override(child, {"name": f"from-{name}", "train.init": f"{config.runs_dir}/{name}"}))
        for name in ("parent", "sharded")
    ]
    assert equal(found[0], found[1])
    assert equal(found[0], weights(parent.run_dir, "8"))


# Which model


def test_options_of_the_model_that_are_not_given_are_the_parents(config: RunConfig, tokens: Path, tmp_path: Path):
    parent = override(config, {"name": "parent", "train.max_iters": 6, "model.norm_eps": 1e-3, "model.d_ff": 96})
    train(parent)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'name = "child"\nruns_dir = "{tmp_path}"\n[data]\ntrain = "{tokens}/train"\nbatch_size = 4\n'
        f'[train]\ninit = "{parent.run_dir}"\nmax_iters = 2\n[model]\nrope_theta = 500.0\n[optim]\nwarmup_iters = 1\n'
    )
    assert find_run(str(recipe)).model.d_ff == 96
    assert command("train", recipe, "--context_length", 24) == 0
    inherited = {"d_model": 32, "num_layers": 2, "norm_eps": 1e-3, "d_ff": 96, "vocab_size": 300}
    given = {"context_length": 24, "rope_theta": 500.0}
    model = RunDirectory(tmp_path / "child").config.model
    assert {name: getattr(model, name) for name in inherited | given} == inherited | given
    options = ("--train_path", tokens / "train", "--runs_dir", tmp_path, "--max_iters", 1, "--warmup_iters", 0)
    assert command("train", "--init", parent.run_dir, "--name", "plain", *options) == 0
    assert RunDirectory(tmp_path / "plain").config.model == RunDirectory(parent.run_dir).config.model


def test_a_parent_that_is_given_beside_a_recipe_decides_the_shape(
    config: RunConfig, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parent = override(config, {"name": "parent", "train.max_iters": 6, "model.norm_eps": 1e-3, "model.d_ff": 96})
    train(parent)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'name = "child"\nruns_dir = "{tmp_path}"\n[data]\ntrain = "{tokens}/train"\nbatch_size = 4\n'
        "[train]\nmax_iters = 2\n[optim]\nwarmup_iters = 1\n"
        "[model]\nd_model = 128\nnum_heads = 16\nnum_layers = 4\nvocab_size = 50\n"
        "rope_theta = 500.0\ncontext_length = 24\n"
    )
    assert command("train", recipe, "--init", parent.run_dir) == 0
    expected = {"d_model": 32, "num_layers": 2, "norm_eps": 1e-3, "d_ff": 96, "vocab_size": 300, "rope_theta": 500.0}
    model = RunDirectory(tmp_path / "child").config.model
    assert {name: getattr(model, name) for name in expected} == expected
    assert model.context_length == 24
    assert train(recipe, init=str(parent.run_dir), name="by-call", display=None).finished
    assert RunDirectory(tmp_path / "by-call").config.model == model
    capsys.readouterr()
    assert command("train", recipe, "--init", parent.run_dir, "--name", "other", "--d_model", 64) == 2
    told = capsys.readouterr().err
    assert "model.d_model = 64 (there 32); leave" in told  # and none of d_ff, head_size, which are derived from it
    assert not (tmp_path / "other").exists()


def test_a_plan_takes_the_model_of_its_parent(parent: RunConfig, tmp_path: Path):
    (tmp_path / "base.toml").write_text(f'[data]\ntrain = "{parent.data.train}"\n')
    plan = read_plan(
        {
            "name": "rates", "question": "Which rate?", "recipe": "base.toml",
            "options": {"init": str(parent.run_dir), "max_iters": 2, "warmup_iters": 0},
            "axes": {"max_learning_rate": [1e-3, 1e-2]},
        },
        tmp_path,
    )  # fmt: skip
    trials = plan.trials(tmp_path / "sweep")
    assert {trial.config.model.d_model for trial in trials} == {32}
    assert all(train(trial.config).finished for trial in trials)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("model.d_model", 64, r"model\.d_model = 64 \(there 32\)"),
        ("model.num_layers", 1, r"model\.num_layers = 1 \(there 2\)"),
        ("model.num_kv_heads", 1, r"model\.num_kv_heads = 1 \(there 2\)"),
        ("model.d_ff", 64, r"model\.d_ff = 64 \(there 128\)"),
        ("model.tie_embeddings", True, r"model\.tie_embeddings = True \(there False\)"),
        ("model.vocab_size", 0, ""),
        ("model.d_ff", 128, ""),
        ("model.num_kv_heads", 2, ""),
    ],
)
def test_shapes_that_cannot_change_are_refused_by_name(child: RunConfig, option: str, value: object, says: str):
    child = override(child, {option: value})
    if not says:
        assert train(child).finished
        return
    with pytest.raises(ConfigError, match=f"{says}.*; leave these options out"):
        train(child)
    assert not child.run_dir.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"model.context_length": 64},
        {"model.context_length": 8},
        {"model.rope_theta": 1e6},
        {"model.position": "none"},
        {"model.context_length": 32, "model.rope_scaling": "linear", "model.rope_factor": 2.0},
    ],
)
def test_context_and_rotary_base_may_change(child: RunConfig, parent: RunConfig, options: dict):
    run = train(override(child, options)).run_dir
    loss = validation_losses(run)
    assert loss[24] < loss[0]
    again = override(child, options | {"name": "again"})
    assert equal(first_weights(again), weights(parent.run_dir, "8"))
    model, _ = load_model(RunDirectory(run))
    assert model.context_length == again.model.context_length


# Which ids


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("form", ["gathered", "sharded"])
def test_new_ids_are_the_mean_of_those_before(config: RunConfig, grown: Callable, tied: bool, form: str):
    parent = override(
        config,
        {
            "name": "parent",
            "model.tie_embeddings": tied,
            "train.checkpoint_format": form,
            "model.norm": "pre",
            "model.value_embeddings": "alternate",
        },
    )
    run = RunDirectory(train(parent).run_dir)
    expected, _ = load_model(run)
    data = grown("<|user|>", "<|assistant|>", "<|end|>")
    child = train(
        override(parent, {"name": "child", "train.init": str(run.path), "model.vocab_size": 0} | data)
    ).run_dir
    assert RunDirectory(child).config.model.vocab_size == 303
    start = override(RunDirectory(child).config, {"name": "start", "train.checkpoint_format": "gathered"})
    found = first_weights(start)
    for name, old in expected.named_parameters():
        new = found[name]
        if name in (*TABLES, "value_embeddings.1.weight"):
            assert torch.equal(new[:300], old)
            mean = torch.tensor([math.fsum(column) / 300 for column in old.double().T.tolist()])
            torch.testing.assert_close(new[300:], mean.expand(3, -1).float())
        else:
            assert torch.equal(new, old)
    # The bound of Hewitt (2021): k ids more take at most k / (V + k) of the probability.
    before, after = validation_losses(run.path)[24], validation_losses(child)[0]
    assert -1e-6 < after - before < math.log(1 + 3 / 300) + 1e-6
    assert train(start, resume=True).finished


def test_a_table_with_room_keeps_the_rows_it_has(config: RunConfig, grown: Callable):
    parent = override(config, {"name": "parent", "model.vocab_size": 310, "train.max_iters": 6})
    train(parent)
    child = override(
        parent, {"name": "child", "train.init": str(parent.run_dir), "model.vocab_size": 0} | grown("<|a|>")
    )
    assert equal(first_weights(child), weights(parent.run_dir))
    assert RunDirectory(child.run_dir).config.model.vocab_size == 310


def test_a_vocabulary_does_not_shrink(child: RunConfig, config: RunConfig):
    train(override(config, {"name": "large", "model.vocab_size": 400, "train.max_iters": 6}))
    with pytest.raises(ConfigError, match=r"model\.vocab_size = 300, but train\.init = .* has 400 rows"):
        train(override(child, {"train.init": f"{config.runs_dir}/large", "model.vocab_size": 300}))


def test_another_tokenizer_is_refused_in_one_line(child: RunConfig, parent: RunConfig, tokens: Path, tmp_path: Path):
    vocab, merges = train_bpe(tokens / "valid.txt", 300, ["<|endoftext|>"])
    other = Tokenizer(vocab, merges, ["<|endoftext|>"])
    for name in ("train", "valid"):
        encode_files(tokens / f"{name}.txt", other, tmp_path / "other" / name)
    child = override(child, {f"data.{name}": str(tmp_path / "other" / name) for name in ("train", "valid")})
    with pytest.raises(
        ConfigError, match=r"another tokenizer .*: id \d+ is b'.*' there and .* here; encode the text with"
    ):
        train(child)
    shutil.rmtree(parent.run_dir / "tokenizer")  # then the hashes are all there is
    with pytest.raises(ConfigError, match=r"another tokenizer .*: SHA-256 \w+…, now \w+…"):
        train(child)
    assert not child.run_dir.exists()


def test_data_without_a_tokenizer_is_taken_with_a_note(child: RunConfig, tmp_path: Path):
    import numpy as np

    np.save(tmp_path / "ids.npy", np.arange(3000, dtype=np.uint16) % 300)
    child = override(child, {"data.train": str(tmp_path / "ids.npy"), "data.valid": "", "train.max_iters": 3})
    notes = []

    class Notes:
        def __getattr__(self, name: str) -> Callable:
            return lambda *rest: notes.append(rest[0]) if name == "note" else None

    assert train(child, display=Notes()).finished
    assert any("data.train has no tokenizer" in note for note in notes)
    assert any(re.search(r"weights of .*parent at step 8", note) for note in notes)


# Resume and record


def test_a_resumed_run_needs_its_parent_no_more(child: RunConfig, parent: RunConfig):
    whole = record(train(override(child, {"name": "whole"})).run_dir)
    train(child, pause=lambda done: done >= 9)
    shutil.rmtree(parent.run_dir)
    assert train(child, resume=True, pause=lambda done: done >= 12).summary["step"] == 12
    assert command("train", "--resume", child.run_dir) == 0
    assert record(child.run_dir) == whole


def test_its_recipe_resumes_it_without_the_parent(
    parent: RunConfig, tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.move(parent.run_dir, tmp_path / "runs" / "parent")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'name = "child"\n[data]\ntrain = "{tokens}/train"\nbatch_size = 4\n'
        f'[train]\ninit = "parent@12"\nmax_iters = 6\n[optim]\nwarmup_iters = 1\n'
    )
    assert command("train", recipe, "--stop_at", 3) == 0
    shutil.rmtree(tmp_path / "runs" / "parent")
    assert command("train", recipe, "--resume") == 0
    assert read_object(tmp_path / "runs" / "child" / "summary.json")["step"] == 6


def test_what_the_parent_decided_need_not_be_given_to_resume(config: RunConfig, grown: Callable):
    """A sweep resumes a trial with the options of its plan, which leave the vocabulary to data and parent."""
    parent = override(config, {"name": "parent", "model.vocab_size": 301, "model.tie_embeddings": True})
    of_parent = {"train.init": str(train(parent).run_dir), "model.vocab_size": 0}
    for name, data in (("room", {}), ("larger", grown("<|a|>", "<|b|>", "<|c|>"))):
        child = override(parent, of_parent | data | {"name": name})
        whole = record(train(override(child, {"name": f"{name}-whole"})).run_dir)
        train(child, pause=lambda done: done >= 9)
        assert train(child, resume=True).finished
        assert record(child.run_dir) == whole


def test_killed_before_its_first_checkpoint_it_begins_with_the_parent_again(child: RunConfig):
    whole = record(train(override(child, {"name": "whole"})).run_dir)
    train(child, pause=lambda done: done >= 3)
    shutil.rmtree(child.run_dir / "checkpoints")
    assert train(child, resume=True).finished
    assert record(child.run_dir) == whole


def test_a_run_that_has_begun_takes_no_other_parent(child: RunConfig, parent: RunConfig, config: RunConfig):
    train(child, pause=lambda done: done >= 3)
    for init in ("", f"{parent.run_dir}@12"):
        for adopt in (False, True):
            with pytest.raises(
                ConfigError, match=r"train\.init = .* began with the weights of .*parent; leave --init out"
            ):
                train(override(child, {"train.init": init}), resume=True, adopt_config=adopt)
    train(config, pause=lambda done: done >= 3)
    with pytest.raises(ConfigError, match=r"train\.init = .* began with weights from its seed"):
        train(override(config, {"train.init": str(child.run_dir)}), resume=True)


def test_the_parent_is_recorded_with_its_hashes_and_its_own_parent(child: RunConfig, parent: RunConfig):
    train(child, pause=lambda done: done >= 9)
    train(child, resume=True)
    folder = parent.run_dir / "checkpoints" / "step-8"
    expected = {
        "run": str(parent.run_dir),
        "step": 8,
        "weights_sha256": read_state(folder)["files"]["model.safetensors"],
        "tokenizer_sha256": Tokenizer.load(parent.run_dir / "tokenizer").sha256,
        "parent": None,
    }
    for name in ("environment.json", "summary.json"):
        assert read_object(child.run_dir / name)["parent"] == expected
    grandchild = train(override(child, {"name": "grandchild", "train.init": f"{child.run_dir}@24"})).run_dir
    assert read_state(RunDirectory(grandchild).checkpoint("latest"))["parent"]["parent"] == expected
    assert "parent" not in read_object(parent.run_dir / "environment.json")


def test_the_list_of_runs_and_the_report_show_the_parent(
    child: RunConfig, parent: RunConfig, capsys: pytest.CaptureFixture[str]
):
    folder = Path(child.runs_dir)
    assert command("runs", "--runs-dir", folder) == 0
    assert "parent@" not in capsys.readouterr().out
    train(child)
    assert {row["run"]: row["parent"] for row in list_runs(folder)} == {"parent": None, "child": "parent@8"}
    assert [row["run"] for row in list_runs(folder, filter_text="parent ~ parent")] == ["child"]
    capsys.readouterr()
    assert command("runs", "--runs-dir", folder) == 0
    assert "parent@8" in capsys.readouterr().out
    assert command("runs", "--runs-dir", folder, "--json") == 0
    assert {row["parent"] for row in json.loads(capsys.readouterr().out)} == {None, "parent@8"}
    from groundup.reports.method import method

    (study,) = load_studies([child.run_dir])
    assert dict(method(study))["weights"] == f"begin with those of {parent.run_dir}@8"
    assert read_run(parent.run_dir).parent == ""


def test_a_recipe_is_written_and_read_with_its_parent(child: RunConfig, tmp_path: Path):
    save_toml(child, tmp_path / "child.toml")
    assert command("train", tmp_path / "child.toml", "--dry-run") == 0
    assert not child.run_dir.exists()
    assert command("train", tmp_path / "child.toml", "--d_model", 64, "--dry-run") == 2
