import copy
import itertools

import pytest
import torch

from groundup.config import ModelConfig, OptimConfig, from_dict
from groundup.errors import ConfigError
from groundup.nn import TransformerLM
from groundup.optim import AdamW, CombinedOptimizer, Muon, build_optimizer, muon, parameter_groups

OPTIONS = {
    "muon_coefficients": "polar-express", "muon_equalize": True, "muon_variance": 0.9, "cautious_decay": True,
}  # fmt: skip
BOTH = pytest.mark.parametrize("optimizer", ["adamw", "muon"])


def model(**ablations) -> TransformerLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 50, "context_length": 8, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    return TransformerLM.from_config(ModelConfig(**shape, **ablations))


def batch(step: int) -> torch.Tensor:
    return torch.randint(50, (4, 9), generator=torch.Generator().manual_seed(step))


def train(m: TransformerLM, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        ids = batch(step)
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()


def names_by_group(m: TransformerLM) -> dict[str, set[str]]:
    name_of = {id(p): name for name, p in m.named_parameters()}
    return {kind: {name_of[id(p)] for p in group} for kind, group in parameter_groups(m).items()}


def test_each_kind_of_parameter_has_its_group():
    groups = names_by_group(model())
    assert groups["embedding"] == {"token_embeddings.weight"}
    assert groups["head"] == {"lm_head.weight"}
    assert groups["vectors"] == {"ln_final.weight", *(f"layers.{i}.ln{k}.weight" for i in (0, 1) for k in (1, 2))}
    parts = ["attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.output_proj", "ffn.w1", "ffn.w2", "ffn.w3"]
    assert groups["matrices"] == {f"layers.{i}.{part}.weight" for i in (0, 1) for part in parts}


def test_a_tied_table_is_an_embedding():
    groups = names_by_group(model(tie_embeddings=True))
    assert groups["embedding"] == {"token_embeddings.weight"}
    assert groups["head"] == set()


def test_names_that_a_wrapper_puts_before_change_no_group():
    wrapped = torch.nn.ModuleDict({"module": model()})
    counts = {kind: len(group) for kind, group in parameter_groups(wrapped).items()}
    assert counts == {kind: len(group) for kind, group in parameter_groups(model()).items()}


@BOTH
@pytest.mark.parametrize("decay", ["matrices", "all"])
@pytest.mark.parametrize(
    ("norm", "ffn", "tie"), list(itertools.product(["pre", "post", "none"], ["swiglu", "silu"], [False, True])), ids=str
)
def test_every_parameter_is_in_one_group(optimizer, decay, norm, ffn, tie):
    m = model(norm=norm, ffn=ffn, tie_embeddings=tie)
    config = OptimConfig(optimizer=optimizer, decay=decay, weight_decay=0.3)
    groups = build_optimizer(m, config).param_groups
    assert [group["name"] for group in groups] == [
        "embedding", *([] if tie else ["head"]), "matrices", *([] if norm == "none" else ["vectors"])
    ]  # fmt: skip
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in m.parameters())
    muon = {group["name"] for group in groups if group["algorithm"] == "muon"}
    assert muon == ({"matrices"} if optimizer == "muon" else set())
    decayed = {group["name"] for group in groups if group["weight_decay"] == 0.3}
    assert decayed == {group["name"] for group in groups if decay == "all" or group["name"] in ("head", "matrices")}
    assert {group["weight_decay"] for group in groups} <= {0.0, 0.3}


@BOTH
def test_the_schedules_rate_is_scaled_for_each_group(optimizer):
    config = OptimConfig(
        optimizer=optimizer, max_learning_rate=0.5, embedding_rate_scale=3, head_rate_scale=0.25,
        matrix_rate_scale=1, vector_rate_scale=0,
    )  # fmt: skip
    m = model()
    built = build_optimizer(m, config)
    assert {g["name"]: g["lr"] for g in built.param_groups} == {
        "embedding": 1.5, "head": 0.125, "matrices": 0.5, "vectors": 0.0
    }  # fmt: skip
    built.set_learning_rate(0.1)
    assert {g["name"]: g["lr"] for g in built.param_groups} == {
        "embedding": pytest.approx(0.3), "head": 0.025, "matrices": 0.1, "vectors": 0.0
    }  # fmt: skip
    before = [p.detach().clone() for p in m.parameters()]
    train(m, built, range(1))
    moved = {name for (name, p), was in zip(m.named_parameters(), before, strict=True) if not torch.equal(p, was)}
    assert moved == {name for name, _ in m.named_parameters() if ".ln" not in name and "ln_" not in name}


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="lr = -1; expected"):
        build_optimizer(model(), OptimConfig()).set_learning_rate(-1)


def test_adamw_of_a_run_is_torchs():
    ours, theirs = model(), model()
    config = OptimConfig(max_learning_rate=1e-2, weight_decay=0.1)
    train(ours, build_optimizer(ours, config), range(10))
    flat = [p for p in theirs.parameters() if p is theirs.token_embeddings.weight or p.ndim == 1]
    decayed = [p for p in theirs.parameters() if all(p is not q for q in flat)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}]
    train(theirs, torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8), range(10))
    for a, b, start in zip(ours.parameters(), theirs.parameters(), model().parameters(), strict=True):
        # torch's decay comes before its step and does not shrink it: apart by rate x decay of the way.
        assert (a - b).norm() < 3 * 1e-2 * 0.1 * (b - start).norm()


def test_muon_of_a_run_moves_each_group_by_its_own_algorithm():
    together, apart = model(), model()
    config = OptimConfig(
        optimizer="muon", max_learning_rate=1e-2, matrix_rate_scale=2, weight_decay=0.1, muon_momentum=0.95
    )
    train(together, build_optimizer(together, config), range(5))
    groups = parameter_groups(apart)
    muon = Muon(groups.pop("matrices"), lr=2e-2, weight_decay=0.1)
    adamw = AdamW(
        [{"params": group, "weight_decay": 0.1 if name == "head" else 0.0} for name, group in groups.items()],
        lr=1e-2, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip

    class Pair:
        def zero_grad(self, set_to_none: bool) -> None:
            apart.zero_grad(set_to_none=set_to_none)

        def step(self) -> None:
            muon.step()
            adamw.step()

    train(apart, Pair(), range(5))
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(a, b)


@BOTH
def test_its_state_by_parameter_is_all_that_a_checkpoint_needs(optimizer):
    config = OptimConfig(optimizer=optimizer, max_learning_rate=1e-2)
    whole, first, second = model(), model(), model()
    train(whole, build_optimizer(whole, config), range(8))
    built, restored = build_optimizer(first, config), build_optimizer(second, config)
    train(first, built, range(4))
    second.load_state_dict(first.state_dict())
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        for value in built.state[p].values():
            assert isinstance(value, int) or (value.dtype == torch.float32 and value.shape == p.shape)
        restored.state[q] = copy.deepcopy(built.state[p])
    train(second, restored, range(4, 8))
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "every option"])
@BOTH
def test_its_state_dict_brings_everything_back(optimizer, options):
    config = OptimConfig(optimizer=optimizer, max_learning_rate=1e-2, **options)
    whole, parts = model(), model()
    train(whole, build_optimizer(whole, config), range(6))
    first = build_optimizer(parts, config)
    train(parts, first, range(3))
    second = build_optimizer(parts, OptimConfig(optimizer=optimizer, max_learning_rate=0.5, **options))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(parts, second, range(3, 6))
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def group(**values) -> dict:
    defaults = {"params": [torch.nn.Parameter(torch.ones(3))], "name": "all", "lr": 0.1, "rate_scale": 1.0}
    return defaults | {"weight_decay": 0.0} | values


def test_impossible_groups_are_refused():
    with pytest.raises(ConfigError, match=r"algorithm = 'sgd' of all; expected adamw or muon"):
        CombinedOptimizer([group(algorithm="sgd")])
    with pytest.raises(ConfigError, match=r"parameter of shape \(3,\); expected matrices"):
        CombinedOptimizer([group(algorithm="muon", momentum=0.95, iterations=5)])


@BOTH
@pytest.mark.parametrize("skip", [None, 0, 1])
def test_a_skipped_step_moves_no_weight_and_another_is_a_step_like_any(optimizer: str, skip: int | None):
    m, same = model(), model()
    config = OptimConfig(optimizer=optimizer, weight_decay=0.1)
    ours, expected = build_optimizer(m, config), build_optimizer(same, config)
    train(m, ours, range(2))
    train(same, expected, range(2) if skip == 1 else range(3))
    if skip == 1:
        for p in m.parameters():
            p.grad = torch.full_like(p, float("nan"))
    else:
        ids = batch(2)
        ours.zero_grad()
        torch.nn.functional.cross_entropy(m(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    ours.step(skip=None if skip is None else torch.tensor(skip))
    assert all(map(torch.equal, m.parameters(), same.parameters()))


class WithExtras(torch.nn.Module):
    """Parameters with the names of value embeddings and residual scalars."""

    def __init__(self):
        super().__init__()
        self.token_embeddings = torch.nn.Embedding(5, 4)
        self.value_embeddings = torch.nn.ModuleDict({"1": torch.nn.Embedding(5, 4)})
        self.residual_scalars, self.first_scalars = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        self.attn = torch.nn.ModuleDict({"value_gate": torch.nn.Linear(4, 2, bias=False)})
        self.ffn = torch.nn.Linear(4, 4)


@BOTH
def test_value_embeddings_and_scalars_have_groups_of_their_own(optimizer):
    found = names_by_group(torch.nn.ModuleDict({"module": WithExtras()}))
    assert found == {
        "embedding": {"module.token_embeddings.weight"}, "head": set(), "matrices": {"module.ffn.weight"},
        "vectors": {"module.ffn.bias"}, "value_embedding": {"module.value_embeddings.1.weight"},
        "scalars": {"module.residual_scalars", "module.first_scalars", "module.attn.value_gate.weight"},
    }  # fmt: skip
    built = build_optimizer(WithExtras(), OptimConfig(optimizer=optimizer, weight_decay=0.3)).param_groups
    extras = {g["name"]: (g["algorithm"], g["weight_decay"], g["lr"]) for g in built[-2:]}
    assert extras == dict.fromkeys(("value_embedding", "scalars"), ("adamw", 0.0, 1e-3))


@BOTH
def test_a_group_has_its_rate_betas_and_decay(optimizer):
    groups = {
        "embedding": {"rate": 3, "betas": [0.8, 0.9], "decay": 0.7},
        "head": {"beta2": 0.5},
        "vectors": {"rate": 0},
    }
    values = {"optimizer": optimizer, "weight_decay": 0.3, "max_learning_rate": 0.5, "groups": groups}
    built = build_optimizer(model(), from_dict(OptimConfig, values))
    found = {g["name"]: (g["lr"], g.get("betas"), g["weight_decay"]) for g in built.param_groups}
    matrices = (0.5, None if optimizer == "muon" else (0.9, 0.95), 0.3)
    assert found == {
        "embedding": (1.5, (0.8, 0.9), 0.7), "head": (0.5, (0.9, 0.5), 0.3), "matrices": matrices,
        "vectors": (0.0, (0.9, 0.95), 0.0),
    }  # fmt: skip
    built.set_learning_rate(0.1)
    assert {g["name"]: g["lr"] for g in built.param_groups} == {
        "embedding": pytest.approx(0.3), "head": 0.1, "matrices": 0.1, "vectors": 0.0
    }  # fmt: skip


def test_a_group_that_the_model_does_not_have_is_refused():
    config = from_dict(OptimConfig, {"groups": {"head": {"rate": 2.0}}})
    with pytest.raises(ConfigError, match=r"optim\.groups\.head is set, .* it has embedding, matrices, vectors; leave"):
        build_optimizer(model(tie_embeddings=True), config)


def test_bfloat16_runs_alone_take_another_type_on_processors_with_its_instructions(monkeypatch):
    matrix = torch.ones(2, 2)
    for instructions, tiles, expected in ((False, False, (32, 32)), (True, False, (32, 16)), (True, True, (16, 16))):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=instructions: found)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=tiles: found)
        muon._fast_dtype.cache_clear()
        assert tuple(matrix_bits(matrix, rounded) for rounded in (False, True)) == expected
    monkeypatch.undo()
    muon._fast_dtype.cache_clear()
    m = model()
    for compute, wanted, dtype in ((torch.float32, "auto", None), (torch.bfloat16, "bfloat16", torch.bfloat16)):
        m.compute_dtype = compute
        (group,) = (
            g for g in build_optimizer(m, OptimConfig(optimizer="muon", muon_dtype=wanted)).param_groups if "dtype" in g
        )
        assert (group["dtype"], group["rounded"]) == (dtype, compute == torch.bfloat16)


def matrix_bits(matrix: torch.Tensor, rounded: bool) -> int:
    return 8 * muon.matrix_dtype(matrix, rounded=rounded).itemsize
