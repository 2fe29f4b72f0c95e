"""Files of ours are read strictly: what is no regular file, or nests without end, is an error and no wait."""

import os
from pathlib import Path

import pytest

from groundup.record import read_jsonl, read_metrics, read_object
from groundup.system.files import parse_toml, read_bytes, read_json, read_text, why, write_atomically


def read_lines(path: Path) -> list:
    return list(read_jsonl(path))


@pytest.mark.parametrize("read", [read_bytes, read_text, read_json, read_object, read_metrics, read_lines])
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "loop"])
def test_what_is_no_regular_file_is_an_error_at_once(read, kind: str, tmp_path: Path):
    path = tmp_path / "file"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(OSError, match=r"regular|directory|loop|symbolic"):
        read(path)


def test_a_name_with_a_nul_does_not_exist():
    with pytest.raises(FileNotFoundError):
        read_bytes("a\0b")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path):
    (tmp_path / "a").write_bytes("\ufeffname = 'é'".encode())
    assert parse_toml(read_text(tmp_path / "a")) == {"name": "é"}


@pytest.mark.parametrize("text", ["a = " + "[" * 10_000 + "]" * 10_000, "a = " + "7" * 5000, "a = " + "{b = " * 10_000])
def test_toml_that_no_decoder_takes_is_a_value_error(text: str):
    with pytest.raises(ValueError, match=r"deep|digits|TOML|Invalid"):
        parse_toml(text)


def test_reasons_do_not_name_the_file(tmp_path: Path):
    for error in (FileNotFoundError(2, "No such file", "x.toml"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")):
        assert "x.toml" not in why(error)
        assert why(error)


def test_a_link_that_leads_to_itself_is_not_written_to(tmp_path: Path):
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(OSError, match="symbolic"):
        write_atomically(link, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]
    assert link.is_symlink()
