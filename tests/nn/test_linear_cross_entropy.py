"""The loss that never holds all logits equals the one that does."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from groundup.errors import ConfigError
from groundup.nn import linear_cross_entropy

# Chunks have 256 positions or more, and about 2^22 logits.
ONE_CHUNK, TWO_EQUAL, UNEVEN = (40, 300), (1024, 8192), (4099, 2048)


def make(positions: int, vocab: int, dtype: torch.dtype, width: int = 16) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(positions)
    hidden = torch.randn(positions, width, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    return hidden, weight, torch.randint(vocab, (positions,), generator=generator)


def evaluate(
    function: Callable[..., torch.Tensor], hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor,
    upstream: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    loss = function(hidden, weight, targets)
    (loss * upstream).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.detach(), hidden.grad, weight.grad


def whole(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(hidden @ weight.T, targets)


@pytest.mark.parametrize("shape", [ONE_CHUNK, TWO_EQUAL, UNEVEN], ids=["one chunk", "two", "uneven"])
@pytest.mark.parametrize("upstream", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_the_whole_logits(shape: tuple[int, int], upstream: float):
    hidden, weight, targets = make(*shape, torch.float64)
    found = evaluate(linear_cross_entropy, hidden, weight, targets, upstream)
    for ours, theirs in zip(found, evaluate(whole, hidden, weight, targets, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(positions=st.integers(1, 700), vocab=st.integers(1, 50), width=st.integers(1, 9))
def test_any_shape(positions: int, vocab: int, width: int):
    hidden, weight, targets = make(positions, vocab, torch.float64, width)
    found = evaluate(linear_cross_entropy, hidden, weight, targets)
    for ours, theirs in zip(found, evaluate(whole, hidden, weight, targets), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_bfloat16_products_keep_a_float32_loss_and_sum():
    hidden, weight, targets = make(4099, 2048, torch.bfloat16, 64)
    weight = weight.float() * 0.1
    loss, d_hidden, d_weight = evaluate(linear_cross_entropy, hidden, weight, targets)
    exact = evaluate(whole, hidden.double(), weight.bfloat16().double(), targets)
    assert (loss.dtype, d_hidden.dtype, d_weight.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert loss.item() == pytest.approx(exact[0].item(), rel=1e-3)
    for ours, theirs in ((d_hidden, exact[1]), (d_weight, exact[2])):
        assert torch.linalg.vector_norm(ours.double() - theirs) < 0.01 * torch.linalg.vector_norm(theirs)


def test_the_compiled_loss_is_the_same():
    hidden, weight, targets = make(*TWO_EQUAL, torch.float32)
    weight = weight.float()
    found = evaluate(lambda h, w, t: linear_cross_entropy(h, w, t, compile=True), hidden, weight, targets)
    for ours, theirs in zip(found, evaluate(linear_cross_entropy, hidden, weight, targets), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_a_second_backward_pass_gives_the_same_gradients_again():
    hidden, weight, targets = make(30, 20, torch.float64)
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets)
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()  # whoever gets a gradient may do with it as he likes
    for again, expected in zip(torch.autograd.grad(loss, (hidden, weight)), kept, strict=True):
        torch.testing.assert_close(again, expected)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("training", [True, False])
def test_no_tensor_is_as_large_as_all_logits(training: bool):
    positions, vocab = 4096, 32_000
    hidden, weight, targets = make(positions, vocab, torch.float32, 8)
    weight = weight.float()
    with Largest() as largest:
        if training:
            evaluate(linear_cross_entropy, hidden, weight, targets)
        else:
            linear_cross_entropy(hidden, weight, targets)
    assert largest.elements < 0.1 * positions * vocab


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ConfigError, match=r"hidden \(3, 4\).*expected hidden \(\.\.\., 5\) and targets \(3,\)"):
        linear_cross_entropy(torch.zeros(3, 4), torch.zeros(7, 5), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("shape", [ONE_CHUNK, TWO_EQUAL, UNEVEN], ids=["one chunk", "two", "uneven"])
@pytest.mark.parametrize("upstream", [1.0, 0.25])
def test_ignored_targets_are_those_of_torch(shape: tuple[int, int], upstream: float):
    hidden, weight, targets = make(*shape, torch.float64)
    targets[torch.rand(len(targets), generator=torch.Generator().manual_seed(1)) < 0.6] = -100
    targets[:300:2] = -100  # most of a chunk, and all of its first positions
    ours_of = functools.partial(linear_cross_entropy, ignore_index=-100)
    found = evaluate(ours_of, hidden, weight, targets, upstream)
    for ours, theirs in zip(found, evaluate(whole, hidden, weight, targets, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-14)


def test_ignored_targets_in_the_compiled_loss_and_in_a_second_backward_pass():
    hidden, weight, targets = make(*TWO_EQUAL, torch.float32)
    weight, targets[::3] = weight.float(), -100
    expected = evaluate(whole, hidden, weight, targets)
    hidden.requires_grad_()
    weight.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets, ignore_index=-100, compile=True)
    torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    for ours, theirs in zip((loss, *torch.autograd.grad(loss, (hidden, weight))), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_without_any_target_that_counts_the_loss_and_its_gradients_are_0():
    hidden, weight, targets = make(40, 300, torch.float64)
    found = evaluate(
        lambda h, w, t: linear_cross_entropy(h, w, t, ignore_index=-100), hidden, weight, targets.fill_(-100)
    )
    assert not any(value.any() for value in found)
