"""Conversations rendered by a template, in segments: special tokens of the template, and text that is only text.

A message can hold the name of a special token, and in plain rendered text it would become that token: a user who writes
"<|im_end|><|im_start|>system" would speak as the system. So the names in the data are broken up by a noncharacter
before they are rendered. What still is a name in the result was written by the template; the noncharacter is taken out
again, and what was broken up is encoded as ordinary text.
"""

import importlib.metadata
import json
import re
import signal
import subprocess
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from groundup.errors import DataError, MissingExtraError
from groundup.text.chat.conversations import Conversation
from groundup.text.chat.templates import ChatTemplate
from groundup.text.chat.worker import OLDEST_JINJA
from groundup.text.rows import BadRow

Loss: TypeAlias = Literal["assistant", "all"]
"""Which tokens count for the loss: what the assistant writes, with the token that ends its turn; or all."""

PROCESSOR_SECONDS = 3.0
"""Most processor time of one conversation. A usual one takes a tenth of a millisecond."""
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Noncharacters, which text has no use for."""


class Segment(NamedTuple):
    """A part of a rendered conversation."""

    text: str
    is_special: bool
    """Whether it is one special token, that the template writes. Other text is text, whatever it looks like."""
    counts: bool
    """Whether its tokens count for the loss."""


class Renderer:
    """A chat template in a process that renders it.

        with Renderer(template, tokenizer.special_tokens) as renderer:
            for segments in renderer.render(conversations): ...

    Args:
        special_tokens: names that only the template can write.
        now: ISO date that ``strftime_now`` formats; None for today's. Data sets have a fixed one, so that they are
            the same on every day.
        seconds: most processor time of a conversation; by default PROCESSOR_SECONDS.

    Attributes:
        names: special tokens that the template writes, as far as its text and a short conversation tell.
        met: names of special tokens that the data had, and that became text.

    Raises:
        MissingExtraError: Jinja is not installed, or an old one.
        DataError: the template is not one, reads files, or renders no conversation.

    A process that has ended, for whatever reason, is started anew for the next conversation.
    """

    def __init__(
        self,
        template: ChatTemplate,
        special_tokens: Sequence[str] = (),
        *,
        now: str | None = None,
        seconds: float | None = None,
    ):
        _check_jinja()
        self.template = template
        self.met: Counter[str] = Counter()
        self._now, self._seconds = now, PROCESSOR_SECONDS if seconds is None else seconds
        self.protect(special_tokens)
        self._process: subprocess.Popen[bytes] | None = None
        with self._exchange():
            self.names: list[str] = list(dict.fromkeys([*self._described["names"], *template.tokens]))

    def protect(self, special_tokens: Sequence[str]) -> None:
        """Let only the template write these special tokens.

        Raises:
            DataError: the name of one is a single character, which cannot be broken up.
        """
        if short := [name for name in special_tokens if len(name) < 2]:
            raise DataError(
                f"the special token {short[0]!r} is one character, and a message with it cannot be told from the "
                "template; use a tokenizer without it"
            )
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        # Parts with which a message could complete a name of which the template writes the rest.
        self._names = list(special_tokens)
        self._starts = tuple({name[:end] for name in special_tokens for end in range(1, len(name))})
        self._ends = tuple({name[begin:] for name in special_tokens for begin in range(1, len(name))})

    def render(
        self,
        conversations: Sequence[Conversation],
        *,
        loss: Loss = "assistant",
        prompt: bool = False,
        refuses_names: bool = False,
    ) -> list[list[Segment] | BadRow]:
        """The segments of each conversation, in order; or what is wrong with it.

        Args:
            prompt: end with what begins an answer of the assistant; then nothing counts for the loss.
            refuses_names: the name of a special token in a conversation is wrong.

        Raises:
            DataError: the template loops, or takes too much time or memory.
        """
        wants_spans = loss == "assistant" and not prompt
        marks, requests, named = [], [], []
        for conversation in conversations:
            mark, before = self._mark_for(conversation), self.met.copy()
            requests.append(
                {
                    "messages": [self._message(message, mark) for message in conversation.messages],
                    "tools": self._broken_up(conversation.tools, mark),
                    "prompt": prompt,
                    "spans": wants_spans,
                }
            )
            marks.append(mark)
            named.append(min(self.met - before, default=None) if refuses_names else None)
        with self._exchange() as process:
            self._send(process, requests)
            return [
                self._result(self._answer(process), mark, name, wants_spans=wants_spans, prompt=prompt)
                for mark, name in zip(marks, named, strict=True)
            ]

    def end_of_turn(self) -> str | None:
        """The special token with which the assistant ends a message; None if the template has none."""
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        (found,) = self.render([Conversation(messages)])
        if isinstance(found, BadRow):
            raise DataError(f"a question and an answer{found}; {self.template.mend}")
        counted = [segment for segment in found if segment.counts]
        return counted[-1].text if counted[-1].is_special else None

    def close(self) -> None:
        """End the process; the next conversation starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    assert stream is not None
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _result(
        self, answer: dict[str, Any], mark: str, name: str | None, *, wants_spans: bool, prompt: bool
    ) -> list[Segment] | BadRow:
        if answer.get("endless"):
            raise DataError(f"{self._named()} was stopped: {answer['error']}; {self.template.mend}")
        if "error" in answer:
            return BadRow(f": {self._named()} cannot render it: {answer['error']}")
        if name is not None:
            return BadRow(
                f" has the special token {name!r} in its text; remove it, or leave --special-tokens error out"
            )
        text = answer["text"]
        spans = answer["spans"] if wants_spans else [] if prompt else [(0, len(text))]
        segments = self._segments(text, spans, mark, trims=answer.get("open", False))
        if wants_spans and not any(segment.counts for segment in segments):
            return BadRow(
                ": the assistant writes nothing in it, so no token would count for the loss; remove the row, or count "
                "all tokens with --loss all"
            )
        return segments

    def _named(self) -> str:
        return f"the chat template {self.template.name}"

    def _mark_for(self, conversation: Conversation) -> str:
        text = json.dumps([conversation.messages, conversation.tools], ensure_ascii=False)
        for mark in _MARKS:
            if mark not in text and mark not in self.template.text:
                return mark
        raise DataError("a conversation has all noncharacters from U+FDD0 to U+FDEF, which are not text; remove them")

    def _message(self, message: dict[str, Any], mark: str) -> dict[str, Any]:
        """A message for the template. Its role is one of a few and is left as it is: templates compare it."""
        found: dict[str, Any] = {
            key: value if key == "role" else self._broken_up(value, mark) for key, value in message.items()
        }
        if isinstance(content := found.get("content"), str):
            found["content"] = self._with_edges(content, mark)
        return found

    def _broken_up(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            while self._pattern.search(value):
                self.met.update(self._pattern.findall(value))
                value = self._pattern.sub(lambda found: found[0][0] + mark + found[0][1:], value)
            return value
        if isinstance(value, dict):
            return {self._broken_up(key, mark): self._broken_up(inner, mark) for key, inner in value.items()}
        return [self._broken_up(inner, mark) for inner in value] if isinstance(value, list) else value

    def _with_edges(self, content: str, mark: str) -> str:
        """Break up the part of a name at either end, which the template's own text might complete."""
        # Inside of the white space around it, which many templates take away.
        if (stripped := content.strip()) and any(stripped in name for name in self._names):
            place = content.index(stripped) + 1
            return content[:place] + mark + content[place:]
        if (stripped := content.rstrip()).endswith(self._starts):
            longest = max((part for part in self._starts if stripped.endswith(part)), key=len)
            place = len(stripped) - len(longest) + 1
            content = content[:place] + mark + content[place:]
        if (stripped := content.lstrip()).startswith(self._ends):
            longest = max((part for part in self._ends if stripped.startswith(part)), key=len)
            place = len(content) - len(stripped) + len(longest) - 1
            content = content[:place] + mark + content[place:]
        return content

    def _segments(self, text: str, spans: Sequence[Sequence[int]], mark: str, *, trims: bool) -> list[Segment]:
        """Cut a rendered text at its special tokens, and where what counts begins and ends.

        Args:
            spans: where what counts stands; in order.
            trims: end each span at its last special token, if only white space follows that.
        """
        specials = [found.span() for found in self._pattern.finditer(text)]
        if trims:
            spans = [(begin, _trimmed(text, begin, end, specials, mark)) for begin, end in spans]
        edges = sorted({0, len(text), *(edge for span in (*specials, *spans) for edge in span)})
        starts, ends = [span[0] for span in spans], [span[1] for span in spans]
        names = dict(specials)
        segments, place = [], 0
        for edge, after in pairwise(edges):
            if edge < place:
                continue  # an edge of a span inside a special token
            end = names.get(edge, after)
            # A token counts where it and a span overlap, as in transformers.
            last = bisect_right(starts, end - 1) - 1
            counts = last >= 0 and ends[last] > edge
            if edge in names:
                segments.append(Segment(text[edge:end], True, counts))
            elif piece := text[edge:end].replace(mark, ""):
                segments.append(Segment(piece, False, counts))
            place = end
        return segments

    @contextmanager
    def _exchange(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process, started if there is none. A broken exchange ends it: its answers no longer match."""
        if self._process is not None and self._process.poll() is not None:
            self.close()
        try:
            yield self._process or self._started()
        except BaseException:
            self.close()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        process = self._process = subprocess.Popen(
            # -P: the worker's folder is not a place to import from.
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is not for it; it ends where its standard input does
        )
        self._send(process, {"template": self.template.text, "now": self._now, "seconds": self._seconds})
        self._described = self._answer(process)
        if "error" in self._described:
            raise DataError(f"{self._named()} cannot be used: {self._described['error']}; {self.template.mend}")
        return process

    def _send(self, process: subprocess.Popen[bytes], request: Any) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        except OSError:
            pass  # it has ended; the answer tells why

    def _answer(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        if line := process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = process.wait()
        if code == -signal.SIGPROF:
            raise DataError(
                f"{self._named()} was stopped: it loops, or takes more than {self._seconds:g} s for one conversation; "
                f"{self.template.mend}"
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise DataError(
            f"{self._named()} was stopped: its process ended ({how}), from outside or by too much memory; try again"
        )


def _trimmed(text: str, begin: int, end: int, specials: Sequence[tuple[int, int]], mark: str) -> int:
    inside = [last for first, last in specials if begin <= first and last <= end]
    return inside[-1] if inside and not text[inside[-1] : end].replace(mark, "").strip() else end


def _check_jinja() -> None:
    try:
        version = importlib.metadata.version("jinja2")
    except importlib.metadata.PackageNotFoundError:
        raise MissingExtraError.for_package("jinja2", "chat", "a chat template") from None
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers < OLDEST_JINJA:
        oldest = ".".join(map(str, OLDEST_JINJA))
        purpose = f"a chat template (templates can escape from the sandbox of jinja2 {version}, which is installed)"
        raise MissingExtraError.for_package("jinja2", "chat", purpose, at_least=oldest)
