"""Standard streams that are full, closed or without a reader, and messages that a terminal can show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.cli.main import printable


def in_shell(command: str, tmp_path: Path) -> tuple[int, str, str]:
    program = f"{sys.executable} -m groundup"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; groundup() {{ {program} \"$@\"; }}; {command}"],
        cwd=tmp_path, capture_output=True, text=True, errors="surrogateescape",
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", ["stories", "account --devices --json", "--help", "experiment toy-sgd --json"])
def test_a_full_disk_behind_standard_output_is_one_line_and_code_2(arguments: str, tmp_path: Path):
    code, _, error = in_shell(f"groundup {arguments} > /dev/full", tmp_path)
    assert (code, error.count("\n")) == (2, 1), error
    assert "standard output" in error
    assert "No space left" in error


def test_output_into_a_pipe_without_a_reader_says_nothing(tmp_path: Path):
    code, _, error = in_shell("groundup stories --show 300 | head -c 1 > /dev/null", tmp_path)
    assert (code, error) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(closed: str, tmp_path: Path):
    """The file that is opened next would have the stream's number, and what is printed would be written into it."""
    expected = in_shell("groundup stories a.txt --megabytes 0.01", tmp_path)
    assert expected[0] == 0, expected
    code, _, error = in_shell(f"groundup stories b.txt --megabytes 0.01 {closed}", tmp_path)
    assert (code, error) == (0, "")
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    code, _, error = in_shell(f"groundup stories b.txt --megabytes 0.01 {closed}", tmp_path)
    assert code == 2
    assert error.count("\n") == (0 if "2>&-" in closed else 1)


@pytest.mark.parametrize(
    "message", ["a\nb\r\n c", "\x1b[31mred\x07", "7" * 5000, "word " * 1000, "\u202egnp.exe\u2028", "\udcff", ""]
)
def test_messages_are_one_short_line_without_control_characters(message: str):
    line = printable(message)
    assert line.isprintable()
    assert len(line) <= 1100
    assert printable("é 漢 'x' – fine") == "é 漢 'x' – fine"


def test_the_end_of_a_long_message_is_kept_since_it_has_the_fix():
    assert printable("cannot read " + "x" * 5000 + "; name another file").endswith("; name another file")


@pytest.mark.parametrize("value", ["=false", "=0", " false", "=No", " False"])
def test_a_boolean_option_can_be_given_false(value: str, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    code, _, error = in_shell(f"groundup stories mine.txt --megabytes 0.01 --overwrite{value}", tmp_path)
    assert (code, "exists already" in error, (tmp_path / "mine.txt").read_text()) == (2, True, "mine")


@pytest.mark.parametrize("value", ["", "=true", "=1", " true", "=Yes"])
def test_a_boolean_option_can_be_given_true(value: str, tmp_path: Path):
    code, out, error = in_shell(f"groundup experiment toy-sgd --json{value} --steps 2", tmp_path)
    assert (code, error) == (0, "")
    assert json.loads(out)


def test_a_boolean_option_takes_no_other_value(tmp_path: Path):
    code, _, error = in_shell("groundup stories x.txt --overwrite=perhaps", tmp_path)
    assert (code, error.count("\n")) == (2, 1)
    assert "expected true or false" in error
    assert "--overwrite" in error
