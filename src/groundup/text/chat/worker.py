"""Process that renders a chat template: started by ``rendering``, never imported for its work.

A template is a program of someone else, and Jinja's sandbox does not bound what it costs: nested loops run for
ever, and ``"a" * 10**10`` takes 10 GB in one operation. Here the system ends what takes too long (a timer of processor
time, whose signal no Python code has to handle) or too much memory, and after the imports no file can be opened.

Standard input has a line of JSON with the template, and then one for each batch of conversations; standard output
answers each template and each conversation with a line.
"""

import contextlib
import importlib
import json
import random
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

OLDEST_JINJA = (3, 1, 6)
"""Older versions have known ways out of the sandbox."""
_MEMORY = 1 << 30
_LONGEST = 1 << 26
_NAME = re.compile(r"<\|[^\s<>|]{1,64}\|>")
_PROBES = [
    [("system", "x"), ("user", "x"), ("assistant", "x"), ("user", "x")],
    [("user", "x"), ("assistant", "x"), ("user", "x")],
]


class TooLongError(Exception):
    """A template writes without end."""


class Template:
    """A compiled template, with the globals, filters and tags that transformers gives to it.

    Args:
        now: what ``strftime_now`` formats; None for the time of the call.
    """

    def __init__(self, text: str, now: datetime | None, seconds: float):
        import jinja2
        from jinja2 import nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._seconds, self._length, self._spans = seconds, 0, list[tuple[int, int, str]]()
        outer = self

        class Generation(Extension):  # type: ignore[misc]  # mypy does not read jinja2
            """``{% generation %}`` … ``{% endgeneration %}``: what the assistant writes."""

            tags = {"generation"}  # noqa: RUF012 - as Extension has it

            def parse(self, parser: Any) -> Any:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

            def _note(self, caller: Callable[[], str]) -> str:
                text = caller()
                outer._spans.append((outer._length, outer._length + len(text), text))
                return text

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: (now or datetime.now()).strftime(form)
        tree = environment.parse(text)
        reading = tree.find((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))
        if reading is not None:
            raise jinja2.TemplateSyntaxError(f"it has an {type(reading).__name__.lower()}", reading.lineno)
        literals = [node.data for node in tree.find_all(nodes.TemplateData)]
        literals += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        self.literals = "\0".join(literals)
        self.has_generation = tree.find(nodes.ExtensionAttribute) is not None
        self._template = environment.from_string(text)

    def render(self, messages: list[Any], tools: list[Any] | None, *, prompt: bool) -> str:
        """The text of a conversation; the spans of its ``{% generation %}`` blocks are in ``spans`` afterwards."""
        self._length, self._spans = 0, []
        random.seed(0)  # the filter `random`: the same text every time
        blocks = []
        with _timed(self._seconds):
            for block in self._template.generate(
                messages=messages, tools=tools, documents=None, add_generation_prompt=prompt
            ):
                blocks.append(block)
                self._length += len(block)
                if self._length > _LONGEST:
                    raise TooLongError(f"it writes more than {_LONGEST:,} characters")
        return "".join(blocks)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the assistant writes in the text that was rendered last.

        Raises:
            ValueError: a block's text does not stand where it was rendered, as inside a macro.
        """
        for begin, end, written in self._spans:
            if text[begin:end] != written:
                raise ValueError("its generation block stands in a macro or a filter; write it directly into the text")
        return [(begin, end) for begin, end, _ in self._spans]

    def spans_by_prefixes(self, text: str, messages: list[Any], tools: list[Any] | None) -> list[tuple[int, int]]:
        """The same for a template without such blocks: what an assistant's message adds after its prompt.

        Raises:
            ValueError: the text of a conversation does not begin with that of its first messages.
        """
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:number], tools, prompt=True) if number else ""
            through = self.render(messages[: number + 1], tools, prompt=False)
            if not (text.startswith(through) and through.startswith(before)):
                raise ValueError(
                    f"it renders message {number} differently once more messages follow, so what the assistant "
                    "writes is not known; put {% generation %} and {% endgeneration %} around it in the template, or "
                    "count all tokens with --loss all"
                )
            spans.append((len(before), len(through)))
        return spans


def _tojson(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


@contextlib.contextmanager
def _timed(seconds: float) -> Iterator[None]:
    """End the process by SIGPROF if the block takes longer, in processor time."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def reason_of(error: BaseException) -> str:
    """What to tell of a failure of a template, in one line."""
    if isinstance(error, MemoryError):
        return f"it takes more than {_MEMORY >> 30} GiB of memory"
    if isinstance(error, RecursionError):
        return "it recurses without end"
    line = getattr(error, "lineno", None)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"line {line}: {text}" if line else text


def described(template: Template) -> dict[str, Any]:
    """The special tokens that a template writes: those in its literals, and those in what it renders.

    Raises:
        Exception: it renders neither of two short conversations; the error of the second.
    """
    for number, probe in enumerate(_PROBES):
        messages = [{"role": role, "content": content} for role, content in probe]
        try:
            text = template.render(messages, None, prompt=True)
        except Exception:
            if number + 1 == len(_PROBES):
                raise
        else:
            break
    return {"names": list(dict.fromkeys([*_NAME.findall(text), *_NAME.findall(template.literals)]))}


def rendered(template: Template, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one conversation."""
    try:
        messages, tools = request["messages"], request["tools"]
        text = template.render(messages, tools, prompt=request["prompt"])
        if not request["spans"]:
            return {"text": text}
        if template.has_generation:
            return {"text": text, "spans": template.spans(text)}
        return {"text": text, "spans": template.spans_by_prefixes(text, messages, tools), "open": True}
    except Exception as error:
        return {"error": reason_of(error), "endless": isinstance(error, MemoryError | RecursionError | TooLongError)}


def import_all() -> None:
    """Import what Jinja would import later, when no file can be opened any more."""
    import jinja2.sandbox

    late = ("debug", "ext", "constants")
    for name in ("encodings.unicode_escape", "html", "pprint", "textwrap", *(f"jinja2.{name}" for name in late)):
        importlib.import_module(name)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment()
    with contextlib.suppress(jinja2.UndefinedError):
        environment.from_string("{% for a in 'é\\n' %}{{ a | upper }}{% endfor %}{{ a.b.c }}").render()


def main() -> None:
    """Answer standard input."""
    head = json.loads(sys.stdin.buffer.readline())
    try:
        now = head["now"] and datetime.fromisoformat(head["now"])
        (now or datetime.now()).strftime("%c %Z")  # reads the time zone and the locale
        import_all()
        with contextlib.suppress(OSError, ValueError):  # macOS has no limit of memory
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        # Before the template is compiled, which computes what is constant in it.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        with _timed(head["seconds"]):
            template = Template(head["template"], now, head["seconds"])
        answer: dict[str, Any] = described(template)
    except Exception as error:
        answer = {"error": reason_of(error)}
    print(json.dumps(answer), flush=True)
    for line in sys.stdin.buffer:
        for request in json.loads(line):
            print(json.dumps(rendered(template, request)), flush=True)


if __name__ == "__main__":
    main()
