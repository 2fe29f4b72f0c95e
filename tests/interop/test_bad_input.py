"""Truncated, renamed, foreign and hostile files: one line, exit code 2, and nothing written."""

import json
import os
import pickle
import random
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from foreign_models import FAMILIES, foreign_model, made_run
from groundup.cli.main import main
from groundup.errors import GroundupError
from groundup.interop.export import export_model
from groundup.interop.gguf import read_gguf
from groundup.interop.hugging_face import read_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer) -> Path:
    return foreign_model(tmp_path_factory.mktemp("good") / "theirs", tokenizer, **FAMILIES["llama 3"])


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory, tokenizer) -> Path:
    run = made_run(tmp_path_factory.mktemp("run") / "run", tokenizer, d_model=16, d_ff=32, num_layers=1)
    return export_model(run, run.parent / "model.gguf", "gguf").out


@pytest.fixture
def refused(tmp_path, capsys):
    """Import a source that has to be refused, and return the line."""

    def do(source: object, *options: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["import", str(source), "--out", str(tmp_path / "runs" / "out"), *map(str, options)])
        _, err = capsys.readouterr()
        assert (stop.value.code, err.count("\n")) == (2, 1), err
        assert not (tmp_path / "runs").exists()
        return err

    return do


def changed(folder: Path, out: Path, **entries: object) -> Path:
    """A copy of the folder with other entries in config.json; None removes one."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text()) | entries
    config = {name: value for name, value in config.items() if value is not None}
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"model_type": "gemma2"}, "'gemma2'"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"hidden_size": "48"}, "hidden_size = '48'"),
        ({"hidden_size": 52}, "has shape"),
        ({"hidden_size": 2**39, "vocab_size": 2**39}, "hidden_size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": 2}, "does not ask for"),
        ({"num_hidden_layers": 4}, "has no tensor model.layers.3"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0"),
        ({"num_attention_heads": True}, "num_attention_heads = True"),
        ({"num_key_value_heads": 3}, "num_kv_heads"),
        ({"head_dim": 7}, "odd"),
        ({"vocab_size": 200}, "has shape"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"attention_bias": "yes"}, "attention_bias = 'yes'"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rms_norm_eps": 0}, "norm_eps"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "no factor"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ between layers"),
        ({"rope_parameters": "default"}, "expected an object"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, "rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"tie_word_embeddings": False}, "has no tensor lm_head.weight"),
        ({"sliding_window": 8, "model_type": "mistral"}, "--context 8"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0, 1]}, "no_rope_layers"),
    ],
    ids=str,
)
def test_a_config_that_does_not_match(entries, said, folder, tmp_path, refused):
    assert said in refused(changed(folder, tmp_path / "copy", **entries))


def broken(folder: Path, out: Path, name: str, content: bytes | None) -> Path:
    shutil.copytree(folder, out)
    if content is None:
        (out / name).unlink()
    else:
        (out / name).write_bytes(content)
    return out


def header(entries: dict, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


BAD_TENSORS = {
    "empty": b"",
    "header of 2^60 bytes": struct.pack("<Q", 2**60) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"abcd",
    "offsets outside": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**50]}}),
    "offsets overlap": header(
        {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in "ab"}, bytes(16)
    ),
    "offsets backwards": header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, bytes(16)),
    "shape does not match": header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 16]}}, bytes(16)),
    "negative": header({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, bytes(16)),
    "a hole": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, bytes(16)),
    "too much at the end": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(99)),
    "whole numbers": header({"a": {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}}, bytes(16)),
    "a scalar": header({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, bytes(4)),
    "a pickle": pickle.dumps({"a": 1}),
    "nested": struct.pack("<Q", 200_000) + b"[" * 200_000,
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_tensors_that_are_none(name, folder, tmp_path, refused):
    assert "model.safetensors" in refused(broken(folder, tmp_path / "copy", "model.safetensors", BAD_TENSORS[name]))


def test_tensors_that_are_missing_or_too_many_or_of_no_number(folder, tmp_path, refused):
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for i, (changes, said) in enumerate(
        [
            ({name: None}, f"has no tensor {name}"),
            ({"visual.weight": torch.ones(3)}, "has the tensor visual.weight"),
            ({name: torch.ones(3, 3)}, "has shape (3, 3)"),
            ({name: torch.full((80, 48), torch.nan)}, "not finite"),
        ]
    ):
        copy = broken(folder, tmp_path / f"copy{i}", "model.safetensors", b"")
        content = {key: value for key, value in (tensors | changes).items() if value is not None}
        save_file(content, copy / "model.safetensors", {"format": "pt"})
        assert said in refused(copy)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "no config.json"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", b"[]", "expected a JSON object"),
        ("config.json", b"[" * 100_000, "too deeply"),
        ("config.json", b"\xff\xfe", "config.json"),
        ("model.safetensors", None, "no model.safetensors"),
        ("tokenizer.json", None, "no tokenizer"),
        ("tokenizer.json", b"{}", "tokenizer.json"),
        ("tokenizer.json", b'{"model": {"type": "Unigram"}}', "tokenizer.json"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": "../../etc/passwd"}}', "same folder"),
        (
            "model.safetensors.index.json",
            b'{"weight_map": {"a": "absent.safetensors"}}',
            "absent.safetensors is missing",
        ),
        ("model.safetensors.index.json", b'{"weight_map": []}', "no weight_map"),
        ("generation_config.json", b"no", "generation_config.json"),
        ("generation_config.json", b'{"eos_token_id": "x"}', "eos_token_id = 'x'; expected an id"),
        ("generation_config.json", b'{"eos_token_id": [1, true]}', "eos_token_id = [1, True]; expected an id"),
    ],
)
def test_files_that_are_missing_or_damaged(name, content, said, folder, tmp_path, refused):
    assert said in refused(broken(folder, tmp_path / "copy", name, content))


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_pipe_in_place_of_a_file(name, folder, tmp_path, refused):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "copy" / name)
    assert name in refused(tmp_path / "copy")


def test_a_tokenizer_of_another_size(folder, tmp_path, refused, gpt2_files):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for file, name in zip(gpt2_files, ("vocab.json", "merges.txt"), strict=True):
        shutil.copy(file, tokenizer / name)
    assert "vocabulary of 310" in refused(folder, "--tokenizer", tokenizer)


def test_a_pickle_is_never_read(folder, tmp_path, refused):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    copy = broken(folder, tmp_path / "copy", "model.safetensors", None)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "can run any code" in refused(copy)
    assert "can run any code" in refused(copy / "pytorch_model.bin")
    assert not (tmp_path / "evil").exists()


def test_what_is_no_source(folder, tmp_path, refused, gguf_file):
    assert "no file or folder" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused(tmp_path / "empty")
    shutil.copy(folder / "model.safetensors", tmp_path / "renamed.gguf")
    assert "does not begin with GGUF" in refused(tmp_path / "renamed.gguf")
    (tmp_path / "renamed.bytes").write_bytes(b"GGUF" + bytes(40))
    assert "not a GGUF file: version 0" in refused(tmp_path / "renamed.bytes")
    renamed = broken(folder, tmp_path / "copy", "model.safetensors", gguf_file.read_bytes())
    assert "model.safetensors" in refused(renamed)
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "regular file" in refused(tmp_path / "pipe.gguf")
    assert "longer than the model's 96" in refused(folder, "--context", 200)
    assert "--context -1" in refused(folder, "--context", -1)


def test_a_file_that_is_no_model_is_called_by_what_it_is(folder, tokenizer, tmp_path, refused):
    tokenizer.save_tiktoken(tmp_path / "t.tiktoken")
    shutil.copy(folder / "tokenizer.json", tmp_path / "mine.json")
    shutil.copy(folder / "model.safetensors", tmp_path / "alone.safetensors")
    (tmp_path / "notes.txt").write_text("hello\n")
    for name in ("t.tiktoken", "mine.json"):
        assert "is a tokenizer" in (told := refused(tmp_path / name))
        assert "--tokenizer" in told
        assert "groundup tokenizer convert" in told
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert f"is one file of a model; name its folder, {folder}" in refused(folder / name)
    assert "holds tensors alone" in refused(tmp_path / "alone.safetensors")
    assert "is of no known format" in refused(tmp_path / "notes.txt")


def test_a_gguf_file_without_its_table_names_it(gguf_file, tmp_path, refused):
    (tmp_path / "part.gguf").write_bytes(gguf_file.read_bytes().replace(b"token_embd.weight", b"token_xxxx.weight"))
    assert "no tensor token_embd.weight" in refused(tmp_path / "part.gguf")


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(*entries: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(entries) if count is None else count) + b"".join(entries)


def info(shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return string("a") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


BAD_GGUF = {
    "empty": (b"", "too early"),
    "no version": (b"GGUF", "too early"),
    "version 99": (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "version 99"),
    "entries without end": (gguf(count=2**60), "entries in a file"),
    "tensors without end": (gguf(tensors=2**60), "tensors in a file"),
    "a text without end": (gguf(struct.pack("<Q", 2**60), bytes(40)), "bytes of text"),
    "an array without end": (gguf(string("a") + struct.pack("<IIQ", 9, 0, 2**60), bytes(40)), "elements in a file"),
    "arrays in arrays": (gguf(string("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 500), "type 9"),
    "an unknown type": (gguf(string("a") + struct.pack("<I", 77) + bytes(40)), "type 77"),
    "an entry twice": (gguf(*2 * [string("a") + struct.pack("<Iq", 11, 1)]), "twice"),
    "alignment 0": (gguf(string("general.alignment") + struct.pack("<II", 4, 0)), "alignment 0"),
    "100 dimensions": (gguf(tensors=1) + info([1] * 100), "100 dimensions"),
    "a shape too large": (gguf(tensors=1) + info([2**40, 2**40]) + bytes(64), "more than the file can hold"),
    "a shape of nothing": (gguf(tensors=1) + info([0]) + bytes(64), "more than the file can hold"),
    "an offset outside": (gguf(tensors=1) + info([4], offset=2**62) + bytes(64), "ends at byte"),
    "rows that no block fits": (gguf(tensors=1) + info([31], kind=8) + bytes(64), "multiple of 32"),
    "4 bits": (gguf(tensors=1) + info([32], kind=12) + bytes(64), "Q4_K"),
    "no architecture": (gguf(), "no general.architecture"),
    "another architecture": (gguf(string("general.architecture") + struct.pack("<I", 8) + string("gpt2")), "'gpt2'"),
}


@pytest.mark.parametrize("name", BAD_GGUF)
def test_gguf_that_lies(name, tmp_path, refused):
    content, said = BAD_GGUF[name]
    (tmp_path / "model.gguf").write_bytes(content)
    assert said in refused(tmp_path / "model.gguf")


@pytest.mark.parametrize("seed", range(4))
def test_random_damage_is_refused_or_harmless(seed, folder, gguf_file, tmp_path):
    """Readers raise errors for users and no others, whatever bytes of the headers are changed or cut off."""
    chance = random.Random(seed)
    shutil.copytree(folder, tmp_path / "copy")
    places = {
        gguf_file: (tmp_path / "copy.gguf", read_gguf),
        folder / "model.safetensors": (tmp_path / "copy" / "model.safetensors", lambda path: read_folder(path.parent)),
        folder / "config.json": (tmp_path / "copy" / "config.json", lambda path: read_folder(path.parent)),
    }
    refusals = 0
    for good, (place, read) in places.items():
        content = good.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for _ in range(chance.choice((1, 1, 3))):
                damaged[chance.randrange(min(len(content), 6000))] = chance.choice(
                    (0, 1, 0x7F, 0xFF, chance.randrange(256))
                )
            if chance.random() < 0.3:
                del damaged[chance.randrange(len(damaged)) :]
            place.write_bytes(damaged)
            try:
                read(place)
            except GroundupError:
                refusals += 1
        place.write_bytes(content)
        read(place)
    assert refusals > 40
