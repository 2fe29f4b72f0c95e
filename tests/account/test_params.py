import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.account import parameter_count
from groundup.account.flops import forward_flops, forward_matmuls
from groundup.account.params import parameters
from groundup.account.presets import PRESETS
from groundup.config import ModelConfig, load_recipe
from groundup.nn import TransformerLM

COUNTS = json.loads((Path(__file__).parent / "counts_of_0_1.json").read_text())
"""By the formulas of version 0.1: every preset, and every combination of options that adds or removes a weight."""


def config_of(row: dict[str, Any]) -> ModelConfig:
    return PRESETS[row["preset"]][1].model if "preset" in row else ModelConfig(**row["options"])


@pytest.mark.parametrize(
    "row", COUNTS, ids=lambda row: row.get("preset") or "-".join(map(str, row["options"].values()))
)
def test_counts_are_those_of_the_formulas(row):
    model = config_of(row)
    count = parameters(model)
    later = {"value_embeddings": 0, "value_gates": 0, "scalars": 0}
    assert dataclasses.asdict(count) | {"total": count.total} == row["parameters"] | later
    matmuls = forward_matmuls(model, batch_size=3, tokens=7)
    assert [list(dataclasses.astuple(matmul)) for matmul in matmuls] == row["matmuls"]
    assert forward_flops(model) == row["forward_flops"]


def test_every_preset_is_among_the_counts():
    assert {row["preset"] for row in COUNTS if "preset" in row} == set(PRESETS)


@settings(deadline=None, max_examples=200)
@given(
    vocab_size=st.integers(1, 300),
    shared=st.integers(1, 3),
    kv_heads=st.integers(1, 4),
    pairs=st.integers(1, 6),
    num_layers=st.integers(1, 4),
    d_ff=st.integers(0, 100),
    norm=st.sampled_from(["pre", "post", "none"]),
    position=st.sampled_from(["rope", "none"]),
    ffn=st.sampled_from(["swiglu", "silu"]),
    tied=st.booleans(),
)
def test_it_is_the_number_of_parameters_of_the_model_that_is_built(
    vocab_size, shared, kv_heads, pairs, num_layers, d_ff, norm, position, ffn, tied
):
    heads = shared * kv_heads
    config = ModelConfig(
        vocab_size=vocab_size, context_length=8, d_model=2 * heads * pairs, num_layers=num_layers, num_heads=heads,
        num_kv_heads=kv_heads, d_ff=d_ff, norm=norm, position=position, ffn=ffn, tie_embeddings=tied,
    )  # fmt: skip
    model = TransformerLM.from_config(config, device="meta")
    names = {name: p.numel() for name, p in model.named_parameters()}
    count = parameters(config)
    assert parameter_count(config) == count.total == sum(names.values())
    assert count.embedding == names["token_embeddings.weight"]
    assert count.blocks == sum(n for name, n in names.items() if name.startswith("layers."))
    assert count.block_norms == sum(n for name, n in names.items() if name.startswith("layers.0.ln"))
    assert count.ffn == sum(n for name, n in names.items() if name.startswith("layers.0.ffn"))
    assert count.head == names.get("lm_head.weight", 0)
    assert count.non_embedding == count.total - count.embedding - count.head


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama3-1b", 1_235_814_400),
        ("llama3-8b", 8_030_261_248),
        # Less the biases, which these models have and ours have not: 1,152 and 4,608 a layer.
        ("qwen2-0.5b", 494_032_768 - 24 * (896 + 2 * 128)),
        ("qwen2-7b", 7_615_616_512 - 28 * (3584 + 2 * 512)),
    ],
)
def test_presets_of_published_models_have_their_size(name, published):
    assert parameter_count(PRESETS[name][1].model) == published


def test_recipes_and_presets_of_the_report_agree():
    assert load_recipe("tinystories").model.d_model == 512
    assert parameter_count(load_recipe("tinystories").model) == parameter_count(PRESETS["report-36m"][1].model)
    assert parameter_count(load_recipe("owt").model) == parameter_count(PRESETS["report-58m"][1].model)
