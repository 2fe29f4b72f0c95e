"""Bits per byte of text: the numbers of transformers and of `LanguageModel.score`, however the text is read."""

import gzip
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import groundup
from foreign_models import made_run
from groundup.config import SampleConfig
from groundup.errors import DataError, TokenizerError, TrainingError
from groundup.generation.scoring import Windows, score_text
from groundup.text.options import ReadOptions
from groundup.text.readers import TextReader

DOCUMENTS = [
    "The cat sat on the mat.",
    "é 日本 🎉\r\n<|endoftext|",
    "The dog looked at the moon in the pond, and the cat ran after it. " * 30,
    "x",
    "\n\n",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes("\n<|endoftext|>\n".join(DOCUMENTS).encode())
    return path


def windows_by_definition(count: int, context: int) -> list[tuple[int, int, int]]:
    """First input, first scored target and last target of each window of a document of ``count`` tokens."""
    found: list[tuple[int, int, int]] = []
    done = 0
    while done < count - 1:
        begin = max(0, done - context // 2)
        if begin + context >= count - 1:  # the last one ends with the document
            begin = max(0, count - 1 - context)
        last = min(begin + context, count - 1)
        found.append((begin, done + 1, last))
        done = last
    return found


@given(count=st.integers(1, 60), context=st.integers(1, 9), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_windows_do_not_depend_on_how_the_ids_arrive(count, context, cuts):
    ids, windows = np.arange(count), Windows(context)
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    found = [w for a, b in itertools.pairwise(edges) for w in windows.feed(ids[a:b])] + [*windows.finish()]
    assert [(int(w.ids[0]), int(w.ids[-1]) - w.scored + 1, int(w.ids[-1])) for w in found] == windows_by_definition(
        count, context
    )
    assert all(len(w.ids) <= context + 1 and (w.ids == np.arange(w.ids[0], w.ids[-1] + 1)).all() for w in found)
    assert [w.scored for w in windows.feed(ids)] + [w.scored for w in windows.finish()] == [w.scored for w in found]


def test_the_loss_is_that_of_transformers_on_the_same_windows(text, model, exported):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    encode = AutoTokenizer.from_pretrained(exported)
    nats, tokens = [], 0
    for document in DOCUMENTS:
        ids = [encode.bos_token_id, *encode(document, add_special_tokens=False)["input_ids"]]
        for begin, first, last in windows_by_definition(len(ids), theirs.config.max_position_embeddings):
            with torch.no_grad():
                logits = theirs(torch.tensor([ids[begin:last]])).logits[0].double()
            here = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[begin + 1 : last + 1]), reduction="none")
            nats.append(float(here[first - begin - 1 :].sum()))
            tokens += last - first + 1
    found = model.evaluate_text(text)
    assert (found.tokens, found.documents, found.not_scored) == (tokens, len(DOCUMENTS), 0)
    assert found.bytes == sum(len(document.encode()) for document in DOCUMENTS)
    assert found.loss == pytest.approx(math.fsum(nats) / tokens, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(math.fsum(nats) / math.log(2) / found.bytes, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_it_is_the_score_of_each_document(text, model):
    scores = [model.score(document) for document in DOCUMENTS]
    found = model.evaluate_text(text)
    assert found.loss * found.tokens == pytest.approx(-math.fsum(score.total for score in scores), rel=1e-6)
    assert found.tokens == sum(len(score.token_ids) for score in scores)


def test_every_format_and_size_of_block_gives_the_same(text, model, tmp_path):
    expected = model.evaluate_text(text)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": d}) + "\n" for d in ["", *DOCUMENTS]), encoding="utf-8")
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    for found in (
        model.evaluate_text(rows, read=ReadOptions(field="body")),
        model.evaluate_text(packed),
        score_text(model.model, model.tokenizer, TextReader(text, block_bytes=7), begin_token="<|endoftext|>"),
    ):
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
        assert (found.tokens, found.bytes, found.documents) == (expected.tokens, expected.bytes, expected.documents)


def test_a_long_text_is_read_in_parts(model, tmp_path, monkeypatch):
    from groundup.generation import scoring

    monkeypatch.setitem(scoring._TOKENS_AT_ONCE, "cpu", 200)
    monkeypatch.setattr(scoring, "_BATCHES_SORTED", 1)
    monkeypatch.setattr(scoring, "_BATCH_BYTES", 100)
    (tmp_path / "text.txt").write_text(("The cat sat. " * 300 + "<|endoftext|>") * 2, encoding="utf-8")
    shown: list[tuple[int, int | None]] = []

    def progress(what: str, done: int, total: int | None, extra: str = "") -> None:
        shown.append((done, total))

    found = model.evaluate_text(tmp_path / "text.txt", progress=progress)
    assert len(shown) > 10
    assert shown[-1] == (found.bytes + 26, found.bytes + 26)
    score = model.score("The cat sat. " * 300)
    assert found.loss == pytest.approx(-score.total / len(score.token_ids), rel=1e-5)


@pytest.mark.parametrize("limit", [1, 23, 24, 25, 26, 1000, 10**9])
def test_a_limit_ends_between_two_characters(text, model, limit):
    found = model.evaluate_text(text, limit=limit)
    whole = [document.encode() for document in DOCUMENTS]
    assert found.bytes <= limit
    assert found.bytes >= min(limit - 3, sum(map(len, whole)))
    left, expected = limit, []
    for document in whole:
        part = document[:left].decode(errors="ignore")
        expected.append(part)
        left -= len(document)
        if left <= 0:
            break
    scores = [model.score(part) for part in expected if part]
    assert found.loss == pytest.approx(-sum(s.total for s in scores) / sum(len(s.token_ids) for s in scores), rel=1e-5)


def test_without_a_token_that_begins_documents_first_tokens_do_not_count(text, model):
    bare = groundup.LanguageModel(model.model, model.tokenizer, sample=SampleConfig(begin_token=""))
    found = bare.evaluate_text(text)
    ids = [model.tokenizer.encode_ordinary(document) for document in DOCUMENTS]
    assert found.tokens == sum(len(document) - 1 for document in ids)
    assert found.not_scored == sum(len(model.tokenizer.vocab[document[0]]) for document in ids)
    assert found.bytes + found.not_scored == sum(len(document.encode()) for document in DOCUMENTS)
    scores = [bare.score(document) for document, own in zip(DOCUMENTS, ids, strict=True) if len(own) > 1]
    assert found.loss == pytest.approx(-sum(score.total for score in scores) / found.tokens, rel=1e-6)


def test_any_bytes_can_be_scored(model, tmp_path):
    path = tmp_path / "bytes.txt"
    path.write_bytes(b"The \xff\xfe cat \xe9\r\n sat")
    found = model.evaluate_text(path)
    assert (found.bytes, math.isfinite(found.loss)) == (len(path.read_bytes()), True)
    path.write_bytes(b"\x80")
    assert (model.evaluate_text(path).tokens, model.evaluate_text(path).bytes) == (1, 1)


def test_a_context_of_one_token(tokenizer, text, tmp_path):
    short = groundup.load(made_run(tmp_path / "short", tokenizer, context_length=1))
    scores = [short.score(document) for document in DOCUMENTS]
    found = short.evaluate_text(text)
    assert found.loss * found.tokens == pytest.approx(-sum(score.total for score in scores), rel=1e-6)


def test_what_cannot_be_scored_is_refused(model, tokenizer, tmp_path):
    bare = groundup.LanguageModel(model.model, model.tokenizer, sample=SampleConfig(begin_token=""))
    (tmp_path / "x.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="bytes: 1"):
        bare.evaluate_text(tmp_path / "x.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match="empty"):
        model.evaluate_text(tmp_path / "empty.txt")
    small = groundup.load(made_run(tmp_path / "small", tokenizer, vocab_size=200))
    (tmp_path / "text.txt").write_text("The cat sat on the mat.", encoding="utf-8")
    with pytest.raises(TokenizerError, match="200"):
        small.evaluate_text(tmp_path / "text.txt")
    broken = groundup.load(made_run(tmp_path / "broken", tokenizer))
    with torch.no_grad():
        broken.model.lm_head.weight[5] = math.nan
    with pytest.raises(TrainingError, match="not finite"):
        broken.evaluate_text(tmp_path / "text.txt")
