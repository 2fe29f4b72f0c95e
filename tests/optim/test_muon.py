import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import ConfigError
from groundup.optim import Muon, muon, orthogonalize

SHAPES = [(6, 6), (5, 12), (12, 5), (1, 1), (1, 7), (7, 1)]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)


POLAR_EXPRESS = [  # Amsel et al. 2025, five steps
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def by_singular_values(matrix: np.ndarray, iterations: int = 5, coefficients: str = "jordan") -> np.ndarray:
    """What orthogonalization does, said another way: the quintic acts on the singular values alone."""
    left, s, right = np.linalg.svd(matrix, full_matrices=False)
    s = s / max(np.sqrt((s**2).sum()), 1e-7)
    triples = [(3.4445, -4.7750, 2.0315)] * iterations
    if coefficients == "polar-express":
        s = s / 1.02
        triples = [*POLAR_EXPRESS, *[POLAR_EXPRESS[-1]] * iterations][:iterations]
    for a, b, c in triples:
        s = a * s + b * s**3 + c * s**5
    return (left * s) @ right


class Numpy:
    """The update of the docstring, in float64, for one matrix."""

    def __init__(
        self, theta, lr, momentum, weight_decay, iterations=5, scale="rms",
        coefficients="jordan", equalize=False, variance=0.0, cautious=False,
    ):  # fmt: skip
        rows, columns = theta.shape
        self.scale = {"rms": 0.2 * np.sqrt(max(rows, columns)), "spectral": np.sqrt(max(1, rows / columns))}[scale]
        self.theta, self.lr, self.momentum, self.weight_decay = theta.copy(), lr, momentum, weight_decay
        self.iterations = iterations
        self.coefficients, self.equalize, self.variance, self.cautious = coefficients, equalize, variance, cautious
        self.buffer, self.v = np.zeros_like(theta), np.zeros((rows, 1))

    def step(self, g):
        self.buffer = self.momentum * self.buffer + (1 - self.momentum) * g
        direction = (1 - self.momentum) * g + self.momentum * self.buffer
        if self.equalize:
            direction = direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-7)
        direction = by_singular_values(direction, self.iterations, self.coefficients)
        if self.equalize:
            direction *= np.sqrt(min(direction.shape)) / np.linalg.norm(direction)
        if self.variance:
            self.v = self.variance * self.v + (1 - self.variance) * (direction**2).mean(axis=1, keepdims=True)
            evened = direction / np.sqrt(self.v)
            direction = evened * np.linalg.norm(direction) / np.linalg.norm(evened)
        decays = (direction * self.theta > 0) if self.cautious else 1
        self.theta = self.theta - self.lr * self.weight_decay * self.theta * decays - self.lr * self.scale * direction


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameter(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.nn.Parameter:
    return torch.nn.Parameter(random(*shape, seed=seed, dtype=dtype))


def run(optimizer, params, steps, first=0):
    for step in range(first, first + steps):
        for i, p in enumerate(params):
            p.grad = random(*p.shape, seed=1000 * step + i, dtype=p.dtype)
        optimizer.step()


class TestOrthogonalize:
    @EVERY_SHAPE
    @pytest.mark.parametrize("iterations", [1, 5, 8])
    def test_it_maps_the_singular_values_by_the_quintic(self, shape, iterations):
        x_BMN = torch.stack([random(*shape, seed=seed) for seed in range(3)])
        result = orthogonalize(x_BMN, iterations)
        for x, y in zip(x_BMN, result, strict=True):
            np.testing.assert_allclose(y, by_singular_values(x.numpy(), iterations), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("shape", [(20, 80), (80, 20)], ids=str)
    def test_singular_values_come_near_one(self, shape, dtype):
        (y,) = orthogonalize(random(1, *shape).to(dtype))
        s = torch.linalg.svdvals(y.double())
        assert s.min() > 0.6
        assert s.max() < 1.25

    @pytest.mark.parametrize("scale", [1e-5, 1.0, 1e12])
    def test_the_size_of_a_matrix_does_not_matter(self, scale):
        x = random(1, 4, 9)
        torch.testing.assert_close(orthogonalize(scale * x), orthogonalize(x), rtol=1e-10, atol=1e-12)

    def test_zero_stays_zero(self):
        assert not orthogonalize(torch.zeros(2, 3, 4)).any()

    def test_its_argument_is_left_alone(self):
        x = random(2, 3, 4)
        before = x.clone()
        orthogonalize(x)
        assert torch.equal(x, before)


hyperparameters = st.fixed_dictionaries(
    {
        "lr": st.floats(0, 0.5),
        "momentum": st.floats(0, 0.99),
        "weight_decay": st.floats(0, 0.9),
        "scale": st.sampled_from(["rms", "spectral"]),
        "coefficients": st.sampled_from(["jordan", "polar-express"]),
        "equalize": st.booleans(),
        "variance": st.sampled_from([0.0, 0.5, 0.95]),
        "cautious": st.booleans(),
    }
)


@EVERY_SHAPE
@settings(max_examples=15)
@given(options=hyperparameters, seed=st.integers(0, 2**32))
def test_parameters_follow_the_formula(shape, options, seed):
    rng = np.random.default_rng(seed)
    p = parameter(*shape, seed=seed)
    reference, optimizer = Numpy(p.detach().numpy(), **options), Muon([p], **options)
    for scale in (1.0, 100.0, 0.01, 1.0):
        g = scale * rng.standard_normal(shape)
        p.grad = torch.from_numpy(g)
        optimizer.step()
        reference.step(g)
        np.testing.assert_allclose(p.detach(), reference.theta, rtol=1e-9, atol=1e-9)
        assert torch.equal(p.grad, torch.from_numpy(g))
    np.testing.assert_allclose(optimizer.state[p]["momentum_buffer"], reference.buffer, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(48, 48), (32, 96), (96, 32)], ids=str)
def test_every_step_is_that_of_torch_within_bfloat16(shape, dtype):
    ours, theirs = parameter(*shape, dtype=torch.float32), parameter(*shape, dtype=torch.float32)
    options = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    optimizer = Muon([ours], **options, dtype=dtype)
    peer = torch.optim.Muon([theirs], **options, nesterov=True, ns_steps=5, adjust_lr_fn="match_rms_adamw")
    for step in range(10):
        with torch.no_grad():
            ours.copy_(theirs)  # each step from the same point, so that only one step's rounding is compared
        before = theirs.detach().clone()
        run(optimizer, [ours], 1, first=step)
        run(peer, [theirs], 1, first=step)
        ours_moved, theirs_moved = ours - before, theirs - before
        # Both are within about two hundredths of the exact one; torch rounds the matrix to bfloat16, too.
        assert (ours_moved - theirs_moved).norm() < 0.05 * theirs_moved.norm()
    torch.testing.assert_close(optimizer.state[ours]["momentum_buffer"], peer.state[theirs]["momentum_buffer"])


@pytest.mark.parametrize("shape", [(20, 80), (80, 20), (30, 30)], ids=str)
def test_polar_express_brings_singular_values_closer_to_one(shape):
    spread = {}
    for coefficients in ("jordan", "polar-express"):
        (y,) = orthogonalize(random(1, *shape), coefficients=coefficients)
        s = torch.linalg.svdvals(y)[:-2]  # a square matrix may have one too small for five iterations
        spread[coefficients] = (s - 1).abs().max()
    assert spread["polar-express"] < 0.7 * spread["jordan"]


def test_the_options_of_rows():
    g = random(40, 20) * torch.logspace(0, -3, 40, dtype=torch.float64)[:, None]
    norms = {}
    for name, options in {"plain": {}, "equalize": {"equalize": True}, "variance": {"variance": 0.9}}.items():
        p = torch.nn.Parameter(torch.zeros(40, 20, dtype=torch.float64))
        p.grad = g.clone()
        Muon([p], lr=1.0, weight_decay=0.0, scale="spectral", **options).step()
        norms[name] = p.detach().norm(dim=1)
    assert norms["plain"].max() > 10 * norms["plain"].min()
    # Muon+: the norm of a matrix with orthogonal columns, times sqrt(M / N).
    assert norms["equalize"].norm().item() == pytest.approx(20**0.5 * 2**0.5)
    # NorMuon: all rows alike after the first step, and the whole as large as without.
    torch.testing.assert_close(norms["variance"], norms["variance"].mean().expand(40))
    torch.testing.assert_close(norms["variance"].norm(), norms["plain"].norm())


@pytest.mark.parametrize("shape", [(64, 64), (32, 128), (128, 32)], ids=str)
def test_an_update_is_about_as_large_as_adamws(shape):
    p = torch.nn.Parameter(torch.zeros(shape))
    run(Muon([p], lr=1.0, weight_decay=0.0), [p], 1)
    # Adam's published update has a root mean square of 0.2 to 0.4 (Liu et al. 2025).
    assert p.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


EVERY_OPTION = {"coefficients": "polar-express", "equalize": True, "variance": 0.9, "cautious": True}


def matrices(dtype) -> list[torch.nn.Parameter]:
    shapes = [(24, 24), (24, 64), (24, 24), (64, 24), (24, 64), (24, 24)]
    return [parameter(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_matrices_together_move_as_they_do_alone(dtype):
    together, alone = (matrices(torch.float64 if dtype == torch.float64 else torch.float32) for _ in range(2))
    run(Muon(together, lr=0.1, dtype=dtype), together, 3)
    optimizers = [Muon([p], lr=0.1, dtype=dtype) for p in alone]
    for step in range(3):
        for i, (p, optimizer) in enumerate(zip(alone, optimizers, strict=True)):
            p.grad = random(*p.shape, seed=1000 * step + i, dtype=p.dtype)
            optimizer.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 0, "atol": 0.02} if dtype == torch.bfloat16 else {}))


@pytest.mark.parametrize("most", [1, 24 * 24 * 2, 10**9])
def test_how_many_go_at_once_does_not_matter(most, monkeypatch):
    whole, split = matrices(torch.float64), matrices(torch.float64)
    run(Muon(whole, lr=0.1), whole, 2)
    monkeypatch.setitem(muon.BATCH_ELEMENTS, "cpu", most)
    run(Muon(split, lr=0.1), split, 2)
    for a, b in zip(whole, split, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16], ids=str)
def test_two_runs_are_equal_to_the_last_bit(dtype):
    first, second = matrices(torch.float32), matrices(torch.float32)
    for params in (first, second):
        run(Muon(params, lr=0.1, dtype=dtype), params, 4)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["plain", "every option"])
def test_restored_from_its_state_it_goes_on_to_the_last_bit(options):
    whole, parts = matrices(torch.float32), matrices(torch.float32)
    run(Muon(whole, lr=0.1, **options), whole, 6)
    first = Muon(parts, lr=0.1, **options)
    run(first, parts, 3)
    saved = copy.deepcopy(first.state_dict())
    second = Muon(parts, lr=0.7)
    second.load_state_dict(saved)
    run(second, parts, 3, first=3)
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_the_momentum_of_bfloat16_matrices_is_float32_and_stays_so():
    p = parameter(8, 8, dtype=torch.bfloat16)
    optimizer = Muon([p], lr=0.1)
    run(optimizer, [p], 2)
    restored = Muon([p])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, restored):
        assert one.state[p]["momentum_buffer"].dtype == torch.float32
    assert torch.equal(restored.state[p]["momentum_buffer"], optimizer.state[p]["momentum_buffer"])


def test_without_a_gradient_nothing_happens_and_with_a_gradient_of_zero_only_decay():
    unused, still = parameter(3, 4), parameter(3, 4)
    before = unused.detach().clone()
    still.grad = torch.zeros_like(still)
    optimizer = Muon([unused, still], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(unused, before)
    assert not optimizer.state.get(unused)
    torch.testing.assert_close(still.detach(), before * (1 - 0.1 * 0.5), rtol=1e-14, atol=0)


def test_memory_in_another_order_changes_nothing():
    p, q = parameter(4, 6), parameter(4, 6)
    optimizer, other = Muon([p], lr=0.1), Muon([q], lr=0.1)
    for step in range(3):
        q.grad = random(4, 6, seed=step)
        p.grad = q.grad.T.contiguous().T
        optimizer.step()
        other.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_a_step_never_asks_for_a_number():
    # Tensors on the meta device have no values: whoever asks for one gets an error.
    params = [torch.nn.Parameter(torch.empty(shape, device="meta")) for shape in SHAPES]
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer = Muon(params)
    for _ in range(2):
        optimizer.step()
    assert all(optimizer.state[p]["momentum_buffer"].shape == p.shape for p in params)


def test_it_finds_the_matrix_that_a_regression_wants():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(6, 4, generator=generator)
    p = torch.nn.Parameter(torch.zeros(6, 4))
    optimizer = Muon([p], weight_decay=0.0)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        x = torch.randn(32, 4, generator=generator)
        optimizer.zero_grad()
        (x @ (p - wanted).T).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(p.detach(), wanted, rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -1.0}, r"lr = -1\.0; expected"),
        ({"weight_decay": -1.0}, r"weight_decay = -1\.0; expected"),
        ({"momentum": 1.0}, r"momentum = 1\.0; expected a number in \[0, 1\)"),
        ({"iterations": 0}, r"iterations = 0; expected at least 1"),
        ({"variance": 1.0}, r"variance = 1\.0; expected a number in \[0, 1\)"),
        ({"coefficients": "chebyshev"}, r"coefficients = 'chebyshev'; expected one of jordan, polar-express"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        Muon([parameter(2, 2)], **options)


@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 4)], ids=str)
def test_what_is_not_a_matrix_is_refused(shape):
    with pytest.raises(ConfigError, match=r"parameter of shape \(.*\); expected matrices, give the others to AdamW"):
        Muon([parameter(2, 2), parameter(*shape)])
