"""The written exercise: every figure that the course's specification works out, to the last digit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from groundup.account.flops import forward_flops, forward_matmuls
from groundup.account.params import parameter_count, parameters
from groundup.account.presets import PRESETS
from groundup.config import ModelConfig, override
from groundup.errors import ConfigError
from groundup.studies.exercise import ADAMW_FLOPS_PER_PARAMETER, activation_bytes, exercise

EXPECTED = Path(__file__).with_name("expected.json")
SIZES = ["gpt2_small", "gpt2_medium", "gpt2_large", "gpt2_xl"]


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads(EXPECTED.read_text())


def shape(name: str) -> ModelConfig:
    return PRESETS[name.replace("_", "-")][1].model


@pytest.mark.parametrize("size", SIZES)
def test_parameters(expected, size):
    count = parameters(shape(size))
    assert {
        "token_embedding": count.embedding,
        "rmsnorm_x2": count.block_norms,
        "qkv": count.qkv,
        "output_proj": count.output_proj,
        "swiglu": count.ffn,
        "block": count.block,
        "all_blocks": count.blocks,
        "final_rmsnorm": count.final_norm,
        "lm_head": count.head,
        "total": count.total,
        "bytes_fp32": 4 * count.total,
        "non_embedding": count.non_embedding,
    } == expected["params"][size]


def flops(model: ModelConfig) -> dict[str, Any]:
    """A forward pass as the specification lays it out."""
    names = {"queries x keys": "qk_scores", "weights x values": "attn_times_v"}
    per_block = {
        names.get(product.name, product.name): product.flops // model.num_layers
        for product in forward_matmuls(model)
        if product.component != "head"
    }
    total, parts = forward_flops(model), {"projections": 0, "scores": 0, "values": 0, "ffn": 0, "head": 0}
    for product in forward_matmuls(model):
        parts[product.component] += product.flops
    keys = ("attn_projections", "qk_scores", "attn_times_v", "ffn", "lm_head")
    components = dict(zip(keys, parts.values(), strict=True))
    return {
        "per_block": per_block | {"total": sum(per_block.values())},
        "lm_head": parts["head"],
        "components": components,
        "total": total,
        "proportions_percent": {key: round(100 * part / total, 4) for key, part in components.items()},
        "proportions_percent_scores_plus_av": round(100 * (parts["scores"] + parts["values"]) / total, 4),
    }


@pytest.mark.parametrize("size", SIZES)
def test_forward_flops(expected, size):
    model = shape(size)
    config = {
        "L": model.num_layers, "D": model.d_model, "H": model.num_heads, "d_ff": model.ffn_dim,
        "S": model.context_length, "V": model.vocab_size,
    }  # fmt: skip
    assert flops(model) | {"config": config} == expected["forward_flops_S1024"][size]


def test_forward_flops_of_a_long_context(expected):
    model = dataclasses.replace(shape("gpt2_xl"), context_length=16_384)
    assert flops(model) == expected["forward_flops_gpt2_xl_S16384"]
    assert forward_flops(model) / forward_flops(shape("gpt2_xl")) == expected["xl_S16384_over_S1024"]


def test_memory_with_adamw(expected):
    wanted, found = expected["adamw_memory_gpt2_xl"], exercise(PRESETS["gpt2-xl"][1])
    for key in ("parameters_bytes", "gradients_bytes", "optimizer_state_bytes", "fixed_bytes"):
        assert found[key] == wanted[key]
    lists = {"report": "seed_formula_19D", "handout": "handout_component_list_16D", "swiglu": "swiglu_complete_24D"}
    for ours, theirs in lists.items():
        mine = found["activations"][ours]
        for key in ("activation_bytes_per_sample", "max_batch_80e9", "max_batch_80GiB"):
            assert mine[key] == wanted[theirs][key]
        for memory, key in ((80 * 10**9, "exact_80e9"), (80 * 2**30, "exact_80GiB")):
            exact = (memory - found["fixed_bytes"]) / mine["activation_bytes_per_sample"]
            assert round(exact, 4) == wanted[theirs][key]


def test_flops_of_adamw(expected):
    wanted, count = expected["adamw_flops"], parameter_count(shape("gpt2_xl"))
    assert {
        "handout": wanted["handout_algorithm1_per_param"],
        "report": wanted["seed_claim_per_param"],
        "bias-corrected": wanted["bias_corrected_form_per_param"],
    } == ADAMW_FLOPS_PER_PARAMETER
    assert sum(wanted["handout_algorithm1_breakdown"].values()) == ADAMW_FLOPS_PER_PARAMETER["handout"]
    found = exercise(PRESETS["gpt2-xl"][1])["adamw_flops"]
    assert found == {
        "handout": wanted["gpt2_xl_14P"],
        "report": wanted["gpt2_xl_15P"],
        "bias-corrected": wanted["gpt2_xl_16P"],
    }
    assert found["report"] == 15 * count


def test_training_time(expected):
    wanted, found = expected["training_time_gpt2_xl_400k_steps_batch1024"], exercise(PRESETS["gpt2-xl"][1], 0.5)
    assert forward_flops(shape("gpt2_xl")) == wanted["forward_flops_per_sequence"]
    assert found["forward_flops_per_step"] == wanted["forward_flops_per_step"]
    assert found["backward_flops_per_step"] == wanted["backward_flops_per_step"]
    assert found["flops_per_step"] == wanted["total_flops_per_step"]
    assert found["flops_per_step"] + found["adamw_flops"]["report"] == wanted["total_flops_with_adamw_15P"]
    assert 400_000 * found["flops_per_step"] == wanted["total_flops_400k"]
    assert found["seconds_per_step_a100_float32"] == pytest.approx(
        wanted["seconds_per_step_a100_fp32_19_5T_50mfu"], rel=1e-12
    )
    days = found["days_a100"]
    assert 86_400 * days["float32"] == pytest.approx(wanted["total_seconds"], rel=1e-12)
    assert days["float32"] == pytest.approx(wanted["days"], rel=1e-12)
    assert days["float32"] / 365.25 == pytest.approx(wanted["years_365_25"], rel=1e-12)
    assert days["TF32"] == pytest.approx(wanted["days_a100_tf32_156T"], rel=1e-12)
    assert days["bfloat16"] == pytest.approx(wanted["days_a100_bf16_312T"], rel=1e-12)
    assert found["days_by_6_parameters_tokens"] == pytest.approx(wanted["rule_6PN_days_19_5T"], rel=1e-12)


def test_models_of_the_experiments(expected):
    wanted = expected["experiment_model_params"]
    assert parameter_count(shape("report-36m")) == wanted["tinystories_512_8L_dff1408_V10000"]
    assert parameter_count(shape("report-58m")) == wanted["owt_512_8L_V32000_untied"]
    assert parameter_count(shape("report-42m")) == wanted["owt_512_8L_V32000_tied"]
    assert parameter_count(shape("report-70m")) == wanted["owt_640_10L_dff1728_V32000_tied"]
    base = parameters(shape("course-base"))
    assert base.total == wanted["handout_base_512_4L_dff1344_V10000_total"]
    assert base.total - base.embedding == wanted["handout_base_non_embedding_incl_lm_head"]
    assert base.non_embedding == wanted["handout_base_non_embedding_excl_lm_head"]
    silu = override(PRESETS["report-36m"][1], {"model.ffn": "silu", "model.d_ff": 2048}).model
    assert parameters(shape("report-36m")).ffn == wanted["swiglu_ffn_params_512_1408"]
    assert parameters(silu).ffn == wanted["silu_ffn_params_512_2048"]
    for key, batch, steps in (("V2_1", 128, 40_000), ("V2_2", 128, 20_000), ("V2_3", 256, 20_000)):
        assert batch * 256 * steps == wanted[f"tokens_{key}"]
    assert wanted["handout_total_tokens"] == 256 * 256 * 5000


def test_a_list_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="tensors = 'mine'; expected one of report, handout, swiglu"):
        activation_bytes(shape("gpt2_xl"), "mine")
