import copy
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from groundup.errors import ConfigError
from groundup.optim import AdamW
from groundup.optim.adamw import adamw_update

BOTH = pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])


class Numpy:
    """The update of the docstring, in float64, for one array."""

    def __init__(self, theta, lr, betas, eps, weight_decay):
        self.theta, self.lr, self.betas, self.eps, self.weight_decay = theta.copy(), lr, betas, eps, weight_decay
        self.m = np.zeros_like(theta)
        self.v = np.zeros_like(theta)
        self.t = 0

    def step(self, g):
        self.t += 1
        beta1, beta2 = self.betas
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        alpha = self.lr * np.sqrt(1 - beta2**self.t) / (1 - beta1**self.t)
        self.theta = self.theta - alpha * self.m / (np.sqrt(self.v) + self.eps)
        self.theta = self.theta - self.lr * self.weight_decay * self.theta


def parameter(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


hyperparameters = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 0.5),
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
        "eps": st.sampled_from([1e-8, 1e-3, 1.0]),
        "weight_decay": st.floats(0, 0.9),
    }
)


@BOTH
@settings(deadline=None, max_examples=40)
@given(options=hyperparameters, seed=st.integers(0, 2**32))
def test_parameters_follow_the_formula(fused, options, seed):
    rng = np.random.default_rng(seed)
    p = parameter(3, 4, seed=seed)
    reference, optimizer = Numpy(p.detach().numpy(), **options), AdamW([p], **options, fused=fused)
    for scale in (1.0, 100.0, 0.01, 1.0, 1e-6):
        g = scale * rng.standard_normal((3, 4))
        p.grad = torch.from_numpy(g)
        optimizer.step()
        reference.step(g)
        np.testing.assert_allclose(p.detach(), reference.theta, rtol=1e-12, atol=1e-12)
    state = optimizer.state[p]
    assert state["step"] == 5
    np.testing.assert_allclose(state["exp_avg"], reference.m, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(state["exp_avg_sq"], reference.v, rtol=1e-12, atol=1e-15)


def test_plain_and_fused_agree_over_many_steps():
    shapes = [(7, 5), (31,), (2, 3, 4)]
    ours = [parameter(*shape) for shape in shapes]
    fused = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizers = AdamW(ours, **options), AdamW(fused, **options, fused=True)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        for a, b in zip(ours, fused, strict=True):
            a.grad = torch.randn(a.shape, generator=generator, dtype=torch.float64)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@BOTH
def test_a_thousand_steps_of_a_small_regression_end_where_torch_ends(fused):
    def train(optimizer_class, **extra):
        torch.manual_seed(42)
        layer = torch.nn.Linear(3, 2, bias=False)
        options = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999), "eps": 1e-8}
        optimizer = optimizer_class(layer.parameters(), **options, **extra)
        for _ in range(1000):
            optimizer.zero_grad()
            x = torch.rand(3)
            ((layer(x) - torch.stack([x[0] + x[1], -x[2]])) ** 2).sum().backward()
            optimizer.step()
        return layer.weight.detach()

    torch.testing.assert_close(train(AdamW, fused=fused), train(torch.optim.AdamW), rtol=0, atol=1e-4)


@BOTH
@pytest.mark.parametrize(("lr", "weight_decay"), [(1.0, 1.0), (0.5, 2.0), (0.5, 3.0)], ids=["1", "1 again", "above 1"])
def test_a_decay_that_removes_the_whole_weight_is_only_a_number(fused, lr, weight_decay):
    p = parameter(4)
    options = {"lr": lr, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": weight_decay}
    reference = Numpy(p.detach().numpy(), **options)
    p.grad = torch.ones_like(p)
    AdamW([p], **options, fused=fused).step()
    reference.step(np.ones(4))
    np.testing.assert_allclose(p.detach(), reference.theta, rtol=1e-12, atol=1e-12)


@BOTH
def test_decay_acts_without_a_gradient_in_the_way_of_nothing_else(fused):
    p = parameter(5)
    before = p.detach().clone()
    p.grad = torch.zeros_like(p)
    AdamW([p], lr=0.1, weight_decay=0.5, fused=fused).step()
    torch.testing.assert_close(p.detach(), before * (1 - 0.1 * 0.5), rtol=1e-14, atol=0)


@BOTH
def test_a_parameter_without_a_gradient_keeps_its_value_and_has_no_state(fused):
    used, unused = parameter(3), parameter(3, seed=1)
    before = unused.detach().clone()
    optimizer = AdamW([used, unused], lr=0.1, fused=fused)
    used.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    assert torch.equal(unused, before)
    assert not optimizer.state.get(unused)


@BOTH
def test_each_parameter_counts_its_own_steps(fused):
    early, late = parameter(3), parameter(3, seed=1)
    optimizer = AdamW([early, late], lr=0.1, fused=fused)
    reference = Numpy(late.detach().numpy(), 0.1, (0.9, 0.999), 1e-8, 0.01)
    for step in range(4):
        early.grad = torch.ones(3, dtype=torch.float64)
        if step >= 2:
            late.grad = torch.full((3,), 2.0, dtype=torch.float64)
            reference.step(np.full(3, 2.0))
        optimizer.step()
    assert (optimizer.state[early]["step"], optimizer.state[late]["step"]) == (4, 2)
    np.testing.assert_allclose(late.detach(), reference.theta, rtol=1e-12)


@BOTH
def test_groups_have_their_own_rate_and_decay_and_a_schedule_may_change_them(fused):
    p, q = parameter(4), parameter(4, seed=1)
    groups = [{"params": [p], "lr": 0.3, "weight_decay": 0.0}, {"params": [q], "weight_decay": 0.2}]
    optimizer = AdamW(groups, lr=0.1, fused=fused)
    references = [
        Numpy(x.detach().numpy(), lr, (0.9, 0.999), 1e-8, decay) for x, lr, decay in ((p, 0.3, 0.0), (q, 0.1, 0.2))
    ]
    for step in range(3):
        for x, reference, group in zip((p, q), references, optimizer.param_groups, strict=True):
            group["lr"] = reference.lr = group["lr"] / (step + 1)
            x.grad = torch.ones_like(x)
            reference.step(np.ones(4))
        optimizer.step()
    for x, reference in zip((p, q), references, strict=True):
        np.testing.assert_allclose(x.detach(), reference.theta, rtol=1e-12)


@pytest.mark.parametrize("first", [False, True], ids=["plain first", "fused first"])
def test_plain_and_fused_read_each_others_state(first):
    p = parameter(6)
    reference = Numpy(p.detach().numpy(), 0.1, (0.9, 0.999), 1e-8, 0.01)
    optimizer = AdamW([p], lr=0.1, fused=first)
    for step in range(6):
        if step == 3:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = AdamW([p], lr=0.1, fused=not first)
            optimizer.load_state_dict(state)
        p.grad = torch.full_like(p, step + 1.0)
        reference.step(np.full(6, step + 1.0))
        optimizer.step()
    np.testing.assert_allclose(p.detach(), reference.theta, rtol=1e-12)


class TestSixteenBitParameters:
    """Their moments are float32: in bfloat16, 0.999 v + 0.001 g² would mostly round to v."""

    def stepped(self, *, fused: bool):
        p = parameter(64, dtype=torch.bfloat16)
        optimizer = AdamW([p], lr=1e-2, fused=fused)
        for step in range(5):
            p.grad = torch.full_like(p, 1 + step / 4)
            optimizer.step()
        return p, optimizer

    @BOTH
    def test_moments_are_float32(self, fused):
        p, optimizer = self.stepped(fused=fused)
        reference = Numpy(np.zeros(64), 1e-2, (0.9, 0.999), 1e-8, 0.01)
        for step in range(5):
            reference.step(np.full(64, 1 + step / 4))
        state = optimizer.state[p]
        assert p.dtype == torch.bfloat16
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32
        np.testing.assert_allclose(state["exp_avg_sq"], reference.v, rtol=1e-5)

    def test_moments_come_back_from_a_state_dict_bit_for_bit(self):
        p, optimizer = self.stepped(fused=False)
        restored = AdamW([p])
        restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for name in ("exp_avg", "exp_avg_sq"):
            assert restored.state[p][name].dtype == torch.float32
            assert torch.equal(restored.state[p][name], optimizer.state[p][name])


@BOTH
@pytest.mark.parametrize("which", ["parameter", "gradient"])
def test_memory_in_another_order_changes_nothing(fused, which):
    p = parameter(3, 4)
    if which == "parameter":
        p = torch.nn.Parameter(p.detach().T.contiguous().T)
    reference, optimizer = Numpy(p.detach().numpy(), 0.1, (0.9, 0.999), 1e-8, 0.01), AdamW([p], lr=0.1, fused=fused)
    rng = np.random.default_rng(0)
    for _ in range(3):
        g = rng.standard_normal((3, 4))
        p.grad = torch.from_numpy(g).T.contiguous().T if which == "gradient" else torch.from_numpy(g)
        optimizer.step()
        reference.step(g)
    np.testing.assert_allclose(p.detach(), reference.theta, rtol=1e-12)


def tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


class Allocations(TorchDispatchMode):
    """The numbers of elements of all tensors that are made while it is on."""

    def __init__(self):
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        given = {x.untyped_storage().data_ptr() for x in tensors((arguments, options))}
        self.sizes += [x.numel() for x in tensors(out) if x.untyped_storage().data_ptr() not in given]
        return out


@pytest.mark.parametrize(("fused", "largest"), [(False, 100), (True, 1)], ids=["plain", "fused"])
def test_a_step_makes_no_tensors_as_large_as_its_parameters(fused, largest):
    """The plain form may make one at a time, for one parameter; the fused form nothing but its count of steps."""
    made = [parameter(10, 10, seed=i, dtype=torch.float32) for i in range(3)]
    optimizer = AdamW(made, fused=fused)
    for p in made:
        p.grad = torch.ones_like(p)
    optimizer.step()  # which makes the state
    with Allocations() as allocations:
        optimizer.step()
    assert max(allocations.sizes) == largest
    assert sum(allocations.sizes) <= largest * len(made)


def test_a_fused_step_never_asks_for_a_number():
    # Tensors on the meta device have no values: whoever asks for one gets an error.
    p = torch.nn.Parameter(torch.empty(3, 4, device="meta"))
    p.grad = torch.empty_like(p)
    optimizer = AdamW([p], fused=True)
    for _ in range(2):
        optimizer.step()
    assert optimizer.state[p]["step"] == 2


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    p = parameter(3)
    optimizer = AdamW([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    expected = p.detach().square().sum().item()
    assert optimizer.step(closure) == expected
    assert closure() < expected
    assert AdamW([p]).step() is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -1e-3}, r"lr = -0\.001.*0 or greater"),
        ({"lr": math.nan}, r"lr = nan"),
        ({"lr": math.inf}, r"lr = inf"),
        ({"betas": (1.0, 0.9)}, r"betas = \(1\.0, 0\.9\).*\[0, 1\)"),
        ({"betas": (0.9, -0.1)}, r"betas = \(0\.9, -0\.1\)"),
        ({"eps": math.inf}, r"eps = inf"),
        ({"eps": -1e-8}, r"eps = -1e-08.*0 or greater"),
        ({"weight_decay": -0.1}, r"weight_decay = -0\.1.*0 or greater"),
        ({"weight_decay": math.nan}, r"weight_decay = nan"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        AdamW([parameter(1)], **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("skip", [None, 0, 1])
def test_cautious_decay_shrinks_only_weights_that_the_update_shrinks(dtype, skip):
    generator = torch.Generator().manual_seed(0)
    p = torch.nn.Parameter(torch.randn(5, 7, generator=generator, dtype=torch.float64).to(dtype))
    theta, m, v = p.detach().double(), 0.0, 0.0
    group = {"params": [p], "lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.5, "cautious": True}
    state = defaultdict(dict)
    for t in range(1, 5):
        p.grad = torch.randn(5, 7, generator=generator, dtype=torch.float64).to(dtype)
        g = p.grad.double()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        update = (1 - 0.9**t) ** 0.5 / (1 - 0.8**t) * m / (v.sqrt() + 1e-8)
        if skip != 1:
            theta = theta - 0.1 * update - 0.1 * 0.5 * theta * (update * theta > 0)
        with torch.no_grad():
            adamw_update(group, state, fused=True, skip=None if skip is None else torch.tensor(skip))
    torch.testing.assert_close(p.detach().double(), theta, rtol=1e-5, atol=1e-6)
