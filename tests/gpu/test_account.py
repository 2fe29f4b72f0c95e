"""Memory on a GPU is what the account says."""

import pytest
import torch

from groundup.account.memory import step_memory
from groundup.config import ModelConfig, OptimConfig, RunConfig, TrainConfig
from groundup.optim import build_optimizer, clip_gradients
from groundup.train.build import build_model
from groundup.train.step import build_loss

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

MODEL = {"vocab_size": 16_000, "context_length": 512, "d_model": 512, "num_layers": 8, "num_heads": 8}
# Large enough, some gigabytes, that what libraries of products keep for themselves is small.
RUNS = [
    ({}, {"precision": "bf16"}, {}, 64),
    ({}, {"precision": "bf16", "activation_checkpointing": True}, {}, 128),
    ({}, {"kernels": "plain", "attention": "plain"}, {}, 16),
    ({"num_kv_heads": 2, "norm": "post", "ffn": "silu"}, {"precision": "bf16"}, {}, 64),
    ({"d_model": 1024, "num_heads": 16}, {}, {"optimizer": "muon"}, 16),
]


@pytest.mark.parametrize(("model", "train", "optim", "batch_size"), RUNS, ids=str)
def test_the_peak_of_a_step_is_within_five_per_cent(model, train, optim, batch_size):
    config = RunConfig(
        model=ModelConfig(**{**MODEL, **model}), train=TrainConfig(**train), optim=OptimConfig(**optim)
    )  # fmt: skip
    lm = build_model(config, "cuda")
    loss = build_loss(lm, compile=False, chunked=config.train.kernels == "fast")
    optimizer = build_optimizer(lm, config.optim)
    x = torch.randint(config.model.vocab_size, (batch_size, config.model.context_length), device="cuda")
    for step in range(3):
        if step == 2:
            torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad(set_to_none=True)
        loss(x, x.clone()).backward()
        clip_gradients(lm.parameters(), 1.0)
        optimizer.step()
    predicted = step_memory(config.model, config.optim, config.train, batch_size=batch_size, device="cuda")
    assert predicted.peak == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.05)
