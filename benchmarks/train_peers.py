"""Contenders of the training benchmarks: a model, its loss and its optimizer behind one call, `Trainee.step`.

A contender is "package:variant". All start from groundup's initial weights and see the same batches, so their losses
must agree. If they differ, the contenders do not train the same model, and a ratio of their speeds is meaningless.

    groundup                     fast kernels, eager          transformers                LlamaForCausalLM, eager
    groundup:compiled            the same, compiled           transformers:compiled       the same, torch.compile
    groundup:plain               plain formulas, unfused      transformers:max-autotune   with inductor's tuned matmuls
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from groundup.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from groundup.nn import TransformerLM
from groundup.optim import build_optimizer
from groundup.train.build import build_model
from groundup.train.device import process_settings
from groundup.train.step import build_loss, train_step
from side_by_side import UnavailableError, labelled

OURS, PEER = "groundup", "transformers"
COMPILE_MODES = {"compiled": "default", "max-autotune": "max-autotune-no-cudagraphs"}
SETTINGS = {
    "groundup": "fast kernels, eager",
    "groundup:compiled": "fast kernels, compiled",
    "groundup:plain": "plain kernels, plain attention, eager",
    "transformers": "LlamaForCausalLM, SDPA, AdamW fused, clipping foreach, eager",
    "transformers:compiled": "LlamaForCausalLM, SDPA, AdamW fused, clipping foreach, torch.compile",
    "transformers:max-autotune": "LlamaForCausalLM, SDPA, AdamW fused, clipping foreach, torch.compile max-autotune",
}


class Trainee(Protocol):
    """A model that can be trained."""

    @property
    def model(self) -> nn.Module: ...

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of the targets ``y (B, S)`` after the inputs ``x (B, S)``."""
        ...

    def step(self, x: Tensor, y: Tensor) -> Callable[[], float]:
        """Launch one whole optimizer step with clipping. Returns a function that waits for the loss and returns it."""
        ...

    def optimizer_step(self) -> None:
        """Repeat the optimizer's part of the last step, with its gradients."""
        ...


class Groundup:
    """groundup's model, through the functions that `groundup train` calls."""

    def __init__(self, config: RunConfig, device: str = "cpu") -> None:
        self.config = config
        self._settings = process_settings(config.train, device)
        self._settings.__enter__()  # for the rest of the process
        self.model = build_model(config, device)
        self._loss = build_loss(self.model, compile=config.train.compile, chunked=config.train.kernels == "fast")
        self.optimizer = build_optimizer(self.model, config.optim)
        used = {group.get("algorithm", "adamw") for group in self.optimizer.param_groups}
        if config.optim.optimizer not in used:
            raise UnavailableError(
                f"groundup's build_optimizer made {used} where {config.optim.optimizer} was asked for"
            )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return self._loss(x, y)

    def step(self, x: Tensor, y: Tensor) -> Callable[[], float]:
        result = train_step(self.model, self._loss, self.optimizer, [(x, y)], 1, self.config.optim.grad_clip)
        return lambda: result.read()[0]

    def optimizer_step(self) -> None:
        if all(p.grad is None for p in self.model.parameters()):
            raise RuntimeError("the step has dropped its gradients, so that the optimizer alone has nothing to do")
        self.optimizer.step()


class Llama:
    """transformers' model of the same shape, with torch's fastest optimizer and clipping.

    Raises:
        UnavailableError: transformers is not installed.
    """

    def __init__(self, config: RunConfig, mode: str | None) -> None:
        labelled(PEER)  # raises with a hint how to install it
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = config.model
        self.config = config
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocab_size, hidden_size=shape.d_model, intermediate_size=shape.ffn_dim,
                num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads,
                max_position_embeddings=shape.context_length, rms_norm_eps=shape.norm_eps,
                rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, use_cache=False,
                tie_word_embeddings=shape.tie_embeddings, attn_implementation="sdpa",
            )
        )  # fmt: skip
        # Without process_settings, which would apply to the peer too.
        torch.manual_seed(config.train.seed)
        ours = TransformerLM.from_config(shape).state_dict()
        self.model.load_state_dict(llama_weights(ours, shape.num_heads), strict=not shape.tie_embeddings)
        self.model.train()
        self._forward: Callable[..., Any] = self.model if mode is None else torch.compile(self.model, mode=mode)
        optim = config.optim
        matrices: list[nn.Parameter] = []
        rest: list[nn.Parameter] = []
        for module in self.model.modules():
            own = rest if not isinstance(module, nn.Linear) else matrices
            own.extend(module.parameters(recurse=False))
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": optim.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=optim.max_learning_rate, betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True,
        )  # fmt: skip

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        # shift_labels: the targets are already shifted, so the last position counts, as in groundup.
        return self._forward(input_ids=x, labels=y, shift_labels=y).loss

    def step(self, x: Tensor, y: Tensor) -> Callable[[], float]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.grad_clip, foreach=True)
        self.optimizer.step()
        return loss.item

    def optimizer_step(self) -> None:
        self.optimizer.step()


def llama_weights(ours: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """groundup's state dict under transformers' names.

    groundup rotates the features (2k, 2k + 1) of a head as a pair, Llama (k, k + K/2). So the rows of the query and key
    matrices are permuted within each head.
    """
    names = {
        "token_embeddings": "model.embed_tokens", "ln_final": "model.norm", "lm_head": "lm_head",
        "attn.output_proj": "self_attn.o_proj", "attn.": "self_attn.", "ffn.w1": "mlp.gate_proj",
        "ffn.w2": "mlp.down_proj", "ffn.w3": "mlp.up_proj", "ln1": "input_layernorm",
        "ln2": "post_attention_layernorm",
    }  # fmt: skip
    result = {}
    for name, weight in ours.items():
        prefix, layer = ("", name)
        if name.startswith("layers."):
            _, number, layer = name.split(".", 2)
            prefix = f"model.layers.{number}."
        old = next(old for old in names if layer.startswith(old))
        if layer.startswith(("attn.q_proj", "attn.k_proj")):
            weight = weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)
        result[prefix + names[old] + layer[len(old) :]] = weight
    return result


def make(who: str, model: Mapping[str, Any], **optim: Any) -> Trainee:
    """The contender, ready to train in float32 on the CPU.

    Args:
        model: keywords of `ModelConfig`.
        optim: keywords of `OptimConfig`.

    Raises:
        UnavailableError: not installed, or unknown.
    """
    package, _, way = who.partition(":")
    if who not in SETTINGS:
        raise UnavailableError(f"unknown contender {who!r}; choose from {', '.join(SETTINGS)}")
    plain = "plain" if way == "plain" else None
    config = RunConfig(
        model=ModelConfig(**model),
        optim=OptimConfig(**optim),
        train=TrainConfig(
            kernels=plain or "fast", attention=plain or "flash", compile=package == OURS and way == "compiled",
            device="cpu",
        ),
    )  # fmt: skip
    # torch.compile imports modules that torch itself deprecates.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    return Groundup(config) if package == OURS else Llama(config, COMPILE_MODES.get(way))
