"""What a server must refuse: in OpenAI's form, naming the field and what to do, and without disturbing anyone."""

import asyncio
import http.client
import json
import socket
import struct
import threading

import httpx
import openai
import pytest

from groundup.errors import ConfigError
from groundup.serve.app import ServeOptions, make_app
from groundup.serve.models import fitting_rows
from running_server import CONTEXT, CYCLE, END, cycle_model, running, served

GREEDY = {"model": "cycle", "prompt": "日", "max_tokens": 9, "temperature": 0}
ONE = [{"role": "user", "content": "?"}]


def refused(server, path, body, status=400, **headers):
    """The error of a request that must be refused; and the server answers others after it."""
    found, answer, _ = server.ask(path, body, headers=headers or None)
    assert found == status, answer
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert len(answer["error"]["message"]) < 1000
    assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE
    return answer["error"]


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"temperature": 1e9}, "temperature", "1000000000.0; expected a number from 0 to 2"),
        ({"temperature": -0.1}, "temperature", "0 to 2"),
        ({"temperature": "hot"}, "temperature", '"hot"'),
        ({"temperature": True}, "temperature", "true"),
        ({"temperature": [1]}, "temperature", "[1]"),
        ({"top_p": 0}, "top_p", "(0, 1]"),
        ({"top_p": 1.5}, "top_p", "1.5"),
        ({"max_tokens": -1}, "max_tokens", "from 0 to 16384"),
        ({"max_tokens": 10**6}, "max_tokens", "from 0 to 16384"),
        ({"max_tokens": 1.5}, "max_tokens", "whole number"),
        ({"max_tokens": "16"}, "max_tokens", '"16"'),
        ({"n": 0}, "n", "from 1"),
        ({"n": 10**6}, "n", "1,000,000 texts"),
        ({"n": 10**30}, "n", "from 1 to 1000000"),
        ({"n": 1e300}, "n", "n is 1e+300; expected"),
        ({"n": 30, "prompt": ["a", "b", "c"]}, "n", "90 texts"),
        ({"best_of": 3}, "best_of", "use n"),
        ({"stop": ""}, "stop", "at least one character"),
        ({"stop": ["a", ""]}, "stop", "at least one character"),
        ({"stop": 3}, "stop", "3"),
        ({"stop": "a" * 100_000}, "stop", "100,000 characters"),
        ({"stop": ["a"] * 17}, "stop", "17 strings"),
        ({"logprobs": True}, "logprobs", "true"),
        ({"logprobs": 20, "n": 60, "max_tokens": 16_384}, "logprobs", "20,643,840 log-probabilities; expected at most"),
        ({"logprobs": 21}, "logprobs", "0 to 20"),
        ({"seed": 2**64}, "seed", "whole number"),
        ({"presence_penalty": 3}, "presence_penalty", "-2 to 2"),
        ({"frequency_penalty": None, "repetition_penalty": 0}, "repetition_penalty", "0.01"),
        ({"min_p": 2}, "min_p", "0 to 1"),
        ({"top_k": -2}, "top_k", "-1"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "token id"),
        ({"logit_bias": {"1": 1000}}, "logit_bias", "-100 to 100"),
        ({"logit_bias": {"99999": 1}}, "logit_bias", "names token 99999; expected 0 to 258"),
        ({"logit_bias": [1]}, "logit_bias", "object"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "set stream to true"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options", "include_usage"),
        ({"echo": 1}, "echo", "true or false"),
        ({"model": 3}, "model", "3"),
        ({"prompt": 3}, "prompt", "3"),
        ({"prompt": []}, "prompt", "none of them empty"),
        ({"prompt": [[]]}, "prompt", "none of them empty"),
        ({"prompt": [1, "a"]}, "prompt", "array of token ids"),
        ({"prompt": [1.5]}, "prompt", "array of token ids"),
        ({"prompt": [-1]}, "prompt", "array of token ids"),
        ({"prompt": [True]}, "prompt", "array of token ids"),
        ({"prompt": [259]}, "prompt", "the token id 259; expected 0 to 258"),
        ({"prompt": {"text": "x"}}, "prompt", "string"),
        ({"prompt": [1] * (CONTEXT + 1)}, "prompt", f"{CONTEXT + 1} tokens, but the context of cycle holds {CONTEXT}"),
        ({"prompt": "x" * CONTEXT}, "prompt", f"{CONTEXT + 1} tokens, but the context of cycle holds {CONTEXT}"),
        ({"prompt": "x" * 500_000}, "prompt", "500,000 characters"),
        ({"suffix": "end"}, "suffix", "leave it out"),
        ({"tools": [{}]}, "tools", "does not call tools"),
        ({"response_format": {"type": "json_object"}}, "response_format", "does not constrain"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"messages": ONE}, "messages", "unknown field"),
        ({"\ud800" * 300: 1}, None, "the escape \\ud800 alone"),
        ({"prompt": "a\ud800"}, "prompt", "prompt has the escape \\ud800 alone"),
        ({"prompt": ["a", "\udfff"]}, "prompt", "prompt has the escape \\udfff alone"),
        ({"stop": ["\udead"]}, "stop", "stop has the escape \\udead alone"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_fields_of_completions(server, changes, param, said):
    error = refused(server, "/v1/completions", {**GREEDY, **changes})
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"messages": None}, "messages", "missing"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "hello"}, "messages", "array"),
        ({"messages": ["hello"]}, "messages", "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages", "no content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages", "'wizard'"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages", "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages",
         "image_url"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages", f"holds {CONTEXT} tokens"),
        ({"messages": [{"role": "user", "content": "x" * 500_000}]}, "messages", f"holds {CONTEXT} tokens"),
        ({"prompt": "x"}, "prompt", "unknown field"),
        ({"top_logprobs": 2}, "top_logprobs", "set logprobs to true"),
        ({"logprobs": 2}, "logprobs", "true or false"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "one of them"),
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"functions": [{}]}, "functions", "tools"),
        ({"tool_choice": "required"}, "tool_choice", "tools"),
        ({"modalities": ["text", "audio"]}, "modalities", "text only"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "leave it out"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "the escape \\ud800 alone"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_fields_of_chat(server, changes, param, said):
    error = refused(server, "/v1/chat/completions", {"model": "chat", "messages": ONE, **changes})
    assert said in error["message"]
    assert error["param"] == param


def test_fields_that_change_nothing_are_accepted(server):
    harmless = {
        "user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "tools": [], "suffix": None,
        "response_format": {"type": "text"}, "tool_choice": "none", "best_of": 1, "stop": None, "logit_bias": {},
        "stream_options": None, "max_tokens": 9.0, "parallel_tool_calls": True, "seed": -3,
    }  # fmt: skip
    status, found, _ = server.ask("/v1/completions", {**GREEDY, **harmless})
    assert (status, found["choices"][0]["text"]) == (200, CYCLE)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"model": "cycle"', "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"prompt": "\xed\xa0\x80"}', "not UTF-8"),
        (b"[]", "expected a JSON object"),
        (b'"x"', "expected a JSON object"),
        (b"null", "expected a JSON object"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": 1e999, "model": "cycle"}', "temperature"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b', "model": "cycle"}', "prompt"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bodies_that_are_no_request(server, body, said):
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
        error = refused(server, path, body)
        assert said in error["message"] or path != "/v1/completions"


def test_what_is_odd_and_still_a_text(server, random):
    for prompt in ("", END * 3, "\x00", "🦊", "é" * 40, "<|im_start|>"):
        asked = {"model": "random", "prompt": prompt, "max_tokens": 3, "temperature": 0}
        _, found, _ = server.ask("/v1/completions", asked)
        assert found["choices"][0]["text"] == random.generate(prompt, max_tokens=3, temperature=0)
    only = random.tokenizer.encode(END * 2)
    assert server.client().completions.create(model="random", prompt=only, max_tokens=2).usage.prompt_tokens == 2


def test_unknown_models_paths_and_methods(server):
    error = refused(server, "/v1/completions", {**GREEDY, "model": "gpt-4"}, 404)
    assert (error["code"], "random" in error["message"]) == ("model_not_found", True)
    assert "one of random, cycle" in refused(server, "/v1/completions", {"prompt": "x"})["message"]
    assert refused(server, "/v1/nothing", {}, 404)["code"] is None
    assert server.ask("/v1/completions", method="GET")[0] == 405
    assert server.ask("/v1/completions", method="DELETE")[1]["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(server):
    client = server.client()
    with pytest.raises(openai.APIStatusError) as raised:
        client.completions.create(model="cycle", prompt="x" * 3_000_000)
    assert raised.value.status_code == 413
    assert "--max-body" in raised.value.message
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
        for _ in range(16):
            raw.sendall(chunk)
        assert raw.recv(100).startswith(b"HTTP/1.1 413 ")


def test_bodies_that_take_too_long_or_are_too_many_are_refused(monkeypatch):
    monkeypatch.setattr("groundup.serve.gate._BODY_SECONDS", 0.5)
    monkeypatch.setattr("groundup.serve.gate._MOST_HELD", 300_000)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 250000\r\n\r\n"
    with running(served("cycle", cycle_model()), max_body=250_000) as server:
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(2)]
        for raw in slow:
            raw.sendall(head + b" " * 200_000)
        found = [raw.recv(100)[:12] for raw in slow]
        assert sorted(found) == [b"HTTP/1.1 408", b"HTTP/1.1 503"]
        for raw in slow:
            raw.close()
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE


def test_a_key_is_asked_for():
    with running(served("cycle", cycle_model()), api_key="schlüssel") as server:
        for path, body in (("/v1/completions", GREEDY), ("/tokenize", {}), ("/v1/models", None), ("/metrics", None)):
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic schlüssel"}):
                headers = {name: value.encode().decode("latin-1") for name, value in header.items()}
                status, answer, got = server.ask(path, body, headers=headers)
                assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
                assert got["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer schlüssel".encode().decode("latin-1")}
        status, answer, _ = server.ask("/v1/completions", GREEDY, headers=right)
        assert (status, answer["choices"][0]["text"]) == (200, CYCLE)
        assert server.ask("/health")[:2] == (200, {"status": "ok"})


@pytest.mark.parametrize("key", [None, "k"])
def test_pages_are_open_and_their_content_asks_for_the_key(key, tmp_path):
    app, _ = make_app({"cycle": served("cycle", cycle_model())}, ServeOptions(api_key=key), tmp_path)

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return [(await client.get(path)).status_code for path in ("/", "/lab", "/page/style.css", "/lab/api/runs")]

    assert asyncio.run(statuses()) == [200, 200, 200, 401 if key else 200]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403),
        ("localhost.evil.example", 403), ("10.0.0.1", 403), ("127.0.0.1@evil.example", 200), ("[", 403), ("a b", 403),
    ],
)  # fmt: skip
def test_other_names_in_the_host_header_are_refused(server, host, status):
    if "@" in host:  # no browser sends one, and its name is what stands after it
        status = 403
    found, answer, _ = server.ask("/health", headers={"Host": host})
    assert found == status
    if found == 403:
        assert "--allowed-host" in answer["error"]["message"]


def test_pages_of_other_sites_may_only_call_if_they_are_allowed(server):
    evil = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    status, answer, headers = server.ask("/v1/completions", GREEDY, headers=evil)
    assert (status, answer["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in headers
    for found, allowed in (
        ("null", "'*'"),
        ("https://evil.example", "https://evil.example"),
        ("tauri://x", "tauri://x"),
    ):
        status, answer, _ = server.ask("/v1/completions", GREEDY, headers={"Origin": found})
        assert (status, f"--cors-origin {allowed} to allow it" in answer["error"]["message"]) == (403, True)
        ServeOptions(cors_origins=(allowed.strip("'"),))  # what the message says is taken
    own = {"Origin": server.url, "Host": server.url.removeprefix("http://")}
    assert server.ask("/v1/completions", GREEDY, headers=own)[0] == 200
    origin = "https://good.example"
    with running(
        served("cycle", cycle_model()), cors_origins=(f"{origin}/",), allowed_hosts=("mine.example",)
    ) as other:
        asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
        status, _, headers = other.ask("/v1/completions", method="OPTIONS", headers=asks)
        assert (status, headers["access-control-allow-origin"]) == (200, origin)
        status, _, headers = other.ask("/v1/completions", GREEDY, headers={"Origin": origin})
        assert (status, headers["access-control-allow-origin"]) == (200, origin)
        assert other.ask("/v1/completions", GREEDY, headers=evil)[0] == 403
        assert other.ask("/health", headers={"Host": "mine.example:443"})[0] == 200
        assert other.ask("/health", headers={"Host": "yours.example"})[0] == 403


def test_clients_that_send_rubbish_hang_or_leave_at_once_disturb_no_other(server):
    here = ("127.0.0.1", server.port)
    hanging = []
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    for sent in (b"", b"POST /v1/comp", head, head + b"\r\n", head + b'\r\n{"model": "cy'):
        hanging.append(socket.create_connection(here, timeout=60))
        hanging[-1].sendall(sent)
    rubbish = [
        b"\x16\x03\x01\x02\x00\x01" * 50, b"GET\r\n\r\n", b"\xff" * 5000 + b"\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"A" * 200_000,
    ]  # fmt: skip
    for sent in rubbish:
        with socket.create_connection(here, timeout=60) as raw:
            raw.sendall(sent)
            assert raw.recv(1000).startswith(b"HTTP/1.1 400 ")
    whole = json.dumps({**GREEDY, "max_tokens": 5000}).encode()
    request = head.replace(b"100", str(len(whole)).encode()) + b"\r\n" + whole
    for _ in range(20):
        raw = socket.create_connection(here, timeout=60)
        raw.sendall(request)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an orderly end
        raw.close()
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.ask("/v1/completions", GREEDY)[1])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer["choices"][0]["text"] for answer in answers] == [CYCLE] * 8
    server.until(lambda: server.metric("running", '{model="cycle"}') == 0)
    hanging[-1].sendall(b'cle", "prompt": "x"}' + b" " * 67)  # a slow one is served when it has said all
    assert hanging[-1].recv(100).startswith(b"HTTP/1.1 200 ")
    for raw in hanging:
        raw.close()


def test_a_client_that_never_asks_and_one_too_many_are_shown_out(monkeypatch):
    monkeypatch.setattr("groundup.serve.server._HEADER_SECONDS", 0.3)
    monkeypatch.setattr("groundup.serve.server.most_connections", lambda: 3)
    with running(served("cycle", cycle_model())) as server:
        here = ("127.0.0.1", server.port)
        silent = [socket.create_connection(here, timeout=60) for _ in range(3)]
        silent[0].sendall(b"POST /v1/comp")
        with socket.create_connection(here, timeout=60) as one_more:
            answer = http.client.HTTPResponse(one_more)
            answer.begin()
            assert (answer.status, json.loads(answer.read())["error"]["type"]) == (503, "service_unavailable_error")
        for raw in silent:
            assert raw.recv(100) == b""
            raw.close()
        assert server.ask("/v1/completions", GREEDY)[1]["choices"][0]["text"] == CYCLE


def test_requests_over_one_connection(server):
    """Also after one that was refused, and two that are sent at once."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for body, status in ((GREEDY, 200), ({**GREEDY, "n": 0}, 400), (GREEDY, 200)):
        connection.request("POST", "/v1/completions", json.dumps(body))
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read()).keys() >= {"error"}) == (status, status == 400)
    connection.close()
    body = json.dumps(GREEDY).encode()
    request = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(request * 2)
        received = b""
        while received.count(b"HTTP/1.1 200 ") < 2:
            received += raw.recv(65536) or pytest.fail(received.decode())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 70_000}, "--port 70000"),
        ({"port": -1}, "--port -1"),
        ({"timeout": 0}, "--timeout 0"),
        ({"timeout": float("nan")}, "--timeout nan"),
        ({"grace": -1}, "--grace -1"),
        ({"max_body": 0}, "--max-body 0"),
        ({"max_tokens": 0}, "--max-tokens 0"),
        ({"api_key": ""}, "--api-key is empty"),
        ({"api_key": "a\nb"}, "--api-key"),
        ({"cors_origins": ("example.org",)}, "https://example.org"),
    ],
)
def test_options_outside_their_range(options, said):
    with pytest.raises(ConfigError, match=said):
        ServeOptions(**options)


def test_rows_that_do_not_fit_into_memory_are_refused_beforehand(random):
    engine = random.engine(rows=3)
    for _ in range(3):
        engine.submit([1] * CONTEXT)
    engine.step()
    row = engine.cache.bytes // 3
    assert (engine.cache.rows, engine.cache.capacity) == (3, CONTEXT)  # not doubled beyond the rows there are
    assert row <= engine.cache.bytes_of_full_row <= row + row // CONTEXT  # a slot more, for a compiled step
    fits = fitting_rows("m", random, 10 * row + 6e5, None)
    assert 1 <= fits < 32
    assert fitting_rows("m", random, 10 * row + 6e5, fits) == fits
    with pytest.raises(ConfigError, match=f"expected at most {fits}"):
        fitting_rows("m", random, 10 * row + 6e5, fits + 1)
    with pytest.raises(ConfigError, match="--context"):
        fitting_rows("m", random, row, None)
    with pytest.raises(ConfigError, match="--rows 0"):
        fitting_rows("m", random, 1e9, 0)
    assert fitting_rows("m", random, 1e12, None) == 32
