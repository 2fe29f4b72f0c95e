"""The blocked attention for CPUs, against the formula in float64 and against torch's kernel."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundup.nn import TransformerLM
from groundup.nn.fast import attention as fast_attention
from groundup.nn.fast.accelerate import accelerate
from groundup.nn.fast.attention import causal_attention


def formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    scores = q @ k.mT / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, -torch.inf), -1) @ v


def inputs(shape: tuple[int, ...], seed: int, dtype: torch.dtype, heads_first: bool) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, heads, length, size = shape
    made = []
    for _ in range(4):
        if heads_first:
            x = torch.randn(batch, heads, length, size, generator=generator, dtype=torch.float64)
        else:
            x = torch.randn(batch, length, heads, size, generator=generator, dtype=torch.float64).transpose(1, 2)
        made.append(x.to(dtype))
    return made


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 5),
    length=st.integers(1, 70),
    size=st.integers(1, 20),
    rows=st.sampled_from([1, 7, 16, 64, 128]),
    elements=st.sampled_from([1, 500, 2**18]),
    heads_first=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_values_and_gradients_are_the_formulas(batch, heads, length, size, rows, elements, heads_first, seed):
    """Whatever the shapes, the layout in memory, and the size of the blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_attention, "ROWS", rows)
        patch.setattr(fast_attention, "ELEMENTS", elements)
        *qkv, u = inputs((batch, heads, length, size), seed, torch.float64, heads_first)
        for x in qkv:
            x.requires_grad_()
        ours, expected = causal_attention(*qkv), formula(*qkv)
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
        found = torch.autograd.grad(ours, qkv, u)
        torch.testing.assert_close(found, torch.autograd.grad(expected, qkv, u), atol=1e-11, rtol=1e-10)


@pytest.mark.parametrize("length", [1, 127, 128, 129, 300])
def test_float32_is_as_near_to_float64_as_torchs_kernel(length: int):
    """Within three times of its error; both are of float32's size."""
    *exact, u = inputs((2, 3, length, 64), length, torch.float64, heads_first=False)
    for x in exact:
        x.requires_grad_()
    expected = torch.autograd.grad(formula(*exact), exact, u)
    errors = []
    for attention in (
        causal_attention,
        lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
    ):
        qkv = [x.detach().float().requires_grad_() for x in exact]
        found = torch.autograd.grad(attention(*qkv), qkv, u.float())
        errors.append(max(float((a.double() - b).abs().max()) for a, b in zip(found, expected, strict=True)))
    assert errors[0] < 3 * errors[1] + 1e-6
    assert errors[0] < 1e-4


def test_large_scores_do_not_overflow():
    q, k, v, _ = inputs((1, 1, 40, 8), 0, torch.float32, heads_first=True)
    attended = causal_attention(100 * q, 100 * k, v)
    torch.testing.assert_close(attended, formula(100 * q.double(), 100 * k.double(), v.double()).float())


def test_the_future_has_no_influence():
    q, k, v, _ = inputs((1, 2, 200, 8), 1, torch.float32, heads_first=False)
    before = causal_attention(q, k, v)[:, :, :150].clone()
    k[:, :, 150:], v[:, :, 150:] = 1e6, -1e6
    assert torch.equal(causal_attention(q, k, v)[:, :, :150], before)


def test_scores_are_not_saved_for_the_backward_pass():
    *qkv, _ = inputs((1, 2, 300, 8), 1, torch.float32, heads_first=False)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()), lambda x: x):
        causal_attention(*(x.requires_grad_() for x in qkv))
    assert max(saved) == 2 * 300 * 8


def test_it_is_a_well_formed_operator():
    """torch's own check of schema, fake results, autograd and what a compiler needs."""
    *qkv, _ = inputs((2, 2, 9, 4), 1, torch.float32, heads_first=False)
    torch.library.opcheck(causal_attention, tuple(x.requires_grad_() for x in qkv))


@pytest.mark.parametrize("position", ["rope", "none"])
def test_a_model_uses_it_and_its_loss_is_the_plain_ones(position: str, monkeypatch: pytest.MonkeyPatch):
    calls = []
    whole = fast_attention.causal_attention
    monkeypatch.setattr(fast_attention, "causal_attention", lambda *qkv: calls.append(1) or whole(*qkv))
    ids = torch.randint(50, (2, 33), generator=torch.Generator().manual_seed(0))
    losses = []
    for fast in (False, True):
        torch.manual_seed(0)
        model = TransformerLM(50, 32, 16, 2, 2, 32, position=position)
        if fast:
            accelerate(model)
        losses.append(model(ids[:, :-1], targets=ids[:, 1:]).item())
        assert len(calls) == (2 if fast else 0)
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.long
def test_a_compiled_model_calls_it_and_has_the_same_gradients():
    ids = torch.randint(50, (2, 33), generator=torch.Generator().manual_seed(0))
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = accelerate(TransformerLM(50, 32, 16, 2, 2, 32))
        forward = torch.compile(model) if compiled else model
        loss = forward(ids[:, :-1], targets=ids[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
