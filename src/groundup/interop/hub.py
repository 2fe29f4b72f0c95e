"""The Hugging Face Hub: models by name, and pushing an export."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from groundup.errors import ConfigError, DataError, MissingExtraError

SCHEME = "hf://"
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w./-]+?))?(/(?P<file>[\w./-]+\.gguf))?")
_WANTED = ["*.json", "*.safetensors", "tokenizer.model"]
"""Files of a model that are read. Others, such as pickles, are not downloaded."""
_TWICE = ["consolidated*.safetensors", "original/*"]
"""The same weights once more, in the form of the model's makers (Mistral, Llama)."""


class Downloaded(NamedTuple):
    """Files of a model on the Hub, in the local cache."""

    place: Path
    """A folder, or a GGUF file."""
    origin: dict[str, Any]
    """Name and revision."""


def download(name: str) -> Downloaded:
    """Download a model, or take it from the cache.

    Args:
        name: ``hf://ORG/NAME``, with ``@REVISION`` where it is not main, and ``/FILE.gguf`` for a GGUF file.

    Raises:
        ConfigError: it is not such a name.
        DataError: there is no such model, or the Hub does not answer.
        MissingExtraError: huggingface_hub is not installed.
    """
    parsed = _NAME.fullmatch(name.removeprefix(SCHEME))
    if parsed is None:
        raise ConfigError(
            f"{name} is not the name of a model on the Hub; expected hf://ORG/NAME, or hf://ORG/NAME@REVISION"
        )
    hub = _loaded("importing from the Hub")
    repo, revision, file = parsed["repo"], parsed["revision"], parsed["file"]
    with _in_one_line(f"cannot download {repo}"):
        if file:
            place = Path(hub.hf_hub_download(repo, file, revision=revision))
            commit = place.parents[file.count("/")].name
        else:
            place = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=_WANTED, ignore_patterns=_TWICE))
            commit = place.name
    return Downloaded(place, {"source": f"{SCHEME}{repo}" + (f"/{file}" if file else ""), "revision": commit})


def push(out: Path, repo: str) -> str:
    """Upload an export, and return where it lies. A new repository is private, until its owner makes it public.

    Args:
        out: a folder, or a file.
        repo: ``ORG/NAME``.

    Raises:
        DataError: the Hub refuses it, or does not answer.
        MissingExtraError: huggingface_hub is not installed.
    """
    api = _loaded("pushing to the Hub").HfApi()
    with _in_one_line(f"{out} is written, and cannot be pushed to {repo}"):
        exists = api.repo_exists(repo)
        if not exists:
            api.create_repo(repo, private=True)
        message = "Upload with groundup"
        if out.is_dir():
            found = api.upload_folder(repo_id=repo, folder_path=out, commit_message=message)
        else:
            found = api.upload_file(repo_id=repo, path_or_fileobj=out, path_in_repo=out.name, commit_message=message)
    return f"{found.commit_url}{'' if exists else ' (private)'}"


def check_repo(repo: str) -> None:
    """Refuse a name before an export begins that would be pushed there.

    Raises:
        ConfigError: it is not ORG/NAME.
        MissingExtraError: huggingface_hub is not installed.
    """
    _loaded("pushing to the Hub")
    # By their modules: as attributes of the package they are only there once something has imported them.
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        valid = "/" in repo
    except HFValidationError:
        valid = False
    if not valid:
        raise ConfigError(
            f"--push {repo} is not the name of a repository on the Hub; expected ORG/NAME, of letters, digits, - _ "
            f"and . of at most 96 characters; neither part begins or ends with - or ."
        )


def _loaded(purpose: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError.for_package("huggingface_hub", "hub", purpose) from None
    return huggingface_hub


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into one line."""
    try:
        yield
    except Exception as error:  # errors of HTTP, of the network, of the file system and of the package itself
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise DataError(f"{what}: {lines[0]}; check the name, the network, and `hf auth login`") from None
