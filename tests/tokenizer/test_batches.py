"""Many texts at once, one long text on several threads, and what is no text."""

import mmap
import random

import numpy as np
import pytest

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.patterns import PATTERNS

SPECIAL_TOKENS = ["<|endoftext|>", "<|endoftext|><|endoftext|>", " <|user|>\n", "a b"]
PIECES = [
    *("the", " cat", "'s", "'LL", "Word", "HTTPServer", "é", "e\u0301", "नमस्ते", "東京", "🐈", "ß", "ǅ", "12345", "½"),
    *(" ", "  ", "\n", "\r\n", "\n\n \n", "\t\t", "\u00a0", "\u3000", "\u2028", "\x85", "\x00", "\ufeff"),
    *("..", "/*", "//\n", "/\r\n", "==", '";', "…", "-", " a b", "a ", "b"),
    *("<|endoftext|>", "<|endoftext|><|endoftext|>", "<|endof", " <|user|>\n", " <|user|>", "text|>"),
]


@pytest.fixture(scope="module")
def long_text():
    """More than three of the chunks that threads take."""
    rng = random.Random(0)
    pieces = [piece.encode() for piece in PIECES] + [b"\xff", b"\xe2\x82", b"\xf0\x9f"]
    text = b"".join(rng.choices(pieces, k=800_000))
    assert len(text) > 3 << 20
    return text


@pytest.fixture(scope="module", params=PATTERNS)
def of_pattern(request, small):
    return Tokenizer(dict(list(small.vocab.items())[:447]), small.merges, SPECIAL_TOKENS, pattern=request.param)


def test_threads_do_not_change_ids(of_pattern, long_text):
    expected = of_pattern.encode_to_numpy(long_text)
    assert of_pattern.decode_bytes(expected) == long_text
    for num_threads in (2, 3, 4):
        assert np.array_equal(of_pattern.encode_to_numpy(long_text, num_threads=num_threads), expected)
    few = of_pattern.encode_to_numpy(long_text, allowed_special={"a b"}, num_threads=1)
    assert np.array_equal(of_pattern.encode_to_numpy(long_text, allowed_special={"a b"}, num_threads=3), few)
    assert of_pattern.count(long_text) == len(expected)


@pytest.mark.parametrize("around", [b"<|endoftext|>", b" <|user|>\n", b"a b", b"   \n ", "東".encode(), b"x", b"\r\n"])
def test_what_lies_where_threads_meet_stays_whole(of_pattern, around):
    """Runs of one thing, so that it lies across wherever a chunk of a megabyte may end."""
    text = b"w " + around * (2_300_000 // len(around)) + b" w"
    expected = of_pattern.encode_to_numpy(text, num_threads=1)
    assert np.array_equal(of_pattern.encode_to_numpy(text, num_threads=2), expected)


def test_a_batch_is_its_texts_one_by_one(of_pattern):
    rng = random.Random(1)
    texts = ["".join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(500)]
    texts += ["", "", "x" * 5000]
    expected = [of_pattern.encode(text) for text in texts]
    for num_threads in (None, 1, 3):
        assert of_pattern.encode_batch(texts, num_threads=num_threads) == expected
        mixed = [text.encode() if i % 2 else text for i, text in enumerate(texts)]
        ids, ends = of_pattern.encode_batch_to_numpy(iter(mixed), num_threads=num_threads)
        assert (ids.dtype, ends.dtype, ends.shape) == (np.uint32, np.uint64, (len(texts),))
        assert [part.tolist() for part in np.split(ids, ends[:-1].astype(int))] == expected
        assert ends[-1] == len(ids)


def test_an_id_may_follow_each_text(small):
    end = small.token_id("<|endoftext|>")
    texts = ["the cat", "", "sat" * 900_000, "<|user|>"]
    expected = [[*small.encode(text), end] for text in texts]
    other = Tokenizer(small.vocab, small.merges, small.special_tokens, pattern=r"(?:\w+)|\W")
    for num_threads in (1, 2):
        ids, ends = small.encode_batch_to_numpy(texts, append=np.int64(end), num_threads=num_threads)
        assert [part.tolist() for part in np.split(ids, ends[:-1].astype(int))] == expected
        assert ends[-1] == len(ids)
    with pytest.warns(UserWarning, match="not built in"):
        ids, ends = other.encode_batch_to_numpy(["the", ""], append=end)
    assert ids.tolist() == [*small.encode("the"), end, end]
    assert ends.tolist() == [len(ids) - 1, len(ids)]
    for append, message in ((450, "id 450 is not in the vocabulary"), (-1, "id -1 is not"), (1.0, "ids are integers")):
        with pytest.raises(TokenizerError, match=message):
            small.encode_batch_to_numpy(texts, append=append)


def test_a_batch_of_megabytes_keeps_its_order(small, long_text):
    """Texts of all sizes, so that threads share long ones and take short ones together."""
    rng = random.Random(2)
    texts, begin = [], 0
    while begin < len(long_text):
        size = rng.choice([0, 1, 50, 5_000, 300_000, 1_500_000])
        texts.append(long_text[begin : begin + size])
        begin += size
    ids, ends = small.encode_batch_to_numpy(texts, num_threads=3)
    begin = 0
    for text, end in zip(texts, ends.tolist(), strict=True):
        assert np.array_equal(ids[begin:end], small.encode_bytes(text))
        begin = end


def test_nothing_gives_nothing(small):
    assert small.encode("") == small.encode_ordinary("") == []
    assert small.encode_batch([]) == []
    assert small.encode_batch(["", ""]) == [[], []]
    ids, ends = small.encode_batch_to_numpy([])
    assert (ids.shape, ends.shape, ids.dtype, ends.dtype) == ((0,), (0,), np.uint32, np.uint64)
    ids, ends = small.encode_batch_to_numpy(["", b""])
    assert (ids.tolist(), ends.tolist()) == ([], [0, 0])
    assert small.encode_to_numpy(b"").shape == (0,)
    assert small.count("") == 0


def test_every_kind_of_bytes_is_text(small, tmp_path):
    data = "naïve <|user|>cat\n".encode()
    (tmp_path / "text").write_bytes(data)
    expected = small.encode(data.decode())
    with (tmp_path / "text").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        kinds = (data.decode(), data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), mapped)
        for text in kinds:
            assert small.encode_to_numpy(text).tolist() == expected
            assert small.count(text) == len(expected)
            assert small.encode_with_offsets(text)[0].tolist() == expected
        assert small.encode_batch_to_numpy(kinds)[0].tolist() == expected * len(kinds)
    whole = memoryview(b"xx" + data + b"yy")
    assert small.encode_to_numpy(whole[2:-2]).tolist() == expected


def test_the_text_is_not_held_after_encoding(small):
    data = bytearray(b"the cat " * 1000)
    small.encode_to_numpy(data)
    small.encode_batch_to_numpy([data, data])
    small.count(data)
    data.clear()  # a buffer that someone holds cannot be resized
    assert small.encode_to_numpy(data).tolist() == []


NO_STR = [(5, "int"), (None, "NoneType"), (b"text", "bytes"), (["text"], "list"), (2.5, "float")]


@pytest.mark.parametrize(("text", "kind"), NO_STR)
def test_encode_takes_str_and_says_so(small, text, kind):
    for encode in (small.encode, small.encode_ordinary, lambda text: small.encode(text, allowed_special="none")):
        with pytest.raises(TokenizerError, match=f"^text is of type {kind}; "):
            encode(text)
    with pytest.raises(TokenizerError, match=f"^text 1 is of type {kind}; "):
        small.encode_batch(["the", text, 5])
    with pytest.raises(TokenizerError, match=f"^string 1 of the iterable is of type {kind}; "):
        list(small.encode_iterable(["the", text]))


class Words(str):
    __slots__ = ()


def test_a_str_of_another_class_is_a_str(small):
    assert small.encode(Words("the cat")) == small.encode_ordinary(Words("the cat")) == small.encode("the cat")
    assert small.encode_batch([Words("the cat")]) == [small.encode("the cat")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (5, "text is of type int; give a str, or UTF-8 as bytes"),
        (None, "text is of type NoneType"),
        (["a"], "text is of type list"),
        (np.array([1, 2, 3]), "text is a ndarray of 1 dimensions and 8 bytes an element"),
        (np.zeros((2, 2), np.uint8), "text is a ndarray of 2 dimensions and 1 bytes"),
        (memoryview(b"abcdef")[::2], "text is a memoryview whose bytes do not lie one after the other"),
    ],
)
def test_what_is_no_text_is_explained(small, text, message):
    for encode in (small.encode_to_numpy, small.encode_bytes, small.count, small.encode_with_offsets):
        with pytest.raises(TokenizerError) as error:
            encode(text)
        assert str(error.value).startswith(message)
        assert "\n" not in str(error.value)
    with pytest.raises(TokenizerError) as error:
        small.encode_batch_to_numpy([b"fine", text])
    assert str(error.value).startswith(message.replace("text", "text 1", 1))


def test_a_closed_map_is_explained(small):
    mapped = mmap.mmap(-1, 10)
    mapped.close()
    with pytest.raises(TokenizerError, match="text of type mmap cannot be read"):
        small.encode_to_numpy(mapped)


def test_what_is_no_list_of_texts_is_explained(small):
    for encode in (small.encode_batch, small.encode_batch_to_numpy):
        for single in ("text", b"text", bytearray(b"text"), memoryview(b"text")):
            with pytest.raises(TokenizerError, match=f"texts is a single {type(single).__name__}; give a list"):
                encode(single)
        for nothing in (5, None):
            with pytest.raises(TokenizerError, match=f"texts is of type {type(nothing).__name__}; give a list"):
                encode(nothing)
    for nothing in (b"text", None):
        with pytest.raises(TokenizerError, match=f"the iterable is of type {type(nothing).__name__}; give strings"):
            list(small.encode_iterable(nothing))


def test_an_error_within_the_iterable_comes_out(small):
    def texts():
        yield "the cat"
        raise TypeError("mine")

    for encode in (small.encode_batch, small.encode_batch_to_numpy, lambda texts: list(small.encode_iterable(texts))):
        with pytest.raises(TypeError, match="mine"):
            encode(texts())


@pytest.mark.parametrize("num_threads", [0, -1, 257, 10**9, "2", 2.0, True])
def test_impossible_numbers_of_threads_are_refused(small, num_threads):
    for encode in (small.encode_to_numpy, lambda text, **options: small.encode_batch([text], **options)):
        with pytest.raises(TokenizerError, match=r"^num_threads = .*; give 1 to 256, or None"):
            encode("text", num_threads=num_threads)


def test_a_byte_that_the_vocabulary_lacks_is_named_with_its_text():
    tokenizer = Tokenizer({ord(letter): letter.encode() for letter in "abc "}, [])
    texts = ["ab", "a" * 2_000_000, "abd", "e"]
    for num_threads in (1, 3):
        for encode in (tokenizer.encode_batch, tokenizer.encode_batch_to_numpy):
            with pytest.raises(TokenizerError, match=r"^text 2: the text has the byte 0x64, which the vocabulary"):
                encode(texts, num_threads=num_threads)
        with pytest.raises(TokenizerError, match=r"^the text has the byte 0x64"):
            tokenizer.encode_to_numpy("ab " * 1_000_000 + "d", num_threads=num_threads)
    for encode in (tokenizer.encode, tokenizer.encode_ordinary, tokenizer.count, tokenizer.encode_with_offsets):
        with pytest.raises(TokenizerError, match=r"^the text has the byte 0x64"):
            encode("abd")
    assert tokenizer.encode_batch(["ab", "c"]) == [[97, 98], [99]]


def test_one_endless_word_is_encoded(small):
    for character in ("a", "é", "=", "\n"):
        text = character * 300_000
        ids = small.encode_to_numpy(text)
        assert small.decode(ids) == text
        assert np.array_equal(small.encode_to_numpy(text * 12, num_threads=2), small.encode_to_numpy(text * 12))
