"""Checkpoints of nanoGPT and nanochat are recognised, and refused with what cannot be expressed."""

import pickle
from pathlib import Path

import pytest
import torch

from groundup import AdamW, TransformerLM, save_checkpoint
from groundup.errors import CheckpointError
from groundup.interop.importing import import_model


def nanogpt(path: Path, *, bias: bool) -> Path:
    """The names and sizes of nanoGPT's model.py, and of what train.py saves."""
    block = {"ln_1": (8,), "attn.c_attn": (24, 8), "attn.c_proj": (8, 8), "ln_2": (8,), "mlp.c_fc": (32, 8),
             "mlp.c_proj": (8, 32)}  # fmt: skip
    shapes = {"transformer.wte": (50, 8), "transformer.wpe": (16, 8), "transformer.ln_f": (8,), "lm_head": (50, 8)}
    shapes |= {f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    model = {f"_orig_mod.{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    if bias:
        model |= {f"_orig_mod.{name}.bias": torch.ones(shape[:1]) for name, shape in shapes.items() if ".h." in name}
    arguments = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 16, "bias": bias, "vocab_size": 50}
    torch.save({"model": model, "model_args": arguments, "iter_num": 7, "config": {"dataset": "shakespeare"}}, path)
    return path


def nanochat(path: Path) -> Path:
    """The names and sizes of nanochat's gpt.py."""
    block = {"attn.c_q": (8, 8), "attn.c_k": (8, 8), "attn.c_v": (8, 8), "attn.c_proj": (8, 8), "mlp.c_fc": (32, 8),
             "mlp.c_proj": (8, 32)}  # fmt: skip
    shapes = {"transformer.wte": (50, 8), "lm_head": (50, 8)}
    shapes |= {f"transformer.h.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
    path.parent.mkdir(exist_ok=True)
    torch.save({f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}, path)
    return path


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt(bias, tmp_path):
    with pytest.raises(CheckpointError, match=r"nanoGPT, .*learned position embeddings; LayerNorm.*; GELU") as error:
        import_model(nanogpt(tmp_path / "ckpt.pt", bias=bias), tmp_path / "run")
    assert ("biases" in str(error.value)) == bias
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["model_000100.pt", ""])
def test_nanochat(name, tmp_path):
    nanochat(tmp_path / "d4" / "model_000100.pt")
    (tmp_path / "d4" / "meta_000100.json").write_text('{"model_config": {"n_layer": 2}}')
    with pytest.raises(CheckpointError, match=r"nanochat, .*squared ReLU.*softcap"):
        import_model(tmp_path / "d4" / name, tmp_path / "run")


def test_files_of_torch_save_that_are_of_no_other_program(tmp_path):
    model = TransformerLM(60, 16, 16, 1, 2, 64)
    save_checkpoint(model, AdamW(model.parameters()), 3, tmp_path / "own.pt")
    with pytest.raises(CheckpointError, match="load_checkpoint"):
        import_model(tmp_path / "own.pt", tmp_path / "run")
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    torch.save({"a": torch.ones(3)}, tmp_path / "other.pth")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(print))
    (tmp_path / "cut.pt").write_bytes((tmp_path / "own.pt").read_bytes()[:300])
    for name in ("list.pt", "other.pth", "pickle.ckpt", "cut.pt"):
        with pytest.raises(CheckpointError, match="is a pickle, which can run any code"):
            import_model(tmp_path / name, tmp_path / "run")
