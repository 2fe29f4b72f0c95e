"""What the terminal gets."""

import pytest
from rich.panel import Panel
from rich.text import Text

from groundup.display.console import ConsoleDisplay, make_console, print_pairs, print_section


@pytest.mark.parametrize("code", ["\x1b[31m", "\x1b]0;title\x07", "\x9b31m", "\x00", "\x08", "\u202e", "\udcff"])
def test_escape_codes_in_a_text_are_written_out(code: str, capsys: pytest.CaptureFixture):
    console = make_console()
    name = f"run{code}name"
    for shown in (name, Text(name), Panel(Text(name))):
        console.print(shown, markup=False)
    print_pairs(console, {"run": name})
    written = capsys.readouterr().out
    assert written.count("run") >= 4
    assert code not in written
    assert written.replace("\n", "").isprintable()


def test_a_second_session_shows_what_is_new_in_its_plan(capsys: pytest.CaptureFixture):
    display = ConsoleDisplay()
    display.begin({"model": "small", "limit": "none"}, 10, 0)
    assert "small" in capsys.readouterr().out
    display.begin({"model": "small", "limit": "2 minutes"}, 10, 4)
    written = capsys.readouterr().out
    assert "2 minutes" in written
    assert "small" not in written


def test_other_text_and_styles_stay(capsys: pytest.CaptureFixture):
    console = make_console()
    console.print(Text("日本 é\n2\tthree"))
    assert capsys.readouterr().out == "日本 é\n2       three\n"
    styled = type(console)(force_terminal=True, color_system="standard", width=20)
    styled.print(Text.from_ansi("\x1b[31mred\x1b[0m"))
    assert "\x1b[31mred\x1b[0m" in capsys.readouterr().out


def test_lines_in_a_file_end_without_blanks(capsys):
    console = make_console()
    print_pairs(console, {"run": "mine", "verified": "a\nlonger text"})
    print_section(console, "title", ["name", "value"], [("a", "x"), ("b", "a longer text")], "a note")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 6
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[1:3] == ["verified  a", "          longer text"]
