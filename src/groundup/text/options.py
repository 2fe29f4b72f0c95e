"""Options for reading text, shared by all verbs that read text; and conversion of text to UTF-8."""

import codecs
import dataclasses
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

from groundup.config.generate import ESCAPES
from groundup.errors import DataError
from groundup.text.chat.templates import BUILT_IN

TextFormat: TypeAlias = Literal["auto", "txt", "jsonl", "json", "parquet", "chat"]
OnBadRow: TypeAlias = Literal["error", "skip"]

DEFAULT_FIELD = "text"


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    r"""Options for reading text, the same for all inputs of a call.

    The field ``meta.text`` is the field ``text`` inside ``meta``, unless a field has the name ``meta.text`` itself. In
    a template ``\n``, ``\t`` and ``\\`` may be typed as a backslash and a letter; ``{{`` and ``}}`` are braces. With
    the encoding utf-8 nothing is decoded, and invalid bytes are kept. With the format chat the template is a chat
    template (`groundup.text.chat`).

    Raises:
        DataError: an option has an invalid value, or both a field and a template are given.
    """

    # The docstrings of the fields are the help of the flags.
    field: str | None = None
    """JSON field or parquet column with the text; meta.text for a nested field. Default: text."""
    template: str | None = None
    r"""Text of a row from several fields, such as '{title}\n\n{body}'; instead of --field. With --format chat:
    chatml (the default), llama3, or a file with a Jinja template of conversations."""
    format: TextFormat = "auto"
    """Format of the inputs. By default it is detected from the suffix, for standard input from the first bytes. chat:
    rows of JSON or parquet are conversations, for `groundup encode` only."""
    encoding: str = "utf-8"
    """Encoding of plain text and JSON, such as utf-16, latin-1, cp1252 or gb18030."""
    on_bad_row: OnBadRow = "error"
    """At a row that is not JSON or has no text: stop (error), or count it and skip it (skip)."""

    def __post_init__(self) -> None:
        if self.field is not None and self.template is not None:
            raise DataError(
                f"both a field ({self.field!r}) and a template ({self.template!r}) are given; give one of them"
            )
        if self.field == "":
            raise DataError("the field name is empty; name the JSON field or parquet column with the text")
        for name, values in (("format", TextFormat), ("on_bad_row", OnBadRow)):
            if getattr(self, name) not in get_args(values):
                raise DataError(f"{name} = {getattr(self, name)!r}; expected one of {', '.join(get_args(values))}")
        _check_encoding(self.encoding)
        if self.is_chat and self.field is not None:
            raise DataError(
                f"--field {self.field} has no meaning for conversations, whose fields have names; leave it out"
            )
        _ = self.parts

    @cached_property
    def parts(self) -> "list[bytes | str]":
        """Parts of the text of a row: literal bytes, and names (str) of fields."""
        if self.is_chat:
            return []
        if self.template is None:
            return [self.field or DEFAULT_FIELD]
        return _template_parts(self.template)

    @cached_property
    def fields(self) -> list[str]:
        """Names of the fields that a row must have."""
        return list(dict.fromkeys(part for part in self.parts if isinstance(part, str)))

    @property
    def is_chat(self) -> bool:
        """Whether rows are conversations."""
        return self.format == "chat"

    @cached_property
    def is_utf8(self) -> bool:
        """Whether the encoding is UTF-8, so that bytes are not decoded."""
        return codecs.lookup(self.encoding).name == "utf-8"

    def with_field(self, field: str) -> "ReadOptions":
        """These options, combined with the argument ``field`` of a call, whose default is ``text``.

        Raises:
            DataError: the two contradict each other.
        """
        if field in (DEFAULT_FIELD, self.field):
            return self
        if self.field is not None:
            raise DataError(f"two fields are given: {field!r} and {self.field!r}; give one of them")
        return dataclasses.replace(self, field=field)

    def record(self) -> dict[str, Any]:
        """The options, without the field, that differ from the defaults; for the record of a data set."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "field"}
        defaults = ReadOptions.__dataclass_fields__
        if self.is_chat:
            del values["template"]  # a record has no paths; the plan has the template's hash
        return {name: value for name, value in values.items() if value != defaults[name].default}


_TEMPLATE_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]+)\}|\\(?P<escape>[nt\\])|(?P<stray>[{}])|[^{}\\]+|\\")
_LITERALS = {"{{": b"{", "}}": b"}"}


def _template_parts(template: str) -> "list[bytes | str]":
    parts: list[bytes | str] = []
    for token in _TEMPLATE_TOKEN.finditer(template):
        if token["stray"]:
            raise DataError(
                f"template {template!r} has a lone {token['stray']!r} at character {token.start() + 1}; write a field "
                "as {name}, and a brace as {{ or }}"
            )
        if token["name"]:
            parts.append(token["name"])
        elif token["escape"]:
            parts.append(ESCAPES[token["escape"]].encode())
        else:
            parts.append(_LITERALS.get(token[0]) or utf8(token[0]))
    if not any(isinstance(part, str) for part in parts):
        if template in BUILT_IN or template.endswith((".jinja", ".json")):
            raise DataError(
                f"template {template!r} is one of conversations; add --format chat, or write fields as {{name}}"
            )
        raise DataError(f"template {template!r} names no field; write fields in braces, such as {{title}}")
    return parts


def _check_encoding(encoding: str) -> None:
    try:
        codecs.getincrementaldecoder(encoding)
        b"a".decode(encoding, "ignore")  # refuses codecs that are not text encodings, such as base64
    except (LookupError, ValueError):
        raise DataError(
            f"encoding {encoding!r} is not known; expected a name such as utf-8, utf-16, latin-1 or cp1252 "
            "(all: the list of standard encodings in Python's documentation of codecs)"
        ) from None


def utf8(text: str) -> bytes:
    """The text in UTF-8. A lone surrogate becomes U+FFFD, a surrogate pair the character that it encodes."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def separator_bytes(separator: str) -> bytes:
    """The separator of documents in UTF-8.

    Raises:
        DataError: it is empty, or contains a lone surrogate.
    """
    if not separator:
        raise DataError("the separator is empty; name a token such as <|endoftext|>, or None for one document a file")
    try:
        return separator.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"the separator {separator!r} contains a lone surrogate, which UTF-8 cannot encode; use another"
        ) from None
