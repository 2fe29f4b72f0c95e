import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.nn import scaled_dot_product_attention, silu, softmax

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, requires_grad: bool = False):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_(requires_grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_is_that_of_torch_far_from_zero_too(dtype):
    x = torch.cat([torch.linspace(-120, 120, 241), torch.tensor([0.0, -0.0, 1e-30])]).to(dtype)
    torch.testing.assert_close(silu(x), F.silu(x))
    assert silu(x).dtype == dtype


@settings(deadline=None, max_examples=60)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data(), seed=st.integers(0, 2**32))
def test_softmax_is_that_of_torch_along_every_axis(shape, data, seed):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = 10 * normal(*shape, seed=seed)
    torch.testing.assert_close(softmax(x, dim), F.softmax(x, dim), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("shift", [1e4, -1e4, 3e38])
def test_softmax_of_large_numbers_neither_overflows_nor_vanishes(shift):
    x = torch.tensor([[shift, shift, -3e38], [0.0, math.log(3), -math.inf]])
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.75, 0.0]])
    torch.testing.assert_close(softmax(x, dim=-1), expected)


def test_softmax_and_silu_have_the_gradients_of_finite_differences():
    assert torch.autograd.gradcheck(lambda x: softmax(x, 1), normal(3, 4, requires_grad=True))
    assert torch.autograd.gradcheck(silu, 5 * normal(7).requires_grad_())


@st.composite
def attention_inputs(draw):
    """Q, K, V and a mask (or none) of any sizes; the mask's leading dimensions may have to be broadcast."""
    lead = draw(st.lists(st.integers(1, 3), max_size=3))
    queries, keys, d, e = (draw(st.integers(1, 6)) for _ in range(4))
    seed = draw(st.integers(0, 2**32))
    q, k, v = normal(*lead, queries, d, seed=seed), normal(*lead, keys, d, seed=seed + 1), normal(*lead, keys, e)
    if draw(st.booleans()):
        return q, k, v, None
    mask_lead = lead[draw(st.integers(0, len(lead))) :]
    mask = normal(*mask_lead, queries, keys, seed=seed + 2) > draw(st.sampled_from([-5.0, -0.5, 0.5, 2.0]))
    return q, k, v, mask


@settings(deadline=None, max_examples=100)
@given(inputs=attention_inputs())
def test_attention_is_that_of_torch_with_zeros_where_a_query_sees_nothing(inputs):
    q, k, v, mask = inputs
    ours = scaled_dot_product_attention(q, k, v, mask)
    torchs = F.scaled_dot_product_attention(q, k, v, mask)
    blind = torch.zeros(ours.shape[:-1], dtype=torch.bool)
    if mask is not None:
        blind |= ~mask.any(-1)
    torch.testing.assert_close(ours[~blind], torchs[~blind], rtol=1e-12, atol=1e-13)
    assert (ours[blind] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_query_that_sees_nothing_gives_zeros_and_finite_gradients(dtype):
    q, k, v = (normal(2, 4, 3, seed=s, dtype=dtype, requires_grad=True) for s in (1, 2, 3))
    mask = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4, [False] * 4])
    with torch.autograd.set_detect_anomaly(True):  # stops at a NaN that is hidden further down, too
        out = scaled_dot_product_attention(q, k, v, mask)
        out.square().sum().backward()
    assert (out[:, [1, 3]] == 0).all()
    assert (out[:, [0, 2]] != 0).all()
    for x in (q, k, v):
        assert x.grad.isfinite().all()
        assert x.grad.any()
    assert (q.grad[:, [1, 3]] == 0).all()


def test_a_masked_key_has_no_influence_at_all_however_large_it_is():
    q, k, v = normal(5, 4), normal(6, 4, seed=1), normal(6, 3, seed=2)
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[:, 2] = False
    k[2], v[2] = 1e6, 1e6
    without = [0, 1, 3, 4, 5]
    expected = F.scaled_dot_product_attention(q, k[without], v[without])
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, mask), expected, rtol=1e-13, atol=1e-14)


def test_attention_has_the_gradients_of_finite_differences():
    q, k, v = (normal(2, 3, 4, seed=s, requires_grad=True) for s in (1, 2, 3))
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    causal[1] = False
    assert torch.autograd.gradcheck(lambda *qkv: scaled_dot_product_attention(*qkv, causal), (q, k, v))
