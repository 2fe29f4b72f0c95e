"""Names that are not UTF-8 in all records of ours, and locks."""

import fcntl
import json
import os
import subprocess
import sys

import pytest

from groundup.config import RunConfig, from_dict
from groundup.config.recipe import load_toml, save_toml
from groundup.errors import ConfigError
from groundup.record.read import read_run
from groundup.record.run import RunDirectory
from groundup.record.sinks import JsonlSink
from groundup.reports.run_list import list_runs, tag_run
from groundup.system.files import json_text, locked, read_json, text_bytes, write_atomically

ODD = os.fsdecode(b"caf\xe9 \"two\"\nlines 'x' \xff")


class TestNames:
    def test_a_config_comes_back_from_toml(self, tmp_path):
        config = from_dict(RunConfig, {"data": {"train": f"/data/{ODD}", "valid": "日本"}})
        save_toml(config, tmp_path / "config.toml")
        assert from_dict(RunConfig, load_toml(tmp_path / "config.toml")) == config

    def test_half_a_surrogate_pair_is_no_name(self):
        with pytest.raises(ConfigError, match="without halves of surrogate pairs"):
            from_dict(RunConfig, {"data": {"train": "\ud83d"}})

    def test_a_run_in_a_folder_of_any_name(self, tmp_path):
        config = from_dict(RunConfig, {"data": {"train": f"/data/{ODD}"}})
        run = RunDirectory(tmp_path / ODD / ODD)
        run.create(config, {"command": ["groundup", ODD]})
        run.write_summary({"finished": True, "path": ODD})
        tag_run(run.path, ODD)
        assert run.config == config
        found = read_run(run.path)
        assert (found.problem, found.environment["command"], found.tags) == ("", ["groundup", ODD], [ODD.strip()])
        for _ in range(2):  # the second time from the index
            (row,) = list_runs(tmp_path)
            assert row["run"] == f"{ODD}/{ODD}"
            assert row["data.train"] == f"/data/{ODD}"

    def test_lines_of_a_record_come_back(self, tmp_path):
        sink = JsonlSink(tmp_path)
        sink.sample({"step": 1, "prompt": ODD, "text": "日本\u2028"})
        sink.close()
        (line,) = map(json.loads, (tmp_path / "samples.jsonl").read_bytes().splitlines())
        assert line == {"step": 1, "prompt": ODD, "text": "日本\u2028"}

    def test_text_with_lone_surrogates_is_json_that_any_reader_takes(self, tmp_path):
        write_atomically(tmp_path / "a.json", json_text({"name": ODD}))
        assert (
            json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
            == {"name": ODD}
            == read_json(tmp_path / "a.json")
        )
        assert text_bytes("é\udce9") == b"\xc3\xa9\\udce9"


def test_a_fifo_that_nobody_reads_is_no_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(tmp_path / "pipe", "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    write_atomically(tmp_path / "pipe", "text")
    assert (tmp_path / "pipe").read_text() == "text"


class TestLocks:
    def test_one_holder_at_a_time_who_is_named(self, tmp_path):
        with locked(tmp_path / "lock", RuntimeError("taken")):
            with pytest.raises(RuntimeError, match="taken"), locked(tmp_path / "lock", RuntimeError("taken")):
                pass
            with (
                pytest.raises(RuntimeError, match=f"held by process {os.getpid()}"),
                locked(tmp_path / "lock", lambda holder: RuntimeError(f"held by {holder}")),
            ):
                pass
        assert (tmp_path / "lock").exists()
        with locked(tmp_path / "lock", RuntimeError("taken")):
            pass

    def test_a_lock_goes_with_its_process(self, tmp_path):
        script = (
            "import os, sys\nfrom pathlib import Path\nfrom groundup.system.files import locked\n"
            "with locked(Path(sys.argv[1]), RuntimeError()):\n    os._exit(9)"
        )
        assert subprocess.run([sys.executable, "-c", script, tmp_path / "lock"], check=False).returncode == 9
        with locked(tmp_path / "lock", RuntimeError("taken"), keep=False):
            assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
        assert not (tmp_path / "lock").exists()

    def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(self, tmp_path, monkeypatch):
        flock, calls = fcntl.flock, []

        def removed_first(file, operation):
            if not calls:  # as where the holder removes it between opening and locking
                (tmp_path / "lock").unlink()
            calls.append(1)
            flock(file, operation)

        monkeypatch.setattr(fcntl, "flock", removed_first)
        with locked(tmp_path / "lock", RuntimeError("taken")):
            assert len(calls) == 2
            with pytest.raises(RuntimeError, match="taken"), locked(tmp_path / "lock", RuntimeError("taken")):
                pass
