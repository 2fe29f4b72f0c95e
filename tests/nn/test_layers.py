import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.nn import Embedding, Linear, RMSNorm, SiLUFeedForward, SwiGLU


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


lead = st.lists(st.integers(1, 3), max_size=3)


@settings(deadline=None, max_examples=30)
@given(lead=lead, d_in=st.integers(1, 9), d_out=st.integers(1, 9))
def test_linear_is_x_times_the_transposed_weight(lead, d_in, d_out):
    layer = Linear(d_in, d_out, dtype=torch.float64)
    x = torch.randn(*lead, d_in, dtype=torch.float64)
    assert list(layer.state_dict()) == ["weight"]
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight), rtol=1e-13, atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(lead=lead, dtype=st.sampled_from([torch.int64, torch.int32]))
def test_embedding_looks_up_rows(lead, dtype):
    layer = Embedding(11, 5)
    ids = torch.randint(11, lead, dtype=dtype)
    assert torch.equal(layer(ids), F.embedding(ids, layer.weight))


@pytest.fixture
def many_threads():
    """More than there are cores, so that they finish in another order every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def test_embedding_gradient_is_the_same_to_the_last_bit_every_time_and_that_of_torch(many_threads):
    layer, ids = Embedding(50, 64), torch.randint(50, (16, 512))
    upstream = torch.randn(16, 512, 64)

    def gradient():
        return torch.autograd.grad(layer(ids), layer.weight, upstream)[0]

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(20))
    theirs = torch.autograd.grad(F.embedding(ids, layer.weight), layer.weight, upstream)[0]
    torch.testing.assert_close(first, theirs, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(lead=lead, d=st.integers(1, 33), eps=st.sampled_from([1e-5, 1e-2]), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_rms_norm_is_that_of_torch(lead, d, eps, scale):
    layer = RMSNorm(d, eps, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(d))
    x = scale * torch.randn(*lead, d, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.rms_norm(x, (d,), layer.weight, eps), rtol=1e-12, atol=1e-12)


def test_rms_norm_of_bfloat16_rounds_once_at_the_end():
    layer = RMSNorm(512)
    x = (torch.randn(20, 512) * 30).bfloat16()
    exact = F.rms_norm(x.double(), (512,), layer.weight.double(), layer.eps)
    assert layer(x).dtype == torch.bfloat16
    assert torch.equal(layer(x), exact.bfloat16())


def test_rms_norm_of_float16_does_not_overflow():
    x = torch.full((2, 64), 6e4, dtype=torch.float16)
    torch.testing.assert_close(RMSNorm(64)(x), torch.ones_like(x))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_feed_forward_networks_are_their_formulas(lead):
    x = torch.randn(*lead, 6, dtype=torch.float64)
    gated, plain = SwiGLU(6, 10, dtype=torch.float64), SiLUFeedForward(6, 10, dtype=torch.float64)
    w1, w2, w3 = (gated.get_parameter(f"{name}.weight") for name in ("w1", "w2", "w3"))
    expected = F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2)
    torch.testing.assert_close(gated(x), expected, rtol=1e-12, atol=1e-13)
    w1, w2 = (plain.get_parameter(f"{name}.weight") for name in ("w1", "w2"))
    torch.testing.assert_close(plain(x), F.linear(F.silu(F.linear(x, w1)), w2), rtol=1e-12, atol=1e-13)
    assert sorted(gated.state_dict()) == ["w1.weight", "w2.weight", "w3.weight"]
    assert sorted(plain.state_dict()) == ["w1.weight", "w2.weight"]


@pytest.mark.parametrize(
    "make",
    [lambda: RMSNorm(4), lambda: SwiGLU(4, 6), lambda: SiLUFeedForward(4, 6)],
    ids=["RMSNorm", "SwiGLU", "SiLUFeedForward"],
)
def test_layers_have_the_gradients_of_finite_differences(make):
    layer = make().double()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def call(x, *weights):
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *weights))


@pytest.mark.parametrize("make", [lambda: Linear(4, 6), lambda: SwiGLU(4, 6), lambda: RMSNorm(4)])
def test_float32_weights_follow_a_bfloat16_input_and_keep_their_own_dtype(make):
    layer = make()
    out = layer(torch.randn(2, 4).bfloat16())
    out.sum().backward()
    assert out.dtype == torch.bfloat16
    assert {p.dtype for p in layer.parameters()} == {p.grad.dtype for p in layer.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("make", "std"),
    [
        (lambda: Linear(300, 500), math.sqrt(2 / 800)),
        (lambda: Embedding(500, 300), 1.0),
        (lambda: Embedding(500, 300, std=0.02), 0.02),
    ],
    ids=["linear", "embedding", "small embedding"],
)
def test_initial_weights_are_normal_and_cut_at_three_standard_deviations(make, std):
    values = make().weight.detach().double() / std
    assert values.abs().max() <= 3 * (1 + 1e-6)
    assert values.abs().max() > 2.9
    assert abs(values.mean()) < 5 / math.sqrt(values.numel())
    # Of a normal distribution cut at ±3 sigma, the standard deviation is 0.98658 sigma.
    assert abs(values.std() - 0.98658) < 5 / math.sqrt(2 * values.numel())


def test_gains_start_at_one():
    assert torch.equal(RMSNorm(7).weight, torch.ones(7))


@pytest.mark.parametrize("layer", [Linear, Embedding, SwiGLU, SiLUFeedForward], ids=lambda c: c.__name__)
def test_layers_are_made_where_and_as_asked(layer):
    for p in layer(4, 6, device="meta", dtype=torch.bfloat16).parameters():
        assert (p.device.type, p.dtype) == ("meta", torch.bfloat16)
