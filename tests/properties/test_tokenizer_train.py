"""Training, for any documents, threads and chunks: the C++ core against plain Python."""

from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.tokenizer import reference
from groundup.tokenizer.train import _train

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


def train(texts, merge_limit, specials, threads, chunk_bytes):
    vocab_size = 256 + len(specials) + merge_limit
    return _train([texts], vocab_size, specials, threads, None, total_bytes=None, chunk_bytes=chunk_bytes)


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
