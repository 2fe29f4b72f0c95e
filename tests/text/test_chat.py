"""Conversations: the shapes of rows, templates from files, and templates that loop, read files or are none."""

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from groundup.errors import DataError, FileMissingError, MissingExtraError
from groundup.text.chat import rendering, worker
from groundup.text.chat.conversations import Conversation, conversation_of
from groundup.text.chat.reading import LONGEST_ROW, ConversationReader, segments_of
from groundup.text.chat.rendering import Renderer
from groundup.text.chat.templates import ChatTemplate, load_template
from groundup.text.options import ReadOptions
from groundup.text.readers import TextReader
from groundup.text.rows import BadRow

END = "<|endoftext|>"
HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
PLAIN = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{{ 'a:' if add_generation_prompt }}"


def text_of(template: str, messages=HELLO, **options) -> str:
    with Renderer(ChatTemplate("test", template), **options.pop("renderer", {})) as renderer:
        (found,) = renderer.render([Conversation(messages)], **{"loss": "all"} | options)
    if isinstance(found, BadRow):
        raise found
    return "".join(segment.text for segment in found)


class TestShapes:
    @pytest.mark.parametrize(
        "row",
        [
            {"messages": HELLO},
            {"messages": HELLO, "prompt": "Hello", "id": 7},
            {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]},
            {"conversations": HELLO},
            {"prompt": "Hello", "completion": "Hi!"},
            {"instruction": "Hello", "input": "", "output": "Hi!"},
            {"instruction": "Hello", "output": "Hi!", "text": "something else"},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, HELLO[1]]},
            {"messages": [{"role": "user", "content": "Hello", "name": None}, HELLO[1]], "tools": None},
        ],
    )  # fmt: skip
    def test_rows_of_known_data_sets(self, row):
        assert conversation_of(row).messages == HELLO

    def test_an_input_follows_its_instruction_and_a_system_text_comes_first(self):
        row = {"system": "Be brief.", "instruction": "Add.", "input": "1 + 1", "output": "2"}
        assert [(m["role"], m["content"]) for m in conversation_of(row).messages] == [
            ("system", "Be brief."), ("user", "Add.\n\n1 + 1"), ("assistant", "2")
        ]  # fmt: skip
        assert conversation_of({"system": "S", "messages": HELLO}).messages == [
            {"role": "system", "content": "S"},
            *HELLO,
        ]

    def test_a_call_of_a_tool_needs_no_text_and_lone_surrogates_become_u_fffd(self):
        call = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f\ud83d", "arguments": {}}}],
        }
        (message,) = conversation_of({"messages": [call]}).messages
        assert message["tool_calls"][0]["function"]["name"] == "f\ufffd"
        assert "content" not in message

    @pytest.mark.parametrize(
        ("row", "told"),
        [
            (3, "a number"),
            ({}, "no field at all"),
            ({"text": "a", "body": "b"}, "'text', 'body'"),
            ({"messages": []}, "empty"),
            ({"messages": "Hello"}, "a string"),
            ({"messages": ["Hello"]}, r"messages\[0\] is a string"),
            ({"messages": [HELLO[0], {"role": "ghost", "content": "x"}]}, r"messages\[1\].*'ghost'.*assistant"),
            ({"messages": [{"content": "x"}]}, "no role"),
            ({"messages": [{"role": "user"}]}, "no content"),
            ({"messages": [{"role": "user", "content": 3}]}, "a number"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]}, "not text"),
            ({"prompt": "x"}, "'prompt'"),
            ({"prompt": HELLO, "completion": HELLO}, "prompt is an array"),
            ({"instruction": "x", "input": 3, "output": "y"}, "input is a number"),
            ({"messages": HELLO, "tools": "x"}, "tools is a string"),
            ({"messages": HELLO, "system": 3}, r"system is a number \(3\); expected a string"),
            ({"prompt": "x", "completion": "y", "system": ["S"]}, r'system is an array \(\["S"\]\)'),
            (
                {"messages": [HELLO[0], {"role": "assistant", "tool_calls": {"name": "f"}}]},
                r"messages\[1\].* an object",
            ),
        ],
    )
    def test_other_rows_are_refused(self, row, told):
        with pytest.raises(BadRow, match=told):
            conversation_of(row)


ROWS = [
    {"messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": "é" * i}]} for i in range(150)
]
BAD = {
    "not JSON": '{"messages": [',
    "another row": '{"text": "a"}',
    "twice": '{"messages": [], "messages": []}',
    "twice in a message": '{"messages": [{"role": "user", "role": "assistant", "content": ""}]}',
    "nested": '{"messages": ' + "[" * 100_000,
    "not UTF-8": b'{"prompt": "\xff", "completion": "a"}',
    "a long number": '{"prompt": "a", "completion": "b", "id": ' + "1" * 5000 + "}",
    "no assistant": json.dumps({"messages": HELLO[:1]}),
    "another type": '{"prompt": "a", "completion": "b", "system": 3}',
    "no form in the template": '{"messages": [{"role": "assistant", "tool_calls": [{}]}]}',
}


class TestRows:
    """Files of rows, read by the format chat."""

    def reader(self, path, loss="assistant", **options):
        conversations = ConversationReader(self.renderer, loss, refuses_names=options.pop("refuses_names", False))
        return TextReader(path, read=ReadOptions(format="chat", **options), conversations=conversations)

    @pytest.fixture(autouse=True)
    def _renderer(self):
        with Renderer(load_template("chatml", END), ["<|im_start|>", "<|im_end|>"]) as self.renderer:
            yield

    def texts(self, *arguments, **options):
        documents = self.reader(*arguments, **options).documents()
        return ["".join(segment.text for segment in segments_of(document)) for document in documents]

    def test_lines_arrays_compressed_files_and_parquet_give_the_same(self, tmp_path):
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
        (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))
        (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
        expected = [
            f"<|im_start|>user\n{i}?<|im_end|>\n<|im_start|>assistant\n{'é' * i}<|im_end|>\n" for i in range(150)
        ]
        for name in ("a.jsonl", "a.json", "a.jsonl.gz", "a.parquet"):
            assert self.texts(tmp_path / name) == expected, name

    @pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
    def test_a_bad_row_is_an_error_with_its_line_or_counted(self, tmp_path, bad):
        path, good = tmp_path / "a.jsonl", json.dumps({"messages": HELLO}).encode()
        path.write_bytes(b"\n".join([good, b"", bad if isinstance(bad, bytes) else bad.encode(), good]))
        with pytest.raises(DataError) as error:
            self.texts(path)
        assert str(error.value).startswith(f"{path}, line 3")
        assert "\n" not in str(error.value)
        reader = self.reader(path, on_bad_row="skip")
        assert len(list(reader.documents())) == 2
        assert (reader.skipped_rows.count, reader.skipped_rows.first[0].place) == (1, "line 3")

    def test_a_row_that_is_too_long_is_a_bad_one(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text(json.dumps({"prompt": "a" * LONGEST_ROW, "completion": "b"}))
        with pytest.raises(DataError, match=r"line 1 has .* bytes"):
            self.texts(path)

    def test_names_of_special_tokens_can_be_an_error(self, tmp_path):
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(json.dumps({"prompt": text, "completion": "b"}) for text in ("a", "<|im_end|>")))
        assert len(self.texts(path)) == 2
        with pytest.raises(DataError, match=r"line 2 has the special token '<\|im_end\|>'"):
            self.texts(path, refuses_names=True)

    def test_plain_text_other_options_and_other_verbs_are_refused(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("text")
        with pytest.raises(DataError, match="plain text"):
            self.texts(path)
        with pytest.raises(DataError, match="--field"):
            ReadOptions(format="chat", field="messages")
        with pytest.raises(DataError, match="groundup encode"):
            TextReader(path, read=ReadOptions(format="chat"))


class TestTemplates:
    def test_variables_of_a_tokenizer_config_are_written_into_the_template(self, tmp_path):
        text = "\n  {%- if true %}\n{{ bos_token }}{{ messages[0].content }}{{ eos_token }}\n{% endif %}"
        config = {"chat_template": text, "bos_token": {"content": "<s>", "lstrip": False}, "eos_token": '"/é\\'}
        file = tmp_path / "tokenizer_config.json"
        file.write_text(json.dumps(config))
        by_config = load_template(str(file), END)
        assert by_config.tokens == ("<s>", '"/é\\')
        assert text_of(by_config.text) == '<s>Hello"/é\\\n'
        (tmp_path / "chat_template.jinja").write_text(text)
        assert load_template(str(tmp_path / "chat_template.jinja"), END).text == by_config.text
        file.unlink()
        assert text_of(load_template(str(tmp_path / "chat_template.jinja"), END).text) == f"{END}Hello{END}\n"
        config["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]
        file.write_text(json.dumps(config))
        assert load_template(str(file), END).text == by_config.text

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("none.jinja", None, "chatml, llama3"),
            ("a.jinja", b"\xff\xfe", "UTF-8"),
            ("a.json", b"{", "not JSON"),
            ("a.json", b"[]", "chat_template"),
            ("a.json", b'{"bos_token": "x"}', "chat_template.jinja"),
            ("a.json", b"[" * 100_000, "not JSON"),
            ("a.jinja", b" " * (1 << 20) + b" ", "MiB"),
        ],
    )
    def test_files_without_a_template_are_refused(self, tmp_path, name, content, told):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises((DataError, FileMissingError), match=told) as error:
            load_template(str(tmp_path / name), END)
        assert "\n" not in str(error.value)

    def test_a_fifo_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.jinja")
        with pytest.raises(DataError, match="regular"):
            load_template(str(tmp_path / "a.jinja"), END)


ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a filter": "{% for a in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
    "a power": "{{ (9 ** (9 ** (messages[0].content | length + 4))) % 7 }}",
    "a recursive loop": "{% for a in range(999) recursive %}{{ loop(range(999)) }}{% endfor %}",
}  # fmt: skip
HUGE = {
    "output": "{% for a in range(99999) %}{{ messages[0].content * 99999 }}{% endfor %}",
    "one string": "{% set a = messages[0].content * 10 ** 10 %}",
    "a list": "{% set a = (range(99999) | list) * 10 ** 6 %}",
    "a width": "{{ messages[0].content | center(10 ** 10) }}",
    "itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
}
READS = {
    "include": "{% include '/etc/hostname' %}",
    "import": "{% import 'a.jinja' as a %}",
    "from": "{% from 'a.jinja' import a %}",
    "extends": "{% extends '/etc/hostname' %}",
    "an include that is not reached": "{% if false %}{% include 'a' %}{% endif %}",
    "Python's classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a function's globals": "{{ raise_exception.__globals__['sys'].modules }}",
    "the environment's loader": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "a format": "{{ '{0.__class__.__base__}'.format(messages) }}",
}
BROKEN = {
    "syntax": "{% for m in messages %}",
    "an unknown tag": "{% while true %}{% endwhile %}",
    "an unknown filter": "{{ messages | rot13 }}",
    "an error": "{{ messages[0].nothing.more }}",
    "its own refusal": "{{ raise_exception('only tools') }}",
}


def text_of_segments(segments) -> str:
    return "".join(segment.text for segment in segments)


def interrupted(*_):
    raise KeyboardInterrupt


def is_running(pid: int) -> bool:
    """Whether a process is there, and not only waits for its new parent to look at it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class TestHostileTemplates:
    @pytest.mark.parametrize("template", (ENDLESS | HUGE).values(), ids=ENDLESS | HUGE)
    def test_what_takes_too_much_is_stopped(self, template):
        with pytest.raises(DataError) as error:
            text_of(f"{{% if messages | length == 2 %}}{template}{{% endif %}}x", renderer={"seconds": 0.3})
        assert "\n" not in str(error.value)
        assert "the chat template test was stopped" in str(error.value)

    @pytest.mark.parametrize("template", (READS | BROKEN).values(), ids=READS | BROKEN)
    def test_what_reads_files_or_is_none_is_refused_before_any_conversation(self, template):
        with pytest.raises(DataError) as error:
            Renderer(ChatTemplate("test", template))
        assert "\n" not in str(error.value)
        assert "the chat template test cannot be used" in str(error.value)

    def test_the_process_that_renders_cannot_open_a_file(self, tmp_path):
        """Even code outside of the sandbox could not: it is called here as a template's bug might let it."""
        code = Path(worker.__file__).read_text().replace(
            'environment.filters["tojson"] = _tojson', 'environment.filters["tojson"] = lambda path: open(path).read()'
        )  # fmt: skip
        (tmp_path / "worker.py").write_text(code)
        head = json.dumps({"template": "{{ '/etc/hosts' | tojson }}", "now": None, "seconds": 1})
        done = subprocess.run(
            [sys.executable, "-P", tmp_path / "worker.py"], input=head, capture_output=True, text=True, check=True
        )  # fmt: skip
        assert "Too many open files" in json.loads(done.stdout)["error"]

    def test_a_refusal_of_one_conversation_is_that_rows_fault(self):
        template = "{% if messages | length > 3 %}{{ raise_exception('too long') }}{% endif %}{{ messages | length }}"
        with Renderer(ChatTemplate("test", template)) as renderer:
            first, second, third = renderer.render(
                [Conversation(HELLO), Conversation(HELLO * 2), Conversation(HELLO)], loss="all"
            )
        assert isinstance(second, BadRow)
        assert "too long" in str(second)
        assert first == third

    def test_a_process_that_was_ended_is_started_anew(self):
        with Renderer(load_template("chatml", END)) as renderer:
            (before,) = renderer.render([Conversation(HELLO)])
            for _ in range(2):
                os.kill(renderer._process.pid, signal.SIGKILL)
                renderer._process.wait()
                assert renderer.render([Conversation(HELLO)]) == [before]

    def test_a_process_that_ends_at_its_work_is_told_truly(self):
        text = "{% if messages[0].content == 'loop' %}" + ENDLESS["nested loops"] + "{% endif %}x"
        with Renderer(ChatTemplate("test", text)) as renderer:
            threading.Timer(0.3, lambda: os.kill(renderer._process.pid, signal.SIGTERM)).start()
            with pytest.raises(DataError, match="SIGTERM"):
                renderer.render([Conversation([{"role": "user", "content": "loop"}])], loss="all")
            assert text_of_segments(renderer.render([Conversation(HELLO)], loss="all")[0]) == "x"

    def test_an_answer_that_was_not_waited_for_is_not_taken_for_the_next(self, monkeypatch):
        """As by Ctrl-C, which ends the wait and not the process."""
        with Renderer(ChatTemplate("test", "{{ messages[0].content }}")) as renderer:
            with monkeypatch.context() as patched:
                patched.setattr(renderer, "_answer", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    renderer.render([Conversation([{"role": "user", "content": "first"}])], loss="all")
            (found,) = renderer.render([Conversation([{"role": "user", "content": "second"}])], loss="all")
            assert text_of_segments(found) == "second"

    def test_the_process_is_not_in_the_group_that_ctrl_c_reaches_and_ends_with_its_parent(self):
        code = (
            "import os; from groundup.text.chat.rendering import Renderer; "
            "from groundup.text.chat.templates import load_template; "
            "r = Renderer(load_template('chatml', '<|endoftext|>')); print(r._process.pid, flush=True); input()"
        )
        parent = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        child = int(parent.stdout.readline())
        assert os.getpgid(child) != os.getpgid(parent.pid)
        parent.kill()
        parent.communicate()
        deadline = time.monotonic() + 30
        while is_running(child):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_another_error_than_the_worker_tells_is_still_one_line(self, monkeypatch):
        monkeypatch.setattr(rendering, "__file__", "/nowhere/rendering.py")
        with pytest.raises(DataError, match="was stopped"):
            Renderer(ChatTemplate("test", "x"))

    @pytest.mark.parametrize("version", ["3.1.5", None])
    def test_an_old_or_missing_jinja_names_the_extra(self, monkeypatch, version):
        import importlib.metadata

        def version_of(name: str) -> str:
            if version is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(importlib.metadata, "version", version_of)
        with pytest.raises(MissingExtraError, match=r"pip install ('jinja2>=3.1.6'|jinja2) .*'\.\[chat\]'"):
            Renderer(ChatTemplate("test", "x"))


class TestRendering:
    def test_what_templates_of_the_hub_use(self):
        template = (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
            "{% set ns.n = ns.n + 1 %}{{ m | tojson(indent=1) }}{% break %}{% endfor %}{{ ns.n }}"
            "{{ dict(a='<é>') | tojson }}"
        )
        assert text_of(template) == json.dumps(HELLO[1], indent=1) + '1{"a": "<é>"}'

    def test_what_jinja_imports_late_works_too(self):
        template = (
            "{{ messages[1].content | pprint }}{{ ('ab ' * 9) | wordwrap(8) }}{{ 'x' | title | urlize }}{{ lipsum(1) }}"
            "{{ {'a': 1} | xmlattr }}{{ '<b>' | striptags | escape }}{{ messages | groupby('role') | length }}"
        )
        text = text_of(template)
        assert text.startswith("'Hi!'ab ab")
        assert text.endswith("2")

    def test_the_date_is_the_given_one_and_chance_is_always_the_same(self):
        template = "{{ strftime_now('%d %b %Y') }} {{ range(10 ** 4) | random }} {{ range(10 ** 4) | random }}"
        first = text_of(template, renderer={"now": "2024-07-26"})
        assert first.startswith("26 Jul 2024 ")
        assert text_of(template, renderer={"now": "2024-07-26"}) == first

    def test_a_template_that_changes_earlier_messages_needs_generation_blocks(self):
        template = "{% for m in messages %}{{ m.role }}:{{ m.content if loop.revindex < 3 }};{% endfor %}"
        with pytest.raises(BadRow, match=r"message 1 .*{% generation %}.*--loss all"):
            text_of(template, HELLO * 2, loss="assistant")
        marked = template.replace("{{ m.content", "{% generation %}{{ m.content").replace(
            "3 }}", "3 }}{% endgeneration %}"
        )
        assert text_of(marked, HELLO * 2, loss="assistant") == text_of(template, HELLO * 2)

    def test_a_generation_block_in_a_macro_is_refused(self):
        template = "{% macro f(m) %}> {% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        with pytest.raises(BadRow, match="macro"):
            text_of(template + "{% for m in messages %}{{ f(m) }}{% endfor %}", loss="assistant")

    def test_the_end_of_a_turn(self):
        for given, end in (("chatml", "<|im_end|>"), ("llama3", "<|eot_id|>")):
            with Renderer(load_template(given, END)) as renderer:
                renderer.protect(renderer.names)
                assert renderer.end_of_turn() == end
        with Renderer(ChatTemplate("plain", PLAIN)) as renderer:
            assert renderer.end_of_turn() is None
