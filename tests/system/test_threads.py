"""OpenMP threads wait by the load: the policy that is chosen, its switch during a run, and the same results."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.system import threads as cores
from groundup.system.threads import USER_SETTINGS, Scheduled, WaitPolicy, share_without_core

needs_schedstat = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/schedstat").exists(), reason="the kernel does not count waiting time"
)


def run(program: str, **environment: str) -> str:
    """What a Python program prints, with two threads and none of the variables that choose a wait policy."""
    kept = {name: value for name, value in os.environ.items() if name not in USER_SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"OMP_NUM_THREADS": "2"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("ships_libgomp", [True, False])
@pytest.mark.parametrize(
    ("load", "set_before", "policy"),
    [
        (0.4, {}, None),
        (0.6, {}, "passive"),
        (9.0, {"OMP_WAIT_POLICY": "active"}, "active"),
        (9.0, {"GOMP_SPINCOUNT": "100"}, None),
    ],
)
def test_only_where_the_policy_cannot_be_switched_later_does_the_load_at_the_start_decide(
    ships_libgomp: bool, load: float, set_before: dict[str, str], policy: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "getloadavg", lambda: (load * (os.cpu_count() or 1), 0.0, 0.0))
    monkeypatch.setattr(cores, "_ships_libgomp", lambda: ships_libgomp)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    kept = {name: value for name, value in os.environ.items() if name not in USER_SETTINGS}
    monkeypatch.setattr(os, "environ", kept | set_before)
    chosen = cores.choose_wait_policy()
    expected = policy if set_before or not ships_libgomp else None
    assert os.environ.get("OMP_WAIT_POLICY") == expected
    assert chosen == (expected == "passive")


def test_the_policy_is_chosen_before_torch_is_loaded():
    """OpenMP reads the variable when torch is loaded."""
    program = (
        "import os, sys\n"
        "from groundup.system import threads as cores\n"
        "os.getloadavg, cores._ships_libgomp = lambda: (99 * os.cpu_count(), 0, 0), lambda: False\n"
        "from groundup.cli.main import run\n"
        "try: run(['train', '--data.train', 'nowhere'])\n"
        "except FileNotFoundError: print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)\n"
    )
    assert run(program) == "passive True\n"


SWITCH = """
import json, os, time
import torch
from groundup.system import threads as cores

class Always(cores.WaitPolicy):
    def update(self, share):
        return True

cores.WaitPolicy = Always
cores._POLL_SECONDS = 0.001
# As on a machine whose cores this process has to itself, however many there are.
cores.available_cores = lambda: max(2, len(os.sched_getaffinity(0)))
x = torch.ones(1 << 17)

def seconds_of_cpu():
    x.add_(1)
    began = time.process_time()
    for _ in range(10):
        x.add_(1)
        time.sleep(0.01)
    return time.process_time() - began

def threads():
    return len(os.listdir("/proc/self/task"))

found = {"before": seconds_of_cpu(), "threads_before": threads()}
with cores.wait_by_load():
    while threads() < found["threads_before"] + 3:  # the watcher, and the two of the surplus team
        time.sleep(0.01)
    found["within"] = seconds_of_cpu()
    found["threads_within"] = threads()
    with cores.wait_by_load():
        found["threads_nested"] = threads()
found["after"] = seconds_of_cpu()
found["threads_after"] = threads()
print(json.dumps(found))
"""


def on_two_cores() -> bool:
    return len(os.sched_getaffinity(0)) > 1


@needs_schedstat
@pytest.mark.skipif(not cores._ships_libgomp(), reason="this torch brings another OpenMP")
def test_a_surplus_team_makes_threads_sleep_that_would_spin():
    """A thread that spins between parallel regions costs processor time; one that sleeps does not."""
    found = json.loads(run(SWITCH))
    assert found["threads_within"] > found["threads_before"]
    assert found["threads_nested"] == found["threads_within"]
    assert found["threads_after"] == found["threads_before"]
    if on_two_cores():  # on one core libgomp never spins
        assert found["within"] < found["before"] / 2
        assert found["within"] < found["after"] / 2


@needs_schedstat
@pytest.mark.parametrize("setting", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "5"}, {"OMP_NUM_THREADS": "1"}])
def test_a_users_policy_and_a_single_thread_are_left_alone(setting: Mapping[str, str]):
    program = (
        "import threading, torch\n"
        "from groundup.system.threads import wait_by_load\n"
        "with wait_by_load(): print(threading.active_count())"
    )
    assert run(program, **setting) == "1\n"


@needs_schedstat
def test_a_run_whose_policy_is_switched_all_the_time_gives_the_same_bits():
    program = """
import sys, hashlib, itertools
import torch
from groundup.system import threads as cores
from groundup.config import ModelConfig, OptimConfig
from groundup.nn import TransformerLM
from groundup.optim import build_optimizer
from groundup.train.step import build_loss
from groundup.train.step import train_step

switched = 0

class Flip(cores.WaitPolicy):
    def update(self, share):
        global switched
        switched += 1
        return switched % 2 == 1

if sys.argv[1] == "switched":
    cores.WaitPolicy, cores._POLL_SECONDS = Flip, 0.001
torch.manual_seed(0)
model = TransformerLM.from_config(ModelConfig(vocab_size=500, context_length=64, d_model=64, num_layers=1, num_heads=2))
optimizer = build_optimizer(model, OptimConfig(optimizer="muon"))
optimizer.set_learning_rate(1e-2)
loss = build_loss(model, compile=False)
ids = torch.randint(500, (4, 65))
with cores.wait_by_load():
    for _ in range(2):
        train_step(model, loss, optimizer, [(ids[:, :-1], ids[:, 1:])], 1, 1.0).read()
bits = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
print(hashlib.sha256(bits).hexdigest(), switched > 3)
"""
    digests = {}
    for how, policy in (("switched", {}), ("never", {"OMP_WAIT_POLICY": "passive"})):
        digest, switched = run(program.replace("sys.argv[1]", repr(how)), **policy).split()
        assert switched == str(how == "switched")
        digests[how] = digest
    assert digests["switched"] == digests["never"]


def test_contention_is_the_share_of_the_time_without_a_core():
    before = {1: Scheduled(1.0, 5.0), 2: Scheduled(2.0, 0.0), 3: Scheduled(9.0, 9.0)}
    now = {1: Scheduled(1.3, 5.1), 2: Scheduled(2.5, 0.1), 4: Scheduled(7.0, 7.0)}
    assert share_without_core(before, now) == pytest.approx(0.2 / 1.0)  # threads 3 and 4 are in one count only
    assert share_without_core(before, before) is None


@given(calm=st.floats(0, 0.049), polls=st.integers(0, 9))
def test_threads_sleep_from_the_first_contention_on_and_spin_again_after_two_calm_seconds(calm: float, polls: int):
    policy = WaitPolicy()
    assert not policy.update(calm)
    assert policy.update(0.3)
    assert [policy.update(calm) for _ in range(polls)] == [True] * polls
    assert policy.update(0.06)  # the count of calm polls begins anew
    assert [policy.update(calm) for _ in range(12)] == [True] * 9 + [False] * 3


@given(shares=st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=40))
def test_a_poll_in_which_nothing_ran_changes_nothing(shares: list[float | None]):
    with_gaps, without = WaitPolicy(), WaitPolicy()
    for share in shares:
        with_gaps.update(share)
        if share is not None:
            without.update(share)
        assert with_gaps.passive == without.passive
