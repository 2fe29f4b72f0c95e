"""What a training run leaves behind, and that it learns."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.config import RunConfig, from_dict, load_toml, override
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError, DataError, DivergenceError, FileMissingError, TrainingError
from groundup.optim import build_optimizer
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train import evaluate_run, seconds_per_step, train
from groundup.train.build import build_model, load_tokenizer
from groundup.train.checkpoint.folder import load_model


def metrics(run: Path) -> list[dict]:
    return list(read_jsonl(run / "metrics.jsonl"))


def test_a_run_learns_and_records_itself(config: RunConfig):
    result = train(config)
    assert result.finished
    run = RunDirectory.open(result.run_dir)
    assert from_dict(RunConfig, load_toml(run.path / "config.toml")) == run.config
    assert run.config.model.vocab_size == TokenShards.open(config.data.train).vocab_size
    assert json.loads((run.path / "environment.json").read_text())["packages"]["torch"] == torch.__version__
    lines = metrics(run.path)
    assert [line["step"] for line in lines] == [0, 5, 8, 10, 15, 16, 20, 24]
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 8, 16, 24]
    first, last = lines[0], lines[-1]
    assert first["val_loss"] == pytest.approx(math.log(300), abs=0.5)
    assert last["val_loss"] < first["val_loss"] - 1
    assert last["val_perplexity"] == pytest.approx(math.exp(last["val_loss"]))
    assert last["tokens"] == 24 * 4 * 16
    assert all(line["grad_norm"] > 0 and line["tokens_per_second"] > 0 for line in lines if "train_loss" in line)
    assert [s["step"] for s in read_jsonl(run.path / "samples.jsonl")] == [7, 14, 21, 24]
    assert run.steps() == [6, 8, 12, 16, 18, 24]
    assert json.loads((run.path / "summary.json").read_text())["best_val_loss"] == min(
        line["val_loss"] for line in lines if "val_loss" in line
    )


def test_learning_rate_begins_above_zero_and_ends_exactly_at_the_minimum(config: RunConfig):
    lines = metrics(train(override(config, {"train.log_interval": 1})).run_dir)
    rates = [line["lr"] for line in lines if "lr" in line]
    assert rates[0] == pytest.approx(config.optim.max_learning_rate / 3)
    assert max(rates) == pytest.approx(config.optim.max_learning_rate)
    assert rates[-1] == config.optim.min_learning_rate
    warmed_up = [1e-2 * t / 3 for t in (1, 2, 3)]
    decaying = [1e-3 + 0.5 * (1e-2 - 1e-3) * (1 + math.cos(math.pi * (t - 3) / 21)) for t in range(4, 25)]
    assert rates == pytest.approx(warmed_up + decaying, rel=1e-12)


def test_same_seed_same_run_other_seed_other_run(config: RunConfig):
    def losses(name: str, seed: int) -> list[float]:
        run = train(override(config, {"name": name, "train.seed": seed})).run_dir
        return [line["train_loss"] for line in metrics(run) if "train_loss" in line]

    first = losses("a", 1)
    assert losses("b", 1) == first
    assert losses("c", 2) != first


def test_evaluating_and_sampling_more_often_changes_nothing(config: RunConfig):
    often = override(config, {"name": "often", "train.eval_interval": 1, "sample.interval": 1, "train.eval_windows": 3})
    never = override(config, {"name": "never", "data.valid": "", "sample.interval": 0})
    weights = [
        (train(c).run_dir / "checkpoints" / "step-24" / "model.safetensors").read_bytes() for c in (often, never)
    ]
    assert weights[0] == weights[1]


def test_accumulation_does_not_change_the_step(config: RunConfig):
    whole = metrics(train(config).run_dir)
    parts = metrics(train(override(config, {"name": "parts", "data.micro_batch_size": 1})).run_dir)
    assert [p["train_loss"] for p in parts if "train_loss" in p] == pytest.approx(
        [w["train_loss"] for w in whole if "train_loss" in w], rel=1e-4
    )


def test_bf16_and_plain_attention_stay_near_the_float32_flash_run(config: RunConfig):
    reference = metrics(train(config).run_dir)[-1]["val_loss"]
    plain = override(config, {"name": "plain", "train.attention": "plain"})
    bf16 = override(config, {"name": "bf16", "train.precision": "bf16"})
    assert metrics(train(plain).run_dir)[-1]["val_loss"] == pytest.approx(reference, rel=1e-4)
    half = metrics(train(bf16).run_dir)[-1]["val_loss"]
    assert half == pytest.approx(reference, rel=0.05)
    # A loss computed in bfloat16 would be a multiple of 1/64 here.
    assert half * 64 != round(half * 64)


def test_automatic_precision_is_resolved_and_recorded(config: RunConfig):
    run = RunDirectory.open(train(override(config, {"train.precision": "auto", "train.max_iters": 3})).run_dir)
    native = {"avx512_bf16", "amx_tile"} & set(Path("/proc/cpuinfo").read_text().split())  # of its flags
    assert run.config.train.precision == ("bf16" if native else "fp32")


def test_timing_a_step_leaves_nothing_behind(config: RunConfig):
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    try:
        assert 0 < seconds_per_step(config, steps=2) < 60
        assert not config.run_dir.exists()
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.equal(torch.randn(3), expected)
    finally:
        torch.set_float32_matmul_precision("highest")


def test_training_restores_the_settings_of_the_process(config: RunConfig):
    before = torch.get_float32_matmul_precision()
    train(override(config, {"train.matmul_precision": "high", "train.max_iters": 3}))
    assert torch.get_float32_matmul_precision() == before


def test_evaluate_run_scores_every_token_in_bits_per_byte(config: RunConfig):
    train(config)
    found = evaluate_run(config.run_dir)
    store = TokenShards.open(config.data.valid)
    assert found.tokens == len(store) - 1
    assert found.bytes == store.total_bytes - int(store.token_lengths[store.read(0, 1)[0]])
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / math.log(2) / found.bytes)
    model, _ = load_model(RunDirectory.open(config.run_dir))
    ids = torch.from_numpy(store.read(0, len(store)))
    nats = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 16):
            window = ids[start : start + 17]
            logits = model(window[None, :-1])[0].double()
            nats += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
    assert found.loss == pytest.approx(nats / found.tokens, rel=1e-5)


def test_bare_ids_train_without_a_tokenizer(config: RunConfig, tmp_path: Path):
    store = TokenShards.open(config.data.train)
    np.save(tmp_path / "train.npy", store.read(0, len(store)).astype(np.uint16))
    bare = override(config, {"data.train": str(tmp_path / "train.npy"), "data.valid": "", "model.vocab_size": 300})
    result = train(bare)
    assert result.finished
    with pytest.raises(DataError, match="trained on bare token ids"):
        RunDirectory.open(result.run_dir).tokenizer()


def test_weight_decay_spares_norms_and_embeddings_unless_told_otherwise(config: RunConfig):
    config = override(config, {"model.vocab_size": 300})
    model = build_model(config, "cpu")
    groups = build_optimizer(model, config.optim).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {n for n, _ in model.named_parameters() if "ln" not in n and "embeddings" not in n}
    everything = build_optimizer(model, override(config, {"optim.decay": "all"}).optim).param_groups
    assert sum(len(g["params"]) for g in everything if g["weight_decay"]) == len(list(model.parameters()))


def test_divergence_stops_the_run_and_keeps_the_good_checkpoint(config: RunConfig):
    hot = override(config, {"optim.max_learning_rate": 1e30, "optim.grad_clip": 0.0, "optim.warmup_iters": 10})
    with pytest.raises(
        DivergenceError, match=r"step \d+: .*(loss is|not finite|overflows).*lower optim.max_learning_rate"
    ) as diverged:
        train(hot)
    assert str(diverged.value).startswith(f"step {diverged.value.step}: ")
    lines = metrics(config.run_dir)
    assert all(math.isfinite(line.get("val_loss", 0)) for line in lines)


def test_a_taken_run_directory_is_not_touched(config: RunConfig):
    train(config)
    before = sorted((p, p.stat().st_mtime_ns) for p in config.run_dir.rglob("*"))
    with pytest.raises(TrainingError, match=r"exists already.*--resume.*--overwrite.*--name"):
        train(config)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in config.run_dir.rglob("*"))
    assert train(override(config, {"train.max_iters": 3}), overwrite=True).summary["step"] == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data.train": "nowhere"}, FileMissingError, "nowhere"),
        ({"data.train": ""}, ConfigError, "data.train is empty"),
        ({"model.vocab_size": 299}, ConfigError, r"model\.vocab_size = 299.*300"),
        ({"model.context_length": 100_000}, DataError, "tokens, but one sequence of context_length = 100000"),
        ({"train.device": "cuda:99"}, ConfigError, "cuda:99"),
        ({"train.device": "gpu"}, ConfigError, "'gpu' cannot be used here: expected auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_impossible_runs_are_refused_before_anything_is_written(
    config: RunConfig, change: dict, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        train(override(config, change))
    assert not config.run_dir.exists()


def test_ids_beyond_the_vocabulary_in_damaged_shards_are_named(config: RunConfig, tmp_path: Path):
    ids = np.full(2000, 7, dtype=np.uint16)
    ids[1000] = 999
    np.save(tmp_path / "bad.npy", ids)
    with pytest.raises(DataError, match=r"999.*300"):
        train(override(config, {"data.train": str(tmp_path / "bad.npy"), "data.valid": "", "model.vocab_size": 300}))


def test_train_and_valid_of_different_tokenizers_are_refused(config: RunConfig, tokens: Path, tmp_path: Path):
    from groundup.data.encode import encode_files
    from groundup.tokenizer import Tokenizer, train_bpe

    other = Tokenizer(*train_bpe(tokens / "train.txt", 280, ["<|endoftext|>"]), ["<|endoftext|>"])
    encode_files(tokens / "valid.txt", other, tmp_path / "other")
    with pytest.raises(DataError, match="different tokenizers"):
        train(override(config, {"data.valid": str(tmp_path / "other")}))
    train(config)
    with pytest.raises(DataError, match="another tokenizer"):
        evaluate_run(config.run_dir, data=str(tmp_path / "other"))


@pytest.mark.long
def test_compiled_run_saves_plain_names(config: RunConfig):
    from safetensors.torch import load_file

    result = train(override(config, {"train.compile": True, "train.max_iters": 3, "data.valid": ""}))
    names = load_file(result.run_dir / "checkpoints" / "step-3" / "model.safetensors").keys()
    assert "layers.0.attn.q_proj.weight" in names
    assert not any("_orig_mod" in name for name in names)


def test_bare_ids_with_the_course_s_two_files_write_samples(config: RunConfig, tokens: Path, tmp_path: Path):
    store = TokenShards.open(config.data.train)
    np.save(tmp_path / "train.npy", store.read(0, len(store)).astype(np.uint16))
    files = {
        "data.vocab": str(tokens / "tokenizer" / "vocab.json"),
        "data.merges": str(tokens / "tokenizer" / "merges.txt"),
    }
    bare = {"data.train": str(tmp_path / "train.npy"), "data.valid": "", "model.vocab_size": 300}
    run = train(override(config, bare | files)).run_dir
    assert [line["step"] for line in read_jsonl(run / "samples.jsonl")] == [7, 14, 21, 24]
    assert RunDirectory.open(run).tokenizer().encode("<|endoftext|>") == store.tokenizer().encode("<|endoftext|>")
    with pytest.raises(ConfigError, match=r"has 300 ids, but model\.vocab_size is 299"):
        load_tokenizer(override(config, bare | files | {"model.vocab_size": 299}), store)


def test_another_tokenizer_than_the_shards_own_is_refused(config: RunConfig, tokens: Path, tmp_path: Path):
    from groundup.tokenizer import Tokenizer, train_bpe

    Tokenizer(*train_bpe(tokens / "train.txt", 280, ["<|endoftext|>"]), ["<|endoftext|>"]).save(tmp_path / "other")
    other = {
        "data.vocab": str(tmp_path / "other" / "vocab.json"),
        "data.merges": str(tmp_path / "other" / "merges.txt"),
    }
    with pytest.raises(ConfigError, match="is not the tokenizer that made"):
        train(override(config, other))
    assert not config.run_dir.exists()
    own = {
        "data.vocab": str(tokens / "tokenizer" / "vocab.json"),
        "data.merges": str(tokens / "tokenizer" / "merges.txt"),
    }
    assert train(override(config, own | {"train.max_iters": 3})).finished
