"""64 clients for minutes: every answer as alone, and no memory that grows.

GROUNDUP_LOAD_SECONDS says how long, ten minutes by default; -s shows the latencies.
"""

import http.client
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from running_server import random_model

SECONDS = float(os.environ.get("GROUNDUP_LOAD_SECONDS", "600"))
CLIENTS = 64
SERVER = """
import torch
torch.set_num_threads(1)
from running_server import random_model, served
from groundup.serve.app import ServeOptions
from groundup.serve.server import serve
serve({"random": served("random", random_model(), rows=32, queue=64)}, ServeOptions(port=0, grace=5), told=print)
"""


def requests() -> list[tuple[dict[str, object], str]]:
    """Requests of many kinds, and the text of each."""
    model, found = random_model(), []
    for i in range(48):
        asked = {
            "prompt": "The cat and the dog saw the moon"[: 1 + 5 * i % 32] + " 🎉é"[: i % 4],
            "max_tokens": 1 + 11 * i % 60,
            "temperature": (0, 0.8, 1.2)[i % 3], "seed": i, "top_k": (0, 40)[i % 2], "min_p": (0.0, 0.02)[i % 2],
            "frequency_penalty": (0.0, 0.4)[i % 2],
        }  # fmt: skip
        text = model.generate(asked["prompt"], **{"top_p": 1.0} | {k: v for k, v in asked.items() if k != "prompt"})
        found.append((asked | {"stream": i % 2 == 1}, text))
    return found


def resident(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])


@pytest.mark.long
def test_64_clients_get_their_texts_and_memory_stays_as_it_is(record_property):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        while " at http://" not in (line := process.stdout.readline()):
            assert line
        port = int(re.search(r":(\d+) \(", line)[1])
        all_requests, latencies, wrong, left = requests(), list[float](), list[object](), list[int]()
        deadline = time.monotonic() + SECONDS

        def client(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            for i in itertools.count(number):
                if time.monotonic() > deadline or wrong:
                    break
                asked, text = all_requests[(7 * i + number) % len(all_requests)]
                began = time.monotonic()
                connection.request("POST", "/v1/completions", json.dumps(asked))
                answer = connection.getresponse()
                if i % 50 == 49:  # leaves in the middle, and comes back
                    connection.close()
                    left.append(1)
                    continue
                got = said(answer.read().decode(), stream=bool(asked["stream"]))
                latencies.append(time.monotonic() - began)
                if got != text:
                    wrong.append((asked, text, got))
            connection.close()

        threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        sizes = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(min(1.0, SECONDS / 60))
            sizes.append(resident(process.pid))
        assert not wrong
        half, end = sizes[len(sizes) // 2], statistics.median(sizes[-max(1, len(sizes) // 10) :])
        assert end < 1.03 * half + 4e6
        latencies.sort()
        p50, p99 = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
        text = (
            f"{len(latencies)} answers in {SECONDS:g} s to {CLIENTS} clients, {len(left)} left early: p50 {p50:.3f} s, "
            f"p99 {p99:.3f} s; RSS {half / 1e6:.1f} MB halfway, {end / 1e6:.1f} MB at the end"
        )
        print(text)
        record_property("load", text)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


def said(answer: str, *, stream: bool) -> str:
    """The text of an answer; the answer itself if it is an error."""
    try:
        if not stream:
            return json.loads(answer)["choices"][0]["text"]
        events = [event.removeprefix("data: ") for event in answer.split("\n\n")]
        assert events[-2:] == ["[DONE]", ""]
        return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-2])
    except (KeyError, AssertionError, ValueError):
        return f"error: {answer}"
