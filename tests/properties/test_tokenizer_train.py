"""Training, for any documents, threads, chunks and options: the C++ core against plain Python and `tokenizers`."""

import io
import json
import mmap
import tempfile
import warnings
from pathlib import Path

import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from groundup.text.readers import split_documents
from groundup.tokenizer import reference, train_bpe_from_documents
from groundup.tokenizer.formats.gpt2 import CHARACTER_TO_BYTE
from groundup.tokenizer.patterns import PATTERNS, pretoken_ends
from groundup.tokenizer.training.counts import PretokenCounts, SlowPatternWarning
from groundup.tokenizer.training.texts import document_spans

# Other work on the machine must not fail a test.
unhurried = settings(deadline=None)

SPECIALS = ["<s>", "<s>a", "a b", "\n\n", "é"]
FRAGMENTS = [
    *(b"a", b"aa", b"ab", b"abc", b"b", b"'s", b"'", b"12", b"...", "é".encode(), "日本".encode(), b"<s>", b"<s"),
    *(
        b" ",
        b"  ",
        b"\n",
        b"\n\n",
        b"\r\n",
        b"\x1c",
        b"\xe3\x80\x80",
        b"\xc2\x85",
        b"\xe3\x80",
        b"\xed\xa0\x80",
        b"\xff",
    ),
]
fragments = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=2), max_size=40).map(b"".join)
documents = st.lists(fragments, min_size=1, max_size=4).filter(any)
special_tokens = st.lists(st.sampled_from(SPECIALS), unique=True, max_size=4)
merge_limits = st.integers(0, 60)


REGULAR_EXPRESSIONS = [r"\w+", r"a|", r"(?=b)", r"[^a]+(?=a)", r"\p{L}+|\s+", r"(?s:.)"]
TIE_RULES = {"bytes": reference.greatest_bytes, "huggingface": reference.least_ids}


def train(texts, merge_limit, specials, threads, chunk_bytes, pattern="gpt2", **options):
    counts = PretokenCounts(pattern=pattern, special_tokens=specials, num_threads=threads, chunk_bytes=chunk_bytes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPatternWarning)
        counts.add_documents(texts)
    return counts.train(256 + len(specials) + merge_limit, **options)


@unhurried
@given(
    documents=documents,
    specials=special_tokens,
    merge_limit=merge_limits,
    threads=st.integers(1, 3),
    chunk_bytes=st.integers(1, 30),
)
def test_equals_the_reference_for_any_threads_and_chunks(documents, specials, merge_limit, threads, chunk_bytes):
    expected = reference.train_bpe(
        documents, 256 + len(specials) + merge_limit, [special.encode() for special in specials]
    )
    assert train(documents, merge_limit, specials, threads, chunk_bytes) == expected


@unhurried
@given(runs=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 12)), min_size=1, max_size=12))
def test_overlapping_pairs_count_as_in_the_reference(runs):
    document = "".join(letter * length for letter, length in runs).encode()
    assert train([document], 100, [], 1, 1000) == reference.train_bpe([document], 356, [])


@unhurried
@given(documents=documents, specials=special_tokens)
def test_no_bytes_become_a_token_twice(documents, specials):
    vocab, merges = train(documents, 200, specials, 1, 1000)
    assert len(set(vocab.values())) == len(vocab) == 256 + len(merges) + len(specials)


@unhurried
@given(documents=documents, specials=special_tokens)
def test_the_bytes_of_every_token_merge_to_that_token(documents, specials):
    _, merges = train(documents, 100, specials, 1, 1000)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for left, right in merges:
        assert reference.merge_pretoken(left + right, ranks) == [left + right]


@unhurried
@given(
    documents=documents,
    specials=special_tokens,
    merge_limit=merge_limits,
    pattern=st.sampled_from([*PATTERNS, *REGULAR_EXPRESSIONS]),
    tie_rule=st.sampled_from(list(TIE_RULES)),
    min_frequency=st.integers(1, 4),
    max_token_length=st.none() | st.integers(1, 6),
    threads=st.integers(1, 3),
    chunk_bytes=st.integers(1, 30),
)
def test_every_option_equals_the_reference(
    documents, specials, merge_limit, pattern, tie_rule, min_frequency, max_token_length, threads, chunk_bytes
):
    limits = {"min_frequency": min_frequency, "max_token_length": max_token_length}
    expected = reference.train_bpe(
        documents,
        256 + len(specials) + merge_limit,
        [special.encode() for special in specials],
        PATTERNS.get(pattern, pattern),
        tie_rule=TIE_RULES[tie_rule],
        **limits,
    )
    ours = train(documents, merge_limit, specials, threads, chunk_bytes, pattern, tie_rule=tie_rule, **limits)
    assert ours == expected


@unhurried
@given(
    texts=st.lists(
        st.text(st.sampled_from("abc '\n\téж日1²🐈\u0301\u3000") | st.characters(exclude_categories=["Cs", "Cn"]))
    ),
    min_frequency=st.integers(1, 3),
    max_token_length=st.none() | st.integers(2, 6),
)
def test_the_hugging_face_tie_rule_gives_the_merges_of_tokenizers(texts, min_frequency, max_token_length):
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=min_frequency,
        max_token_length=None if max_token_length is None else max_token_length + 1,
    )
    texts = [*texts, "a"]  # there has to be something
    theirs.train_from_iterator(texts, trainer)
    expected = [
        tuple(bytes(CHARACTER_TO_BYTE[c] for c in token) for token in pair)
        for pair in json.loads(theirs.to_str())["model"]["merges"]
    ]
    _, merges = train_bpe_from_documents(
        texts, 320, [], tie_rule="huggingface", min_frequency=min_frequency, max_token_length=max_token_length
    )
    assert merges == expected


@unhurried
@given(documents=documents, specials=special_tokens, cut=st.integers(0, 4), weight=st.integers(1, 3))
def test_counting_in_parts_and_with_weights_is_counting_everything_at_once(documents, specials, cut, weight):
    first = PretokenCounts(special_tokens=specials)
    first.add_documents(documents[:cut], weight)
    second = PretokenCounts(special_tokens=specials)
    second.add_documents(documents[cut:])
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder) / "first.npz")
        total = PretokenCounts.load(Path(folder) / "first.npz") + second
    everything = documents[:cut] * weight + documents[cut:]
    assert total.train(300) == train_bpe_from_documents(everything, 300, specials)


@unhurried
@given(data=fragments, pattern=st.sampled_from([*PATTERNS, *REGULAR_EXPRESSIONS]))
def test_the_regex_splitter_equals_the_reference_and_loses_nothing(data, pattern):
    ends = pretoken_ends(data, pattern).tolist()
    pieces = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert pieces == reference.pretokens(data, PATTERNS.get(pattern, pattern))
    assert b"".join(pieces) == data


@unhurried
@given(data=st.text(st.sampled_from("ab|\r\n"), min_size=1, max_size=40), separator=st.sampled_from(["|", "||", "|\n"]))
def test_a_mapped_file_has_the_documents_of_the_reader(data, separator):
    text = mmap.mmap(-1, len(data))
    text[:] = data.encode()
    expected = split_documents(io.BytesIO(data.encode()).read, separator.encode(), 1000)
    spans = document_spans(text, separator.encode())
    assert [text[begin:end] for begin, end in spans] == [piece.data for piece in expected]
