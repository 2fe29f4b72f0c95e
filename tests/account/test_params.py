import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.account import parameter_count
from groundup.config import ModelConfig, load_recipe
from groundup.nn import TransformerLM


@settings(deadline=None, max_examples=80)
@given(
    vocab_size=st.integers(1, 300),
    heads=st.integers(1, 4),
    pairs=st.integers(1, 6),
    num_layers=st.integers(1, 4),
    d_ff=st.integers(0, 100),
    norm=st.sampled_from(["pre", "post", "none"]),
    position=st.sampled_from(["rope", "none"]),
    ffn=st.sampled_from(["swiglu", "silu"]),
    tied=st.booleans(),
)
def test_it_is_the_number_of_parameters_of_the_model_that_is_built(
    vocab_size, heads, pairs, num_layers, d_ff, norm, position, ffn, tied
):
    config = ModelConfig(
        vocab_size=vocab_size, context_length=8, d_model=2 * heads * pairs, num_layers=num_layers, num_heads=heads,
        d_ff=d_ff, norm=norm, position=position, ffn=ffn, tie_embeddings=tied,
    )  # fmt: skip
    model = TransformerLM.from_config(config, device="meta")
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())


def gpt2(layers: int, d: int, heads: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=50257, context_length=1024, d_model=d, num_layers=layers, num_heads=heads, d_ff=4 * d
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (gpt2(12, 768, 12), 190_460_160),
        (gpt2(24, 1024, 16), 505_629_696),
        (gpt2(36, 1280, 20), 1_072_469_760),
        (gpt2(48, 1600, 25), 2_127_057_600),
        (ModelConfig(vocab_size=10_000, d_ff=1344), 22_696_448),
        (load_recipe("tinystories").model, 35_938_816),
        (load_recipe("owt").model, 58_466_816),
    ],
    ids=["GPT-2 small", "GPT-2 medium", "GPT-2 large", "GPT-2 XL", "course", "tinystories", "owt"],
)
def test_published_counts(config, published):
    assert parameter_count(config) == published
