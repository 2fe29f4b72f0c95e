"""Commands that are printed do in a shell what they say."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from groundup.system.command import command

NAMES = ["plain", "a b", "it's", 'a"b', "$(echo x);`y`|&*?", "a\nb", "#x", "~", "-x", "--out", "é",
         "\x1b[31mred\a'\\", "caf\udce9 %s\r"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_hands_over_each_path_as_one_word(name: str):
    line = command("report", Path(name), "--out", Path(name) / "r", f"--name={name}")
    shown = subprocess.run(["sh", "-c", f"groundup() {{ printf '%s\\0' \"$@\"; }}; {line}"], capture_output=True).stdout
    assert line.replace("\n", "").isprintable()
    words = os.fsdecode(shown).split("\0")[:-1]
    assert [words[0], words[2]] == ["report", "--out"]
    assert words[4] == f"--name={name}"
    for word, path in ((words[1], Path(name)), (words[3], Path(name) / "r")):
        assert Path(word) == path
        assert not word.startswith("-")
    assert shlex.split(line)[0] == "groundup"
