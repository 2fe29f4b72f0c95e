"""Conversations as token shards: a mask beside the tokens, written, checked, resumed and repaired with them."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from groundup.cli.main import main
from groundup.data import document_pass, shard_writer
from groundup.data.chat import ChatEncoding
from groundup.data.check import check_data_set
from groundup.data.describe import describe, read_document
from groundup.data.encode import encode_with_summary
from groundup.data.shards import DataGuard, TokenShards
from groundup.errors import DataError, TokenizerError
from groundup.system.files import read_json
from groundup.text.options import ReadOptions
from groundup.tokenizer import Tokenizer, train_bpe

END = "<|endoftext|>"
CHAT = ReadOptions(format="chat")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    text = tmp_path_factory.mktemp("tokenizer") / "text.txt"
    text.write_text("What is 1 plus 2? It is 3. user assistant system Thank you! " * 20)
    vocab, merges = train_bpe(text, 300, [END])
    return Tokenizer(vocab, merges, [END, "<|im_start|>", "<|im_end|>"])


def rows(count: int = 40) -> list[dict]:
    draw = random.Random(count)
    found = []
    for i in range(count):
        messages = []
        for _ in range(draw.randrange(1, 4)):
            a, b = draw.randrange(9), draw.randrange(99)
            messages += [
                {"role": "user", "content": f"What is {a} plus {b}?"},
                {"role": "assistant", "content": f"It is {a + b}. Thank you, number {i}!"},
            ]
        found.append({"messages": messages})
    return found


@pytest.fixture
def chat(tmp_path) -> Path:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return path


def encode(path: Path, tokenizer: Tokenizer, out: Path, read: ReadOptions = CHAT, **options):
    return encode_with_summary(path, tokenizer, out, read=read, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "inputs.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_the_mask_has_the_answers_and_the_token_after_each(tmp_path, tokenizer, chat):
    stats = encode(chat, tokenizer, tmp_path / "out", shard_tokens=300)
    shards = TokenShards.open(tmp_path / "out", verify=True)
    ids, counts = shards.read(0, len(shards)), shards.gather_counts(np.array([0]), len(shards))[0]
    for row, (begin, end) in zip(rows(), pairwise(shards.document_offsets.tolist()), strict=True):
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in row["messages"])
        assert ids[begin:end].tolist() == tokenizer.encode(text + END)
        answers = "".join(m["content"] + "<|im_end|>" for m in row["messages"] if m["role"] == "assistant")
        assert tokenizer.decode(ids[begin:end][counts[begin:end]]) == answers
    assert stats.counted == shards.counted == counts.sum()
    assert stats.shards > 3
    starts = np.array([0, 299, 150, 301, len(shards) - 20])  # inside of a shard, and over the border of two
    assert (shards.gather_counts(starts, 20) == np.stack([counts[s : s + 20] for s in starts])).all()


def test_names_and_records(tmp_path, tokenizer, chat):
    encode(chat, tokenizer, tmp_path / "out", shard_tokens=300)
    index = read_json(tmp_path / "out" / "index.json")
    assert index["version"] == 2  # what does not know masks must not train on it
    assert index["chat"] | {"template_sha256": ""} == {"template": "chatml", "template_sha256": "", "loss": "assistant"}
    assert index["shards"][1]["mask"]["file"] == "shard-00001.mask.bin"
    assert (tmp_path / "out" / "shard-00001.mask.bin").stat().st_size == index["shards"][1]["tokens"]
    template = (tmp_path / "out" / "tokenizer" / "chat_template.jinja").read_text()
    assert "<|im_start|>" in template
    assert Tokenizer.load(tmp_path / "out" / "tokenizer").sha256 == tokenizer.sha256
    found = describe(tmp_path / "out")
    assert (found["counted"], found["chat"]["loss"]) == (index["counted"], "assistant")
    document = read_document(tmp_path / "out", 0)
    assert [p.text for p in document.pieces if p.is_special and p.counts] == ["<|im_end|>"] * (
        len(rows()[0]["messages"]) // 2
    )


def test_where_all_tokens_count_there_is_no_mask(tmp_path, tokenizer, chat):
    stats = encode(chat, tokenizer, tmp_path / "out", loss="all")
    assert stats.counted is None
    assert read_json(tmp_path / "out" / "index.json")["version"] == 1
    assert list((tmp_path / "out").glob("*.mask.bin")) == []
    assert TokenShards.open(tmp_path / "out").gather_counts(np.array([0, 5]), 3).all()


def test_folders_of_text_are_as_they_were(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("What is 1?")
    encode(tmp_path / "a.txt", tokenizer, tmp_path / "out", ReadOptions())
    index = read_json(tmp_path / "out" / "index.json")
    assert index["version"] == 1
    assert not {"chat", "counted"} & index.keys()
    assert index["shards"][0].keys() == {"file", "tokens", "bytes", "sha256"}
    assert not any("mask" in name or "chat" in name for name in files_of(tmp_path / "out"))


class StoppedError(Exception):
    """In place of a kill."""


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_killed_call_is_resumed_to_the_same_bytes(tmp_path, tokenizer, chat, monkeypatch, stop):
    encode(chat, tokenizer, tmp_path / "whole", shard_tokens=300)
    save = shard_writer.ShardWriter._save_progress

    def save_or_stop(writer):
        save(writer)
        if len(writer._shards) == stop:
            raise StoppedError

    monkeypatch.setattr(document_pass, "BATCH_BYTES", 500)
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "_save_progress", save_or_stop)
        with pytest.raises(StoppedError):
            encode(chat, tokenizer, tmp_path / "out", shard_tokens=300)
    (tmp_path / "out" / f"shard-{stop:05d}.mask.bin.part").write_bytes(b"left by the kill")
    (tmp_path / "out" / f"shard-{stop:05d}.mask.bin").write_bytes(b"renamed before the kill")
    stats = encode(chat, tokenizer, tmp_path / "out", shard_tokens=300)
    assert stats.tokens_kept == 300 * stop
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_mask_changed_after_an_interruption_is_noticed(tmp_path, tokenizer, chat, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(document_pass, "BATCH_BYTES", 500)
        patch.setattr(shard_writer.ShardWriter, "finish", lambda *_, **__: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            encode(chat, tokenizer, tmp_path / "out", shard_tokens=300)
    mask = tmp_path / "out" / "shard-00000.mask.bin"
    mask.write_bytes(b"\1" * 300)
    with pytest.raises(DataError, match=r"shard-00000\.mask\.bin has changed"):
        encode(chat, tokenizer, tmp_path / "out", shard_tokens=300)


class TestDamage:
    @pytest.fixture
    def out(self, tmp_path, tokenizer, chat):
        encode(chat, tokenizer, tmp_path / "out", shard_tokens=300)
        return tmp_path / "out"

    @pytest.mark.parametrize("name", ["shard-00001.mask.bin", "shard-00001.bin", "tokenizer/chat_template.jinja"])
    @pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
    def test_is_found_and_repaired_to_the_same_bytes(self, out, tokenizer, chat, name, damage):
        whole, path = files_of(out), out / name
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.unlink()
        if damage != "gone":
            path.write_bytes(content if damage == "changed" else content[:-1])
        assert any(path.name in fault.reason for fault in check_data_set(out))
        if damage == "changed" and name.startswith("shard"):
            path.unlink()  # sizes are compared at every call, hashes of shards where something is damaged
        assert encode(chat, tokenizer, out, shard_tokens=300).repaired
        assert files_of(out) == whole

    def test_a_mask_of_other_values_is_found_even_under_a_right_hash(self, out):
        import hashlib

        from groundup.system.files import sealed, write_json

        mask = out / "shard-00000.mask.bin"
        index = read_json(out / "index.json")
        for content, told in ((b"\2" + mask.read_bytes()[1:], "has 2 for token 0"), (b"\1" * 300, "counts 300 tokens")):
            mask.write_bytes(content)
            index["shards"][0]["mask"]["sha256"] = hashlib.sha256(content).hexdigest()
            write_json(out / "index.json", sealed({k: v for k, v in index.items() if k != "sha256"}))
            assert any(told in fault.reason for fault in check_data_set(out)), told

    def test_a_running_run_notices_a_mask_that_is_cut_off(self, out):
        guard = DataGuard(TokenShards.open(out))
        guard.check()
        with (out / "shard-00002.mask.bin").open("r+b") as file:
            file.truncate(5)
        with pytest.raises(DataError, match=r"shard-00002\.mask\.bin was truncated"):
            guard.check()


class TestAnotherCall:
    def test_the_same_one_leaves_everything_and_another_template_or_loss_is_refused(self, tmp_path, tokenizer, chat):
        encode(chat, tokenizer, tmp_path / "out")
        assert encode(chat, tokenizer, tmp_path / "out").already_complete
        (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
        with pytest.raises(DataError, match="the chat template or what counts"):
            encode(chat, tokenizer, tmp_path / "out", loss="all")
        with pytest.raises(DataError, match="the chat template or what counts"):
            encode(chat, tokenizer, tmp_path / "out", ReadOptions(format="chat", template=str(tmp_path / "t.jinja")))

    def test_a_template_file_may_move_and_its_name_is_not_recorded(self, tmp_path, tokenizer, chat):
        text = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
        for name in ("a.jinja", "b.jinja"):
            (tmp_path / name).write_text(text)
            stats = encode(chat, tokenizer, tmp_path / "out", ReadOptions(format="chat", template=str(tmp_path / name)))
        assert stats.already_complete
        assert b"a.jinja" not in (tmp_path / "out" / "index.json").read_bytes()

    def test_special_tokens_are_added_in_the_same_order_for_every_data_set(self, tmp_path, chat):
        base = Tokenizer({i: bytes([i]) for i in range(256)}, [], [END])
        with pytest.raises(TokenizerError, match="--add-special-tokens"):
            encode(chat, base, tmp_path / "a")
        assert not (tmp_path / "a").exists()
        for out in ("a", "b"):
            encode(chat, base, tmp_path / out, add_special_tokens=True)
        stores = [TokenShards.open(tmp_path / out) for out in ("a", "b")]
        assert stores[0].tokenizer_sha256 == stores[1].tokenizer_sha256
        assert stores[0].tokenizer().special_tokens == [END, "<|im_start|>", "<|im_end|>"]

    def test_messages_cannot_be_allowed_to_write_special_tokens(self, tokenizer):
        with pytest.raises(DataError, match="--special-tokens encode"):
            ChatEncoding(CHAT, tokenizer, END, special_tokens="encode")


LATE = "{% if messages[0].content == 'Late' %}WHAT{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
AT_LAST = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "fills memory": "{% set a = messages[0].content * 10 ** 11 %}",
    "refuses": "{{ raise_exception('no') }}",
}


class TestCommandLine:
    def fails(self, capsys, *arguments) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["encode", *map(str, arguments)])
        lines = capsys.readouterr().err.strip().splitlines()
        assert ended.value.code == 2
        told = [line for line in lines if line.startswith("groundup: ")]
        assert len(told) == 1
        return told[0]

    @pytest.mark.parametrize("what", AT_LAST.values(), ids=AT_LAST)
    def test_a_template_that_fails_at_the_last_row_leaves_nothing(
        self, tmp_path, tokenizer, chat, capsys, monkeypatch, what
    ):
        monkeypatch.setattr("groundup.text.chat.rendering.PROCESSOR_SECONDS", 0.5)
        tokenizer.save(tmp_path / "tok")
        (tmp_path / "t.jinja").write_text(LATE.replace("WHAT", what))
        with chat.open("a") as file:
            file.write(json.dumps({"prompt": "Late", "completion": "x"}))
        before = sorted(tmp_path.iterdir())
        told = self.fails(
            capsys, chat, "--format", "chat", "--template", tmp_path / "t.jinja", "--tokenizer", tmp_path / "tok",
            "--out", tmp_path / "out",
        )  # fmt: skip
        assert "was stopped" in told or "line 41: the chat template t.jinja cannot render it: no" in told
        assert sorted(tmp_path.iterdir()) == before

    def test_a_template_that_reads_a_file_leaves_nothing(self, tmp_path, tokenizer, chat, capsys):
        tokenizer.save(tmp_path / "tok")
        (tmp_path / "t.jinja").write_text("{% include '/etc/passwd' %}")
        told = self.fails(
            capsys, chat, "--format", "chat", "--template", tmp_path / "t.jinja", "--tokenizer", tmp_path / "tok",
            "--out", tmp_path / "out",
        )  # fmt: skip
        assert "include" in told
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("flags", [["--loss", "all"], ["--add-special-tokens"]])
    def test_flags_of_conversations_are_refused_for_text(self, tmp_path, tokenizer, chat, capsys, flags):
        tokenizer.save(tmp_path / "tok")
        told = self.fails(capsys, chat, "--tokenizer", tmp_path / "tok", "--out", tmp_path / "out", *flags)
        assert "--format chat" in told

    @pytest.mark.parametrize("template", ["chatml", "mine.jinja", "tokenizer_config.json"])
    def test_a_chat_template_without_the_format_is_named_as_such(self, tmp_path, tokenizer, chat, capsys, template):
        tokenizer.save(tmp_path / "tok")
        arguments = (chat, "--tokenizer", tmp_path / "tok", "--out", tmp_path / "out", "--template", template)
        assert "add --format chat" in self.fails(capsys, *arguments)
