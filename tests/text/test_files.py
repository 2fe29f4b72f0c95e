import os
import stat
from pathlib import Path

import pytest

from groundup.errors import DataError, FileMissingError
from groundup.text.files import find_files, left_out_line
from groundup.text.readers import TextReader


def message(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def folder(tmp_path) -> Path:
    """Files at three levels, and all that is left out."""
    for name in ("b/z.txt", "b/a/deep.ndjson", "a.jsonl", "c.txt.gz"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text")
    for name in ("readme.md", ".hidden.txt", "meta.json", "b/z.parquet.gz"):
        (tmp_path / name).write_bytes(b"no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "notes.txt").write_bytes(b"no")
    (tmp_path / "empty.txt").touch()
    os.mkfifo(tmp_path / "pipe.txt")
    return tmp_path


def test_a_folder_is_walked_in_the_order_of_names(folder):
    found = find_files(folder)
    assert [str(path.relative_to(folder)) for path in found.files] == [
        "a.jsonl",
        "b/a/deep.ndjson",
        "b/z.txt",
        "c.txt.gz",
    ]
    assert {str(path.relative_to(folder)): reason for path, reason in found.left_out} == {
        "readme.md": "no known suffix",
        ".hidden.txt": "hidden",
        ".git": "hidden",
        "meta.json": ".json is read only if named",
        "b/z.parquet.gz": "no known suffix",
        "empty.txt": "empty",
        "pipe.txt": "not a regular file",
    }


def test_one_line_says_what_was_left_out(folder):
    (folder / "new\nline.doc").write_bytes(b"no")
    line = left_out_line(find_files(folder).left_out)
    assert line.startswith(f"left out 8 in {folder}/: ")
    assert "empty.txt (empty)" in line
    assert "and 3 more" in line
    assert "\n" not in line
    assert left_out_line([]) == ""


def test_links_to_folders_are_followed_once(folder):
    (folder / "b" / "up").symlink_to(folder)
    (folder / "other").symlink_to(folder / "b")
    (folder / "z-link.txt").symlink_to("b/z.txt")
    found = find_files(folder)
    assert [str(path.relative_to(folder)) for path in found.files] == [
        "a.jsonl",
        "b/a/deep.ndjson",
        "b/z.txt",
        "c.txt.gz",
        "z-link.txt",
    ]
    reasons = {path.name: reason for path, reason in found.left_out}
    assert reasons["up"] == f"the same folder as {folder}"
    assert reasons["other"] == f"the same folder as {folder / 'b'}"


@pytest.mark.parametrize("name", ["x.txt", "b/x.txt", "b/folder", "b/noted.md"])
def test_a_link_to_nothing_is_an_error(folder, name):
    (folder / name).symlink_to("nowhere")
    with pytest.raises(FileMissingError, match="is a link to nowhere, which does not exist") as error:
        find_files(folder)
    assert str(folder / name) in message(error)


def test_a_link_to_itself_is_an_error(tmp_path):
    (tmp_path / "x.txt").symlink_to("x.txt")
    for inputs in (tmp_path, tmp_path / "x.txt"):
        with pytest.raises(DataError, match=r"x\.txt cannot be read") as error:
            find_files(inputs)
        message(error)


def test_an_unreadable_sub_folder_is_an_error(unreadable_file):
    nobody = os.geteuid()
    os.seteuid(0 if os.getuid() == 0 else nobody)
    inner = unreadable_file.parent / "b"
    inner.mkdir()
    inner.chmod(0)
    (unreadable_file.parent / "a.txt").write_bytes(b"a")
    os.seteuid(nobody)
    try:
        with pytest.raises(DataError, match="b cannot be read: Permission denied"):
            find_files(unreadable_file.parent)
    finally:
        inner.chmod(stat.S_IRWXU) if os.getuid() else None


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_devices_are_refused(device):
    for inputs in (device, ["-", device]):
        with pytest.raises(DataError, match="is a device or socket") as error:
            TextReader(inputs)
        assert device in message(error)


def test_a_folder_without_text_says_what_is_in_it(tmp_path):
    (tmp_path / "a.md").write_bytes(b"a")
    with pytest.raises(DataError, match=r"contains no text files.*left out 1 in .*a\.md \(no known suffix\)"):
        find_files(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9\n.txt")
    Path(name).write_bytes(b"hello")
    assert list(TextReader(tmp_path).documents()) == [b"hello"]
    with pytest.raises(DataError, match="NUL"):
        find_files("a\0.txt")
