"""Checkpoints of nanoGPT and nanochat: recognised, and refused with what groundup does not have of them.

Neither model can be expressed: nanoGPT is GPT-2 (learned positions, LayerNorm, GELU), nanochat squares a ReLU and
caps its logits. Nothing is unpickled but tensors and plain values (``weights_only=True``).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.errors import CheckpointError
from groundup.interop.model import refuse_pickle

_NANOGPT = {
    "transformer.wpe.weight": "learned position embeddings",
    "transformer.h.0.ln_1.weight": "LayerNorm in place of RMSNorm",
    "transformer.h.0.mlp.c_fc.weight": "GELU in place of SiLU",
    "transformer.h.0.attn.c_attn.bias": "biases in every layer",
}
"""A tensor of nanoGPT, and what it is a part of that groundup does not have."""
_NANOCHAT = {
    "transformer.h.0.mlp.c_fc.weight": "a squared ReLU in place of SiLU",
    "lm_head.weight": "logits that are capped (softcap), and a norm after the embedding",
    "resid_lambdas": "factors on the residual stream",
    "transformer.h.0.attn.ve_gate.weight": "value embeddings",
    "value_embeds.0.weight": "value embeddings",
}


def refusal(path: Path) -> CheckpointError:
    """The error for a file of torch.save: what is in it, and why it is not imported."""
    try:
        content: Any = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError):
        return refuse_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        return refuse_pickle(path)
    names = {str(name).removeprefix("_orig_mod.") for name, value in content.items() if isinstance(value, Tensor)}
    if "transformer.wpe.weight" in names:
        return _refused(path, "nanoGPT", [what for name, what in _NANOGPT.items() if name in names])
    if {"transformer.wte.weight", "transformer.h.0.attn.c_q.weight"} <= names:
        return _refused(path, "nanochat", [what for name, what in _NANOCHAT.items() if name in names])
    if "token_embeddings.weight" in names:
        return CheckpointError(
            f"{path} is a checkpoint of groundup.save_checkpoint, which does not record the model's options; "
            f"load it with groundup.load_checkpoint into a TransformerLM"
        )
    return refuse_pickle(path)


def _refused(path: Path, program: str, differences: list[str]) -> CheckpointError:
    return CheckpointError(
        f"{path} is a checkpoint of {program}, which groundup cannot express: it has "
        f"{'; '.join(dict.fromkeys(differences))}"
    )
