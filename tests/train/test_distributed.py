"""Several ranks train what one process trains.

The ranks are processes on one machine that add up their tensors by gloo, started by torchrun or, where nothing of it is
needed, as it would start them. What they must come to is always computed by one process that knows nothing of ranks.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from groundup.config import DataConfig, RunConfig, override, save_toml
from groundup.errors import CheckpointError, ConfigError, FileMissingError, TrainingError
from groundup.optim.muon import matrix_dtype
from groundup.record import read_object
from groundup.record.run import RunDirectory
from groundup.record.sinks import Silent, read_jsonl
from groundup.system.launch import Launch
from groundup.train import AnotherRankError, evaluate_run, train
from groundup.train.ranks.collective import Intent, ManyRanks, Ranks
from groundup.train.ranks.failures import parting
from groundup.train.ranks.rendezvous import name_of_this_start
from records import without_hashes

DRIVER = Path(__file__).with_name("ranks_driver.py")
_spec = importlib.util.spec_from_file_location("ranks_driver", DRIVER)
driver = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(driver)

FLOAT64 = 1e-9
"""Largest difference of a loss, a norm or a weight after 5 steps in float64; the largest seen is 1e-14."""


def float32(config: RunConfig) -> float:
    """The same after 24 steps in float32; the largest seen is 1e-5."""
    # Where Muon orthogonalizes in bfloat16, what differs by rounding before it differs by a hundredth after it.
    return 1e-2 if config.optim.optimizer == "muon" and matrix_dtype(torch.ones(1)) == torch.bfloat16 else 1e-4


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ranks(count: int, *arguments: str | Path) -> list[Outcome]:
    """The driver in so many processes, which meet where torchrun would have told them to."""
    common = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": 1}
    processes = [
        subprocess.Popen(
            [sys.executable, DRIVER, *map(str, arguments)],
            env=os.environ | {key: str(value) for key, value in common.items()} | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    # Both pipes of all at once: one that is full would hold up its process, and with it all the others.
    found: dict[int, tuple[str, str]] = {}
    readers = [
        threading.Thread(target=lambda rank=rank, process=process: found.update({rank: process.communicate()}))
        for rank, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    for process in processes:
        process.kill()
    return [Outcome(process.wait(), *found[rank]) for rank, process in enumerate(processes)]


def train_on_ranks(count: int, config: RunConfig, *arguments: str, events: list | None = None) -> list[Outcome]:
    """`groundup train` on so many ranks; see the driver for the events."""
    recipe = Path(config.runs_dir) / f"{config.name}.toml"
    save_toml(config, recipe)
    return start_ranks(count, "train", json.dumps(events or []), recipe, *arguments)


def torchrun(config: RunConfig, *options: str, events: list, resume: bool = True) -> Outcome:
    """The driver under torchrun, with two ranks."""
    recipe = Path(config.runs_dir) / f"{config.name}.toml"
    save_toml(config, recipe)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
    arguments = ["train", json.dumps(events), str(recipe), *(["--resume"] if resume else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, DRIVER, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    return Outcome(done.returncode, done.stdout, done.stderr)


def said(outcome: Outcome) -> list[str]:
    """The lines of an outcome that are groundup's own words to the user."""
    return [line for line in outcome.err.splitlines() if line.startswith("groundup: ")]


class SignalAt(Silent):
    """Sends this process a signal once a step is done."""

    def __init__(self, step: int):
        self.at = step

    def step(self, step: int, loss: float) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def largest_difference(run: Path, other: Path) -> float:
    """Between two runs: of their losses and norms at every line of metrics, and of their last weights and optimizer."""
    lines, others = (list(read_jsonl(path / "metrics.jsonl")) for path in (run, other))
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    found = [
        abs(line[key] - expected[key])
        for line, expected in zip(lines, others, strict=True)
        for key in ("train_loss", "grad_norm", "val_loss")
        if key in expected
    ]
    for name in ("model", "optimizer"):
        if (RunDirectory(run).checkpoint("latest") / name).is_dir():
            continue  # shards; a run whose lines are right is compared by its last evaluation
        files = [RunDirectory(path).checkpoint("latest") / f"{name}.safetensors" for path in (run, other)]
        tensors, expected = map(load_file, files)
        assert tensors.keys() == expected.keys()
        found += [(tensors[key] - expected[key]).abs().max().item() for key in expected]
    return max(found)


@pytest.fixture
def config(config: RunConfig) -> RunConfig:
    """With every line of metrics there can be."""
    return override(config, {"train.log_interval": 1, "train.ratio_interval": 5})


@pytest.fixture(scope="module")
def two_ranks(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks found for every case of the driver."""
    out = tmp_path_factory.mktemp("numbers")
    for outcome in start_ranks(2, "numbers", out, tokens):
        assert outcome.code == 0, outcome.err
    return out


@pytest.mark.parametrize("case", driver.CASES, ids=lambda case: case.name)
def test_two_ranks_equal_one_process_in_float64(case, two_ranks: Path, tokens: Path):
    expected, tensors = driver.numbers(case, tokens, Ranks())
    found = json.loads((two_ranks / f"{case.name}.json").read_text())
    for key in ("losses", "norms", "evaluation"):
        assert found[key] == pytest.approx(expected[key], abs=FLOAT64, rel=0)
    assert found["ratios"][-1] == pytest.approx(expected["ratios"][-1], abs=FLOAT64)
    found_tensors = load_file(two_ranks / f"{case.name}.st")
    assert found_tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.allclose(found_tensors[name], tensor, atol=FLOAT64, rtol=0), name


def test_ranks_agree_on_any_signal_and_on_the_first_ones_clock(two_ranks: Path):
    for rank in range(2):
        agreed = Intent(**json.loads((two_ranks / f"agreed-{rank}.json").read_text()))
        assert agreed == Intent(signal.SIGTERM, time_is_up=False, progress=0.25, damaged=False)


@pytest.mark.parametrize("kind", ["fsdp", pytest.param("ddp", marks=pytest.mark.long)])
def test_a_signal_to_one_rank_in_the_last_evaluation_breaks_it_off_on_all(config: RunConfig, kind: str):
    config = override(config, {"train.parallel": kind, "train.eval_batch_size": 2, "train.checkpoint_interval": 1000})
    whole = train(override(config, {"name": "whole"})).run_dir
    for outcome in train_on_ranks(2, config, events=[[1, 24, "evaluating SIGUSR1"]]):
        assert (outcome.code, said(outcome)) == (0, []), outcome.err
    run = RunDirectory(config.run_dir)
    assert run.checkpoint("latest").name == "step-24"
    assert [line["step"] for line in read_jsonl(run.path / "metrics.jsonl")][-1] == 23
    for outcome in train_on_ranks(2, config, "--resume"):
        assert outcome.code == 0, outcome.err
    assert largest_difference(run.path, whole) < float32(config)
    assert run.checkpoint("best").name == RunDirectory(whole).checkpoint("best").name


@pytest.mark.parametrize(
    "options",
    [
        {
            "train.parallel": "fsdp",
            "train.checkpoint_format": "sharded",
            "optim.optimizer": "muon",
            "optim.muon_variance": 0.9,
            "optim.cautious_decay": True,
            "optim.muon_momentum_warmup": 8,
            "train.average_last": 0.75,
            "train.average_decay": 0.8,
        },
        pytest.param({"train.parallel": "ddp", "train.checkpoint_format": "gathered"}, marks=pytest.mark.long),
        pytest.param({"train.parallel": "ddp", "train.checkpoint_format": "sharded"}, marks=pytest.mark.long),
        pytest.param({"train.parallel": "fsdp", "train.checkpoint_format": "gathered"}, marks=pytest.mark.long),
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_begun_by_one_process_continued_by_two_ranks_and_finished_by_one(config: RunConfig, options: dict):
    config = override(config, options)
    whole = train(override(config, {"name": "whole", "train.checkpoint_format": "gathered"})).run_dir
    train(config, display=SignalAt(5))
    for outcome in train_on_ranks(2, config, "--resume", events=[[1, 14, "SIGTERM"]]):
        assert outcome.code == 0, outcome.err
        assert said(outcome) == []
    run = RunDirectory(config.run_dir)
    assert run.steps()[-1] == 14  # all stopped after the same step, by the signal of one
    assert (run.checkpoint("latest") / "model").is_dir() == (config.train.checkpoint_format == "sharded")
    assert evaluate_run(run.path, "latest").step == 14
    assert train(override(config, {"train.checkpoint_format": "gathered"}), resume=True).finished
    assert largest_difference(run.path, whole) < float32(config)
    samples = [[line["step"] for line in read_jsonl(path / "samples.jsonl")] for path in (run.path, whole)]
    assert samples[0] == samples[1]


@pytest.mark.parametrize(
    "parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)]
)  # together with the test above, each way in one short test
def test_begun_by_two_ranks_and_finished_by_one(config: RunConfig, parallel: str):
    config = override(config, {"train.parallel": parallel, "data.micro_batch_size": 1})
    whole = train(override(config, {"name": "whole"})).run_dir
    first, second = train_on_ranks(2, config, events=[[0, 9, "SIGINT"]])
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert "2 (ddp), 2 sequences a step each" in first.out or parallel == "fsdp"
    assert second.out == ""  # only the first rank talks
    assert train(config, resume=True).finished
    assert largest_difference(config.run_dir, whole) < float32(config)
    assert json.loads((config.run_dir / "environment.json").read_text())["ranks"] == 1


@pytest.mark.parametrize(
    ("parallel", "format_"), [("fsdp", "sharded"), pytest.param("ddp", "gathered", marks=pytest.mark.long)]
)
def test_two_ranks_begin_with_the_weights_of_a_run_and_are_extended(config: RunConfig, parallel: str, format_: str):
    """The vocabulary grows by a number of rows that two ranks cannot share."""
    parent = train(
        override(config, {"name": "parent", "train.max_iters": 6, "train.checkpoint_format": format_})
    ).run_dir
    config = override(
        config,
        {
            "train.init": str(parent), "model.vocab_size": 303, "optim.schedule": "wsd", "train.max_iters": 12,
            "train.parallel": parallel, "train.checkpoint_format": format_,
        },
    )  # fmt: skip
    longer = override(config, {"train.max_iters": 24})
    whole = train(override(longer, {"name": "whole", "train.checkpoint_format": "gathered"})).run_dir
    for step in (config, longer):
        for outcome in train_on_ranks(2, step, *(["--resume"] if step is longer else [])):
            assert outcome.code == 0, outcome.err
            assert said(outcome) == []
    assert largest_difference(config.run_dir, whole) < float32(config)
    lineage = [read_object(run / "summary.json")["parent"] for run in (config.run_dir, whole)]
    assert lineage[0] == lineage[1]


@pytest.mark.long
@pytest.mark.parametrize("format_", ["gathered", "sharded"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_from_two_ranks_to_three_and_back_to_two(config: RunConfig, format_: str, optimizer: str):
    """Three do not divide the rows of any weight."""
    config = override(
        config,
        {
            "data.batch_size": 6,
            "train.parallel": "fsdp",
            "train.checkpoint_format": format_,
            "optim.optimizer": optimizer,
        },
    )
    whole = train(override(config, {"name": "whole", "train.checkpoint_format": "gathered"})).run_dir
    for count, stop in ((2, 5), (3, 11), (2, 17)):
        for outcome in train_on_ranks(count, config, "--resume", events=[[0, stop, "SIGTERM"]]):
            assert outcome.code == 0, outcome.err
    assert train(override(config, {"train.checkpoint_format": "gathered"}), resume=True).finished
    assert largest_difference(config.run_dir, whole) < float32(config)


@pytest.mark.long
def test_compiled_ranks_equal_one_process(config: RunConfig):
    whole = train(override(config, {"name": "whole"})).run_dir
    config = override(config, {"train.compile": True})
    for outcome in train_on_ranks(2, config):
        assert outcome.code == 0, outcome.err
    assert largest_difference(config.run_dir, whole) < float32(config)


def test_a_killed_rank_is_started_again_from_the_last_checkpoint(config: RunConfig):
    whole = train(override(config, {"name": "whole"})).run_dir
    outcome = torchrun(config, "--max-restarts", "1", events=[[1, 15, "SIGKILL"]])
    assert outcome.code == 0, outcome.err
    (message,) = said(outcome)
    assert "rank 1 of 2 is gone" in message
    assert "newest checkpoint is step-12" in message
    assert "resuming from step 12" in outcome.out
    assert largest_difference(config.run_dir, whole) < float32(config)  # which compares the steps of all lines too


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("format_", ["gathered", "sharded"])
def test_the_first_rank_killed_too(config: RunConfig, parallel: str, format_: str):
    config = override(config, {"train.parallel": parallel, "train.checkpoint_format": format_})
    whole = train(override(config, {"name": "whole", "train.checkpoint_format": "gathered"})).run_dir
    outcome = torchrun(config, "--max-restarts", "2", events=[[0, 15, "SIGKILL"]])
    assert outcome.code == 0, outcome.err
    (message,) = said(outcome)
    assert "rank 0 of 2 is gone" in message
    assert largest_difference(config.run_dir, whole) < float32(config)


@pytest.mark.long
def test_a_killed_rank_without_restarts_ends_the_job_with_one_line(config: RunConfig):
    first, second = train_on_ranks(2, config, events=[[1, 13, "SIGKILL"]])
    assert (first.code, second.code) == (2, -signal.SIGKILL)
    (message,) = said(first)
    assert "rank 1 of 2 is gone" in message
    assert "newest checkpoint is step-12" in message
    assert "--max-restarts" in message


@pytest.mark.long
def test_data_damaged_on_one_rank_end_the_job_after_a_checkpoint(config: RunConfig):
    config = override(config, {"train.parallel": "fsdp"})
    first, second = train_on_ranks(2, config, events=[[1, 9, "damage"]])
    assert (first.code, second.code) == (2, 2)
    assert said(first) == []
    assert said(second) == ["groundup: rank 1: shard-0.bin was cut off"]
    assert RunDirectory(config.run_dir).steps()[-1] == 9


def test_an_impossible_batch_for_so_many_ranks_is_one_line(config: RunConfig):
    config = override(config, {"data.batch_size": 5})
    first, second = train_on_ranks(2, config)
    assert (first.code, second.code) == (2, 2)
    assert first.err == "groundup: data.batch_size = 5 cannot be shared by 2 ranks; nearest that can: 4, 6\n"
    assert second.err == first.out == second.out == ""
    assert not config.run_dir.exists()


@pytest.mark.parametrize(
    ("data", "ranks", "passes"),
    [
        ({"batch_size": 8}, 1, 1),
        ({"batch_size": 8}, 8, 1),
        ({"batch_size": 8, "micro_batch_size": 2}, 2, 2),
        ({"batch_size": 8, "micro_batch_size": 8}, 4, 1),  # a pass is never more than there is
    ],
)
def test_passes_of_each_rank(data: dict, ranks: int, passes: int):
    assert DataConfig(**data).micro_batches(ranks) == passes


@pytest.mark.parametrize(
    ("data", "ranks", "message"),
    [
        ({"batch_size": 3}, 8, r"data\.batch_size = 3 cannot be shared by 8 ranks; nearest that can: 8$"),
        (
            {"batch_size": 24, "micro_batch_size": 8},
            2,
            r"micro_batch_size = 8 does not divide the 12 sequences that each of 2 ranks has of data\.batch_size = 24; "
            r"nearest that do: 6, 12$",
        ),
    ],
)
def test_a_batch_that_ranks_cannot_share_is_refused(data: dict, ranks: int, message: str):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**data).micro_batches(ranks)


class TestSharded:
    """One process reads and writes that form too."""

    @pytest.fixture
    def config(self, config: RunConfig) -> RunConfig:
        return override(config, {"train.checkpoint_format": "sharded"})

    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(self, config: RunConfig, optimizer: str):
        config = override(config, {"optim.optimizer": optimizer, "optim.muon_variance": 0.9})
        whole = train(override(config, {"name": "whole", "train.checkpoint_format": "gathered"})).run_dir
        train(config, display=SignalAt(7))
        assert train(override(config, {"train.checkpoint_format": "gathered"}), resume=True).finished
        assert largest_difference(config.run_dir, whole) == 0

    @pytest.mark.parametrize("part", ["model", "optimizer"])
    @pytest.mark.parametrize("damage", ["truncated", "foreign", "missing", "added"])
    def test_broken_shards_are_refused(self, config: RunConfig, part: str, damage: str):
        config = override(config, {"train.max_iters": 6})
        train(config)
        (path,) = (config.run_dir / "checkpoints" / "step-6" / part).glob("*.safetensors")
        match damage:
            case "truncated":
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            case "foreign":
                path.write_bytes(b"\0" * path.stat().st_size)
            case "missing":
                path.unlink()
            case "added":
                shutil.copy(path, path.with_name("more.safetensors"))
        with pytest.raises(CheckpointError, match=f"step-6/{part}"):
            train(config, resume=True)

    def test_shards_of_another_model_are_refused(self, config: RunConfig):
        config = override(config, {"train.max_iters": 6})
        train(config)
        train(override(config, {"name": "other", "model.d_model": 16}))
        ours, others = (config.run_dir.with_name(name) / "checkpoints" / "step-6" for name in ("tiny", "other"))
        shutil.rmtree(ours / "model")
        shutil.copytree(others / "model", ours / "model")
        with pytest.raises(CheckpointError, match="step-6/model"):
            evaluate_run(config.run_dir, "latest")
        without_hashes(ours)
        with pytest.raises(CheckpointError, match="another architecture"):
            evaluate_run(config.run_dir, "latest")

    def test_nothing_is_pickled(self, config: RunConfig):
        train(override(config, {"train.max_iters": 6}))
        files = [path for path in (config.run_dir / "checkpoints").rglob("*") if path.is_file()]
        assert {path.suffix for path in files if path.name not in ("latest", "best")} == {".safetensors", ".json"}


class TestBegin:
    """Under torchrun the command that begins a run is the one that goes on with it."""

    @staticmethod
    def may_train(run: RunDirectory, resume: bool = False, overwrite: bool = False, **launch) -> bool:
        return run.may_train(resume=resume, overwrite=overwrite, launch=Launch(by_torchrun=True, **launch))

    def test_resuming_what_is_not_there_begins_it(self, config: RunConfig):
        run = RunDirectory(config.run_dir)
        assert not self.may_train(run, resume=True)
        with pytest.raises(FileMissingError, match="no run"):
            run.may_train(resume=True, overwrite=False, launch=Launch())
        train(config, display=SignalAt(3))
        assert self.may_train(run, resume=True)

    def test_a_start_again_never_deletes_what_was_done(self, config: RunConfig):
        run = RunDirectory(config.run_dir)
        assert not self.may_train(run, overwrite=True)
        with pytest.raises(ConfigError, match="--resume in its place"):
            self.may_train(run, overwrite=True, restarts=1)

    def test_a_run_that_is_there_is_not_continued_unasked(self, config: RunConfig):
        train(config, display=SignalAt(3))
        with pytest.raises(TrainingError, match="exists already"):
            self.may_train(RunDirectory(config.run_dir), restarts=1)


def test_a_process_is_alone_unless_torchrun_says_otherwise():
    torchrun_says = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "host",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RESTART_COUNT": "2",
    }
    launch = Launch.from_environment(torchrun_says)
    assert launch == Launch(rank=5, ranks=8, local_rank=1, by_torchrun=True, restarts=2)
    assert not launch.is_main
    for missing in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        some = {key: value for key, value in torchrun_says.items() if key != missing}
        assert Launch.from_environment(some) == Launch()
    assert Launch().is_main


def in_threads(count: int, body) -> list:
    """The result or the error of ``body(rank)`` for each rank."""
    found: list = [None] * count

    def run(rank: int) -> None:
        try:
            found[rank] = body(rank)
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return found


class TestWords:
    """What ranks say to each other through the store; here they are threads."""

    def test_all_find_the_same_name_whatever_earlier_starts_left(self):
        store = torch.distributed.HashStore()
        names = [
            in_threads(size, lambda rank, size=size: name_of_this_start(store, rank, size, 10)) for size in (3, 2, 3)
        ]
        assert [len(set(same)) for same in names] == [1, 1, 1]
        assert len({same[0] for same in names}) == 3

    def test_who_waits_in_vain_says_so(self):
        with pytest.raises(TrainingError, match=r"rank 0 waited 0 s for the others of 2"):
            name_of_this_start(torch.distributed.HashStore(), 0, 2, 0.1)

    def test_an_error_in_a_meeting_ends_it_for_all(self):
        store = torch.distributed.HashStore()

        def meet(rank: int) -> None:
            ranks = ManyRanks(Launch(rank=rank, ranks=3), store)
            with ranks.error_barrier():
                ranks.barrier()
            assert ranks.broadcast(rank) == 0
            with ranks.error_barrier():
                if rank == 1:
                    raise ConfigError("no such file")
                ranks.barrier()

        errors = in_threads(3, meet)
        assert [type(error) for error in errors] == [AnotherRankError, ConfigError, AnotherRankError]
        assert {str(error) for error in errors} == {"no such file", "rank 1: no such file"}

    def test_an_error_of_all_is_told_by_the_first_and_that_of_one_by_that_one(self, tmp_path: Path):
        def fail(store, who: tuple[int, ...]):
            def body(rank: int) -> None:
                with parting(Launch(rank=rank, ranks=2), store, RunDirectory(tmp_path)):
                    if rank in who:
                        raise ConfigError("wrong")

            return body

        first, second = in_threads(2, fail(torch.distributed.HashStore(), (0, 1)))
        assert (type(first), str(first), type(second)) == (ConfigError, "wrong", AnotherRankError)
        first, second = in_threads(2, fail(torch.distributed.HashStore(), (1,)))
        assert (first, type(second), str(second)) == (None, TrainingError, "rank 1: wrong")

    def test_devices_that_ranks_cannot_share_are_refused(self):
        ranks = ManyRanks(Launch(rank=1, ranks=2, local_rank=1), torch.distributed.HashStore())
        assert ranks.device("cpu") == "cpu"
        for name in ("cuda:0", "mps"):
            with pytest.raises(ConfigError, match=rf'{name}.*2 ranks; set it to "(cuda|cpu)"'):
                ranks.device(name)


def test_alone_there_is_nobody_to_ask():
    ranks = Ranks()
    own = Intent(signal=15, progress=0.5)
    assert (ranks.all_reduce_intent(own), ranks.broadcast("x"), ranks.all_reduce_sum([1.0]), ranks.size) == (
        own,
        "x",
        [1.0],
        1,
    )
    with pytest.raises(ConfigError), ranks.error_barrier():
        raise ConfigError("mine")
