import pytest
import torch

from groundup.account.activations import kept_for_backward
from groundup.config import ModelConfig, RunConfig, TrainConfig
from groundup.train.build import build_loss, build_model

BASE = {"vocab_size": 500, "context_length": 48, "d_model": 64, "num_layers": 3, "num_heads": 4, "d_ff": 160}


def saved_by_autograd(model: ModelConfig, train: TrainConfig, batch_size: int) -> int:
    """Bytes of the distinct pieces of memory that autograd's own hook is shown, weights aside."""
    lm = build_model(RunConfig(model=model, train=train), "cpu")
    loss = build_loss(lm, compile=False, chunked=train.kernels == "fast")
    x = torch.randint(model.vocab_size, (batch_size, model.context_length))
    weights = {p.untyped_storage().data_ptr() for p in lm.parameters()}
    seen = {}

    def note(tensor):
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights:
            seen[memory.data_ptr()] = memory.nbytes()
        return tensor.detach()  # keeps the memory, so that no address is given out twice

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = loss(x, x.clone())
    del result
    return sum(seen.values())


def predicted(model: ModelConfig, train: TrainConfig, batch_size: int) -> int:
    return sum(tensor.size for tensor in kept_for_backward(model, train, batch_size=batch_size) if tensor.saved)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["plain", "flash"])
@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ffn": "silu"},
        {"norm": "post", "tie_embeddings": True},
        {"norm": "none"},
        {"position": "none"},
        {"num_kv_heads": 2},
        {"num_kv_heads": 1, "position": "none"},
    ],
    ids=str,
)
def test_bytes_are_those_that_autograd_saves(options, kernels, attention, precision):
    model = ModelConfig(**BASE, **options)
    train = TrainConfig(kernels=kernels, attention=attention, precision=precision)
    assert predicted(model, train, 5) == saved_by_autograd(model, train, 5)


@pytest.mark.parametrize("kernels", ["plain", "fast"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_with_checkpointing_a_block_keeps_its_input(kernels, precision):
    model = ModelConfig(**BASE)
    train = TrainConfig(kernels=kernels, precision=precision, activation_checkpointing=True)
    assert predicted(model, train, 5) == saved_by_autograd(model, train, 5)
