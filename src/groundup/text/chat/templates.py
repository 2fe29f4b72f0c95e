"""Chat templates: two built in, or a file in the form of Hugging Face's ``chat_template``."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.errors import DataError, FileMissingError
from groundup.system.files import read_text, why

BUILT_IN = ("chatml", "llama3")
TEMPLATE_FILE = "chat_template.jinja"
"""Name beside a tokenizer, here and in directories of Hugging Face."""
_CONFIG_FILE = "tokenizer_config.json"
_VARIABLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LARGEST = 1 << 20


@dataclass(frozen=True)
class ChatTemplate:
    """A template whose text needs no variable from outside but the messages."""

    name: str
    """A built-in one's name, or that of the file."""
    text: str
    tokens: tuple[str, ...] = ()
    """Special tokens that the text gets by variables such as ``eos_token``."""
    mend: str = "mend it, or name another"
    """What an error advises where it cannot be used."""

    @property
    def sha256(self) -> str:
        """Identity of the template."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_template(given: str, separator: str) -> ChatTemplate:
    """The built-in template of a name; or the one in a .jinja file, or in a tokenizer_config.json.

    Variables such as ``bos_token`` are written into the text, so that it says all by itself. Their values are those of
    the tokenizer_config.json; where there is none, ``bos_token`` and ``eos_token`` are the separator of documents.

    Raises:
        FileMissingError: there is no such template.
        DataError: the file has none, or cannot be read.
    """
    if given in BUILT_IN:
        return ChatTemplate(given, read_text(Path(__file__).with_name(f"{given}.jinja")))
    path = Path(given)
    text = _read(path)
    if path.suffix != ".json":
        config = path.with_name(_CONFIG_FILE)
        found = _json_object(config) if config.is_file() else {"bos_token": separator, "eos_token": separator}
        return complete_template(path.name, text, found)
    config_values = _json_object(path)
    return complete_template(path.name, _template_in(path, config_values), config_values)


def stored_template(folder: Path) -> ChatTemplate | None:
    """The template beside a tokenizer; None where there is none.

    Raises:
        DataError: it cannot be read.
    """
    path = folder / TEMPLATE_FILE
    return ChatTemplate(path.name, _read(path), mend=f"mend it in {path}") if path.exists() else None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path} is larger than {_LARGEST >> 20} MiB; expected a chat template")
        return read_text(path)
    except FileNotFoundError:
        raise FileMissingError(
            f"no chat template {str(path)!r}; expected {', '.join(BUILT_IN)}, or a file: .jinja, or a {_CONFIG_FILE}"
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"the chat template {path} cannot be read: {why(error)}; give a text in UTF-8") from None


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not JSON ({error}); expected a {_CONFIG_FILE}, or a template as .jinja") from None
    if not isinstance(value, dict):
        raise DataError(f"{path} holds {type(value).__name__}; expected an object with chat_template")
    return value


def _template_in(path: Path, config: dict[str, Any]) -> str:
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    if not isinstance(found, str):
        raise DataError(
            f"{path} has no chat_template; newer versions of transformers write it into {TEMPLATE_FILE} beside it: "
            "name that file"
        )
    return found


def complete_template(name: str, text: str, config: dict[str, Any]) -> ChatTemplate:
    values = {key: config.get(key) for key in _VARIABLES}
    values = {key: value.get("content") if isinstance(value, dict) else value for key, value in values.items()}
    used = {key: value for key, value in values.items() if isinstance(value, str) and re.search(rf"\b{key}\b", text)}
    # trim_blocks takes the line break after each block away.
    head = "".join(f"{{%- set {key} = {json.dumps(value, ensure_ascii=False)} %}}\n" for key, value in used.items())
    return ChatTemplate(name, head + text, tuple(dict.fromkeys(used.values())))
