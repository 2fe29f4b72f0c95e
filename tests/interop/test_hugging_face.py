"""Folders of transformers: what it writes is read, what is written it reads, with the same logits and tensors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from foreign_models import FAMILIES, foreign_greedy, foreign_logits, foreign_model, made_run
from groundup.config import flatten
from groundup.errors import CheckpointError, ConfigError
from groundup.generation import generate
from groundup.interop import weights as weights_module
from groundup.interop.export import export_model
from groundup.interop.importing import import_model
from groundup.record.run import RunDirectory
from groundup.tokenizer import Tokenizer
from groundup.train.checkpoint.folder import load_model

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory, tokenizer) -> tuple[Path, Path]:
    """A folder of transformers, and the run that it was imported as."""
    folder = tmp_path_factory.mktemp("family")
    there = foreign_model(folder / "theirs", tokenizer, **FAMILIES[request.param])
    found = import_model(there, folder / "ours")
    assert found.difference == 0
    return there, folder / "ours"


def test_an_imported_model_is_the_foreign_one(family, ids):
    there, here = family
    model, state = load_model(RunDirectory.open(here))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), foreign_logits(there, ids), **TOLERANCE)
    prompt = ids[0, :9].tolist()
    greedy = generate(model, prompt, 64, temperature=0)
    assert greedy[9:] == foreign_greedy(there, ids[:, :9], 64)
    assert (state["step"], state["options"]["model.embedding_scale"]) == (0, 1.0)


def test_an_imported_model_exported_again_has_the_same_tensors(family, ids):
    there, here = family
    export_model(here, out := here.parent / "again", "hugging-face")
    before, after = load_file(there / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.testing.assert_close(foreign_logits(out, ids), foreign_logits(there, ids), rtol=0, atol=0)


OPTIONS = {
    "LlamaForCausalLM": {},
    "LlamaForCausalLM, tied": {"tie_embeddings": True},
    "LlamaForCausalLM, tied without a factor": {"tie_embeddings": True, "embedding_scale": 1.0},
    "LlamaForCausalLM, factor": {"embedding_scale": 3.0},
    "LlamaForCausalLM, head size": {"head_size": 20, "num_kv_heads": 0},
    "LlamaForCausalLM, scaled": {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_original_context": 24},
    "MistralForCausalLM": {"num_heads": 5, "num_kv_heads": 0, "head_size": 10},
    "Qwen3ForCausalLM": {"qk_norm": True},
    "SeedOssForCausalLM": {"qkv_bias": True},
    "SmolLM3ForCausalLM": {"position": "none"},
    "ArceeForCausalLM": {"ffn": "silu"},
    "ArceeForCausalLM, relu2": {"ffn": "relu2", "output_init": "zero"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_exported_run_is_what_transformers_loads(name, tokenizer, ids, tmp_path):
    run = made_run(tmp_path / "run", tokenizer, **OPTIONS[name])
    found = export_model(run, out := tmp_path / "out", "hugging-face")
    assert found.family == name.partition(",")[0]
    assert found.difference < 1e-5
    assert any("transformers" in line and "ids equal" in line for line in found.checks)
    model, _ = load_model(RunDirectory.open(run))
    with torch.no_grad():
        torch.testing.assert_close(foreign_logits(out, ids), model(ids), **TOLERANCE)
    assert generate(model, ids[0, :9].tolist(), 64, temperature=0)[9:] == foreign_greedy(out, ids[:, :9], 64)
    theirs = AutoTokenizer.from_pretrained(out)
    text = "<|endoftext|>The cat isn't in the pond — 日本! <|endoftext|>"
    assert theirs(text)["input_ids"] == tokenizer.encode(text)
    assert theirs.eos_token == theirs.bos_token == "<|endoftext|>"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"norm": "post"}, r"model\.norm = 'post' has no form .*--to folder"),
        ({"norm": "none", "qk_norm": True}, r"model\.norm = 'none' has no form"),
        ({"logit_softcap": 2.0}, r"model\.logit_softcap = 2\.0 has no form"),
        ({"embedding_norm": True}, r"model\.embedding_norm = True has no form"),
        ({"norm_gains": False}, r"model\.norm_gains = False has no form"),
        (
            {"value_embeddings": "alternate", "residual_scalars": True},
            r"model\.value_embeddings = 'alternate' together with model\.residual_scalars = True has no form",
        ),
        ({"qk_norm": True, "qk_scale": 1.2}, r"model\.qk_scale = 1\.2 has no form"),
        ({"qk_norm": True, "qkv_bias": True}, r"model\.qk_norm = True together with model\.qkv_bias = True"),
        ({"ffn": "silu", "num_heads": 5, "num_kv_heads": 0, "head_size": 10}, "num_heads = 5 that does not divide"),
    ],
)
def test_what_no_family_has_is_refused_by_name_and_kept_by_the_own_folder(options, said, tokenizer, tmp_path, ids):
    run = made_run(tmp_path / "run", tokenizer, **options)
    with pytest.raises(ConfigError, match=said):
        export_model(run, tmp_path / "exports" / "out", "hugging-face")
    assert not (tmp_path / "exports").exists()
    export_model(run, tmp_path / "folder", "folder")
    import_model(tmp_path / "folder", tmp_path / "again")
    (before, _), (after, _) = (load_model(RunDirectory.open(path)) for path in (run, tmp_path / "again"))
    with torch.no_grad():
        assert torch.equal(before(ids), after(ids))


@pytest.mark.parametrize(("dtype", "kind"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_smaller_dtypes_are_rounded_once(dtype, kind, tokenizer, ids, tmp_path):
    run = made_run(tmp_path / "run", tokenizer, qk_norm=True)
    found = export_model(run, tmp_path / "out", "hugging-face", dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {kind}
    assert f", from rounding to {dtype}" in found.checks[0]
    model, _ = load_model(RunDirectory.open(run))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(kind))
        torch.testing.assert_close(foreign_logits(tmp_path / "out", ids), model(ids), **TOLERANCE)


def test_a_dtype_is_kept_from_import_to_export(tokenizer, tmp_path):
    there = foreign_model(tmp_path / "theirs", tokenizer, torch.bfloat16, **FAMILIES["qwen3"])
    assert import_model(there, tmp_path / "run").dtype == "bfloat16"
    export_model(tmp_path / "run", tmp_path / "again")
    before, after = (load_file(path / "model.safetensors") for path in (there, tmp_path / "again"))
    assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.bfloat16 for name in before)


def test_a_value_too_large_for_float16_is_refused(tokenizer, tmp_path):
    run = made_run(tmp_path / "run", tokenizer, embedding_scale=1e7)
    with pytest.raises(CheckpointError, match="beyond the largest float16"):
        export_model(run, tmp_path / "out", dtype="f16")
    assert not (tmp_path / "out").exists()


def test_large_models_are_written_and_read_in_several_files(tokenizer, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "CHUNK_BYTES", 1000)
    monkeypatch.setattr("groundup.interop.hugging_face.in_shards", lambda w: weights_module.in_shards(w, 100_000))
    run = made_run(tmp_path / "run", tokenizer, qk_norm=True)
    export_model(run, tmp_path / "out", "hugging-face")
    names = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert len(names) > 3
    model, _ = load_model(RunDirectory.open(run))
    with torch.no_grad():
        torch.testing.assert_close(foreign_logits(tmp_path / "out", ids), model(ids), **TOLERANCE)
    import_model(tmp_path / "out", tmp_path / "again")
    again, _ = load_model(RunDirectory.open(tmp_path / "again"))
    with torch.no_grad():
        assert torch.equal(again(ids), model(ids))


def test_sharded_folders_of_transformers_are_read(tokenizer, ids, tmp_path):
    there = foreign_model(tmp_path / "theirs", tokenizer, shards="60KB", **FAMILIES["llama"])
    assert len(list(there.glob("model-*.safetensors"))) > 1
    import_model(there, tmp_path / "run")
    model, _ = load_model(RunDirectory.open(tmp_path / "run"))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), foreign_logits(there, ids), **TOLERANCE)


def test_the_context_can_be_limited_to_a_sliding_window(tokenizer, ids, tmp_path):
    there = foreign_model(tmp_path / "theirs", tokenizer, model_type="mistral", sliding_window=64)
    with pytest.raises(CheckpointError, match=r"sliding window of 64 .* --context 64"):
        import_model(there, tmp_path / "run")
    assert list(tmp_path.iterdir()) == [there]
    import_model(there, tmp_path / "run", context=64)
    model, _ = load_model(RunDirectory.open(tmp_path / "run"))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), foreign_logits(there, ids), **TOLERANCE)
    assert model.context_length == 64


@pytest.mark.parametrize(
    ("family", "entries"),
    [
        ("qwen2", {}),
        ("qwen3", {"use_sliding_window": False}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 3}),
        ("smollm3", {"no_rope_layers": [0, 0, 0]}),
        ("llama", {"use_sliding_window": True}),
    ],
    ids=str,
)
def test_a_window_that_no_layer_has_is_no_window(family, entries, tokenizer, ids, tmp_path):
    """transformers decides it: by default the layers of Qwen have none, and those of Llama never have."""
    there = foreign_model(tmp_path / "theirs", tokenizer, **FAMILIES[family])
    config = json.loads((there / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("use_sliding_window", "layer_types")}
    (there / "config.json").write_text(json.dumps(config | {"sliding_window": 8} | entries))
    import_model(there, tmp_path / "run")
    model, _ = load_model(RunDirectory.open(tmp_path / "run"))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), foreign_logits(there, ids), **TOLERANCE)
    if entries.get("max_window_layers"):
        (there / "config.json").write_text(
            json.dumps(config | {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2})
        )
        with pytest.raises(CheckpointError, match="sliding window of 8"):
            import_model(there, tmp_path / "again")


def test_the_card_has_what_the_run_directory_says(tokenizer, tmp_path):
    run = made_run(tmp_path / "run", tokenizer)
    with (run / "metrics.jsonl").open("w") as lines:
        for step in range(6):
            lines.write(
                json.dumps({"step": step, "tokens": 20 * step, "wall_seconds": 1.0, "val_loss": 5.0 - step / 2}) + "\n"
            )
    export_model(run, tmp_path / "out", license_name="apache-2.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    for fact in ("d" * 64, tokenizer.sha256, "2.5000", "d_model = 48", "100"):
        assert fact in card
    assert str(tmp_path) not in card.partition("## Export")[0]


def test_what_an_imported_run_says_of_itself(tokenizer, tmp_path):
    there = foreign_model(tmp_path / "theirs", tokenizer, **FAMILIES["llama 3"])
    import_model(there, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["imported"]["source"] == str(there)
    assert set(environment["imported"]["files"]) == {path.name for path in there.iterdir()}
    options = flatten(run.config)
    assert (options["model.head_size"], options["model.rope_original_context"]) == (20, 32)
    assert run.tokenizer().encode("The cat") == Tokenizer.load(there).encode("The cat")


def test_a_tokenizer_can_come_from_another_place(tokenizer, tmp_path, tokens):
    there = foreign_model(tmp_path / "theirs", tokenizer, **FAMILIES["llama"])
    (there / "tokenizer.json").unlink()
    with pytest.raises(Exception, match="--tokenizer"):
        import_model(there, tmp_path / "run")
    import_model(there, tmp_path / "run", tokenizer=tokens / "tokenizer")
    assert RunDirectory.open(tmp_path / "run").tokenizer().sha256 == tokenizer.sha256


def test_without_the_system_call_files_are_copied_by_hand(tokenizer, tmp_path, monkeypatch):
    run = made_run(tmp_path / "run", tokenizer)
    export_model(run, tmp_path / "one")
    monkeypatch.setattr("os.copy_file_range", lambda *arguments: (_ for _ in ()).throw(OSError(18, "other device")))
    export_model(run, tmp_path / "two")
    one, two = (tmp_path / name / "model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_checkpoint_that_several_ranks_wrote_is_exported(tmp_path):
    run = Path(__file__).parents[1] / "fixtures" / "version-0.1" / "runs" / "sharded"
    export_model(run, tmp_path / "out", "hugging-face")
    export_model(run, tmp_path / "model.gguf", "gguf")
    model, _ = load_model(RunDirectory.open(run))
    ids = torch.arange(model.context_length)[None]
    with torch.no_grad():
        torch.testing.assert_close(foreign_logits(tmp_path / "out", ids), model(ids), **TOLERANCE)
