"""The plain Python page against the worked examples of the literature."""

from collections import Counter

from groundup.tokenizer import reference


def words(text: str) -> Counter[tuple[bytes, ...]]:
    return Counter(tuple(reference.byte_tokens(word.encode())) for word in text.split())


def test_worked_example_of_sennrich_haddow_and_birch():
    counts = words("low low low low low lower lower widest widest widest newest newest newest newest newest newest")
    merges = reference.learn_merges(counts, 12)
    assert [(left + right).decode() for left, right in merges] == [
        *("st", "est", "ow", "low", "west", "ne"),
        *("newest", "wi", "wid", "widest", "lowe", "lower"),
    ]
    ranks = {pair: rank for rank, pair in enumerate(merges[:6])}
    assert reference.merge_pretoken(b"newest", ranks) == [b"ne", b"west"]


def test_of_equally_frequent_pairs_the_lexicographically_greatest_merges():
    pairs = [(b"A", b"B"), (b"A", b"C"), (b"B", b"ZZ"), (b"BA", b"A")]
    counts = Counter(dict.fromkeys(pairs, 3))
    assert reference.learn_merges(counts, 1) == [(b"BA", b"A")]


def test_encodes_the_cat_ate():
    tokens = [b" ", b"a", b"c", b"e", b"h", b"t", b"th", b" c", b" a", b"the", b" at"]
    merges = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
    assert reference.encode(b"the cat ate", dict(enumerate(tokens)), merges, []) == [9, 7, 1, 5, 10, 3]


def test_overlapping_occurrences_merge_from_the_left():
    assert reference.merge_pair((b"a", b"a", b"a"), (b"a", b"a")) == (b"aa", b"a")


def test_special_tokens_split_leftmost_and_longest_first():
    pieces = list(reference.split_on_special_tokens(b"x<a><a>b<a>", [b"<a>", b"<a>b"]))
    assert [piece for piece, is_special in pieces if is_special] == [b"<a>", b"<a>b", b"<a>"]
    assert [piece for piece, is_special in pieces if not is_special] == [b"x", b"", b"", b""]
