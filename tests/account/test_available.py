"""Memory that a process can still get, from files as Linux writes them."""

from pathlib import Path

import pytest

from groundup.account.memory import available_memory

GIB = 2**30


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """8 GiB available, half a GiB of free swap, and a process that has 1 GiB."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(
        "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nSwapFree: 524288 kB\n"
    )
    (tmp_path / "proc" / "self" / "status").write_text("Name:\tpython\nVmRSS:\t 1048576 kB\n")
    return tmp_path


def group(root: Path, place: str, **files: object) -> None:
    folder = root / "sys" / "fs" / "cgroup" / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_what_the_system_has_available_and_the_process_already(system: Path):
    assert available_memory(system) == 9.5 * GIB


def test_a_limit_of_the_second_version_counts_also_above_the_process(system: Path):
    (system / "proc" / "self" / "cgroup").write_text("0::/slurm/job_1/task\n")
    group(system, "slurm/job_1/task", memory__max="max", memory__current=GIB)
    assert available_memory(system) == 9.5 * GIB
    group(system, "slurm/job_1", memory__max=4 * GIB, memory__current=3 * GIB)
    assert available_memory(system) == 2 * GIB  # one is left, and one is the process's own
    group(system, "slurm/job_1", memory__stat=f"anon {2 * GIB}\ninactive_file {GIB}")
    assert available_memory(system) == 3 * GIB  # the cache of files makes room


def test_a_limit_of_the_first_version(system: Path):
    (system / "proc" / "self" / "cgroup").write_text("5:cpu:/x\n4:memory:/docker/abc\n")
    group(system, "memory/docker/abc", memory__limit_in_bytes=3 * GIB, memory__usage_in_bytes=2 * GIB)
    assert available_memory(system) == 2 * GIB
    group(system, "memory/docker/abc", memory__limit_in_bytes=9223372036854771712)
    assert available_memory(system) == 9.5 * GIB


@pytest.mark.parametrize("name", ["meminfo", "self/status", "self/cgroup"])
@pytest.mark.parametrize("content", [b"", b"\xff\0", b"MemAvailable:\n", b"a b c\n:::\n"])
def test_files_of_another_form_are_no_error(system: Path, name: str, content: bytes):
    (system / "proc" / name).write_bytes(content)
    assert available_memory(system) > 0


def test_without_linux_it_is_all_memory(tmp_path: Path):
    assert available_memory(tmp_path) > 0
