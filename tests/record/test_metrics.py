"""The one reader of a run's record: whole lines in, damaged ones named, whatever the damage."""

import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.record import metrics as lines_module
from groundup.record import parse_json, read_jsonl, read_metrics, read_object, read_samples
from groundup.record.sinks import JsonlSink

GOOD = [{"step": step, "tokens": 64 * step, "train_loss": 3.5 / (1 + step), "mfu": None} for step in range(6)]
DAMAGED = [
    b"\0\0\0\0", b'{"step": 3, "train_lo', b"\x89PNG\r\x1a", b"[1, 2]", b"3", b"null", b'"text"', b"", b"{}",
    b'{"step": "3"}', b'{"step": 3.5}', b'{"step": -1}', b'{"step": true}', b'{"step": 3, "train_loss": NaN}',
    b'{"step": 3, "train_loss": Infinity}', b'{"step": 3, "train_loss": 1e999}', b'{"step": 3, "val_loss": "low"}',
    b'{"step": 3, "val_loss": [1]}', b'{"step": 3, "lr": ' + b"9" * 5000 + b"}", b"[" * 10_000 + b"]" * 10_000,
    b'{"step": ' + b"9" * 30 + b"}", b'{"step": 3, "caf\xe9": 1}', b'{"step": 3} {"step": 3}',
    b'{"step": 3}, {"step": 3}',
]  # fmt: skip


def encoded(line: dict) -> bytes:
    return json.dumps(line).encode()


@pytest.fixture(params=["as installed", "without orjson"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without orjson":
        monkeypatch.setattr(lines_module, "loads", parse_json)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: repr(damage[:24]))
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path: Path, damage: bytes, place: int):
    content = list(map(encoded, GOOD))
    content.insert(place, damage)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(content) + b"\n")
    record = read_metrics(path)
    assert record.lines == GOOD
    assert list(record.damaged) == [place + 1]
    assert record.last_is_damaged == (place == 6)
    assert f"metrics.jsonl is damaged: line {place + 1} " in record.note
    assert "\n" not in record.note
    assert read_metrics(path, last_bytes=len(b"\n".join(content[-2:])) + 2).lines == [
        line for line in GOOD if encoded(line) in content[-2:]
    ]


@pytest.mark.usefixtures("parser")
def test_a_torn_last_line_is_no_damage(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    whole = b"".join(encoded(line) + b"\n" for line in GOOD)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        record = read_metrics(path)
        assert record.lines == GOOD[: whole[:cut].count(b"\n")]
        assert record.note == ""


def test_what_is_not_there_has_no_lines(tmp_path: Path):
    assert read_metrics(tmp_path / "metrics.jsonl").lines == []
    assert read_samples(tmp_path / "samples.jsonl").lines == []


@given(st.binary(max_size=200))
def test_no_bytes_break_the_readers(content: bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(content)
        for read in (read_metrics, read_samples):
            record = read(path)
            assert len(record.lines) + len(record.damaged) == content.count(b"\n")
        for reader in (lambda: list(read_jsonl(path)), lambda: read_object(path)):
            with contextlib.suppress(ValueError):
                reader()


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: repr(damage[:24]))
def test_at_resume_damage_before_the_checkpoint_is_told_and_damage_after_it_dropped(tmp_path: Path, damage: bytes):
    content = list(map(encoded, GOOD))
    content.insert(2, damage)
    for after in (b"\0\0\n", b'{"step": 7}\n\0\0\n', b'{"step": 9, "train'):
        (tmp_path / "metrics.jsonl").write_bytes(b"\n".join(content) + b"\n" + after)
        sink = JsonlSink(tmp_path, after_step=3)
        sink.close()
        assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(encoded(line) + b"\n" for line in GOOD[:4])
        (note,) = sink.notes
        assert "metrics.jsonl is damaged: line 3 " in note
        assert str(tmp_path) in note


def test_lines_that_are_kept_are_kept_bit_for_bit(tmp_path: Path):
    odd = b'{ "step":1,\t"loss": 1.50e-0 , "loss": 2 }\n'
    (tmp_path / "metrics.jsonl").write_bytes(odd + b'{"step": 2}\n')
    JsonlSink(tmp_path, after_step=1).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == odd


def test_samples_must_have_their_text(tmp_path: Path):
    path = tmp_path / "samples.jsonl"
    whole = {"step": 1, "prompt": "", "text": "a\u2028b"}
    path.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (whole, {"step": 2}, {**whole, "text": 3})),
        encoding="utf-8",
    )
    record = read_samples(path)
    assert record.lines == [whole]
    assert list(record.damaged) == [2, 3]


@pytest.mark.parametrize("content", [b"[" * 10_000, b"\xff", b"", b"[1]", b"{", b'{"a": NaN}', b"1" * 5000])
def test_an_object_that_is_none_is_a_value_error(tmp_path: Path, content: bytes):
    (tmp_path / "summary.json").write_bytes(content)
    with pytest.raises(ValueError, match=r".+"):
        read_object(tmp_path / "summary.json")


def test_the_record_is_read_without_torch():
    program = "import sys, groundup.record; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
