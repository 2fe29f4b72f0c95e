import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from groundup.account import forward_flops, training_flops_per_token
from groundup.config import ModelConfig
from groundup.nn import TransformerLM, cross_entropy

SMALL = {"vocab_size": 96, "context_length": 24, "d_model": 32, "num_layers": 3, "num_heads": 4}


@pytest.mark.parametrize(
    "options",
    [{}, {"ffn": "silu"}, {"norm": "post", "position": "none"}, {"norm": "none", "tie_embeddings": True}, {"d_ff": 40}],
    ids=str,
)
@pytest.mark.parametrize("tokens", [None, 1, 7])
def test_they_are_those_that_torch_counts(options, tokens):
    config = ModelConfig(**SMALL, **options)
    model = TransformerLM.from_config(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens or config.context_length, dtype=torch.int64))
    assert forward_flops(config, tokens) == counter.get_total_flops()


def test_training_takes_what_torch_counts_forward_and_backward():
    config = ModelConfig(**SMALL)
    model = TransformerLM.from_config(config)
    x = torch.zeros(1, config.context_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(model(x), x).backward()
    assert training_flops_per_token(config) * config.context_length == counter.get_total_flops()


@pytest.mark.parametrize(
    ("layers", "d", "heads", "context_length", "published"),
    [
        (12, 768, 12, 1024, 349_630_365_696),
        (24, 1024, 16, 1024, 1_033_109_504_000),
        (36, 1280, 20, 1024, 2_257_754_521_600),
        (48, 1600, 25, 1024, 4_513_336_524_800),
        (48, 1600, 25, 16_384, 149_522_795_724_800),
    ],
)
def test_published_counts(layers, d, heads, context_length, published):
    config = ModelConfig(
        vocab_size=50257, context_length=context_length, d_model=d, num_layers=layers, num_heads=heads, d_ff=4 * d
    )  # fmt: skip
    assert forward_flops(config) == published
    assert training_flops_per_token(config) * context_length == pytest.approx(3 * published)


def test_no_tokens_cost_nothing():
    assert forward_flops(ModelConfig(**SMALL), tokens=0) == 0
