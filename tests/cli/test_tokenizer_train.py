"""`groundup tokenizer train` and `count` as a user meets them."""

from pathlib import Path

import pytest

from groundup.cli.main import main
from groundup.tokenizer import Tokenizer, train_bpe, train_bpe_from_documents
from groundup.tokenizer.patterns import PATTERNS

TEXT = "The cat sat on the mat.\n<|endoftext|>\nThe cat's mat; 365 cats!\n<|endoftext|>\nno end\r\n"


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    with pytest.raises(SystemExit) as stop:
        main(["tokenizer", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("text.txt")
    path.write_bytes(TEXT.encode())
    return path


def test_counts_of_parts_make_the_tokenizer_of_the_whole(text, capsys):
    Path("more.jsonl").write_text('{"body": "the mat, the mat"}\n')
    code, out, err = run("count", text, "--out", "a.npz", capsys=capsys)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.startswith("a.npz: ")
    assert "distinct pretokens in 55 bytes" in out
    assert run("count", "more.jsonl", "--field", "body", "--out", "b.npz", capsys=capsys)[0] == 0
    code, out, _ = run("train", "--counts", "a.npz", "b.npz", "--vocab-size", 280, "--out", "parts", capsys=capsys)
    assert code == 0
    assert "parts: 280 tokens from 71 bytes" in out
    assert (
        run("train", text, "more.jsonl", "--field", "body", "--vocab-size", 280, "--out", "all", capsys=capsys)[0] == 0
    )
    half = ["train", "more.jsonl", "--field", "body", "--counts", "a.npz", "--vocab-size", 280, "--out", "half"]
    assert run(*half, capsys=capsys)[0] == 0
    assert Tokenizer.load("parts").sha256 == Tokenizer.load("all").sha256 == Tokenizer.load("half").sha256


def test_documents_of_plain_text_are_the_same_mapped_and_streamed(text, capsys, monkeypatch):
    assert run("train", text, "--vocab-size", 290, "--pattern", "cl100k", "--out", "mapped", capsys=capsys)[0] == 0
    documents = ["The cat sat on the mat.", "The cat's mat; 365 cats!", "no end\r\n"]
    vocab, merges = train_bpe_from_documents(documents, 290, ["<|endoftext|>"], pattern="cl100k")
    mapped = Tokenizer.load("mapped")
    assert (dict(mapped.vocab), mapped.merges) == (vocab, merges)
    with text.open("rb") as file, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", type("Stdin", (), {"buffer": file}))
        assert run("train", "-", "--vocab-size", 290, "--pattern", "cl100k", "--out", "stream", capsys=capsys)[0] == 0
    assert Tokenizer.load("stream").sha256 == mapped.sha256


def test_a_weight_counts_as_copies(text, capsys):
    assert run("count", text, "--weight", 3, "--out", "w.npz", capsys=capsys)[0] == 0
    assert run("train", "--counts", "w.npz", "--vocab-size", 280, "--out", "w", capsys=capsys)[0] == 0
    assert run("train", text, text, text, "--vocab-size", 280, "--out", "c", capsys=capsys)[0] == 0
    assert Tokenizer.load("w").sha256 == Tokenizer.load("c").sha256


def test_options_reach_the_training(text, capsys):
    options = [
        "--tie-rule",
        "huggingface",
        "--min-frequency",
        2,
        "--max-token-length",
        3,
        "--special-tokens",
        "|",
        "mat",
    ]
    code, _, err = run("train", text, "--vocab-size", 290, *options, "--separator", "|", "--out", "t", capsys=capsys)
    assert code == 2
    assert "the special token 'mat' was learned as an ordinary token too" in err
    options += ["--special-tokens-inside", "encode"]
    assert run("train", text, "--vocab-size", 290, *options, "--separator", "|", "--out", "t", capsys=capsys)[0] == 0
    vocab, merges = train_bpe(text, 290, ["|", "mat"], tie_rule="huggingface", min_frequency=2, max_token_length=3)
    tokenizer = Tokenizer.load("t")
    assert merges != train_bpe(text, 290, ["|", "mat"])[1]
    assert (dict(tokenizer.vocab), tokenizer.merges, tokenizer.special_tokens) == (vocab, merges, ["|", "mat"])


def test_the_pattern_goes_with_the_tokenizer_and_a_slow_one_says_so(text, capsys):
    code, out, err = run("train", text, "--vocab-size", 280, "--pattern", r"[a-z]+", "--out", "t", capsys=capsys)
    assert (code, err) == (0, "")
    assert "a hundred times more slowly" in out
    assert Tokenizer.load("t").pattern == "[a-z]+"
    code, out, _ = run("count", text, "--pattern", PATTERNS["o200k"], "--out", "o.npz", capsys=capsys)
    assert "slowly" not in out
    assert run("train", "--counts", "o.npz", "--vocab-size", 280, "--out", "o", capsys=capsys)[0] == 0
    assert Tokenizer.load("o").pattern == "o200k"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--vocab-size", 300, "--out", "o"], "give inputs, or files of counts with --counts"),
        (["train", "--counts", "no.npz", "--vocab-size", 300, "--out", "o"], "no.npz does not exist"),
        (["train", "--counts", "text.txt", "--vocab-size", 300, "--out", "o"], "not a file of pretoken counts"),
        (["train", "text.txt", "--tie-rule", "hf", "--vocab-size", 300, "--out", "o"], "tie-rule"),
        (["train", "text.txt", "--min-frequency", 0, "--vocab-size", 300, "--out", "o"], "min_frequency = 0; give"),
        (["train", "text.txt", "--pattern", "gtp2", "--vocab-size", 300, "--out", "o"], "did you mean gpt2?"),
        (["train", "text.txt", "--vocab-size", 100, "--out", "o"], "vocab_size = 100; give a whole number of at least"),
        (["train", "text.txt", "--separator", "", "--vocab-size", 300, "--out", "o"], "the separator is empty"),
        (["count", "text.txt", "--out", "counts"], "--out counts does not end in .npz"),
        (["count", "text.txt", "--out", "no/c.npz"], "the folder no does not exist"),
        (["count", "text.txt", "--weight", 0, "--out", "c.npz"], "weight = 0; give a whole number from 1"),
        (["count", "empty.txt", "--out", "c.npz"], "empty.txt is empty"),
        (["count", "nothing.txt", "--out", "c.npz"], "nothing.txt: no text to count"),
    ],
)
def test_mistakes_are_one_line(text, capsys, arguments, message):
    Path("empty.txt").write_text("")
    Path("nothing.txt").write_text("<|endoftext|>\n<|endoftext|>\n")
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 2
    assert err.startswith("groundup: ")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("o").exists()
    assert not Path("c.npz").exists()


def test_counts_that_are_there_or_do_not_fit_are_refused(text, capsys):
    assert run("count", text, "--out", "a.npz", capsys=capsys)[0] == 0
    assert "a.npz exists; choose another" in run("count", text, "--out", "a.npz", capsys=capsys)[2]
    assert run("count", text, "--out", "a.npz", "--pattern", "qwen2", "--overwrite", capsys=capsys)[0] == 0
    assert run("count", text, "--out", "b.npz", capsys=capsys)[0] == 0
    code, _, err = run("train", "--counts", "a.npz", "b.npz", "--vocab-size", 300, "--out", "o", capsys=capsys)
    assert code == 2
    assert "b.npz: counts with pattern 'qwen2' and with 'gpt2' do not add up" in err


def test_names_of_special_tokens_in_documents_are_text_unless_the_user_says_otherwise(text, capsys):
    rows = ["How to use <|endoftext|> in GPT-2, to use <|endoftext|>", "to use it"] * 5
    Path("rows.jsonl").write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    command = ["train", "rows.jsonl", "--vocab-size", 300]
    code, out, _ = run(*command, "--out", "text", capsys=capsys)
    assert (code, "<|endoftext|> × 10" in out) == (0, True)
    assert run(*command, "--out", "token", "--special-tokens-inside", "encode", capsys=capsys)[0] == 0
    as_text, as_token = Tokenizer.load("text"), Tokenizer.load("token")
    assert as_text.merges == train_bpe_from_documents(rows, 300, [])[1][: len(as_text.merges)]
    assert as_token.merges == train_bpe_from_documents(rows, 300, ["<|endoftext|>"])[1]
    code, _, err = run(*command, "--out", "none", "--special-tokens-inside", "error", capsys=capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert "rows.jsonl, document 1 has the special token '<|endoftext|>'" in err
    clean = ["count", text, "--out", "clean.npz", "--special-tokens-inside", "error"]
    assert run(*clean, capsys=capsys)[0] == 0
