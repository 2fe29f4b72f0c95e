"""Training on a CPU side by side: tokens/s, share of the matmul peak, memory, optimizer, checkpoints, start-up.

    python benchmarks/train_step.py [--what speed share memory optimizer checkpoints startup] [--threads 1 2]
        [--sizes 256 512] [--rounds 5] [--who groundup groundup:compiled ...] [--same-malloc] [--same-matmul]
        [--out FILE] [--quick]

    speed      whole steps (forward, loss, backward, clipping, optimizer) in float32: groundup against transformers'
               Llama of the same shape and weights, eager and compiled, and against groundup's plain kernels
    share      matmul FLOPs of the model per second of these steps, over the fastest matmul in the round
    memory     growth in forward and backward at a vocabulary of 32,000 and 16,384 tokens: chunked loss, and all logits
    optimizer  AdamW's and Muon's part of a step of the GPT-2 small shape
    checkpoints  steps while a checkpoint is written in the background, and its total cost in steps
    startup    from the command to the first finished step

Each figure is measured in a separate process; in a round each contender has one turn, and ratios are taken within a
round. Compile time is not part of the steps; `first_step_s` has it, from the first round, with an empty compiler cache.
FLOPs are those of MFU: 2mnp a matmul, attention in full, backward twice the forward. `train_measure.py` has the
measurements, `train_peers.py` the contenders. --quick uses toy shapes, to try the script.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from side_by_side import Report, Row, failed, in_fresh_process, labelled, ratios, run_turns, short
from train_peers import OURS, PEER, SETTINGS

# groundup's variants, and the contenders each is compared with; of several, the fastest.
PAIRS = [
    ("groundup", ["transformers"]),
    ("groundup:compiled", ["transformers:compiled", "transformers:max-autotune"]),
    ("groundup", ["groundup:plain"]),
    ("groundup:compiled", ["groundup:plain"]),
]
PARTS = ("speed", "share", "memory", "optimizer", "checkpoints", "startup")
FIRST_LOSS_TOLERANCE, FIFTH_LOSS_TOLERANCE = 1e-3, 1e-2
HEAD_SIZE = 64
COLUMNS = """ours_call peer_call who call input threads rounds ours_tokens_per_s peer_tokens_per_s ours_growth_mb
    peer_growth_mb ratio_median ratio_min ratio_max cpu_ratio_median ours_first_step_s peer_first_step_s gflops
    matmul_gflops step_s optimizer_s share_median share_min share_max save_s slower_beside writing_s
    cost_steps seconds_median seconds_max import_torch_s
    losses_agree timed_out_s error""".split()
# The malloc settings of groundup.system.process, for every contender (mallopt(3)).
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


class Scale(NamedTuple):
    """Sizes of the measurements. Those of ``speed`` are d_model, which determines the rest."""

    layers: int
    vocab_size: int
    context_length: int
    batch_size: int
    seconds: float
    squares: tuple[int, ...]
    memory: dict[str, Any]
    memory_batch: int
    optimizer: dict[str, Any]
    optimizer_batch: int
    optimizer_steps: int
    steps_between: int
    startup: dict[str, Any]


FULL = Scale(
    layers=4, vocab_size=10_000, context_length=256, batch_size=8, seconds=8, squares=(1024, 2048),
    memory={"vocab_size": 32_000, "context_length": 1024, "d_model": 256, "num_layers": 1, "num_heads": 4},
    memory_batch=16,
    optimizer={"vocab_size": 50_304, "context_length": 1024, "d_model": 768, "num_layers": 12, "num_heads": 12,
               "d_ff": 2048, "tie_embeddings": True},
    optimizer_batch=4, optimizer_steps=2, steps_between=6,
    startup={"--d_model": 256, "--num_heads": 4, "--num_layers": 4, "--context_length": 256, "--data.batch_size": 8},
)  # fmt: skip
QUICK = Scale(
    layers=1, vocab_size=300, context_length=32, batch_size=2, seconds=0.1, squares=(256,),
    memory={"vocab_size": 8000, "context_length": 256, "d_model": 64, "num_layers": 1, "num_heads": 1},
    memory_batch=8,
    optimizer={"vocab_size": 300, "context_length": 32, "d_model": 64, "num_layers": 2, "num_heads": 1},
    optimizer_batch=2, optimizer_steps=2, steps_between=2,
    startup={"--d_model": 32, "--num_heads": 1, "--num_layers": 1, "--context_length": 16, "--data.batch_size": 2},
)  # fmt: skip


class Bench:
    """Options, rows, and measurements in separate processes."""

    def __init__(self, options: argparse.Namespace, scratch: Path, report: Report) -> None:
        self.options, self.report, self.scratch = options, report, scratch
        self.scale = QUICK if options.quick else FULL

    def measure(self, function: str, threads: int, **arguments: Any) -> Row:
        return in_fresh_process(
            f"train_measure:{function}", arguments, threads=threads, math_threads=threads,
            time_limit=self.options.time_limit,
            variables={"TORCHINDUCTOR_CACHE_DIR": str(self.scratch / "compiled"), "HF_HUB_OFFLINE": "1"}
            | (KEEP_FREED_MEMORY if self.options.same_malloc else {}),
        )  # fmt: skip

    def rounds(self, turns: Sequence[str], measure: Callable[[str], Row]) -> dict[str, list[Row]]:
        """Results of all contenders. Contenders without a result are reported as failures and left out."""
        results = run_turns(turns, self.options.rounds, measure, needs_first=False)
        for who, rows in results.items():
            if failed(rows[0]):
                self.report.add_failure({"what": "left out", "who": who}, rows[0])
        return {who: rows for who, rows in results.items() if not failed(rows[0])}


def speed_and_share(bench: Bench, d_model: int, threads: int) -> None:
    """Rows of one size at one number of threads."""
    scale, options = bench.scale, bench.options
    shape = {"vocab_size": scale.vocab_size, "context_length": scale.context_length, "d_model": d_model,
             "num_layers": scale.layers, "num_heads": d_model // HEAD_SIZE}  # fmt: skip
    found = bench.rounds(
        options.who,
        lambda who: bench.measure(
            "speed",
            threads,
            who=who,
            model=shape,
            batch_size=scale.batch_size,
            seconds=scale.seconds,
            squares=scale.squares,
            same_matmul=options.same_matmul,
        ),
    )
    if not found:
        return
    about: Row = {"input": f"{_size(found)}, {_in_words(shape)}, batch {scale.batch_size}", "threads": threads}
    if "speed" in options.what:
        for ours, peers in PAIRS:
            present = [peer for peer in peers if peer in found]
            if ours in found and present:
                peer = max(present, key=lambda who: _median(found[who], "tokens_per_s"))
                bench.report.add(_speed_row(ours, peer, found) | about)
    if "share" in options.what:
        # The peak of the machine is the best of all contenders: a slow library does not lower it.
        peaks = [
            max(rows[i]["matmul_flops_per_s"] for rows in found.values() if i < len(rows))
            for i in range(options.rounds)
        ]
        for who, rows in found.items():
            shares = [row["flops_per_s"] / peak for row, peak in zip(rows, peaks, strict=False)]
            bench.report.add(
                {"what": "share of the matmul peak", "who": labelled(who.partition(":")[0]), "call": SETTINGS[who]}
                | about
                | {"rounds": len(rows), "gflops": short(_median(rows, "flops_per_s") / 1e9),
                   "matmul_gflops": short(statistics.median(peaks) / 1e9),
                   "share_median": short(statistics.median(shares)), "share_min": short(min(shares))}
            )  # fmt: skip


def _speed_row(ours: str, peer: str, found: dict[str, list[Row]]) -> Row:
    mine, theirs = found[ours], found[peer]
    row: Row = {"what": "train step", "ours": labelled(OURS), "ours_call": SETTINGS[ours],
                "peer": labelled(peer.partition(":")[0]), "peer_call": SETTINGS[peer], "rounds": len(mine)}  # fmt: skip
    for name, rows in (("ours", mine), ("peer", theirs)):
        row[f"{name}_tokens_per_s"] = short(_median(rows, "tokens_per_s"))
        row[f"{name}_tokens_per_cpu_s"] = short(_median(rows, "tokens_per_cpu_s"))
        row[f"{name}_first_step_s"] = short(rows[0]["first_step_s"])
        row[f"{name}_peak_mb"] = short(_median(rows, "peak_mb"))
    for key, name in (("tokens_per_s", "ratio"), ("tokens_per_cpu_s", "cpu_ratio")):
        pairs = list(zip(mine, theirs, strict=False))  # one of them may have failed in a later round
        row |= ratios([a[key] for a, _ in pairs], [b[key] for _, b in pairs], name)
    differences = [abs(a - b) for a, b in zip(mine[0]["losses"], theirs[0]["losses"], strict=True)]
    row["first_loss_difference"], row["fifth_loss_difference"] = short(differences[0]), short(differences[-1])
    row["losses_agree"] = differences[0] <= FIRST_LOSS_TOLERANCE and differences[-1] <= FIFTH_LOSS_TOLERANCE
    return row


def memory(bench: Bench) -> None:
    """Rows of groundup's loss against losses that hold all logits."""
    scale, threads = bench.scale, max(bench.options.threads)
    ours, full, plain = "our loss", "all logits, torch's cross_entropy", "all logits, our plain path"
    llama = "LlamaForCausalLM with its own loss"
    who = {ours: ("groundup", False), full: ("groundup", True), plain: ("groundup:plain", False), llama: (PEER, False)}
    found = bench.rounds(
        [call for call, (contender, _) in who.items() if contender in bench.options.who],
        lambda call: bench.measure(
            "memory", threads, who=who[call][0], full_logits=who[call][1], model=scale.memory,
            batch_size=scale.memory_batch,
        ),
    )  # fmt: skip
    if ours not in found:
        return
    mine = found.pop(ours)
    for call, theirs in found.items():
        growth = [[row["growth_mb"] for row in rows] for rows in (mine, theirs)]
        bench.report.add(
            {"what": "memory of forward and backward", "ours": labelled(OURS), "ours_call": ours,
             "peer": labelled(who[call][0].partition(":")[0]), "peer_call": call, "threads": threads,
             "input": f"{_in_words(scale.memory)}, batch {scale.memory_batch}", "rounds": len(mine),
             "ours_growth_mb": short(statistics.median(growth[0])),
             "peer_growth_mb": short(statistics.median(growth[1])),
             "losses_agree": abs(mine[0]["loss"] - theirs[0]["loss"]) <= FIRST_LOSS_TOLERANCE}
            | {"ratio_median": short(statistics.median(growth[0]) / statistics.median(growth[1])),
               "ratio_max": short(max(growth[0]) / min(growth[1]))}
        )  # fmt: skip


def optimizer(bench: Bench) -> None:
    """Rows of the optimizer's share of a step for this batch size; the share falls with the tokens of a step."""
    scale, threads = bench.scale, max(bench.options.threads)
    found = bench.rounds(
        ["adamw", "muon"],
        lambda name: bench.measure(
            "optimizer", threads, who=OURS, model=scale.optimizer, batch_size=scale.optimizer_batch,
            steps=scale.optimizer_steps, optimizer=name,
        ),
    )  # fmt: skip
    for name, rows in found.items():
        bench.report.add(
            {"what": "optimizer's share of the step", "who": labelled(OURS), "call": name, "threads": threads,
             "input": f"{_size(found)}, {_in_words(scale.optimizer)}, batch {scale.optimizer_batch}, float32",
             "rounds": len(rows), "optimizer_s": short(_median(rows, "optimizer_s")),
             "step_s": short(_median(rows, "step_s")), "share_median": short(_median(rows, "share")),
             "share_max": short(max(row["share"] for row in rows))}
        )  # fmt: skip


def checkpoints(bench: Bench) -> None:
    """Rows of the cost of checkpoints, written in the background and in line."""
    scale, threads = bench.scale, max(bench.options.threads)
    shape = {"vocab_size": scale.vocab_size, "context_length": scale.context_length,
             "d_model": bench.options.sizes[-1], "num_layers": scale.layers,
             "num_heads": bench.options.sizes[-1] // HEAD_SIZE}  # fmt: skip
    for background in (True, False):
        call = "in the background" if background else "in line"
        found = bench.rounds(
            [call],
            lambda _: bench.measure(
                "checkpoints", threads, model=shape, batch_size=scale.batch_size, steps=scale.steps_between,
                background=background,  # noqa: B023 - called at once
            ),
        )  # fmt: skip
        if rows := found.get(call):
            bench.report.add(
                {"what": "checkpoints beside steps", "who": labelled(OURS), "call": call, "threads": threads,
                 "input": f"{_size(found)}, {_in_words(shape)}, batch {scale.batch_size}", "rounds": len(rows),
                 "step_s": short(_median(rows, "step_s")), "save_s": short(_median(rows, "save_s")),
                 "slower_beside": short(_median(rows, "slower_beside")),
                 "writing_s": short(_median(rows, "writing_s")), "cost_steps": short(_median(rows, "cost_steps"))}
            )  # fmt: skip


def startup(bench: Bench) -> None:
    """A row for each number of threads. The first start warms the file cache and does not count."""
    data = bench.measure("startup_data", 1, folder=str(bench.scratch))
    if failed(data):
        bench.report.add_failure({"what": "left out", "who": "startup"}, data)
        return
    for threads in bench.options.threads:
        given = {"shards": data["shards"], "folder": str(bench.scratch), "options": bench.scale.startup}
        bench.measure("startup", threads, **given)
        rows = bench.rounds(["start"], lambda _: bench.measure("startup", threads, **given)).get("start")  # noqa: B023 - called at once
        if rows:
            bench.report.add(
                {"what": "start-up to the first step", "who": labelled(OURS), "call": "groundup train, no compile",
                 "input": "stories, shards with tokenizer, no validation, " + _in_words(bench.scale.startup),
                 "threads": threads, "rounds": len(rows), "seconds_median": short(_median(rows, "seconds")),
                 "seconds_max": short(max(row["seconds"] for row in rows)),
                 "import_torch_s": short(_median(rows, "import_torch_s"))}
            )  # fmt: skip


def _median(rows: Sequence[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def _size(found: dict[str, list[Row]]) -> str:
    return f"{next(iter(found.values()))[0]['parameters'] / 1e6:.1f} M parameters"


def _in_words(shape: dict[str, Any]) -> str:
    return ", ".join(f"{key.lstrip('-').rpartition('.')[2]} {value}" for key, value in shape.items())


def main() -> None:
    """Measure the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512], help="d_model of speed and share")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--who", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--time-limit", type=float, default=900, help="seconds of one measurement")
    parser.add_argument("--same-malloc", action="store_true", help="keep freed memory in peers too")
    parser.add_argument("--same-matmul", action="store_true", help="use groundup's matmul library in peers too")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    wrong = [size for size in options.sizes if size < HEAD_SIZE or size % HEAD_SIZE]
    if wrong:
        parser.error(f"--sizes {wrong[0]}: the head size is {HEAD_SIZE}; give multiples of it")
    report = Report(options.out, same_malloc=options.same_malloc, same_matmul=options.same_matmul)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, Path(scratch), report)
        if {"speed", "share"} & set(options.what):
            for d_model in options.sizes:
                for threads in options.threads:
                    speed_and_share(bench, d_model, threads)
        for name, part in (
            ("memory", memory),
            ("optimizer", optimizer),
            ("checkpoints", checkpoints),
            ("startup", startup),
        ):
            if name in options.what:
                part(bench)
    report.finish(COLUMNS)


if __name__ == "__main__":
    main()
