"""One of several processes that train together, started by test_distributed.py.

    python ranks_driver.py numbers OUT TOKENS        the cases below in float64; the first rank writes what came out
    python ranks_driver.py train EVENTS ARGUMENTS…   `groundup train ARGUMENTS…`, in which the events happen

EVENTS is JSON: a list of [rank, step, what], where what is a signal's name or "damage"; a rank does it to itself
between two steps, in the first start of the job. A signal's name after "evaluating " comes in the step's evaluation.
"""

import dataclasses
import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file

from groundup.cli.main import main
from groundup.config import ModelConfig, OptimConfig, from_dict
from groundup.data.batches import IGNORED, Batches, DeviceBatches
from groundup.data.shards import DataGuard, TokenShards
from groundup.errors import DataError
from groundup.nn import TransformerLM
from groundup.nn.fast.accelerate import accelerate
from groundup.optim import build_optimizer
from groundup.record.run import RunDirectory
from groundup.system.launch import Launch
from groundup.train.checkpoint.folder import CheckpointContent
from groundup.train.checkpoint.writer import gathered
from groundup.train.evaluate import evaluate
from groundup.train.logging import Logger, update_ratios
from groundup.train.loop import Session
from groundup.train.ranks.collective import Intent, Ranks, joined
from groundup.train.ranks.parallel import make_parallel
from groundup.train.step import build_loss, train_step

BATCH, CONTEXT, STEPS = 4, 16, 5


class Case(NamedTuple):
    """One way to train."""

    kind: str = "ddp"
    optimizer: str = "adamw"
    passes: int = 1
    tied: bool = False
    fast: bool = True
    recompute: bool = False
    imported: bool = False
    """With the options of imported models."""
    masked: bool = False
    options: bool = False
    """With every option of the optimizers."""
    from_tokens: bool = False
    """With value embeddings and residual scalars."""

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in self).lower()


CASES = [
    *(
        Case(kind, optimizer, passes)
        for kind in ("ddp", "fsdp")
        for optimizer in ("adamw", "muon")
        for passes in (1, 2)
    ),
    *(Case(kind, tied=True) for kind in ("ddp", "fsdp")),
    *(Case(kind, passes=2, fast=False) for kind in ("ddp", "fsdp")),
    *(Case(kind, recompute=True) for kind in ("ddp", "fsdp")),
    *(Case(kind, imported=True) for kind in ("ddp", "fsdp")),
    *(Case(kind, passes=2, masked=True) for kind in ("ddp", "fsdp")),
    *(Case(kind, "muon", options=True) for kind in ("ddp", "fsdp")),
    *(Case(kind, "muon", passes=2, recompute=True, from_tokens=True) for kind in ("ddp", "fsdp")),
]


EVERY_OPTION = {
    "muon_coefficients": "polar-express", "muon_equalize": True, "muon_variance": 0.9, "cautious_decay": True,
    "groups": {"embedding": {"rate": 3.0, "betas": [0.8, 0.9]}, "vectors": {"decay": 0.5}},
}  # fmt: skip


def numbers(case: Case, tokens: Path, ranks: Ranks) -> tuple[dict, dict[str, torch.Tensor]]:
    """What some steps in float64 come to: losses, norms, ratios, an evaluation; weights and optimizer state."""
    store, valid = opened(tokens / "train", case.masked), opened(tokens / "valid", case.masked)
    torch.manual_seed(0)
    shape = ModelConfig(
        vocab_size=300, context_length=CONTEXT, d_model=24, num_layers=2, num_heads=2, tie_embeddings=case.tied
    )
    if case.imported:
        scaling = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 8}
        shape = dataclasses.replace(shape, qkv_bias=True, head_size=10, embedding_scale=2.0, **scaling)
    if case.from_tokens:
        shape = dataclasses.replace(shape, value_embeddings="alternate", residual_scalars=True, num_layers=3)
    model = TransformerLM(shape, dtype=torch.float64)
    accelerate(model, kernels="fast" if case.fast else "plain", attention="flash")
    model.checkpoint_activations = case.recompute
    parallel = make_parallel(case.kind, ranks)
    model = parallel.spread(model, "cpu")
    ignore_index = IGNORED if case.masked else None
    loss = build_loss(parallel.training_form(model), compile=False, chunked=case.fast, ignore_index=ignore_index)
    options = from_dict(OptimConfig, EVERY_OPTION) if case.options else OptimConfig()
    options = dataclasses.replace(options, optimizer=case.optimizer, max_learning_rate=1e-2)
    optimizer = build_optimizer(model, options)
    batches = DeviceBatches(
        Batches(store, BATCH, CONTEXT, seed=3, masked=case.masked), micro_batches=case.passes, vocab_size=300,
        device="cpu", rank=ranks.rank, world_size=ranks.size,
    )  # fmt: skip
    found: dict[str, list] = {"losses": [], "norms": [], "ratios": []}
    for step in range(STEPS):
        parts, passes = batches.micro_batches(step), case.passes
        with update_ratios(optimizer) if step == STEPS - 1 else nullcontext({}) as ratios:
            mean_loss, norm = train_step(model, loss, optimizer, parts, passes, 1.0, parallel=parallel).read()
        found["losses"].append(mean_loss)
        found["norms"].append(norm)
        found["ratios"].append(dict(ratios))
    with parallel.reading(model):
        scored = evaluate(model, valid, CONTEXT, batch_size=3, limit=14, ranks=ranks)
    found["evaluation"] = [scored.loss, scored.tokens, scored.bytes]
    content = gathered(CheckpointContent.of(model, optimizer, {}), keep=ranks.is_main)
    return found, content.model | {f"optimizer {name}": tensor for name, tensor in content.optimizer.items()}


def opened(path: Path, masked: bool) -> TokenShards:
    """A data set, in which about a third of the tokens count."""
    store = TokenShards.open(path)
    if not masked:
        return store
    ids = store.read(0, len(store))
    return TokenShards(path, store.index, [ids], [(ids % 7 < 2).astype("u1")])


def write_numbers(out: Path, tokens: Path) -> None:
    with joined(RunDirectory(out)) as ranks:
        second = ranks.rank == 1
        agreed = ranks.all_reduce_intent(Intent(signal.SIGTERM * second, time_is_up=second, progress=0.25 + second / 2))
        (out / f"agreed-{ranks.rank}.json").write_text(json.dumps(dataclasses.asdict(agreed)))
        for case in CASES:
            found, tensors = numbers(case, tokens, ranks)
            if ranks.is_main:
                (out / f"{case.name}.json").write_text(json.dumps(found))
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / f"{case.name}.st")


def train_with_events(events: list[tuple[int, int, str]], arguments: list[str]) -> None:
    launch = Launch.from_environment()
    mine = {step: what for rank, step, what in events if rank == launch.rank and launch.restarts == 0}
    goes_on, check, evaluate_ = Session.goes_on, DataGuard.check, Logger._evaluate
    damaged = False

    def goes_on_after_events(self: Session) -> bool:
        nonlocal damaged
        what = mine.get(self.state.step)
        damaged = damaged or what == "damage"
        if what and what != "damage" and not what.startswith("evaluating "):
            os.kill(os.getpid(), getattr(signal, what))
        return goes_on(self)

    def check_with_events(self: DataGuard) -> None:
        if damaged:
            raise DataError("shard-0.bin was cut off")
        check(self)

    def evaluate_with_events(self: Logger, store: TokenShards):
        evaluating, _, name = mine.get(self._trainer.state.step, "").partition(" ")
        if evaluating == "evaluating":
            os.kill(os.getpid(), getattr(signal, name))
        return evaluate_(self, store)

    Session.goes_on, DataGuard.check = goes_on_after_events, check_with_events
    Logger._evaluate = evaluate_with_events
    main(["train", *arguments])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "numbers":
        write_numbers(Path(sys.argv[2]), Path(sys.argv[3]))
        os._exit(0)  # as the command line does
    else:
        train_with_events(json.loads(sys.argv[2]), sys.argv[3:])
