"""The benchmarks run, compare ids or losses before they claim a ratio, and say so when something is wrong."""

import importlib
import importlib.util
import inspect
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from groundup.tokenizer import Tokenizer, reference, train_bpe

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SEPARATOR = "<|endoftext|>"
Run = Callable[..., subprocess.CompletedProcess[str]]


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def rows_of(script: str, out: Path, *arguments: object) -> list[dict[str, Any]]:
    done = run(script, *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))
    assert rows[0]["what"] == "machine"
    return rows[1:]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of made-up words, numbers and a few characters of more than a byte."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(400)] + [
        "1984",
        "é",
        "火",
        "Don't",
    ]
    documents = [" ".join(rng.choices(words, k=rng.randint(50, 150))) + ".\n" for _ in range(60)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(f"\n{SEPARATOR}\n".join(documents), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(text: Path) -> Path:
    vocab, merges = train_bpe(text, 400, [SEPARATOR])
    folder = text.parent / "tokenizer"
    Tokenizer(vocab, merges, [SEPARATOR]).save(folder)
    return folder


@pytest.fixture
def side_by_side(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("side_by_side")


@pytest.fixture
def train_measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("train_measure")


def test_encoding_is_compared_on_the_same_ids(text: Path, tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    pytest.importorskip("tokenizers")
    rows = rows_of(
        "tokenizer_encode.py", tmp_path / "rows.json", text, "--tokenizer", tokenizer, "--what", "bytes", "documents",
        "--peers", "tiktoken", "tokenizers", "--rounds", "1", "--passes", "1",
    )  # fmt: skip
    loaded = Tokenizer.load(tokenizer)
    expected = reference.encode(text.read_bytes(), loaded.vocab, loaded.merges, [SEPARATOR.encode()])
    of_bytes = [row for row in rows if row["what"] == "encode bytes to array" and "identical_ids" in row]
    assert [(row["peer"].split()[0], row["phase"]) for row in of_bytes] == [
        ("tiktoken", "cold"), ("tiktoken", "warm"), ("tokenizers", "cold"), ("tokenizers", "warm"),
    ]  # fmt: skip
    for row in of_bytes:
        assert row["tokens"] == len(expected)
        assert row["ratio_median"] == pytest.approx(row["ours_mb_per_cpu_s"] / row["peer_mb_per_cpu_s"], rel=1e-2)
    assert all(row["identical_ids"] for row in rows if "identical_ids" in row)
    assert {row["what"] for row in rows} >= {"encode documents one by one to lists"}


def test_our_own_rows(text: Path, tokenizer: Path, tmp_path: Path) -> None:
    rows = rows_of(
        "tokenizer_encode.py", tmp_path / "rows.json", text, "--tokenizer", tokenizer, "--what", "hard", "linearity",
        "shards", "--rounds", "1", "--hard-megabytes", "0.01", "--hard", "base64", "CJK without spaces",
    )  # fmt: skip
    of = {what: [row for row in rows if row["what"] == what] for what in {row["what"] for row in rows}}
    assert all(row["bytes_kept"] for row in of["encode hard inputs"])
    assert {row["input"].rsplit(maxsplit=2)[0] for row in of["encode hard inputs"]} == {
        "normal text", "base64", "CJK without spaces",
    }  # fmt: skip
    (whole,) = of["encode files of different sizes"]
    assert whole["tokens"] == len(Tokenizer.load(tokenizer).encode(text.read_text(encoding="utf-8")))
    (shards,) = of["encode file to shards"]
    assert shards["identical_ids"]
    assert shards["share_of_in_memory_median"] == pytest.approx(
        shards["ours_mb_per_s"] / shards["in_memory_mb_per_s"], rel=1e-2
    )


def test_latency_is_that_of_equal_ids(text: Path, tokenizer: Path, tmp_path: Path) -> None:
    pytest.importorskip("tiktoken")
    rows = rows_of(
        "tokenizer_encode.py", tmp_path / "rows.json", text, "--tokenizer", tokenizer, "--what", "latency", "--peers",
        "tiktoken", "--rounds", "1", "--latency-blocks", "3",
    )  # fmt: skip
    lists = [row for row in rows if row["what"] == "latency, list"]
    assert [row["input"] for row in lists] == ["50 characters, same text", "50 characters, texts in turn"]
    assert all(row["identical_ids"] and 0 < row["ours_us_best"] <= row["ours_us_median"] for row in lists)


def test_training_is_compared_on_the_same_merges(text: Path, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    rows = rows_of(
        "tokenizer_train.py", tmp_path / "rows.json", text, "--what", "peers", "size", "--peers", "tokenizers",
        "--rounds", "1", "--vocab-size", "350", "--size-vocabulary", "300", "--threads", "1", "2", "--sizes", "0.01",
    )  # fmt: skip
    compared = [row for row in rows if row["what"] == "train"]
    assert [row["threads"] for row in compared] == [1, 2]
    for row in compared:
        assert row["merges"] == row["peer_merges"] == 350 - 256 - 1
        assert row["tokens_in_common"] > 0.8
        if "tie_rule" in inspect.signature(train_bpe).parameters:
            assert row["identical_merges"]
    sizes = [row for row in rows if row["what"] == "train on texts of different sizes"]
    assert [row["threads"] for row in sizes] == [1, 2, 1, 2]
    assert all(row["same_merges_as_one_thread"] for row in sizes if row["threads"] == 2)


def test_a_vocabulary_that_peers_cannot_have_is_refused(text: Path, tmp_path: Path) -> None:
    vocab = {i: bytes([i]) for i in range(256)} | {300: b"ab"}
    Tokenizer(vocab, [(b"a", b"b")], []).save(tmp_path / "holes")
    done = run("tokenizer_encode.py", text, "--tokenizer", tmp_path / "holes")
    assert done.returncode != 0
    assert "ids without gaps" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("same", ["identical_ids", "losses_agree"])
def test_rows_with_other_ids_or_losses_are_kept_and_fail_the_run(
    side_by_side: ModuleType, tmp_path: Path, same: str
) -> None:
    report = side_by_side.Report(tmp_path / "rows.json", device="some card")
    report.add({"what": "encode", "peer": "someone", same: False})
    machine, row = json.loads((tmp_path / "rows.json").read_text())
    assert machine["device"] == "some card"
    assert row["peer"] == "someone"
    with pytest.raises(SystemExit, match=f"{same} is false"):
        report.finish(["peer", same])


def test_everyone_has_a_turn_in_each_round_until_they_fail(side_by_side: ModuleType) -> None:
    taken: list[str] = []

    def measure(turn: str) -> dict[str, Any]:
        taken.append(turn)
        return {"timed_out_s": 1} if turn == "slow" else {"seconds": 1.0}

    results = side_by_side.run_turns(["ours", "fast", "slow"], 3, measure)
    assert taken == ["ours", "fast", "slow", "fast", "ours", "ours", "fast"]
    assert results["slow"] == [{"timed_out_s": 1}]
    assert len(results["ours"]) == len(results["fast"]) == 3


def test_a_measurement_that_fails_says_why(side_by_side: ModuleType, text: Path, tmp_path: Path) -> None:
    missing = {"input": str(tmp_path / "missing.txt"), "megabytes": 1, "out": str(tmp_path / "out")}
    failed = side_by_side.in_fresh_process("tokenizer_measure:write_prefix", missing, threads=1, time_limit=60)
    assert "missing.txt" in failed["error"]
    absent = {"who": "nobody", "input": str(text), "vocab_size": 300, "threads": 1, "learned": str(tmp_path / "out")}
    left_out = side_by_side.in_fresh_process("tokenizer_measure:train_once", absent, threads=1, time_limit=60)
    assert "nobody" in left_out["unavailable"]
    late = side_by_side.in_fresh_process("tokenizer_measure:train_once", absent, threads=1, time_limit=0.001)
    assert late == {"timed_out_s": 0.001}


def skeleton(document: str) -> str:
    return re.sub("[0-9A-Za-z]", "", document)


def test_the_big_corpus_has_new_words_in_the_same_documents(text: Path, tmp_path: Path) -> None:
    original = text.read_bytes()
    assert run("make_corpus.py", text, tmp_path / "big.txt", "--bytes", 4 * len(original)).returncode == 0
    big = (tmp_path / "big.txt").read_bytes()
    assert 4 * len(original) - 3 <= len(big) <= 4 * len(original)
    assert big.startswith(original + SEPARATOR.encode())
    documents = original.decode().split(SEPARATOR)
    made = big.decode().split(SEPARATOR)
    again = made[len(documents) : 2 * len(documents)]
    assert sorted(map(skeleton, again)) == sorted(map(skeleton, documents))
    assert [skeleton(document) for document in again] != [skeleton(document) for document in documents]
    assert len(set(big.split())) > 3 * len(set(original.split()))


def test_the_big_corpus_is_decided_by_the_seed(text: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("make_corpus.py", text, tmp_path / name, "--bytes", "2e5", "--seed", seed).returncode == 0
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_the_big_corpus_does_not_replace_its_input(text: Path) -> None:
    before = text.read_bytes()
    done = run("make_corpus.py", text, text, "--bytes", "1e5")
    assert done.returncode == 2
    assert "is the input itself" in done.stderr.splitlines()[-1]
    assert text.read_bytes() == before


def test_training_speed_is_compared_on_the_same_losses(tmp_path: Path) -> None:
    """transformers, where it is installed, is a peer too."""
    rows = rows_of(
        "train_step.py", tmp_path / "rows.json", "--quick", "--what", "speed", "share", "--threads", "1", "--sizes",
        "64", "--rounds", "1", "--who", "groundup", "groundup:plain", "transformers",
    )  # fmt: skip
    peers = {"groundup"} | ({"transformers"} if importlib.util.find_spec("transformers") else set())
    steps = [row for row in rows if row["what"] == "train step"]
    assert {row["peer"].split()[0] for row in steps} == peers
    for row in steps:
        assert row["losses_agree"]
        assert row["fifth_loss_difference"] < 1e-3
        assert row["ratio_median"] == pytest.approx(row["ours_tokens_per_s"] / row["peer_tokens_per_s"], rel=1e-2)
    shares = [row for row in rows if row["what"] == "share of the matmul peak"]
    assert {row["who"].split()[0] for row in shares} == peers
    for row in shares:
        assert row["share_median"] == pytest.approx(row["gflops"] / row["matmul_gflops"], rel=1e-2)


def test_a_size_that_has_no_whole_heads_is_refused() -> None:
    done = run("train_step.py", "--sizes", "100")
    assert done.returncode == 2
    assert "the head size is 64" in done.stderr.splitlines()[-1]


def test_memory_of_a_pass_counts_the_logits(side_by_side: ModuleType) -> None:
    """At a vocabulary of 16,000 all logits of 2,048 tokens take 131 MB; their loss holds them and their gradient."""
    model = {"vocab_size": 16_000, "context_length": 256, "d_model": 16, "num_layers": 1, "num_heads": 1}
    torchs, plain, ours = (
        side_by_side.in_fresh_process(
            "train_measure:memory",
            {"who": who, "model": model, "batch_size": 8, "full_logits": full},
            threads=1,
            time_limit=120,
        )
        for who, full in (("groundup", True), ("groundup:plain", False), ("groundup", False))
    )
    assert torchs["growth_mb"] > 2 * 131
    assert plain["growth_mb"] > 2 * 131
    assert ours["growth_mb"] < 131
    assert torchs["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    assert torchs["loss"] == pytest.approx(ours["loss"], abs=1e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_the_optimizers_share_is_its_part_of_the_step(train_measure: ModuleType, name: str) -> None:
    model = {"vocab_size": 100, "context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 1}
    found = train_measure.optimizer("groundup", model, 2, 1, name)
    assert found["share"] == found["optimizer_s"] / found["step_s"] > 0


@pytest.mark.long
def test_start_up_ends_with_the_first_step(train_measure: ModuleType, tmp_path: Path) -> None:
    shards = train_measure.startup_data(str(tmp_path))["shards"]
    options = {"--d_model": 32, "--num_heads": 1, "--num_layers": 1, "--context_length": 16}
    found = train_measure.startup(shards, str(tmp_path), options)
    assert found["seconds"] > 0
    assert (tmp_path / "startup" / "summary.json").exists()
    with pytest.raises(RuntimeError, match="num_heads = 3"):
        train_measure.startup(shards, str(tmp_path), options | {"--num_heads": 3})


@pytest.mark.long
def test_the_gpu_suite_measures_what_fits_into_its_time(tmp_path: Path) -> None:
    rows = rows_of("gpu_suite.py", tmp_path / "rows.json", "--quick")
    assert [(row["what"], row["optimizer"]) for row in rows] == [
        ("train step", "adamw"), ("train step", "muon"), ("memory of forward and backward", None),
        ("memory of forward and backward", None), ("decode", None), ("decode", None),
    ]  # fmt: skip
    assert rows[3]["losses_agree"]
    assert rows[-1]["ratio_to_eager"] > 0
    late = rows_of("gpu_suite.py", tmp_path / "late.json", "--quick", "--minutes", "0")
    assert {row["what"] for row in late} == {"left out"}


def test_reports_and_lists_are_measured(tmp_path: Path) -> None:
    for package in ("jinja2", "matplotlib", "plotly", "scipy"):
        pytest.importorskip(package)
    rows = rows_of(
        "experiments_report.py", tmp_path / "rows.json", "--runs", "4", "--points", "50", "--rounds", "1"
    )  # fmt: skip
    assert [row["what"] for row in rows] == ["report", "list of runs, made anew", "list of runs, nothing changed"]
    assert all(row["runs"] == 4 and 0 < row["wall_s_median"] <= row["wall_s_max"] for row in rows)
    assert 0 < rows[0]["page_mb"] < 8


def test_sweeps_are_held_against_the_same_runs_without_one(tmp_path: Path) -> None:
    rows = rows_of("experiments.py", tmp_path / "rows.json", "--quick", "--executors", "inline", "pool")
    assert [row["executor"] for row in rows] == ["bare", "inline", "pool"]
    assert [row["cells"] for row in rows] == [4, 4, 4]
    assert [row["failed"] for row in rows[1:]] == [0, 0]


def test_two_checkouts_are_compared_on_the_same_ids(text: Path, tokenizer: Path, tmp_path: Path):
    here = BENCHMARKS.parent
    arguments = (text, "--tokenizer", tokenizer, "--old", here, "--rounds", 1, "--only", "latency")
    rows = rows_of("two_checkouts.py", tmp_path / "rows.json", *arguments)
    assert [row["identical_ids"] for row in rows] == [True] * 4
    assert all(row["old"] > 0 and row["new"] > 0 for row in rows)


@pytest.mark.long
def test_a_run_beside_busy_processes_is_held_against_its_fair_share(tmp_path: Path) -> None:
    rows = rows_of(
        "train_under_load.py", tmp_path / "rows.json", "--rounds", 1, "--seconds", 0.5, "--busy", 1,
        "--policies", "by load", "active",
    )  # fmt: skip
    phases = [row for row in rows if "fair_cores" in row]
    assert [(row["policy"], row["busy_processes"], row["rounds"]) for row in phases] == [
        ("by load", 0, 2), ("by load", 1, 1), ("active", 0, 2), ("active", 1, 1),
    ]  # fmt: skip
    for row in phases:
        assert row["of_fair_share"] == pytest.approx(row["tokens_per_s"] / row["fair_tokens_per_s"], rel=0.01)
        assert row["cores"] > 0
    assert phases[2]["of_fair_share"] == pytest.approx(1, rel=0.01)  # what fair is measured by
    assert [row["policy"] for row in rows if "idle_ratio_median" in row] == ["by load"]


def test_fair_shares_and_tokens_of_parts_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = importlib.import_module("train_under_load")
    assert [benchmark.fair_cores(busy, 2, 2) for busy in (0, 2, 8)] == [2, 1, 0.4]
    assert benchmark.fair_cores(4, 2, 16) == 2
    assert benchmark.tokens_between([0, 2, 3, 5], 1, 4, tokens=10) == pytest.approx(20)
