"""Clients that leave, queues that are full, time-outs, failures, and the end of the server."""

import concurrent.futures
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import torch

from groundup.cli.main import main
from groundup.display.units import size_text
from groundup.errors import ConfigError
from groundup.serve import models
from groundup.serve.app import ServeOptions
from groundup.serve.models import ServedModel, load_models
from groundup.serve.server import start_lines
from groundup.text.chat.templates import ChatTemplate
from hostile_commands import options_of
from hostile_inputs import WORDS
from running_server import CYCLE, RUN, chat_model, cycle_model, random_model, running, served, slowly

LONG = {"model": "slow", "prompt": "x", "max_tokens": 16_000}
GREEDY = {"model": "cycle", "prompt": "日", "max_tokens": 9, "temperature": 0}
SLOW = '{model="slow"}'


def idle(server) -> None:
    server.until(lambda: server.metric("running", SLOW) == server.metric("waiting", SLOW) == 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rows", [1, 6])
def test_a_client_that_leaves_frees_its_rows(server, stream, rows):
    """Without it the texts would go on for minutes."""
    idle(server)
    before = server.metric("requests_total", '{outcome="cancelled"}')
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps({**LONG, "n": rows, "stream": stream}))
    server.until(lambda: server.metric("running", SLOW) == min(rows, 4))
    assert server.metric("waiting", SLOW) == max(0, rows - 4)
    if stream:
        assert connection.getresponse().read(6) == b"data: "
    connection.close()
    idle(server)
    server.until(lambda: server.metric("requests_total", '{outcome="cancelled"}') == before + 1)


def test_a_stream_that_is_closed_early_by_the_client_of_openai(server):
    idle(server)
    with server.client().completions.create(**LONG, stream=True) as stream:
        assert len([chunk for chunk, _ in zip(stream, range(3), strict=False)]) == 3
    idle(server)


def test_a_full_queue_is_told_to_come_later():
    with running(slowly(served("slow", random_model(), rows=2, queue=3)), served("cycle", cycle_model())) as server:
        waiting = []
        for _ in range(5):
            waiting.append(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60))
            waiting[-1].request("POST", "/v1/completions", json.dumps(LONG))
        server.until(lambda: server.metric("waiting", SLOW) == 3)
        status, answer, headers = server.ask("/v1/completions", LONG)
        assert (status, headers["retry-after"], answer["error"]["code"]) == (429, "1", "queue_full")
        assert answer["error"]["type"] == "rate_limit_error"
        with pytest.raises(openai.RateLimitError):
            server.client().completions.create(**LONG)
        assert server.ask("/v1/completions", {**LONG, "n": 6})[0] == 400  # never, so it is not told to come later
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE  # the other model has room
        assert server.metric("requests_total", '{outcome="overloaded"}') == 2
        waiting[0].close()
        server.until(lambda: server.metric("waiting", SLOW) == 2)
        status, _, _ = server.ask("/v1/completions", {**LONG, "max_tokens": 0})
        assert status == 200
        for connection in waiting:
            connection.close()


def test_a_request_that_takes_too_long_is_ended():
    with running(slowly(served("slow", random_model())), served("cycle", cycle_model()), timeout=0.5) as server:
        status, answer, headers = server.ask("/v1/completions", LONG)
        assert (status, answer["error"]["type"], answer["error"]["code"]) == (504, "timeout_error", "timeout")
        assert "--timeout" in answer["error"]["message"]
        assert headers["x-should-retry"] == "false"  # OpenAI's client would begin it anew
        with pytest.raises(openai.APIError, match=r"longer than 0\.5 s"):  # noqa: PT012 - the stream begins well
            stream = server.client().completions.create(**LONG, stream=True)
            assert [chunk.choices[0].text for chunk in stream]
        idle(server)
        assert server.metric("requests_total", '{outcome="timeout"}') == 2
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE


def test_a_client_that_does_not_read_its_stream_ends_with_the_time_out():
    with running(served("cycle", cycle_model()), timeout=2.0) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps({**GREEDY, "max_tokens": 1400, "n": 16, "stream": True, "logprobs": 20}).encode()
            raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
            raw.sendall(body)
            server.until(lambda: server.metric("requests_total", '{outcome="timeout"}') == 1)
            server.until(lambda: server.metric("running", '{model="cycle"}') == 0)
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE


@contextmanager
def unread(server, **more) -> Iterator[socket.socket]:
    """A client that asks for a stream and never reads it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = json.dumps({**GREEDY, "n": 6, "stream": True, "logprobs": 20, **more}).encode()
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body))
        raw.sendall(body)
        yield raw


def test_a_client_that_does_not_read_its_stream_keeps_no_place_from_others(monkeypatch):
    monkeypatch.setattr("groundup.serve.server._UNREAD_SECONDS", 3600.0)
    label = '{model="cycle"}'
    with running(served("cycle", cycle_model(), rows=6, queue=0), timeout=3600.0) as server:
        with unread(server, max_tokens=3000):
            server.until(lambda: server.metric("running", label) == 6)
            server.until(lambda: server.ask("/v1/completions", GREEDY)[0] == 200)
            assert server.api.in_flight == 1  # the other one is still being sent
            assert (server.metric("running", label), server.metric("waiting", label)) == (0, 0)
        server.until(lambda: server.api.in_flight == 0)


def test_a_client_that_does_not_read_its_stream_loses_its_connection(monkeypatch):
    monkeypatch.setattr("groundup.serve.server._UNREAD_SECONDS", 0.3)
    with running(served("cycle", cycle_model()), timeout=3600.0) as server, unread(server, max_tokens=3000):
        server.until(lambda: server.metric("requests_total", '{outcome="cancelled"}') == 1)
        server.until(lambda: server.metric("running", '{model="cycle"}') == 0)
        server.until(lambda: server.models["cycle"].answers._held == 0)
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE


def test_memory_of_answers_is_bounded():
    model = ServedModel("cycle", cycle_model(), rows=8, queue=64, beyond="slide", answer_bytes=4e6)
    with running(slowly(model, 0.01)) as server:
        status, answer, _ = server.ask("/v1/completions", {**GREEDY, "max_tokens": 10_001})
        assert (status, answer["error"]["code"]) == (400, "answer_too_large")
        with unread(server, n=1, logprobs=0, max_tokens=6000):
            server.until(lambda: server.metric("running", '{model="cycle"}') == 1)
            status, answer, headers = server.ask("/v1/completions", {**GREEDY, "max_tokens": 6000})
            assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "answers_full", "1")
            assert server.ask("/v1/completions", GREEDY)[0] == 200
        server.until(lambda: server.metric("running", '{model="cycle"}') == 0)
        server.until(lambda: model.answers._held == 0)


def test_weights_that_have_diverged_are_told_and_nothing_else_is_disturbed():
    bad = random_model()
    with torch.no_grad():
        bad.model.lm_head.weight.fill_(float("nan"))
    with running(served("bad", bad), served("cycle", cycle_model())) as server:
        for more in ({}, {"temperature": 0}, {"echo": True, "logprobs": 1, "max_tokens": 0}):
            status, answer, _ = server.ask("/v1/completions", {"model": "bad", "prompt": "x", **more})
            assert (status, "not finite" in answer["error"]["message"]) == (500, True), answer
        with pytest.raises(openai.APIError, match="not finite"):
            list(server.client().completions.create(model="bad", prompt="x", stream=True))
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE
        assert server.ask("/health")[0] == 200


def test_a_thread_that_ends_is_told_to_all_that_wait_and_to_health(caplog):
    with running(slowly(served("slow", random_model(), rows=2)), served("cycle", cycle_model())) as server:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(server.ask, "/v1/completions", LONG) for _ in range(4)]
            server.until(lambda: server.metric("running", SLOW) + server.metric("waiting", SLOW) == 4)

            def broken():
                raise RuntimeError("out of order")

            server.models["slow"].worker.engine.step = broken
            answers = [future.result() for future in asked]
        assert {status for status, _, _ in answers} == {503}
        assert all("out of order" in answer["error"]["message"] for _, answer, _ in answers)
        assert server.ask("/v1/completions", LONG)[0] == 503
        status, answer, _ = server.ask("/health")
        assert (status, answer["status"], list(answer["models"])) == (503, "failed", ["slow"])
        assert server.metric("up", SLOW) == 0
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE
    assert "out of order" in caplog.text


def test_a_template_that_loops_is_stopped_and_the_next_conversation_rendered(monkeypatch):
    text = "{% for m in messages %}{% if 'loop' in m.content %}{% for i in range(99999) %}{% for j in range(99999) %}"
    text += "{% endfor %}{% endfor %}{% endif %}<|im_start|>{{ m.content }}<|im_end|>\n{% endfor %}"
    monkeypatch.setattr("groundup.text.chat.rendering.PROCESSOR_SECONDS", 0.3)
    with running(served("chat", chat_model(ChatTemplate("looping", text)))) as server:

        def ask(content):
            return server.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": content}]})

        status, answer, _ = ask("loop")
        assert (status, "was stopped" in answer["error"]["message"]) == (400, True)
        assert ask("x")[0] == 200


def test_a_model_whose_template_cannot_be_used_continues_texts_all_the_same():
    with running(served("chat", chat_model(ChatTemplate("broken", "{% for %}")))) as server:
        asked = {"prompt": "\n", "max_tokens": 2, "temperature": 0}
        assert server.ask("/v1/completions", asked)[1]["choices"][0]["text"] == "ok"
        asked = {"messages": [{"role": "user", "content": "?"}]}
        status, answer, _ = server.ask("/v1/chat/completions", asked)
        assert (status, "chat cannot chat: the chat template broken" in answer["error"]["message"]) == (400, True)


def test_the_metrics_are_prometheus(server):
    before = server.metric("generated_tokens_total", '{model="cycle"}')
    server.ask("/v1/completions", GREEDY)
    assert server.metric("generated_tokens_total", '{model="cycle"}') == before + 9
    _, text, headers = server.ask("/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) groundup_\w+ .+|groundup_\w+(\{\w+="[^"]*"\})? [0-9.e+-]+', line), line
    counts = [float(value) for value in re.findall(r"^groundup_request_seconds_bucket.* (\S+)$", text, re.MULTILINE)]
    assert counts == sorted(counts)
    assert counts[-1] == server.metric("request_seconds_count")


# The command


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen, str, list[str]]]:
    """`groundup serve` on a free port: the process, its URL, and the lines that it has printed."""
    command = [sys.executable, "-m", "groundup", "serve", *arguments, "--port", "0", "--device", "cpu"]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    try:
        lines = []
        while not lines or " at http://" not in lines[-1]:
            line = started.stdout.readline()
            assert line, started.stderr.read()
            lines.append(line.rstrip())
        yield started, re.search(r"http://\S+", lines[-1])[0], lines
    finally:
        started.kill()
        started.communicate()


def test_the_command_serves_runs_until_it_is_stopped(tmp_path: Path):
    run = tmp_path / "mine"
    shutil.copytree(RUN, run)
    sources = [str(run), str(RUN)]
    with process(*sources, "--rows", "3", GROUNDUP_API_KEY="secret") as (started, url, lines):
        assert lines[0].startswith("mine: ")
        assert lines[1].startswith("gathered: ")
        assert ", 3 rows, " in lines[0]
        assert "secret" not in "".join(lines)
        assert lines[-1] == f"serving mine, gathered at {url} (Ctrl-C stops)"
        curl = lines[-2].removeprefix("try: ")
        export = lines[-3].partition(": ")[2]
        command = f"{export.replace('…', 'secret')}\n{curl}"
        variables = {name: value for name, value in os.environ.items() if name != "GROUNDUP_API_KEY"}
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, env=variables)
        assert json.loads(done.stdout)["usage"]["completion_tokens"] > 0
        shutil.rmtree(run)  # its weights are in memory
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
        texts = [
            client.completions.create(model=name, prompt="The cat", temperature=0, max_tokens=12).choices[0].text
            for name in ("mine", "gathered")
        ]
        assert texts[0] == texts[1]
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 0
        assert started.stderr.read() == ""


def test_running_requests_are_finished_and_new_ones_refused_when_the_server_is_stopped():
    with process(str(RUN), "--grace", "60", "--log") as (started, url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        stream = client.completions.create(model="gathered", prompt="The", max_tokens=1500, stream=True, seed=1)
        first = next(iter(stream))
        started.send_signal(signal.SIGTERM)
        assert started.stdout.readline() == "stopping; 1 request has 60 s; Ctrl-C again ends now\n"
        while (status := _health(url)) == 200:
            time.sleep(0.01)
        assert status == 503
        with pytest.raises(openai.InternalServerError, match="stopping"):
            client.completions.create(model="gathered", prompt="The")
        rest = list(stream)
        assert rest[-1].choices[0].finish_reason in ("length", "stop")
        assert first.id == rest[-1].id
        assert started.wait(60) == 0
        assert '"POST /v1/completions HTTP/1.1" 503' in started.stderr.read()


def _health(url: str) -> int:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("GET", "/health")
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_requests_that_outlast_the_grace_are_told_and_the_server_ends_well():
    with process(str(RUN), "--grace", "0.2") as (started, url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        stream = client.completions.create(
            model="gathered", prompt="The", max_tokens=16_384, stream=True, logit_bias={str(_end()): -100}
        )
        next(iter(stream))
        started.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="stopping"):
            list(stream)
        assert started.wait(60) == 0


def _end() -> int:
    from groundup.tokenizer import Tokenizer

    return Tokenizer.load(RUN / "tokenizer").token_id("<|endoftext|>")


def test_a_second_signal_ends_at_once():
    with process(str(RUN), "--grace", "600") as (started, url, _):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        stream = client.completions.create(
            model="gathered", prompt="The", max_tokens=16_384, stream=True, logit_bias={str(_end()): -100}
        )
        next(iter(stream))
        started.send_signal(signal.SIGTERM)
        while _health(url) == 200:
            time.sleep(0.01)
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == 128 + signal.SIGTERM
        stream.close()


def test_mistakes_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree(RUN, tmp_path / "gathered")
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    for arguments, said in (
        ([], "no model to serve"),
        (["nowhere"], "no run nowhere"),
        ([str(RUN), str(tmp_path / "gathered")], "two models are called 'gathered'"),
        ([str(RUN), "--rows", "0"], "--rows 0"),
        ([str(RUN), "--rows", "100000000"], "expected at most"),
        ([str(RUN), "--queue", "-1"], "--queue -1"),
        ([str(RUN), "--max-body", "3"], "expected a number and its unit"),
        ([str(RUN), "--port", "99999"], "--port 99999"),
        ([str(RUN), "--port", port], "choose another --port"),
        ([str(RUN), "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        ([str(RUN), "--host", "192.0.2.1", "--port", "0"], "cannot listen on --host 192.0.2.1"),
        ([str(RUN), "--api-key", ""], "--api-key is empty"),
        ([str(RUN), "--checkpoint", "77"], "77"),
        ([str(RUN), "--context", "8"], "leave --context out"),
        (["nowhere", "--port", port], "choose another --port"),  # before any model is loaded
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments, *([] if "--port" in arguments else ["--port", "0"]), "--device", "cpu"])
        err = capsys.readouterr().err
        assert (ended.value.code, err.count("\n")) == (2, 1), err
        assert said in err
    taken.close()


@pytest.mark.parametrize("option", [f"--{option.spelling}" for option in options_of("serve") if not option.positional])
def test_any_word_as_an_option_is_taken_or_refused_in_one_line(option, monkeypatch, capsys):
    monkeypatch.setattr("groundup.serve.server.serve", lambda *_, **__: None)
    for word in WORDS.values():
        with pytest.raises(SystemExit) as ended:
            main(["serve", str(RUN), "--port=0", "--device=cpu", f"{option}={word}"])
        err = capsys.readouterr().err
        assert (ended.value.code or 0, err.count("\n")) in ((0, 0), (2, 1)), (word, err)


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_missing_package_is_named(package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:
        main(["serve", str(RUN)])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "needs the packages starlette and uvicorn; install them with: pip install starlette uvicorn (" in err
    assert "pip install '.[serve]'" in err


def test_other_machines_are_let_in_with_a_warning_and_reach_the_server_by_its_address():
    options = ServeOptions(host="0.0.0.0")
    assert start_lines("http://127.0.0.1:1", ["m"], options)[0].startswith("warning: other machines")
    for safe in (ServeOptions(host="0.0.0.0", api_key="k"), ServeOptions(), ServeOptions(host="::1")):
        assert not start_lines("http://127.0.0.1:1", ["m"], safe)[0].startswith("warning")
    with running(served("cycle", cycle_model()), host="0.0.0.0") as server:
        for host, status in (("10.1.2.3:8000", 200), ("[fe80::1]", 200), ("evil.example", 403)):
            assert server.ask("/health", headers={"Host": host})[0] == status


def test_an_address_of_ipv6():
    with running(served("cycle", cycle_model()), host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        done = subprocess.run(["curl", "-sS", "-g", f"{server.url}/health"], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"status": "ok"}


def test_as_many_rows_are_chosen_as_fit_into_memory(monkeypatch):
    told = []
    (one,) = load_models([str(RUN)], rows=None, queue=1, beyond="stop", told=told.append).values()
    assert one.worker.engine.rows == 32
    need = models._needed(one.model, 5)
    monkeypatch.setattr(models, "_free_memory", lambda model: 1.01 * need / models._SHARE)
    (less,) = load_models([str(RUN)], rows=None, queue=1, beyond="stop", told=told.append).values()
    assert less.worker.engine.rows == 5
    assert ", 5 rows, " in told[1]
    assert less.worker.engine._kept.most == 0
    (two,) = load_models([str(RUN)], rows=2, queue=1, beyond="stop", told=told.append).values()
    assert two.worker.engine._kept.most == 2
    (four,) = load_models([str(RUN)], rows=4, queue=1, beyond="stop", told=told.append).values()
    assert four.worker.engine._kept.most == 1  # those that are generated and those that are kept fit together
    assert f"at most {size_text(need)} of memory for them" in told[3]
    with pytest.raises(ConfigError, match="expected at most 5"):
        load_models([str(RUN)], rows=6, queue=1, beyond="stop")


def test_names_of_models(random, tmp_path):
    (tmp_path / "llama.gguf").touch()
    assert models.model_name(str(tmp_path / "llama.gguf"), random) == "llama"
    assert models.model_name(f"{tmp_path}/", random) == tmp_path.name
    assert models.model_name("hf://org/name@main", random) == "org/name"
    assert models.model_name("hf://org/name/x.gguf", random) == "org/name/x.gguf"
    with running(served("org/name", random_model())) as server:
        assert server.client().models.retrieve("org/name").id == "org/name"
