"""tokenizer.json, both ways, against Hugging Face's own library."""

import json
import random
import tempfile
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.tokenizer import Tokenizer, reference
from groundup.tokenizer.formats.gpt2 import BYTE_TO_CHARACTER
from groundup.tokenizer.formats.hugging_face import content_of_hugging_face
from groundup.tokenizer.patterns import PATTERNS

SPECIAL_TOKENS = ["<|endoftext|>", "<|endoftext|><|endoftext|>", "<|user|>", "東京 ", "\n\n\n"]
WORDS = [
    "The cat didn't",
    " IT'S they'LL 'ſ 's",
    "HelloWorld helloWORLDs",
    "naïve e\u0301 नमस्ते Größe",
    "東京 の猫は寝ている。",
    "1 12 123 1234567 ½Ⅷ २३",
    " \u00a0\u3000\u0085\u2028x",
    "\t\tif (a[i] != 0) { /* ok */ }\r\n\r\n",
    "\n\n  \n end  \n ",
    "🐈🐈‍⬛ \x00\x1c\x1f",
    "a/b//\n/c ==--== …",
    "   ",
    "\n\n",
    "'",
    "<|endoftext|>",
    "<|endoftext|><|endoftext|><|user|>",
]
TEXTS = [*WORDS, "".join(WORDS), *("".join(random.Random(seed).choices(WORDS, k=12)) for seed in range(12))]


@pytest.fixture(scope="module", params=PATTERNS)
def of_pattern(request):
    """A vocabulary with merges that the pattern allows."""
    documents = ["".join(random.Random(i).choices(WORDS, k=8)).encode() for i in range(6)]
    vocab, merges = reference.train_bpe(documents, 380, [], PATTERNS[request.param])
    return Tokenizer(vocab, merges, SPECIAL_TOKENS, pattern=request.param)


def assert_same_ids(ours, theirs):
    for text in TEXTS:
        ids = ours.encode(text)
        assert theirs.encode(text).ids == ids, repr(text)
        assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids) == text


def test_their_library_gives_our_ids_with_every_pattern(of_pattern, tmp_path):
    of_pattern.save_hugging_face(tmp_path / "tokenizer.json")
    assert_same_ids(of_pattern, tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")))


def test_what_was_written_loads_as_it_was(of_pattern, tmp_path, own_sha256):
    of_pattern.save_hugging_face(tmp_path / "new" / "tokenizer.json")
    for path in (tmp_path / "new", tmp_path / "new" / "tokenizer.json"):
        loaded = Tokenizer.load(path)
        assert loaded.vocab == of_pattern.vocab
        assert loaded.merges == of_pattern.merges
        assert loaded.special_tokens == of_pattern.special_tokens
        assert loaded.pattern == of_pattern.pattern
        assert own_sha256(loaded) == of_pattern.sha256


@pytest.mark.parametrize("split", ["ByteLevel", *PATTERNS])
def test_a_file_of_their_library_gives_its_ids(split, tmp_path):
    """Trained and written by tokenizers; the merges are then strings or pairs, as its version has it."""
    written = json.loads(_file_of("gpt2" if split == "ByteLevel" else split))
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(written)).pre_tokenizer
    theirs.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=SPECIAL_TOKENS[:3],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    theirs.train_from_iterator(TEXTS, trainer)
    theirs.save(str(tmp_path / "theirs.json"))
    ours = Tokenizer.load(tmp_path / "theirs.json")
    assert ours.special_tokens == SPECIAL_TOKENS[:3]
    assert len(ours.merges) > 100
    assert_same_ids(ours, theirs)
    in_strings = json.loads((tmp_path / "theirs.json").read_text(encoding="utf-8"))
    in_strings["model"]["merges"] = [" ".join(pair) for pair in in_strings["model"]["merges"]]
    (tmp_path / "strings.json").write_text(json.dumps(in_strings))
    assert Tokenizer.load(tmp_path / "strings.json").sha256 == ours.sha256


def test_gpt2_goes_through_tokenizer_json(gpt2_files, tmp_path, own_sha256):
    gpt2 = Tokenizer.load(gpt2_files[0].parent)
    gpt2.save_hugging_face(tmp_path / "tokenizer.json")
    assert own_sha256(Tokenizer.load(tmp_path)) == gpt2.sha256
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "".join(TEXTS)
    assert theirs.encode(text).ids == gpt2.encode(text)


def test_ids_may_have_holes_and_special_tokens_may_come_first(tmp_path, own_sha256):
    bytes_from_3 = {i + 3: bytes([i]) for i in range(256)}
    ours = Tokenizer({0: b"<a>", 1: b"<b>", **bytes_from_3, 900: b"th"}, [(b"t", b"h")], ["<b>", "<a>", "<c>"])
    ours.save_hugging_face(tmp_path / "t.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    text = "<a>the<b><c>"
    assert theirs.encode(text).ids == ours.encode(text) == [0, 900, 104, 1, 901]
    assert own_sha256(Tokenizer.load(tmp_path / "t.json")) == ours.sha256


def test_a_pattern_of_ones_own_survives(tmp_path):
    ours = Tokenizer(_bytes(), [(b"a", b"b"), (b"b", b"a")], pattern=r"[ab]{2}|\s+|[^\sab]+|\p{L}")
    ours.save_hugging_face(tmp_path / "t.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "t.json"))
    text = "abaababb ab\n\nx1ba"
    with pytest.warns(UserWarning, match="is not built in"):
        assert theirs.encode(text).ids == ours.encode(text)
    assert Tokenizer.load(tmp_path / "t.json").pattern == ours.pattern


@pytest.mark.parametrize(
    ("special", "pattern", "message"),
    [
        ("é", "gpt2", "tokens 233 and 259 would both be called 'é'"),
        ("Ġ", "gpt2", "tokens 32 and 259 would both be called 'Ġ'"),
        (" ", "gpt2", "special token ' ' is also an ordinary token, 'Ġ'"),
        (" t", "gpt2", "special token ' t' is also an ordinary token, 'Ġt'"),
        ("<x>", r"\p{N}{1,3}+|\P{N}", "its pattern has '{1,3}+|"),
        ("<x>", r"\s*", "its pattern has 'a match of no characters'"),
    ],
)
def test_what_their_format_cannot_say_is_refused_when_writing(tmp_path, special, pattern, message):
    ours = Tokenizer(_bytes(), [(b" ", b"t"), (b"a", b"b")], [special], pattern=pattern)
    with pytest.raises(TokenizerError, match=r"cannot be written as tokenizer\.json") as error:
        ours.save_hugging_face(tmp_path / "t.json")
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


def _set(*keys, to):
    def change(file):
        for key in keys[:-1]:
            file = file[key]
        file[keys[-1]] = to

    return change


def _add_token(content="<x>", token_id=259, **options):
    def change(file):
        file["added_tokens"].append(
            {"id": token_id, "content": content, "normalized": False, "special": True} | options
        )

    return change


SPLIT = {"type": "Split", "pattern": {"Regex": r"\s+|\S+"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("version", to="2.0"), "its version is '2.0'; 1.0 is read"),
        (_set("normalizer", to={"type": "NFKC"}), "its normalizer NFKC changes the text before it is split"),
        (_set("pre_tokenizer", to=None), "pre_tokenizer is None; expected a JSON object"),
        (
            _set("pre_tokenizer", to={"type": "Whitespace"}),
            "its pre_tokenizer is ['Whitespace']; expected one that ends",
        ),
        (_set("pre_tokenizer", to={"type": "Sequence", "pretokenizers": []}), "expected one that ends with ByteLevel"),
        (_set("pre_tokenizer", "add_prefix_space", to=True), "add_prefix_space false"),
        (_set("pre_tokenizer", "use_regex", to=False), "does not split text"),
        (
            _set("pre_tokenizer", to={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTE_LEVEL]}),
            "its pre_tokenizer has Whitespace",
        ),
        (
            _set("pre_tokenizer", to={"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTE_LEVEL]}),
            "its pre_tokenizer has Digits",
        ),
        (
            _set(
                "pre_tokenizer",
                to={"type": "Sequence", "pretokenizers": [SPLIT | {"behavior": "MergedWithPrevious"}, BYTE_LEVEL]},
            ),
            "its Split is 'MergedWithPrevious' with invert False",
        ),
        (
            _set(
                "pre_tokenizer",
                to={"type": "Sequence", "pretokenizers": [SPLIT | {"pattern": {"Regex": "a$|."}}, BYTE_LEVEL]},
            ),
            "a regular expression with '$|.'",
        ),
        (
            _set(
                "pre_tokenizer",
                to={"type": "Sequence", "pretokenizers": [SPLIT | {"pattern": {"String": ""}}, BYTE_LEVEL]},
            ),
            "its Split has the pattern {'String': ''}",
        ),
        (_set("decoder", to={"type": "Metaspace"}), "its decoder is Metaspace"),
        (_set("model", "type", to="Unigram"), "its model is 'Unigram'; only BPE is read"),
        (_set("model", "ignore_merges", to="yes"), "ignore_merges is 'yes'; expected true or false"),
        (_set("model", "dropout", to=0.1), "its model has dropout 0.1"),
        (_set("model", "continuing_subword_prefix", to="##"), "continuing_subword_prefix '##'"),
        (_set("model", "end_of_word_suffix", to="</w>"), "end_of_word_suffix '</w>'"),
        (_set("model", "vocab", to=[1]), "vocab is [1]; expected a JSON object"),
        (_set("model", "vocab", "ab", to=-1), "has the id -1"),
        (_set("model", "vocab", "ab", to=1 << 40), "has the id 1099511627776"),
        (_set("model", "vocab", "ab", to=7), "id 7 is given to"),
        (_set("model", "vocab", "ab", to=True), "token 'ab' has the id True; ids are integers"),
        (_set("model", "merges", to="a b"), "merges is 'a b'; expected a JSON array"),
        (_set("model", "merges", to=["a b c"]), "merge 0 is 'a b c'"),
        (_set("model", "merges", to=[["a", "b", "c"]]), "merge 0 is ['a', 'b', 'c']"),
        (_set("model", "merges", to=[["a", 5]]), "merge 0 is ['a', 5]"),
        (_set("model", "merges", to=[["a", "東"]]), "merge 0 is ['a', '東']"),
        (_set("model", "merges", to=[["a", "b"], "a b"]), "merge 1 is 'a b', as merge 0"),
        (_set("model", "merges", to=[["a", "c"]]), "b'ac' is not in the vocabulary"),
        (_set("added_tokens", to=[5]), "added token 5"),
        (_add_token(lstrip=True), "its added token '<x>' matches only under conditions (lstrip)"),
        (_add_token(rstrip=True, single_word=True), "conditions (single_word, rstrip)"),
        (_add_token(token_id="259"), "token '<x>' has the id '259'; ids are integers"),
        (_add_token(token_id=300), "'<x>' has the id 300, and tokenizers would use 259"),
        (_add_token("é", 233), "its added token 'é' has the name of the token b'\\xe9'"),
        (_add_token("<a>b", normalized=True), "its added tokens '<a>' and '<a>b' overlap"),
        (_add_token("<x\ud800"), "'<x\\ud800' has a lone surrogate"),
    ],
)
def test_what_would_give_other_ids_is_refused_when_reading(tmp_path, change, message):
    file = json.loads(_file_of("gpt2"))
    change(file)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_bytes_are_refused_only_where_they_would_become_a_token(tmp_path):
    file = json.loads(_file_of("gpt2"))
    file["model"] |= {"unk_token": "<a>", "byte_fallback": True}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    assert Tokenizer.load(path).encode("ab") == [256]  # every byte has a token, so none is unknown
    del file["model"]["vocab"]["z"]
    path.write_text(json.dumps(file))
    with pytest.raises(TokenizerError, match="unk_token '<a>' for bytes without a token, such as 0x7a"):
        Tokenizer.load(path)


def test_whole_pretokens_are_tokens_where_the_file_says_so(tmp_path):
    """ignore_merges, which Llama 3's file has: there are tokens that merges do not make."""
    file = json.loads(_file_of("gpt2"))
    file["model"]["vocab"] |= {"abc": 259, "Ġabc": 260, "bab": 261}
    path = tmp_path / "tokenizer.json"
    text = "abc abc ab bab babc<a>bab abcab"
    for whole in (True, False):
        file["model"]["ignore_merges"] = whole
        path.write_text(json.dumps(file))
        ours = Tokenizer.load(path)
        assert ours.ignore_merges is whole
        assert ours.encode(text) == tokenizers.Tokenizer.from_file(str(path)).encode(text).ids
        assert (260 in ours.encode(text)) is whole
        ours.save_hugging_face(tmp_path / "again.json")
        assert Tokenizer.load(tmp_path / "again.json").sha256 == ours.sha256
        assert tokenizers.Tokenizer.from_file(str(tmp_path / "again.json")).encode(text).ids == ours.encode(text)


@pytest.mark.parametrize(
    ("name", "special", "message"),
    [
        ("Ġa", True, "by ignore_merges it finds the added token 'Ġa' for the text ' a', too"),
        ("日本", False, "by ignore_merges it finds never the token '日本', which is not in GPT-2's byte alphabet"),
    ],
)
def test_names_that_ignore_merges_takes_for_other_text_are_refused(tmp_path, name, special, message):
    file = json.loads(_file_of("gpt2"))
    file["model"]["vocab"][name] = 259
    if special:
        _add_token(name)(file)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    Tokenizer.load(path)
    file["model"]["ignore_merges"] = True
    path.write_text(json.dumps(file))
    with pytest.raises(TokenizerError) as error:
        Tokenizer.load(path)
    assert message in str(error.value)


def test_a_special_token_that_ignore_merges_would_find_in_text_is_not_written(tmp_path):
    ours = Tokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["Ġa"], ignore_merges=True)
    with pytest.raises(TokenizerError, match="special token 'Ġa' is what the text ' a' is called there"):
        ours.save_hugging_face(tmp_path / "t.json")


def test_what_does_not_touch_ids_is_named(tmp_path):
    file = json.loads(_file_of("gpt2"))
    file["added_tokens"].append({"id": 259, "content": "<x>", "normalized": False, "special": False})
    file["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    file["post_processor"] = {
        "type": "Sequence",
        "processors": [{"type": "ByteLevel", "trim_offsets": False}, {"type": "TemplateProcessing"}],
    }
    content = content_of_hugging_face(tmp_path / "t.json", file)
    assert content.left_out == ("truncation", "post_processor TemplateProcessing")
    assert content.added_tokens == ("<x>",)
    assert content.special_tokens == ["<a>", "<b>"]


names = st.sampled_from(["<a>", "<a>b", "b<", "x y", "a", "é", "Ġ", "日", "日本"])
added_tokens = st.lists(
    st.builds(dict, id=st.integers(255, 262), content=names, normalized=st.booleans(), special=st.booleans()),
    max_size=4,
)


@given(added=added_tokens, in_vocab=st.dictionaries(names, st.integers(255, 262), max_size=3), data=st.data())
def test_added_tokens_are_refused_or_have_their_ids(tmp_path_factory, added, in_vocab, data):
    file = json.loads(_file_of("gpt2"))
    file["added_tokens"] = [{"single_word": False, "lstrip": False, "rstrip": False} | token for token in added]
    file["model"] |= {"vocab": {c: b for b, c in BYTE_TO_CHARACTER.items()} | in_vocab, "merges": []}
    path = tmp_path_factory.getbasetemp() / "added.json"
    path.write_text(json.dumps(file))
    try:
        ours = Tokenizer.load(path)
    except TokenizerError:
        return
    theirs = tokenizers.Tokenizer.from_file(str(path))
    text = "".join(data.draw(st.lists(st.sampled_from([*"ab<>xy Ġ", "<a>", "日本", "本"]), max_size=12)))
    assert ours.encode(text) == theirs.encode(text).ids


def _bytes():
    return {byte: bytes([byte]) for byte in range(256)} | {256: b"ab", 257: b" t", 258: b"ba"}


def _file_of(pattern):
    """A small tokenizer.json, as Hugging Face writes it."""
    vocab = {b: bytes([b]) for b in range(256)} | {256: b"ab"}
    ours = Tokenizer(vocab, [(b"a", b"b")], ["<a>", "<b>"], pattern=pattern)
    with tempfile.TemporaryDirectory() as folder:
        ours.save_hugging_face(Path(folder) / "t.json")
        return tokenizers.Tokenizer.from_file(str(Path(folder) / "t.json")).to_str()
