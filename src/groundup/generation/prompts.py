"""Texts for a file of prompts: many at once, as JSON lines, and continued where the last call was broken off."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from groundup.config.generate import decoded
from groundup.display.progress import Progress, Silent
from groundup.errors import ConfigError, DataError, GroundupError
from groundup.generation.engine import Engine, Generation
from groundup.generation.sampling import Sampling
from groundup.system.files import locked, read_bytes

Submit = Callable[[str, Sampling], Generation]
Row = dict[str, Any]


@dataclass
class Written:
    """What a call of :func:`generate_file` wrote."""

    texts: int = 0
    tokens: int = 0
    earlier: int = 0
    """Texts that were there already."""
    failed: int = 0
    """Prompts that could not be continued; the row says why."""


def read_prompts(path: Path) -> list[Row]:
    """Read prompts: one a line, or in a .jsonl file the "prompt" of each object, whose other keys are kept.

    A byte order mark at the beginning is dropped. ``-`` reads standard input, which is JSON lines if its first line is
    an object with a "prompt".

    Raises:
        DataError: the file has no prompt, is not UTF-8, or has a line that is not such an object.
        OSError: the file cannot be read.
    """
    if is_standard_input := str(path) == "-":
        content, name = standard_input(), "standard input"
    else:
        content, name = decoded(read_bytes(path), str(path)), str(path)
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    if path.suffix == ".jsonl" or (is_standard_input and _looks_like_a_row(lines)):
        rows = [_row(line, f"{name}:{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    else:
        rows = [{"prompt": line} for line in lines]
        if lines[-1] == "":  # the file ends with a line break
            rows.pop()
    if not rows:
        raise DataError(f"{name} has no prompts; write one a line")
    return rows


def standard_input() -> str:
    """The text of standard input.

    Raises:
        DataError: it is not UTF-8.
    """
    stream = sys.stdin
    return decoded(stream.buffer.read(), "standard input") if hasattr(stream, "buffer") else stream.read()


def _looks_like_a_row(lines: list[str]) -> bool:
    try:
        _row(next((line for line in lines if line.strip()), ""), "")
    except DataError:
        return False
    return True


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f'{where} is not JSON ({error}); expected an object such as {{"prompt": "Once"}}') from None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise DataError(f'{where} has no text under "prompt"; expected an object such as {{"prompt": "Once"}}')
    try:
        _line(row).encode()
    except UnicodeEncodeError as error:
        lone = f"\\u{ord(error.object[error.start]):04x}"
        raise DataError(f"{where} has {lone}, half of a surrogate pair, which is not text; remove it") from None
    except ValueError:
        raise DataError(f"{where} has a number that JSON does not have (NaN or Infinity); write null") from None
    return row


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False)


def generate_file(
    engine: Engine,
    submit: Submit,
    rows: list[Row],
    out: Path | None,
    sampling: Sampling,
    *,
    samples: int = 1,
    model: str = "",
    progress: Progress | None = None,
) -> Written:
    """Generate texts for all prompts, and append them in the order of the prompts, each as a JSON object.

    An object has the keys of its prompt, and "text", "tokens" (their number), "finish_reason" ("error" where the prompt
    cannot be continued, with "error"), "sampling" (:func:`sampling_values`) and "settings" (a digest of model and
    sampling). Complete lines of an earlier call with the same prompts and settings are kept, and the texts after them
    are generated.

    Args:
        submit: queue a prompt at the engine.
        out: the file; None writes to standard output.
        sampling: with a seed, each text has its own: seed + its number.
        samples: texts of each prompt.
        model: stands for the model in the digest.

    Raises:
        ConfigError: the file was written from other prompts or with other settings, or is being written.
        TrainingError: the model's weights have diverged.
    """
    settings = hashlib.sha256(f"{model}|{samples}|{dataclasses.asdict(sampling)}".encode()).hexdigest()[:12]
    wanted = ((number, row) for number, row in enumerate(row for row in rows for _ in range(samples)))
    done, total = Written(), len(rows) * samples
    progress = progress or Silent()
    with _alone(out), _opened(out) as file:
        done.earlier = 0 if out is None else _kept(out, rows, samples, settings)
        rest = islice(wanted, done.earlier, None)
        for row, number, generation, why in _in_order(engine, submit, rest, sampling):
            record = row | {"text": "", "tokens": 0, "finish_reason": "error"}
            if generation is None:
                record["error"] = why
                done.failed += 1
            else:
                record |= {"text": generation.text, "tokens": len(generation.tokens)}
                record["finish_reason"] = generation.finish_reason
                done.tokens += len(generation.tokens)
            used = sampling_values(sampling.with_seed(number))
            file.write(_line(record | {"sampling": used, "settings": settings}) + "\n")
            file.flush()
            done.texts += 1
            progress("generating", done.earlier + done.texts, total, f"{done.tokens:,} tokens")
    return done


def sampling_values(sampling: Sampling) -> Row:
    """The settings of a text that `groundup generate` has options for."""
    names = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop", "seed")
    return {name: getattr(sampling, name) for name in names}


_Begun = tuple[Row, int, Generation | None, str]
"""Prompt, number of the text, the text or None, and why there is none."""


def _in_order(
    engine: Engine, submit: Submit, wanted: Iterator[tuple[int, Row]], sampling: Sampling
) -> Iterator[_Begun]:
    """Texts as they are done, in the order of the prompts; at most twice as many as there are rows are begun."""
    begun: deque[_Begun] = deque()
    while True:
        for number, row in islice(wanted, max(0, 2 * engine.rows - len(begun))):
            try:
                begun.append((row, number, submit(row["prompt"], sampling.with_seed(number)), ""))
            except GroundupError as error:
                begun.append((row, number, None, str(error)))
        if not begun:
            return
        while begun and (begun[0][2] is None or begun[0][2].is_over):
            row, number, generation, why = begun.popleft()
            if generation is not None and generation.error is not None:
                raise generation.error
            yield row, number, generation, why
        if not engine.is_idle:
            engine.step()


def _alone(out: Path | None) -> AbstractContextManager[None]:
    """Exclude other processes that write the same file."""
    if out is None:
        return nullcontext()
    real = Path(os.path.realpath(out))
    return locked(
        real.with_name(f".{real.name}.lock"),
        lambda holder: ConfigError(f"{out} is being written by {holder}; wait for it, or choose another --out"),
        keep=False,
    )


def _opened(out: Path | None) -> AbstractContextManager[TextIO]:
    return nullcontext(sys.stdout) if out is None else out.open("a", encoding="utf-8", newline="\n")


def _kept(out: Path, rows: list[Row], samples: int, settings: str) -> int:
    """Number of complete lines of an earlier call; what a kill left of a line is cut off."""
    if not out.exists():
        return 0
    content = read_bytes(out)
    lines = content.split(b"\n")
    partial = lines.pop()
    if len(lines) > len(rows) * samples:
        raise ConfigError(f"{out} has {len(lines)} texts, but {len(rows) * samples} are wanted; choose another --out")
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            found = record["prompt"], record["settings"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{out}:{number + 1} is not a line of generated text; choose another --out") from None
        if found[0] != rows[number // samples]["prompt"]:
            raise ConfigError(f"{out}:{number + 1} continues another prompt: {found[0]!r:.60}; choose another --out")
        if found[1] != settings:
            raise ConfigError(f"{out} was written by another model or with other settings; choose another --out")
    if partial:
        with out.open("r+b") as file:
            file.truncate(len(content) - len(partial))
    return len(lines)
