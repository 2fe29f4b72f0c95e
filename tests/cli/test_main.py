"""The command line as a user meets it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import groundup
from groundup.cli.main import VERBS, main

SOURCE = Path(groundup.__file__).parents[1]


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    adjectives, animals, things = ("little", "young"), ("kitten", "puppy"), ("butterfly", "strawberry", "mountain")
    lines = [f"The {a} {b} saw a {c}.\n<|endoftext|>\n" for a in adjectives for b in animals for c in things]
    path.write_text("".join(lines * 60), encoding="utf-8")
    return path


def test_the_whole_way_by_command(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tokenizer, tokens, run_dir = tmp_path / "tok", tmp_path / "tokens", tmp_path / "runs" / "r"
    code, out, _ = run("tokenizer", "train", corpus, "--vocab-size", 290, "--out", tokenizer, capsys=capsys)
    assert (code, "290 tokens" in out) == (0, True)
    code, out, _ = run("encode", corpus, "--tokenizer", tokenizer, "--out", tokens, capsys=capsys)
    assert (code, "720 documents" in out) == (0, True)
    code, out, _ = run("encode", corpus, "--tokenizer", tokenizer, "--out", tokens, capsys=capsys)
    assert (code, "already complete" in out) == (0, True)
    small = (
        "--context_length 16 --d_model 16 --num_layers 1 --num_heads 2 --max_iters 12 --batch_size 4 --warmup_iters 2"
    )
    train = ["train", "--train_path", tokens, "--val_path", tokens, "--checkpoint_dir", run_dir, *small.split()]
    code, out, _ = run(*train, capsys=capsys)
    assert code == 0
    assert f"groundup generate {run_dir}" in out
    code, _, err = run(*train, capsys=capsys)
    assert (code, "--resume" in err, err.count("\n")) == (2, True, 1)
    assert run(*train, "--overwrite", capsys=capsys)[0] == 0
    assert run("train", "--resume", run_dir, capsys=capsys)[0] == 0
    code, out, _ = run("evaluate", run_dir, "--json", capsys=capsys)
    assert code == 0
    assert 0 < json.loads(out)["bits_per_byte"] < 8
    code, first, _ = run("generate", run_dir, "--seed", 1, capsys=capsys)
    assert (code, first.strip() != "") == (0, True)
    assert run("generate", run_dir, "--seed", 1, capsys=capsys)[1] == first
    code, out, _ = run("generate", run_dir, "--prompt", "The little", "--temperature", 0, "--samples", 2, capsys=capsys)
    assert out.count("The little") == 2
    code, out, _ = run("tokenizer", "inspect", tokenizer, "--text", corpus, "--json-output", capsys=capsys)
    facts = json.loads(out)
    assert (facts["tokens"], facts["special_tokens"]) == (290, ["<|endoftext|>"])
    assert facts["bytes_per_token"] > 2
    assert facts["longest_tokens"][0]["bytes"] == max(t["bytes"] for t in facts["longest_tokens"])


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_demo_goes_the_whole_way(in_tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, out, _ = run("demo", "--steps", 12, capsys=capsys)
    assert code == 0
    for heading in (
        "1  write stories",
        "2  train a tokenizer",
        "3  encode text",
        "4  train",
        "5  stories by the model",
    ):
        assert heading in out
    assert "bits per byte" in out
    assert "loss, nats per token" in out
    summary = json.loads((in_tmp_path / "runs" / "demo" / "summary.json").read_text())
    assert (summary["finished"], summary["step"]) == (True, 12)
    code, out, _ = run("generate", "demo", "--tokens", 5, "--seed", 1, "--prompt", "Once", capsys=capsys)
    assert (code, out.startswith("Once")) == (0, True)
    (in_tmp_path / "mine").mkdir()
    (in_tmp_path / "mine" / "precious.txt").touch()
    code, _, err = run("demo", "--data", "mine", capsys=capsys)
    assert (code, "left alone" in err) == (2, True)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(*verb.split(), "--help", capsys=capsys)
    assert (code, err) == (0, "")
    assert f"groundup {verb}" in out
    assert "{None}" not in out
    assert "(default: )" not in " ".join(out.split())
    about = out.partition("\n\n")[2].partition("╭")[0]
    assert "\n\n\n" not in about
    assert [line for line in about.split("\n") if len(line) > 80 and not line.startswith("  groundup ")] == []


def test_commands_in_help_stand_on_their_lines(capsys: pytest.CaptureFixture[str]):
    _, out, _ = run("lab", "--help", capsys=capsys)
    assert "\n\n  groundup lab\n  groundup lab runs/learning-rate --port 8080\n\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["tokenizer", "trian"], "unknown command 'tokenizer trian'; did you mean 'train'?"),
        (["tokenizer"], "needs one of: train, count, inspect"),
        (["generate", "nowhere"], "no run nowhere"),
        (["evaluate", "nowhere"], "no run nowhere"),
        (["generate"], "RUN must be given; see `groundup generate --help`"),
        (["tokenizer", "train", "x"], "--vocab-size N and --out PATH must be given"),
        (["generate", "r", "--tokens", "1.5"], "--tokens 1.5; expected a whole number\n"),
        (["generate", "r", "--temperature", "hot"], "--temperature hot; expected a number\n"),
        (["generate", "r", "--weights", "int9"], "--weights int9; expected one of float32, bfloat16, int8\n"),
        (["generate", "r", "--tokens"], "--tokens needs a value; see"),
        (["generate", "r", "x"], "unexpected argument 'x'; see"),
        (["generate", "r", "--tokenz", "3"], "unknown option --tokenz; did you mean --tokens?\n"),
        (["data", "show", "x", "y"], "NUMBER y; expected a whole number\n"),
        (["train", "--d_model", "1.5"], "--model.d-model 1.5; expected a whole number\n"),
        (["evaluate", "x", "--spilt", "train"], "--spilt"),
        (["encode", "missing.txt", "--tokenizer", "nowhere", "--out", "o"], "nowhere"),
        (["tokenizer", "train", "missing.txt", "--vocab-size", "300", "--out", "o"], "missing.txt"),
        (["train", "--train_path", "missing"], "missing"),
        (["train", "--device", "quantum", "--train_path", "missing"], "quantum"),
        (["train", "--resume"], "which run"),
        (["train", "--resume", "r", "--overwrite"], "contradict"),
        (["train", "--seed", "99999999999999999999999"], "train.seed"),
        (["train", "--d_model", "1000000007"], "num_heads = 16 does not divide"),
        (["train", "demo", "--dataset", "owt"], "leave one of them out"),
        (["train", "--compile=perhaps"], "expected true or false"),
        (["stories", "out.txt", "--megabytes", "nan"], "--megabytes nan"),
        (["demo", "--minutes", "inf"], "--minutes inf"),
        (["generate", "tmaa"], "no run tmaa"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out, err = run(*arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("groundup: ")
    assert message in err
    assert not list(in_tmp_path.iterdir())


def test_one_of_several_ranks_ends_without_taking_torchs_threads_apart():
    """A regular exit, at which this program would write a line, may end in an abort instead of the exit code."""
    program = (
        "import atexit; from groundup.cli.main import main; atexit.register(print, 'regular'); main(['train', '--x'])"
    )
    ended = {}
    for ranks in ("1", "2"):
        launch = {"RANK": "0", "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        ended[ranks] = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | launch, capture_output=True, text=True
        )
    assert [end.returncode for end in ended.values()] == [2, 2]
    assert [end.stdout for end in ended.values()] == ["regular\n", ""]
    assert ended["1"].stderr == ended["2"].stderr
    assert ended["2"].stderr.startswith("groundup: unknown option --x")


def test_bad_values_of_the_tokenizer_and_the_sampler(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    small = ["tokenizer", "train", corpus, "--vocab-size"]
    code, _, err = run(*small, 256, "--out", tmp_path / "t", capsys=capsys)
    assert (code, "256" in err, "257" in err) == (2, True, True)
    assert run(*small, 260, "--out", tmp_path / "t", capsys=capsys)[0] == 0
    code, _, err = run(*small, 270, "--out", tmp_path / "t", capsys=capsys)
    assert (code, "--overwrite" in err) == (2, True)
    code, _, err = run("encode", corpus, "--tokenizer", tmp_path / "t", "--out", tmp_path / "e", "--separator", "<|x|>",
                       capsys=capsys)  # fmt: skip
    assert (code, "<|x|>" in err) == (2, True)


def python(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True, text=True, env=os.environ | environment, check=False,
    )  # fmt: skip


def test_help_and_import_load_neither_torch_nor_numpy_nor_the_core():
    heavy = "{m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'tyro', 'rich') or m.endswith('_native')}"
    program = f"import sys, groundup\nfrom groundup.cli.main import usage\nusage()\nprint({heavy})"
    assert python(program).stdout == "set()\n"


def test_floor_0_and_the_shards_do_not_import_torch():
    modules = (
        "account config text.readers text.stories tokenizer record display.console record.sinks.tensorboard "
        "record.sinks.wandb data.encode data.shards cli.encode cli.tokenizer.train"
    ).split()
    program = "import sys, importlib\n" + "".join(f"importlib.import_module('groundup.{m}')\n" for m in modules)
    assert python(f"{program}print('torch' in sys.modules)").stdout == "False\n"


def test_trains_and_samples_from_a_plain_source_tree_without_the_core(corpus: Path, tmp_path: Path):
    from groundup.data.encode import encode_files
    from groundup.tokenizer import Tokenizer, train_bpe

    tokenizer = Tokenizer(*train_bpe(corpus, 280, ["<|endoftext|>"]), ["<|endoftext|>"])
    encode_files(corpus, tokenizer, tmp_path / "tokens")
    without_core = (
        "import sys\nsys.modules['groundup.tokenizer._native'] = None\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__]\n"
        f"sys.path.insert(0, {str(SOURCE)!r})\n"
        "from groundup.cli.main import main\nmain(sys.argv[1:])"
    )
    options = (
        "--context_length 16 --d_model 16 --num_layers 1 --num_heads 2 --max_iters 4 --batch_size 4 --warmup_iters 1"
    )
    result = python(without_core, "train", "--train_path", str(tmp_path / "tokens"), "--runs_dir", str(tmp_path),
                    "--sample.interval", "2", *options.split())  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "samples.jsonl").read_text().count("\n") == 2
    refused = python(without_core, "encode", str(corpus), "--tokenizer", str(tmp_path / "tokens" / "tokenizer"),
                     "--out", str(tmp_path / "again"))  # fmt: skip
    assert refused.returncode == 2
    assert "pip install" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_errors_are_one_line_on_a_terminal_too(tmp_path: Path):
    """A terminal makes tyro colour its frames; the line must be the same."""
    import pty

    leader, follower = pty.openpty()
    program = "from groundup.cli.main import main; main(['evaluate', 'x', '--split', 'tarin'])"
    result = subprocess.run([sys.executable, "-c", program], stdout=follower, stderr=follower, check=False)
    os.close(follower)
    shown = os.read(leader, 10_000).decode()
    os.close(leader)
    assert result.returncode == 2
    assert shown.startswith("groundup: --split tarin; expected one of train, valid")
    assert shown.count("\n") == 1
    assert "─" not in shown
    assert "\x1b" not in shown


def test_a_model_too_large_for_the_memory_is_one_line(
    corpus: Path, in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import numpy as np

    np.save("ids.npy", np.zeros(1000, dtype=np.uint16))
    code, _, err = run(
        "train", "--train_path", "ids.npy", "--vocab_size", 300, "--d_ff", 10**12, "--force", capsys=capsys
    )
    assert (code, err.count("\n"), "out of memory" in err) == (2, 1, True)


def test_training_goes_on_when_nobody_reads_its_output(corpus: Path, tmp_path: Path):
    import numpy as np

    np.save(tmp_path / "ids.npy", np.arange(5000, dtype=np.uint16) % 50)
    options = "--vocab_size 50 --context_length 16 --d_model 16 --num_layers 1 --num_heads 2 --max_iters 30"
    command = [sys.executable, "-m", "groundup", "train", "--train_path", str(tmp_path / "ids.npy"), "--val_path",
               str(tmp_path / "ids.npy"), "--eval_interval", "2", "--warmup_iters", "3", "--runs_dir", str(tmp_path),
               *options.split()]  # fmt: skip
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert reader.stdout is not None
    reader.stdout.close()
    reader.wait()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["step"] == 30


def test_names_in_brackets_are_names_and_not_markup(
    corpus: Path, in_tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    code, out, _ = run("tokenizer", "train", corpus, "--vocab-size", 260, "--out", "t[/a]", capsys=capsys)
    assert (code, "t[/a]" in out) == (0, True)
    code, out, _ = run("encode", corpus, "--tokenizer", "t[/a]", "--out", "e[/b]", capsys=capsys)
    assert (code, "e[/b]" in out) == (0, True)


def test_existing_files_are_not_replaced_unasked(in_tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]):
    Path("mine.txt").write_text("mine")
    code, _, err = run("stories", "mine.txt", "--megabytes", 0.01, capsys=capsys)
    assert (code, "--overwrite" in err, Path("mine.txt").read_text()) == (2, True, "mine")
    Path("gpt").mkdir()
    Path("gpt/vocab.json").write_text("{}")
    code, _, err = run("tokenizer", "train", corpus, "--vocab-size", 260, "--out", "gpt", capsys=capsys)
    assert (code, "vocab.json" in err, Path("gpt/vocab.json").read_text()) == (2, True, "{}")
    code, _, err = run("train", "--train_path", "x", "--checkpoint_dir", "gpt", "--overwrite", capsys=capsys)
    assert (code, "left alone" in err, Path("gpt/vocab.json").exists()) == (2, True, True)


@pytest.mark.parametrize("module", ["groundup.cli.main", "groundup.system.launch", "groundup.display.console"])
@pytest.mark.parametrize("swallows", [False, True], ids=["raises", "swallows"])
def test_an_interrupt_of_an_import_is_one_line(module: str, swallows: bool, in_tmp_path: Path):
    """The signal comes while a module is looked for; C extensions may make an ImportError of it."""
    program = f"""
import os, runpy, signal, sys
class Interrupts:
    def find_spec(name, *_):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("swallowed") if {swallows} else KeyboardInterrupt from None
sys.meta_path.insert(0, Interrupts)
sys.argv = ["groundup", "runs"]
runpy.run_module("groundup", run_name="__main__")
"""
    done = python(program)
    assert (done.returncode, done.stderr) == (130, "groundup: interrupted\n")


def test_an_interrupt_when_all_is_done_has_no_traceback():
    program = "import atexit, os, runpy, sys; atexit.register(os.kill, os.getpid(), 2); sys.argv = ['x', '--version']"
    done = python(f"{program}; runpy.run_module('groundup', run_name='__main__')")
    assert (done.returncode, done.stderr) == (-2, "")


def test_the_command_begins_where_imports_can_be_interrupted():
    """Before its first line, a module of few imports: what they raise is a traceback."""
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["groundup"] == "groundup.__main__:main"
    program = "import sys, groundup.__main__; print({'typing', 'dataclasses', 'groundup.cli.main'} & set(sys.modules))"
    assert python(program).stdout == "set()\n"
