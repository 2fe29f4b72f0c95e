"""`groundup account`: what a person sees, and what a program reads."""

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundup.account.presets import PRESETS
from groundup.cli.main import main
from groundup.config import RunConfig, override, save_toml


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["account", *map(str, arguments)])
    return int(end.value.code or 0), *capsys.readouterr()


def document(*arguments: object, capsys: pytest.CaptureFixture[str]) -> dict:
    code, out, err = command(*arguments, "--json", capsys=capsys)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_report_answers_what_a_person_asks(capsys):
    code, out, err = command("gpt2-xl", "--device", "h200", "--precision", "bf16", "--tokens", "10B", capsys=capsys)
    assert (code, err) == (0, "")
    for part in (
        "48 layers, d_model 1,600, 25 heads of 64",
        "2,127,057,600",
        "4,513,336,524,800",
        "(1,024 x 1,600) (1,600 x 6,400)",
        "989.5 TFLOP/s (NVIDIA H200 data sheet, 2024), of which 40%",
        "fits the 141.00 GB of h200",
        "67% are the feed-forward layers",
        "2mnp for (m x n) times (n x p)",
        "GB are 10^9 bytes, GiB 2^30",
    ):
        assert part in " ".join(out.split()), part


def test_a_report_fits_80_columns(capsys, monkeypatch):
    from groundup.display import console

    monkeypatch.setattr(console, "make_console", lambda: console.Console(width=80, highlight=False))
    options = ("--device", "h100", "--fit-memory", "80GB", "--fit-hours", 24, "--kept", "--exercise")
    _, out, _ = command("llama3-1b", *options, capsys=capsys)
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80


def test_json_has_keys_that_stay(capsys):
    found = document("report-36m", "--device", "h200", "--fit-memory", "80GB", "--fit-hours", 2, capsys=capsys)
    assert list(found) == [
        "name", "model", "setting", "parameters", "flops", "memory", "run", "device", "fit", "conventions"
    ]  # fmt: skip
    assert found["parameters"]["total"] == 35_938_816
    assert found["flops"]["step"]["model"] == 3 * 128 * found["flops"]["forward_per_sequence"]
    assert sum(product["flops"] for product in found["flops"]["products"]) == found["flops"]["forward_per_sequence"]
    assert sum(tensor["bytes"] for tensor in found["memory"]["kept"]) == found["memory"]["activations"]
    assert {"tokens", "steps", "flops", "mfu", "seconds", "seconds_per_step", "tokens_per_second"} <= set(found["run"])
    assert {"memory", "batch_size", "model", "hours", "tokens", "model_for_hours"} <= set(found["fit"])


def test_options_change_the_run(capsys):
    found = document(
        "gpt2-small", "--context-length", 256, "--batch-size", 32, "--micro-batch-size", 8, "--optimizer", "muon",
        "--precision", "bf16", "--attention", "flash", "--kernels", "fast", "--activation-checkpointing",
        "--set", "num_kv_heads=4", "--set", "model.tie_embeddings=true", capsys=capsys,
    )  # fmt: skip
    assert (found["setting"]["batch_size"], found["setting"]["passes"]) == (32, 4)
    assert (found["setting"]["optimizer"], found["setting"]["precision"]) == ("muon", "bf16")
    assert found["setting"]["activation_checkpointing"] is True
    assert (found["model"]["context_length"], found["model"]["num_kv_heads"]) == (256, 4)
    assert found["parameters"]["head"] == 0


def test_a_recipe_a_file_and_a_run_are_targets_too(capsys, tmp_path: Path):
    named = document("tinystories", capsys=capsys)
    assert named["run"]["tokens"] == 40_960_000
    config = override(RunConfig(), {"model.vocab_size": 300, "model.d_model": 64, "model.num_heads": 4})
    save_toml(config, tmp_path / "mine.toml")
    (tmp_path / "run").mkdir()
    save_toml(config, tmp_path / "run" / "config.toml")
    from_file = document(tmp_path / "mine.toml", capsys=capsys)
    from_run = document(tmp_path / "run", capsys=capsys)
    assert from_file["parameters"] == from_run["parameters"]
    assert from_file["model"]["d_model"] == 64


def test_two_side_by_side(capsys):
    code, out, _ = command("--compare", "gpt2-small", "gpt2-medium", "--device", "a100", capsys=capsys)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["parameters", "190,460,160", "505,629,696", "2.65", "x"] in rows
    first, second = document("--compare", "gpt2-small", "gpt2-medium", capsys=capsys)
    assert (first["name"], second["name"]) == ("gpt2-small", "gpt2-medium")


def test_a_sweep_is_a_row_for_each_value_and_a_picture(capsys, tmp_path: Path):
    for kind, head in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        picture = tmp_path / f"sweep.{kind}"
        sweep = ("--sweep", "context_length=256,1024,16384", "--plot", picture)
        code, out, err = command("gpt2-xl", *sweep, capsys=capsys)
        assert (code, err) == (0, "")
        assert picture.read_bytes().startswith(head)
    assert "55.2%" in out
    found = document("gpt2-xl", "--sweep", "num_layers=12,24", capsys=capsys)
    assert [row["value"] for row in found["rows"]] == [12, 24]
    assert found["rows"][1]["flops_per_token"] > 1.8 * found["rows"][0]["flops_per_token"]


def test_numbers_beyond_all_machines_stay_exact(capsys):
    found = document("gpt2-xl", "--tokens", "1e30", "--device", "b200", "--precision", "bf16", capsys=capsys)
    assert found["run"]["tokens"] == 10**30
    assert found["run"]["flops"] == 10**30 * 3 * 4_513_336_524_800 // 1024
    code, out, _ = command("gpt2-xl", "--tokens", "1e30", "--device", "b200", "--precision", "bf16", capsys=capsys)
    assert (code, "years" in out) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["gpt2-xl", "--set", "num_layers=1000000000"],
        ["report-36m", "--context-length", 10**18],
        ["report-36m", "--batch-size", 10**18 + 3],
        ["gpt2-xl", "--fit-memory", "1e40PB"],
        ["gpt2-xl", "--fit-hours", "1e300", "--device", "h200"],
    ],
    ids=str,
)
def test_a_size_beyond_all_machines_has_its_answer_at_once(arguments, capsys):
    began = time.perf_counter()
    assert document(*arguments, capsys=capsys)["parameters"]["total"] > 0
    assert time.perf_counter() - began < 2


def test_precision_auto_is_what_the_device_multiplies(capsys):
    options = ("owt", "--precision", "auto")
    found = {card: document(*options, "--device", card, capsys=capsys) for card in ("h100", "t4")}
    assert [one["setting"]["precision"] for one in found.values()] == ["bf16", "fp32"]
    assert [one["device"]["flops"] for one in found.values()] == [989.5e12, 8.1e12]
    assert document(*options, capsys=capsys)["setting"]["precision"] == "bf16"


def test_a_run_that_does_not_fit_says_so_everywhere(capsys):
    _, out, _ = command("gpt2-xl", "--device", "a100-40gb", capsys=capsys)
    for part in ("available", "It will not fit", "10.99 GB more than there are", "does not fit the 40.00 GB"):
        assert part in out


def test_a_run_over_several_processes_is_counted_as_one(capsys):
    _, out, _ = command("report-36m", "--set", "parallel=fsdp", capsys=capsys)
    assert "fsdp, counted as one process with a whole model" in out


def test_the_devices_are_listed(capsys):
    code, out, _ = command("--devices", capsys=capsys)
    assert (code, "h200-nvl" in out, "4,800" in out, "NVIDIA H200 data sheet, 2024" in out) == (0, True, True, True)
    assert {"key", "bf16", "memory", "bandwidth", "source"} <= set(document("--devices", capsys=capsys)[0])


def test_the_presets_are_listed(capsys):
    code, out, _ = command(capsys=capsys)
    assert code == 0
    assert all(name in out for name in PRESETS)


def test_the_exercise_is_answered(capsys):
    _, out, _ = command("gpt2-xl", "--exercise", capsys=capsys)
    for figure in ("34,032,921,600", "16,461,471,744", "13,864,969,804,185,600", "6,583.56 days = 18.02 years"):
        assert figure in out


def test_the_processor_is_measured(capsys, monkeypatch):
    module = importlib.import_module("groundup.train.preview.dry_run")  # of the name, the package has the function
    measure = module.measure_matmul_flops
    monkeypatch.setattr(module, "measure_matmul_flops", lambda *a: measure(*a, size=64, rounds=1))
    found = document("report-36m", "--device", "cpu", capsys=capsys)
    assert found["device"]["source"].startswith("measured now on ")
    assert found["device"]["flops"] > 0
    assert found["run"]["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt2-x1"], "no preset, recipe or run 'gpt2-x1'; did you mean 'gpt2-xl'?"),
        (["gpt2-xl", "gpt2-small"], "2 targets (gpt2-xl gpt2-small); expected one target, or two with --compare"),
        (["--compare", "gpt2-xl"], "1 targets (gpt2-xl); expected two targets"),
        (["gpt2-xl", "--device", "h20"], "no device 'h20' in the table; did you mean h200"),
        (["gpt2-xl", "--device", "h200", "--mfu", "1.5"], "mfu = 1.5; expected a share of the peak in (0, 1]"),
        (["gpt2-xl", "--batch-size", "-4"], "data.batch_size = -4; expected at least 1"),
        (["gpt2-xl", "--context-length", "0"], "model.context_length = 0; expected at least 1"),
        (["gpt2-xl", "--set", "num_heads=7"], "model.num_heads = 7 does not divide model.d_model = 1600"),
        (["gpt2-xl", "--set", "d_ff=many"], "model.d_ff = 'many'; expected a whole number"),
        (["gpt2-xl", "--set", "d_fff=3"], "unknown option d_fff; did you mean 'd_ff'?"),
        (["gpt2-xl", "--set", "d_ff"], "--set d_ff; expected NAME=VALUE"),
        (["gpt2-xl", "--tokens", "-1"], "'-1' is not a number; expected one such as 10000, 1e9 or 300B"),
        (["gpt2-xl", "--fit-memory", "80"], "'80' is not a size; expected a number and its unit"),
        (["gpt2-xl", "--fit-hours", "3"], "--fit-hours needs a device whose peak is known"),
        (["gpt2-xl", "--fit-hours", "-3", "--device", "h200"], "--fit-hours = -3; expected a positive, finite number"),
        (["gpt2-xl", "--sweep", "context_length"], "--sweep context_length; expected NAME=VALUE,VALUE"),
        (["gpt2-xl", "--plot", "a.png"], "--plot draws a sweep; give --sweep too"),
        (["gpt2-xl", "--sweep", "d_ff=8,9", "--plot", "a.bmp"], "--plot a.bmp; expected a file that ends in .png"),
        (["demo"], "demo: model.vocab_size = 0 is taken from the data; give it, e.g. --vocab-size 10000"),
        (
            ["gpt2-xl", "--fit-hours", "inf", "--device", "h200"],
            "--fit-hours = inf; expected a positive, finite number",
        ),
        (["gpt2-xl", "--tokens", "1e400"], "gpt2-xl: a result is beyond 1e308"),
        (["gpt2-xl", "--device", "h200", "--mfu", "1e-320", "--tokens", "1e300", "--json"], "a result is beyond 1e308"),
        (["--compare", "gpt2-xl", "gpt2-small", "--sweep", "d_ff=8"], "--compare and --sweep both make columns"),
        (["gpt2-xl", "--kept", "--sweep", "d_ff=8"], "--exercise and --kept describe one run"),
        (["--sweep", "d_ff=8"], "no target; expected one target, or two with --compare"),
        (["."], ". is a folder without config.toml; expected the folder of a run"),
        (["gpt2-xl", "--wrong"], "--wrong"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(*arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_what_counts_nothing_needs_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom groundup.cli.main import main\n"
        "for arguments in (['account', '--help'], ['account', '--devices']):\n"
        "    try: main(arguments)\n    except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"
