"""Steps of training use the memory of the step before."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from groundup.system.allocator import keep_freed_memory

def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        (torch.ones(8 << 20) + 1).sum()  # 32 MB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults_of_a_step()
before = faults_of_a_step()
kept = keep_freed_memory()
faults_of_a_step()
print(kept, before, faults_of_a_step())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
def test_freed_tensors_are_not_fetched_from_the_system_again():
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    kept, before, after = output.split()
    assert kept == "True"
    assert int(after) < int(before) / 100
