"""Every figure of a run's plan against an independent count."""

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from groundup.config import RunConfig, TrainConfig, override
from groundup.data.shards import TokenShards
from groundup.track import Silent, read_jsonl
from groundup.train import RunDirectory, train
from groundup.train.build import build_model, build_optimizer
from groundup.train.dry_run import evaluations_left
from groundup.train.guards import checkpoint_bytes
from groundup.train.loop import Trainer
from groundup.train.plan import Section, describe, kept_for_backward, memory_section, parameter_section


def cells(section: Section) -> dict[str, str]:
    return {row[0]: row[1] for row in section.rows}


def trainer(config: RunConfig) -> Trainer:
    return Trainer(config, RunDirectory(config.run_dir), Silent())


@pytest.mark.parametrize(
    "change",
    [{}, {"model.tie_embeddings": True}, {"model.norm": "none"}, {"model.norm": "post", "model.ffn": "silu"}],
    ids=str,
)
def test_the_parameters_of_all_components_are_those_of_the_model(config: RunConfig, change: dict):
    model = build_model(override(config, change | {"model.vocab_size": 300}), "cpu")
    found = {name: int(count.replace(",", "")) for name, count in cells(parameter_section(model)).items()}
    d, f, layers = 32, model.layers[0].ffn.w1.weight.shape[0], 2
    expected = {
        "embedding": 300 * d,
        "attention": layers * 4 * d * d,
        "feed-forward": layers * (2 if change.get("model.ffn") == "silu" else 3) * d * f,
        "norms": {"pre": 2 * layers + 1, "post": 2 * layers, "none": 0}[change.get("model.norm", "pre")] * d,
        "head": 0 if change.get("model.tie_embeddings") else 300 * d,
    }
    assert found == {k: v for k, v in expected.items() if v} | {"all": sum(p.numel() for p in model.parameters())}


def test_the_words_of_a_plan_hold_its_derived_values(config: RunConfig):
    stores = TokenShards.open(config.data.train), TokenShards.open(config.data.valid)
    config = override(config, {"model.vocab_size": 300, "data.micro_batch_size": 2, "train.peak_tflops": 0.5,
                               "train.max_minutes": 1.5, "train.finish_schedule": True})  # fmt: skip
    plan = describe(config, *stores, "cpu")
    assert plan["batch"] == "4 x 16 = 64 tokens a step in 2 passes"
    assert plan["length"].startswith(f"24 steps = 1,536 tokens = {1536 / len(stores[0]):.2f} epochs")
    assert plan["limit"] == "1.5 minutes, the schedule finished by then"
    assert plan["MFU"].startswith("of 0.5 TFLOP/s, counting 2mnp FLOPs a matrix product")
    unknown = describe(override(config, {"train.peak_tflops": 0.0}), *stores, "cpu")
    assert unknown["MFU"] == "n/a: no data sheet of this device is known; set train.peak_tflops"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_has_the_size_that_is_announced(config: RunConfig, optimizer: str, tied: bool):
    config = override(config, {"optim.optimizer": optimizer, "model.tie_embeddings": tied, "train.max_iters": 3,
                               "model.vocab_size": 300})  # fmt: skip
    model = build_model(config, "cpu")
    announced = checkpoint_bytes(model, build_optimizer(model, config.optim))
    folder = RunDirectory(train(config).run_dir).checkpoint("latest")
    files = [folder / "model.safetensors", folder / "optimizer.safetensors"]
    assert announced == sum(t.nbytes for file in files for t in load_file(file).values())
    # The rest are names and shapes.
    assert announced <= sum(file.stat().st_size for file in folder.iterdir()) < announced + 20_000


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_memory_of_weights_gradients_and_state_is_what_a_step_allocates(config: RunConfig, optimizer: str):
    run = trainer(override(config, {"optim.optimizer": optimizer, "train.background_checkpoints": False}))
    rows = cells(memory_section(run.config, run.model, run.optimizer, {"activations": 5000}, 10**9))
    run.launch(1e-3, 0).read()
    parameters = list(run.model.parameters())
    state = sum(v.nbytes for values in run.optimizer.state.values() for v in values.values() if isinstance(v, Tensor))
    gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    exact = {"weights": sum(p.nbytes for p in parameters), "gradients": gradients, "optimizer state": state}
    assert {name: rows[name] for name in exact} == {name: f"{count / 1e3:.1f} kB" for name, count in exact.items()}
    assert rows["all"] == f"{(sum(exact.values()) + 5000) / 1e3:.1f} kB of 1.00 GB"


def test_a_plan_that_does_not_fit_says_so_and_what_helps(config: RunConfig):
    run = trainer(config)
    small = memory_section(run.config, run.model, run.optimizer, {"activations": 0}, 1000)
    assert "It will not fit: use a smaller model, data.micro_batch_size or model.context_length" in small.note
    assert "not fit" not in memory_section(run.config, run.model, run.optimizer, {"activations": 0}, 10**12).note
    with_copy = cells(memory_section(run.config, run.model, run.optimizer, {}, 10**12))
    assert "copy of a checkpoint being written" in with_copy


class Gate(nn.Module):
    """sigmoid(x W): the product keeps x, the sigmoid its own result."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 16))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x @ self.weight)


def test_what_is_kept_for_the_backward_pass_is_counted_to_the_byte(config: RunConfig):
    model = Gate()
    config = override(config, {"model.vocab_size": 16})
    kept = kept_for_backward(config, model, lambda x, y: model(x).sum(), torch.ones(4, 8), torch.ones(4))
    assert kept == {"activations": 4 * 8 * 4, "logits": 4 * 16 * 4}


@pytest.mark.parametrize("kernels", ["fast", "plain"])
def test_counting_what_is_kept_keeps_nothing(config: RunConfig, kernels: str):
    """A tensor that its own operation keeps, such as attention's result, once held the whole graph for ever."""
    run = trainer(override(config, {"train.kernels": kernels}))
    x, y = next(iter(run.feed.micro_batches(0)))
    results: list[Tensor] = []
    run.model.layers[0].register_forward_hook(lambda module, inputs, out: results.append(out.detach()))
    kept_for_backward(run.config, run.model, run.loss, x, y)
    gc.collect()
    storage = results.pop().untyped_storage()
    assert torch._C._storage_Use_Count(storage._cdata) == 1


def test_more_sequences_at_once_keep_more_and_checkpointed_blocks_less(config: RunConfig):
    def activations(**changes: object) -> int:
        run = trainer(override(config, changes))
        x, y = next(iter(run.feed.micro_batches(0)))
        return kept_for_backward(run.config, run.model, run.loss, x, y)["activations"]

    whole = activations()
    assert activations(**{"data.micro_batch_size": 2}) < 0.6 * whole
    assert activations(**{"train.activation_checkpointing": True}) < 0.5 * whole


@given(steps=st.integers(1, 60), interval=st.integers(1, 70), done=st.integers(0, 60))
def test_evaluations_that_are_left_are_those_of_the_steps_that_are_left(steps: int, interval: int, done: int):
    done = min(done, steps)
    config = TrainConfig(max_iters=steps, eval_interval=interval)
    after = [s for s in range(done + 1, steps + 1) if s % interval == 0 or s == steps]
    assert evaluations_left(config, done) == len(after) + (done == 0)


def test_a_run_is_evaluated_as_often_as_planned(config: RunConfig):
    config = override(config, {"train.eval_interval": 7})
    lines = read_jsonl(train(config).run_dir / "metrics.jsonl")
    assert sum("val_loss" in line for line in lines) == evaluations_left(config.train, 0)
