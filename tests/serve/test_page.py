"""The examples of docs/how-to/serve.md, against a server."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

import groundup
from running_server import RUN, chat_model, running, served

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serve.md"
BLOCKS = re.findall(
    r"^<!-- not run: needs .*? -->\n```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def url():
    chat = chat_model()
    with running(served("first", groundup.load(RUN, device="cpu"))) as first, running(served("chat", chat)) as other:
        yield {"first": first.url, "chat": other.url}


@pytest.mark.parametrize(("language", "body"), BLOCKS, ids=[f"{i}-{block[0]}" for i, block in enumerate(BLOCKS)])
def test_examples_of_the_guide(url, language, body, capsys):
    where = url["chat" if '"chat"' in body else "first"].removeprefix("http://")
    body = body.replace("localhost:8000", where)
    if language == "python":
        exec(compile(body, str(PAGE), "exec"), {})
        assert capsys.readouterr().out
        return
    for line in body.splitlines():
        done = subprocess.run([*shlex.split(line), "-sS", "--fail"], capture_output=True, text=True)
        assert done.returncode == 0, line
        assert done.stdout.startswith(("{", "data: ")), line


def test_the_guide_has_examples_of_both_kinds():
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
