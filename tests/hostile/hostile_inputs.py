"""Hostile things that may lie where a file is expected, hostile places to write to, names and words."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

DIGITS = "7" * 5000
BRACKETS = 10_000

# name of the kind -> content of the file, from the undamaged content and the ending of the file's name
Content = Callable[[bytes, str], bytes]


def _number(good: bytes, ending: str) -> bytes:
    if ending == ".toml":
        return b"seed = " + DIGITS.encode() + b"\n"
    if ending == ".jsonl":
        return b'{"text": "alpha", "id": ' + DIGITS.encode() + b"}\n"
    return b'{"format": "groundup-tokenizer", "version": ' + DIGITS.encode() + b"}" if ending == ".json" else _digits()


def _digits() -> bytes:
    return DIGITS.encode() + b"\n"


def _nested(good: bytes, ending: str) -> bytes:
    opened, closed = b"[" * BRACKETS, b"]" * BRACKETS
    if ending == ".toml":
        return b"name = " + opened + closed + b"\n"
    return b'{"text": ' + opened + closed + b"}\n"


def _objects(good: bytes, ending: str) -> bytes:
    if ending == ".toml":
        return b"name = " + b"{a = " * BRACKETS + b"1" + b"}" * BRACKETS + b"\n"
    return b'{"a":' * BRACKETS + b"1" + b"}" * BRACKETS + b"\n"


def _twice(good: bytes, ending: str) -> bytes:
    if ending == ".toml":
        return good + b'\nname = "one"\nname = "two"\n'
    return b'{"text": "a", "text": "b", "model": {}, "model": 1}\n'


CONTENTS: dict[str, Content] = {
    "empty": lambda good, ending: b"",
    "newline": lambda good, ending: b"\n",
    "blanks": lambda good, ending: b" \t \r\n \n",
    "bom": lambda good, ending: b"\xef\xbb\xbf" + good,
    "utf16": lambda good, ending: good.decode("utf-8", "replace").encode("utf-16"),
    "utf16-be": lambda good, ending: good.decode("utf-8", "replace").encode("utf-16-be"),
    "nul": lambda good, ending: good[: len(good) // 2] + b"\0" + good[len(good) // 2 :],
    "nuls": lambda good, ending: bytes(4096),
    "latin1": lambda good, ending: b"caf\xe9 " + good,
    "binary": lambda good, ending: random.Random(1).randbytes(4096),
    "crlf": lambda good, ending: good.replace(b"\n", b"\r\n"),
    "number": _number,
    "digits": lambda good, ending: _digits(),
    "nested": _nested,
    "objects": _objects,
    "twice": _twice,
    "null": lambda good, ending: b"null\n",
    "list": lambda good, ending: b"[]\n",
    "object": lambda good, ending: b"{}\n",
    "string": lambda good, ending: b'"x"\n',
    "one": lambda good, ending: b"1\n",
    "nan": lambda good, ending: b"NaN\n",
    "surrogate": lambda good, ending: b'{"text": "x\\ud83dy", "name": "\\udcff", "\\udc80": 1}\n',
    "surrogate-bytes": lambda good, ending: b"name = '\xed\xa0\xbd'\n",
    "long-line": lambda good, ending: b"x" * 1_000_000,
    "many-lines": lambda good, ending: b"\n" * 100_000,
    "gzip-magic": lambda good, ending: b"\x1f\x8b\x08\x00" + good,
    "zstd-magic": lambda good, ending: b"\x28\xb5\x2f\xfd" + good,
    "zip-magic": lambda good, ending: b"PK\x03\x04" + good,
    "parquet-magic": lambda good, ending: b"PAR1" + good + b"PAR1",
    "npy-magic": lambda good, ending: (
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<u2', 'fortran_order': False, 'shape': (99,)}\n"
    ),
    "npy-huge": lambda good, ending: _npy("(1099511627776,)"),
    "npy-negative": lambda good, ending: _npy("(-1,)"),
    "npy-nested": lambda good, ending: _npy("(" * 200 + ")" * 200),
    "npy-objects": lambda good, ending: _npy("(1,)", "|O"),
    "safetensors-huge": lambda good, ending: (1 << 62).to_bytes(8, "little") + b"{}",
    "half": lambda good, ending: good[: len(good) // 2],
    "doubled": lambda good, ending: good + good,
    "comments": lambda good, ending: b"# nothing\n",
}


def _npy(shape: str, kind: str = "<u2") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


# What lies at a path instead of the file. Each gets the path, which does not exist yet, and the good content.
def _missing(path: Path, good: bytes) -> None:
    pass


def _directory(path: Path, good: bytes) -> None:
    path.mkdir()


def _full_directory(path: Path, good: bytes) -> None:
    path.mkdir()
    (path / "inner").mkdir()
    (path / "file.txt").write_bytes(b"\xff\xfe\0")
    (path / "dangling").symlink_to("nowhere")


def _fifo(path: Path, good: bytes) -> None:
    os.mkfifo(path)


def _loop(path: Path, good: bytes) -> None:
    path.symlink_to(path.name)


def _loop_of_folders(path: Path, good: bytes) -> None:
    path.mkdir()
    (path / "again").symlink_to(".")


def _dangling(path: Path, good: bytes) -> None:
    path.symlink_to("nowhere")


def _socket(path: Path, good: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # the name may be longer than a socket's address
        one.bind(path.name)
        os.chdir(path.parent.parent)


def _link_to(target: str) -> Callable[[Path, bytes], None]:
    return lambda path, good: path.symlink_to(target)


PLACES: dict[str, Callable[[Path, bytes], None]] = {
    "missing": _missing,
    "directory": _directory,
    "full-directory": _full_directory,
    "fifo": _fifo,
    "loop": _loop,
    "loop-of-folders": _loop_of_folders,
    "dangling": _dangling,
    "socket": _socket,
    "proc-mem": _link_to("/proc/self/mem"),
    "dev-null": _link_to("/dev/null"),
    "dev-full": _link_to("/dev/full"),
    "dev-zero": _link_to("/dev/zero"),
}
ENDLESS = ("dev-full", "dev-zero")
"""Reading these never ends; what reads text as a stream may do that for ever, as ``cat`` does."""

# Paths that cannot be made: what a shell may still pass.
PATHS = {
    "through-file": "text.txt/x",
    "too-long": "x" * 300,
    "too-deep": "d/" * 3000 + "x",
    "nothing": "",
    "dot": ".",
    "dots": "..",
    "root": "/",
    "dash": "-",
    "blank": " ",
    "dashes": "--",
    "option": "--no-such-option",
    "proc": "/proc/self/fd/99",
}
OUTPUT_PATHS = {
    "full": "/dev/full",
    "missing-parent": "no/such/folder/x",
    "through-file": "text.txt/x",
    "too-long": "x" * 300,
    "proc": "/proc/x",
    "sys": "/sys/x",
    "nothing": "",
    "dot": ".",
    "dots": "..",
    "null": "/dev/null",
    "below-null": "/dev/null/x",
    "dashes": "--",
}

NAMES: dict[str, bytes] = {
    "newline": b"a\nb",
    "return": b"a\rb",
    "single-quote": b"it's",
    "double-quote": b'a"b',
    "blanks": b" a  b ",
    "dash": b"-x",
    "dashes": b"--help",
    "latin1": b"caf\xe9",
    "not-utf8": b"\xff\xfe",
    "255-bytes": b"n" * 246,
    "255-unicode": "é".encode() * 123,
    "escape": b"\x1b[31mred\x1b[0m\x07",
    "markup": b"[bold]x[red]",
    "html": b"<img src=x onerror=alert(1)>&amp;",
    "script": b"<script>alert(1)<",
    "shell": b"$(touch hacked);`touch hacked`|&*?",
    "percent": b"%s%n{0}{x}",
    "tilde": b"~",
    "dots": b"...",
    "device": b"NUL",
    "equals": b"a=b",
    "commas": b"a,b;c:d",
    "hash": b"#x",
    "backslash": b"a\\nb\\",
    "tab": b"a\tb",
    "rtl": "\u202egnp.txt\u2066".encode(),
    "line-separator": "a\u2028b".encode(),
    "combining": "e\u0301\U0001f600".encode(),
}

WORDS = {
    "nothing": "",
    "blank": " ",
    "minus": "-1",
    "zero": "0",
    "nan": "nan",
    "inf": "inf",
    "minus-inf": "-inf",
    "1e400": "1e400",
    "digits": DIGITS,
    "minus-digits": "-" + DIGITS,
    "twenty-digits": "9" * 20,
    "hex": "0x10",
    "arabic": "١٢",
    "underscore": "1_0",
    "newline": "a\nb",
    "escape": "\x1b[31mx",
    "surrogate": "\udcff\udc80",
    "quote": "'",
    "nul-free-binary": "\x01\x02\x7f",
    "long": "y" * 100_000,
    "brackets": "[" * BRACKETS,
    "parens": "(" * BRACKETS,
    "equals": "=",
    "true": "true",
    "false": "false",
    "none": "None",
    "dots": "../../x",
    "comma": ",",
    "markup": "[/red]",
    "percent": "%s{0}",
}


def name_text(kind: str) -> str:
    """A hostile name as Python has it, with what is not UTF-8 escaped."""
    return os.fsdecode(NAMES[kind])


def copy_as(source: Path, target: Path) -> None:
    """A file or folder of the world under another name; nothing if it is made by the command."""
    if not source.exists():
        return
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def keep_changing(path: Path, good: bytes, seed: int) -> int:
    """Start a process that rewrites a file until it is ended; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        draw = random.Random(seed)
        while True:
            with open(path, "r+b") as file:  # in place: whoever has it open or mapped sees it
                kind = draw.randrange(4)
                if kind == 0:
                    file.truncate(draw.randrange(len(good) + 1))
                elif kind == 1:
                    file.write(good + good)
                elif kind == 2:
                    file.write(draw.randbytes(len(good)))
                else:
                    file.write(good)
                    file.truncate(len(good))
            time.sleep(0.0002)
    finally:
        os._exit(0)


def serve_fifo(path: Path, good: bytes) -> int:
    """Start a process that writes into a FIFO once somebody reads it; returns its id."""
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        path.write_bytes(good)
    finally:
        os._exit(0)


def drain_fifo(path: Path) -> int:
    """Start a process that reads a FIFO to its end; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        path.read_bytes()
    finally:
        os._exit(0)


def mutations(content: bytes, ending: str) -> list[bytes]:
    """JSON or JSONL with one value replaced by another kind of value, or left out: all of them, one after the other."""
    lines = content.splitlines(keepends=True) if ending == ".jsonl" else [content]
    found = []
    for number, line in enumerate(lines):
        try:
            document = json.loads(line)
        except ValueError:
            continue
        for changed in _changed(document):
            written = json.dumps(changed, ensure_ascii=False).replace('"@digits@"', DIGITS)
            new = written.encode("utf-8", "surrogatepass") + b"\n"
            found.append(b"".join([*lines[:number], new, *lines[number + 1 :]]))
    return found


_VALUES = (None, True, -1, 0, 1 << 70, -1.5, float("nan"), float("inf"), "@digits@", "", "x", "../..", [], {}, [[]])


def _changed(value: object) -> list[object]:
    """The value with one part of it changed: each part in turn, by each of the other values."""
    found: list[object] = [other for other in _VALUES if type(other) is not type(value) or other != value]
    if isinstance(value, dict):
        for key in list(value)[:40]:
            found.append({k: v for k, v in value.items() if k != key})
            found += [value | {key: inner} for inner in _changed(value[key])]
        found.append(value | {"extra": 1})
    elif isinstance(value, list):
        for place in sorted({0, len(value) // 2, len(value) - 1} & set(range(len(value)))):
            found.append(value[:place] + value[place + 1 :])
            found += [[*value[:place], inner, *value[place + 1 :]] for inner in _changed(value[place])]
    return found
