"""What a tokenizer report says is so: its figures are counted again, by the reference and by hand."""

import json
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from groundup.errors import ConfigError, DataError, FileMissingError, MissingExtraError, TokenizerError
from groundup.studies.tokenizer_report import measure as report
from groundup.studies.tokenizer_report.corpus import Corpus
from groundup.studies.tokenizer_report.folder import check_folder, write
from groundup.studies.tokenizer_report.process import measure_encoding, measure_training
from groundup.studies.tokenizer_report.tables import duration, markdown, size, tables
from groundup.system.files import sealed
from groundup.tokenizer import Tokenizer, reference

SEPARATOR = "<|endoftext|>"
DOCUMENTS = 43
HELD_OUT = [1, 11, 21, 31, 41]
VOCAB_SIZE = 290
VOCABULARIES = {
    "tales": "once upon a time there was little kitten who said hello and lived happily naïve ever after".split(),
    "code": "for i in range(len(rows)): total += rows[i] * 0x7f; return | total, [x] ** 2 # \\n ----------".split(),
}


def documents(name: str) -> list[bytes]:
    rng = random.Random(name)
    return [" ".join(rng.choices(VOCABULARIES[name], k=rng.randrange(5, 60))).encode() for _ in range(DOCUMENTS)]


def held_out(name: str) -> list[bytes]:
    return [documents(name)[i] for i in HELD_OUT]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Corpus]:
    folder = tmp_path_factory.mktemp("texts")
    made = {}
    for name in VOCABULARIES:
        path = folder / f"{name}.txt"
        # The empty document at the beginning is none, and moves no other.
        path.write_bytes(b"\n".join([b"<|endoftext|>", *(d + b"\n<|endoftext|>" for d in documents(name))]))
        made[name] = Corpus(name=name, inputs=[str(path)], vocab_size=VOCAB_SIZE)
    return made


@pytest.fixture(scope="module")
def bytes_only() -> Tokenizer:
    return Tokenizer({i: bytes([i]) for i in range(256)}, [])


@pytest.fixture(scope="module")
def measured(corpora: dict[str, Corpus], bytes_only: Tokenizer) -> Iterator[tuple[dict, dict[str, Tokenizer]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "COLD_PROCESSES", 2)
        patch.setattr(report, "WARM_SECONDS", 0.01)
        yield report.measure(list(corpora.values()), {"bytes": bytes_only}, sampled_documents=3, longest=5, seed=7)


def row(found: dict, part: str, tokenizer: str, corpus: str) -> dict:
    return next(row for row in found[part] if (row["tokenizer"], row["corpus"]) == (tokenizer, corpus))


PAIRS = [(tokenizer, corpus) for tokenizer in ("tales", "code", "bytes") for corpus in VOCABULARIES]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_one_document_in_ten_is_held_out_and_the_others_are_trained_on(corpora: dict[str, Corpus], name: str):
    everything = documents(name)
    assert list(corpora[name].held_out_documents()) == held_out(name)
    training = list(corpora[name].training_documents())
    assert training == [d for i, d in enumerate(everything) if i not in HELD_OUT]


def test_with_held_out_text_all_of_the_other_text_is_trained_on(corpora: dict[str, Corpus]):
    both = replace(corpora["tales"], held_out=corpora["code"].inputs)
    assert list(both.training_documents()) == documents("tales")
    assert list(both.held_out_documents()) == documents("code")


@pytest.mark.parametrize("name", VOCABULARIES)
def test_the_tokenizer_is_that_of_the_reference_on_the_training_documents(measured: tuple, name: str):
    training = [d for i, d in enumerate(documents(name)) if i not in HELD_OUT]
    vocab, merges = reference.train_bpe(training, VOCAB_SIZE, [SEPARATOR.encode()])
    found, tokenizers = measured
    assert (dict(tokenizers[name].vocab), tokenizers[name].merges) == (vocab, merges)
    facts = next(facts for facts in found["tokenizers"] if facts["name"] == name)
    assert (facts["training"]["documents"], facts["training"]["bytes"]) == (len(training), sum(map(len, training)))
    lengths = sorted((len(token) for token in vocab.values() if token != SEPARATOR.encode()), reverse=True)
    assert [token["bytes"] for token in facts["longest_tokens"]] == lengths[:5]
    assert all(bytes.fromhex(token["hex"]) == vocab[token["id"]] for token in facts["longest_tokens"])


@pytest.mark.parametrize(("tokenizer", "corpus"), PAIRS)
def test_bytes_per_token_and_vocabulary_use_are_those_of_the_reference(measured: tuple, tokenizer: str, corpus: str):
    found, tokenizers = measured
    vocab, merges = dict(tokenizers[tokenizer].vocab), tokenizers[tokenizer].merges
    ids = [reference.encode(document, vocab, merges, []) for document in held_out(corpus)]
    total = sum(map(len, held_out(corpus)))
    result = row(found, "compression", tokenizer, corpus)["held_out"]
    assert (result["documents"], result["bytes"], result["tokens"]) == (len(HELD_OUT), total, sum(map(len, ids)))
    assert result["bytes_per_token"] == pytest.approx(total / sum(map(len, ids)))
    assert result["tokens_used"] == len(set().union(*ids))
    assert result["tokens_usable"] == (256 if tokenizer == "bytes" else VOCAB_SIZE - 1)


def test_the_sample_is_drawn_from_the_held_out_documents_and_the_same_for_all_tokenizers(measured: tuple):
    found, tokenizers = measured
    for corpus in VOCABULARIES:
        size_of = {name: row(found, "compression", name, corpus)["sample"]["bytes"] for name in tokenizers}
        assert len(set(size_of.values())) == 1
        sample = row(found, "compression", "tales", corpus)["sample"]
        tales = tokenizers["tales"]
        ratios = [len(d) / len(reference.encode(d, dict(tales.vocab), tales.merges, [])) for d in held_out(corpus)]
        assert sample["documents"] == len(sample["bytes_per_token_by_document"]) == 3
        assert set(sample["bytes_per_token_by_document"]) <= set(ratios)
        assert sample["bytes_per_token"] == pytest.approx(sample["bytes"] / sample["tokens"])
        assert row(found, "compression", "bytes", corpus)["sample"]["bytes_per_token"] == 1


def test_a_sample_larger_than_the_text_is_all_of_it(corpora: dict[str, Corpus], bytes_only: Tokenizer):
    counts = report._Counts(corpora["code"], {"bytes": bytes_only}, 100, seed=0)
    assert list(counts.run())[-1][0] <= Path(corpora["code"].inputs[0]).stat().st_size
    (only,) = counts.rows()
    assert only["sample"]["tokens"] == only["held_out"]["tokens"] == sum(map(len, held_out("code")))


def test_every_document_is_as_likely_to_be_drawn(corpora: dict[str, Corpus], bytes_only: Tokenizer):
    sizes = [len(d) for d in held_out("tales")]
    assert len(set(sizes)) == len(sizes)
    drawn = []
    for seed in range(300):
        counts = report._Counts(corpora["tales"], {"bytes": bytes_only}, 1, seed)
        list(counts.run())
        drawn.append(counts.rows()[0]["sample"]["bytes"])
    assert all(30 < drawn.count(size) < 100 for size in sizes)  # 60 each expected


def test_training_takes_the_time_of_its_parts_and_memory_of_its_own(measured: tuple):
    for facts in measured[0]["tokenizers"][:2]:
        training = facts["training"]
        parts = [training[f"{part}_seconds"] for part in ("reading", "counting", "merging")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(training["wall_seconds"])
        assert training["cpu_seconds"] > 0
        assert 1e6 < training["memory_before_bytes"] <= training["peak_memory_bytes"] < 1e9
    assert measured[0]["tokenizers"][2]["training"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak is that of the process, which is fresh")
def test_peak_memory_does_not_include_that_of_the_process_that_asks(corpora: dict[str, Corpus], tmp_path: Path):
    ballast = b"x" * 300_000_000
    peak = measure_training(corpora["tales"], tmp_path)["peak_memory_bytes"]
    assert peak < len(ballast) / 2


def test_speed_is_of_the_held_out_text_and_the_pile_follows_from_it(measured: tuple):
    found, tokenizers = measured
    assert [(r["tokenizer"], r["corpus"]) for r in found["speed"]] == [(t, c) for c in VOCABULARIES for t in tokenizers]
    for result in found["speed"]:
        assert result["bytes"] == sum(map(len, held_out(result["corpus"])))
        for mode in ("cold", "warm", "list"):
            assert result["bytes_per_second"][mode] == pytest.approx(result["bytes"] / result["seconds"][mode])
            assert result["bytes_per_second"][mode] * result["pile_seconds"][mode] == pytest.approx(825e9)
        assert result["startup_seconds"] > 0
    original = found["original_report"]["speed"]
    assert 825e9 / original["bytes_per_second"] == pytest.approx(original["pile_seconds"], rel=0.001)


def test_speed_is_measured_on_no_more_text_than_asked_for(corpora: dict[str, Corpus], tmp_path: Path, bytes_only):
    bytes_only.save(tmp_path)
    sizes = [len(d) for d in held_out("code")]
    result = measure_encoding(tmp_path, corpora["code"], limit=sizes[0] + 1, least_seconds=0, processes=1)
    assert (result["documents"], result["bytes"]) == (2, sum(sizes[:2]))


def test_the_profile_is_the_differences_between_passes():
    cpu = {"load": 9.0, "prepare": 0.5, "cold": 8.0, "warm": 3.0, "joined": 2.0, "list": 4.5}
    expected = {"split_and_look_up": 2.0, "calls": 1.0, "new_pretokens": 5.0, "python_lists": 1.5}
    assert report.profile({f"{name}_cpu": seconds for name, seconds in cpu.items()}) == expected
    disturbed = report.profile({f"{name}_cpu": seconds for name, seconds in (cpu | {"joined": 3.5}).items()})
    assert (disturbed["split_and_look_up"], disturbed["calls"]) == (3.0, 0.0)


def test_tokens_in_common_are_counted_by_their_bytes(measured: tuple):
    found, tokenizers = measured
    vocabularies = {name: set(t.vocab.values()) - {SEPARATOR.encode()} for name, t in tokenizers.items()}
    for entry in found["vocabularies_in_common"]:
        a, b = (vocabularies[name] for name in entry["tokenizers"])
        assert (entry["tokens"], entry["of"]) == (len(a & b), [len(a), len(b)])
    assert len(found["vocabularies_in_common"]) == 3


def test_a_given_tokenizer_is_a_corpus_s_own_by_its_name(
    corpora: dict[str, Corpus], bytes_only: Tokenizer, monkeypatch
):
    monkeypatch.setattr(report, "COLD_PROCESSES", 1)
    monkeypatch.setattr(report, "WARM_SECONDS", 0)
    monkeypatch.setattr(report, "_speeds", lambda *_: [])
    monkeypatch.setattr(report, "measure_training", lambda *_, **__: pytest.fail("nothing is to be trained"))
    found, tokenizers = report.measure([corpora["tales"]], {"tales": bytes_only})
    assert tokenizers == {"tales": bytes_only}
    found, tokenizers = report.measure(list(corpora.values()), {"plain": bytes_only}, train=False)
    assert [facts["name"] for facts in found["tokenizers"]] == list(tokenizers) == ["plain"]


def test_tables_hold_every_figure_and_markdown_keeps_their_shape(measured: tuple):
    found, _ = measured
    shown = {table.title.split(",")[0]: table for table in tables(found)}
    for table in shown.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    compression = shown["bytes per token"].rows
    expected = [f"{row(found, 'compression', 'code', c)['held_out']['bytes_per_token']:.2f}" for c in VOCABULARIES]
    assert compression[1][1::2] == expected
    page = markdown(found, picture="some.png")
    assert "![" in page
    assert "(some.png)" in page
    assert all(figure in page for figure in ("4.25", "4.54", "3.22", "0.67", "342 h"))
    blocks = [block.splitlines() for block in page.split("\n\n") if block.startswith("| ")]
    assert len(blocks) == len(shown)
    for lines in blocks:  # a | in a token must not become a column
        assert len({line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (68_300_000, "68.3 MB"), (825e9, "825 GB")]
)
def test_sizes_are_in_decimal_units(count: float, shown: str):
    assert size(count) == shown


@pytest.mark.parametrize(("hours", "shown"), [(342.04, "342 h"), (1.26, "1.3 h"), (0.5, "30 min"), (12345, "12,345 h")])
def test_times_are_in_hours_or_minutes(hours: float, shown: str):
    assert duration(hours * 3600) == shown


def test_the_folder_holds_the_report_and_the_tokenizers_that_were_trained(measured: tuple, tmp_path: Path):
    found, tokenizers = measured
    out = tmp_path / "report"
    write(found, tokenizers, out, plot=False)
    assert json.loads((out / "report.json").read_text()) == sealed(found)
    assert sorted(path.name for path in (out / "tokenizers").iterdir()) == ["code", "tales"]
    assert Tokenizer.load(out / "tokenizers" / "code").sha256 == tokenizers["code"].sha256
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        check_folder(out, overwrite=False)
    check_folder(out, overwrite=True)
    write(found, tokenizers, out, plot=False)
    assert (out / "notes.txt").read_text() == "mine"


def test_the_picture_shows_what_the_report_says(measured: tuple):
    pytest.importorskip("matplotlib")
    from groundup.studies.tokenizer_report.plot import draw, picture

    found, _ = measured
    compression, speed, where, training = draw(found).axes
    widths = [round(bar.get_width(), 6) for bar in compression.patches]
    ours = [r["held_out"]["bytes_per_token"] for r in found["compression"]]
    assert widths == [round(value, 6) for value in [*ours, 4.25, 4.54, 3.22]]
    labels = [label.get_text() for label in compression.get_yticklabels()]
    assert labels[:2] == ["tales on tales", "code on tales"]
    assert "MB/s" in speed.get_xlabel()
    warm = [r["bytes_per_second"]["warm"] / 1e6 for r in found["speed"]]
    assert any(list(line.get_xdata()) == warm for line in speed.lines)
    per_byte = [1e9 * sum(r["profile_cpu_seconds"].values()) / r["bytes"] for r in found["speed"]]
    ends = [max(bar.get_x() + bar.get_width() for bar in where.patches if bar.get_y() < y < bar.get_y() + 1)
            for y in range(len(per_byte))]  # fmt: skip
    assert ends == pytest.approx(per_byte)
    assert len(training.get_yticklabels()) == 2
    image = picture(found)
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(image) > 10_000


def test_a_picture_without_matplotlib_is_refused_with_the_way_to_install_it(measured: tuple, monkeypatch):
    from groundup.studies.tokenizer_report.plot import picture

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install matplotlib"):
        picture(measured[0])


@pytest.mark.parametrize(
    ("content", "options", "error", "message"),
    [
        (None, {}, FileMissingError, "does not exist"),
        (b"", {}, DataError, "empty"),
        (b"<|endoftext|>\n<|endoftext|>\n", {}, DataError, "only separators"),
        (b"a single document", {}, DataError, "at least 2"),
        (b"a<|endoftext|>b", {"vocab_size": 256}, TokenizerError, "vocab_size = 256.*257"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused_before_any_work(
    tmp_path: Path, content: bytes | None, options: dict, error: type[Exception], message: str
):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        Corpus(name="text", inputs=[str(path)], **options).check()


def test_standard_input_is_refused_since_it_can_be_read_only_once():
    with pytest.raises(DataError, match="write it to a file"):
        Corpus(name="text", inputs=["-"]).check()


def test_a_single_document_will_do_where_other_text_is_held_out(tmp_path: Path, corpora: dict[str, Corpus]):
    path = tmp_path / "one.txt"
    path.write_bytes(b"a single document")
    corpus = Corpus(name="one", inputs=[str(path)], held_out=corpora["code"].inputs)
    corpus.check()
    assert list(corpus.training_documents()) == [b"a single document"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpora": []}, "at least one corpus"),
        ({"twice": True}, "two corpora have the name 'tales'"),
        ({"train": False}, "at least one tokenizer"),
        ({"sampled_documents": 0}, "sampled documents = 0"),
        ({"longest": 0}, "longest tokens = 0"),
        ({"rename": "a/b"}, "'a/b'"),
        ({"rename": ".."}, r"'\.\.'"),
    ],
)
def test_options_that_make_no_report_are_refused(corpora: dict[str, Corpus], options: dict, message: str):
    chosen = options.pop("corpora", [corpora["tales"]]) * (1 + options.pop("twice", False))
    if name := options.pop("rename", None):
        chosen = [replace(corpora["tales"], name=name)]
    with pytest.raises(ConfigError, match=message):
        report.measure(chosen, **options)


def test_errors_of_the_measuring_process_are_raised_here(corpora: dict[str, Corpus], tmp_path: Path):
    with pytest.raises(TokenizerError, match="num_threads = 0"):
        measure_training(corpora["tales"], tmp_path, threads=0)
    with pytest.raises(FileMissingError, match=r"missing\.txt"):
        measure_training(replace(corpora["tales"], inputs=["missing.txt"]), tmp_path)


def test_a_measuring_process_that_is_killed_is_told(corpora: dict[str, Corpus], tmp_path: Path, monkeypatch):
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(TokenizerError, match=rf"training on tales.*signal {signal.SIGKILL.value}.*memory"):
        measure_training(corpora["tales"], tmp_path)
