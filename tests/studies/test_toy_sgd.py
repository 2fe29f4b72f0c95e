import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.cli.main import main
from groundup.errors import ConfigError
from groundup.studies.toy_sgd import behaviour, toy_sgd

# Published for seed 42: the report's table, as recomputed in the course's specification.
PUBLISHED = {
    1.0: [24.1693, 23.2122, 22.5603, 22.0423, 21.6036],
    10.0: [24.1693, 15.4683, 11.4026, 8.9213, 7.2263],
    100.0: [24.1693, 24.1693, 4.1468, 0.09924, 1.5e-16],
    1000.0: [24.1693, 8725.10, 1506962.4, 167633472.0, 1.3578e10],
}


def command(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["experiment", "toy-sgd", *map(str, arguments)])
    return int(end.value.code or 0), *capsys.readouterr()


def test_the_published_losses_come_out_again():
    found = toy_sgd(list(PUBLISHED))
    for rate, losses in PUBLISHED.items():
        for ours, theirs in zip(found[rate][:4], losses[:4], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    assert found[10.0][4] == pytest.approx(7.2263, rel=1e-4)
    assert found[10.0][9] == pytest.approx(3.2482, rel=1e-4)
    assert found[100.0][4] < 1e-12
    assert found[1000.0][4] == pytest.approx(1.3578e10, rel=1e-3)
    assert found[1000.0][9] == pytest.approx(2.24e18, rel=1e-2)
    assert found[1.0][9] == pytest.approx(20.0003, rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0, 60), seed=st.integers(0, 2**31))
def test_each_loss_follows_from_the_one_before_by_the_closed_form(rate, seed):
    losses = toy_sgd([rate], steps=6, seed=seed)[rate]
    expected = losses[0]
    for t, loss in enumerate(losses):
        assert loss == pytest.approx(expected, rel=1e-3, abs=1e-9 * losses[0])
        expected *= (1 - 0.02 * rate / math.sqrt(t + 1)) ** 2


def test_all_rates_begin_at_the_same_weights_and_torchs_random_numbers_are_not_touched():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = toy_sgd([0.0, 3.0], steps=2)
    assert found[0.0] == [found[3.0][0]] * 2
    assert torch.equal(torch.rand(3), expected)


def test_words_say_what_a_rate_did():
    found = toy_sgd([1.0, 10.0, 100.0, 1000.0])
    words = [behaviour(rate, losses) for rate, losses in found.items()]
    assert words[0] == "falls to 83% of where it began"
    assert words[1] == "falls to 13% of where it began"
    assert words[2] == "solves the problem, since step 4 goes exactly to the minimum"
    assert words[3].startswith("diverges: the loss grows 9.3e+16-fold")
    assert behaviour(0.0, [1.0, 1.0]) == "does not fall"
    assert behaviour(9.0, [1.0, math.inf]) == "diverges to infinity"


def test_the_command_prints_a_table_and_draws_curves(capsys, tmp_path: Path):
    code, out, err = command("--plot", tmp_path / "toy.png", capsys=capsys)
    assert (code, err) == (0, "")
    assert "24.1693" in out
    assert "15.4683" in out
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = command("--learning-rates", 2, 3, "--steps", 3, "--json", capsys=capsys)
    found = json.loads(out)
    assert [run["learning_rate"] for run in found["runs"]] == [2.0, 3.0]
    assert all(len(run["losses"]) == 3 for run in found["runs"])


def test_json_has_no_infinity(capsys):
    _, out, _ = command("--learning-rates", "1e30", "--json", capsys=capsys)
    (run,) = json.loads(out, parse_constant=pytest.fail)["runs"]
    assert run["losses"][0] == pytest.approx(24.1693, abs=1e-4)
    assert run["losses"][1:] == [None] * 9
    assert run["finding"] == "diverges to infinity"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps = 0; expected 1 to 1,000,000"),
        (["--learning-rates", "-1"], "lr = -1"),
        (["--learning-rates", "nan"], "lr = nan"),
        (["--learning-rates", "1e300"], "learning rate = 1e+300; expected at most 1e+38"),
        (["--seed", "-1"], "seed = -1; expected a number from 0"),
        (["--learning-rates", "1", "1"], "each only once"),
        (["--plot", "a.gif"], "expected a file that ends in .png, .svg or .pdf"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, capsys):
    code, out, err = command(*arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_no_rates_are_refused():
    with pytest.raises(ConfigError, match="no learning rates; expected at least one"):
        toy_sgd([])
