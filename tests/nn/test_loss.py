import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from groundup.errors import ConfigError
from groundup.nn import cross_entropy, functional

# The loss is computed about 2^18 numbers at a time: these vocabularies put one, a few, or many rows into a chunk.
WHOLE_ROW_PER_CHUNK = 300_000


def make(rows: int, vocab: int, seed: int = 0, scale: float = 3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(vocab, (rows,), generator=generator)


def loss_and_gradient(function, logits, targets, upstream=1.0):
    logits = logits.clone().requires_grad_()
    loss = function(logits, targets)
    (loss * upstream).backward()
    return loss.detach(), logits.grad


@settings(deadline=None, max_examples=60)
@given(
    lead=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    vocab=st.integers(1, 40),
    scale=st.sampled_from([0.1, 3.0, 1000.0]),
    upstream=st.sampled_from([1.0, 0.25, -3.0]),
    seed=st.integers(0, 2**32),
)
def test_loss_and_gradient_are_those_of_torch(lead, vocab, scale, upstream, seed):
    logits, targets = make(math.prod(lead), vocab, seed, scale)
    logits, targets = logits.view(*lead, vocab), targets.view(lead)
    loss, gradient = loss_and_gradient(cross_entropy, logits, targets, upstream)
    expected, expected_gradient = loss_and_gradient(
        lambda x, y: F.cross_entropy(x.flatten(0, -2), y.flatten()), logits, targets, upstream
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("rows", "vocab"),
    [(3, WHOLE_ROW_PER_CHUNK), (7, 100_000), (5, 2**17), (2**10 + 1, 2**8), (1031, 509)],
    ids=["one row a chunk", "two rows a chunk, one left", "exact chunks, one left", "one row over", "nothing divides"],
)
def test_rows_on_either_side_of_a_chunk_border_count_alike(rows, vocab):
    logits, targets = make(rows, vocab, dtype=torch.float32)
    loss, gradient = loss_and_gradient(cross_entropy, logits, targets)
    expected, expected_gradient = loss_and_gradient(F.cross_entropy, logits.double(), targets)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-9)


def test_the_gradient_is_that_of_finite_differences():
    logits, targets = make(4, 6)
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets), logits.requires_grad_())


def test_backward_through_the_same_graph_twice_adds_the_same_gradient_twice():
    logits, targets = make(3, 5)
    logits.requires_grad_()
    loss = cross_entropy(logits, targets)
    loss.backward(retain_graph=True)
    once = logits.grad.clone()
    loss.backward(retain_graph=True)
    loss.backward()
    torch.testing.assert_close(logits.grad, 3 * once)


def test_the_logits_are_left_as_they_were():
    logits, targets = make(3, 5, dtype=torch.float32)
    before = logits.clone()
    loss_and_gradient(cross_entropy, logits, targets)
    cross_entropy(logits, targets)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("vocab", [17, 5000])
def test_bfloat16_logits_have_the_loss_of_the_same_numbers_in_float32(vocab):
    logits, targets = make(64, vocab, dtype=torch.bfloat16)
    loss, gradient = loss_and_gradient(cross_entropy, logits, targets)
    expected, expected_gradient = loss_and_gradient(F.cross_entropy, logits.float(), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=2**-8, atol=1e-8)


def test_huge_logits_neither_overflow_nor_lose_the_loss():
    logits = torch.tensor([[1e30, 0.0, -1e30], [-1e4, -1e4, -1e4], [0.0, 800.0, 0.0]])
    assert cross_entropy(logits[:2], torch.tensor([0, 2])).item() == pytest.approx(math.log(3) / 2)
    assert cross_entropy(logits[2:], torch.tensor([0])).item() == pytest.approx(800.0)


def test_a_class_ruled_out_by_minus_infinity_costs_nothing_and_gets_no_gradient():
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    loss, gradient = loss_and_gradient(cross_entropy, logits, torch.tensor([2]))
    assert loss.item() == pytest.approx(math.log(2))
    torch.testing.assert_close(gradient, torch.tensor([[0.5, 0.0, -0.5]]))


def test_uniform_logits_cost_the_logarithm_of_the_vocabulary():
    loss = cross_entropy(torch.zeros(2, 3, 10_000), torch.ones(2, 3, dtype=torch.int64))
    assert loss.item() == pytest.approx(math.log(10_000))


def test_one_position_without_any_batch_is_scored_too():
    logits, targets = make(1, 5)
    torch.testing.assert_close(cross_entropy(logits[0], targets[0]), F.cross_entropy(logits[0], targets[0]))


@pytest.mark.parametrize(
    ("logits_shape", "targets_shape"), [((2, 3, 5), (3, 2)), ((1, 5), (4,)), ((4, 5), (2, 2))], ids=str
)
def test_targets_of_another_shape_are_refused(logits_shape, targets_shape):
    with pytest.raises((ValueError, RuntimeError)):
        cross_entropy(torch.zeros(logits_shape), torch.zeros(targets_shape, dtype=torch.int64))


@pytest.mark.parametrize("target", [5, -1, -100])
def test_a_target_outside_the_vocabulary_is_refused(target):
    with pytest.raises((IndexError, RuntimeError)):
        cross_entropy(torch.zeros(2, 5), torch.tensor([0, target]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_formula_has_the_same_loss_and_gradient(dtype):
    logits, targets = make(24, 19, dtype=dtype)
    logits, targets = logits.view(4, 6, 19), targets.view(4, 6)
    found = loss_and_gradient(functional.cross_entropy, logits, targets)
    torch.testing.assert_close(found, loss_and_gradient(cross_entropy, logits, targets))
    with pytest.raises(ConfigError, match=r"logits \(4, 6, 19\) and targets \(6, 4\).*expected targets \(4, 6\)"):
        functional.cross_entropy(logits, targets.T)


class TestIgnoredTargets:
    """Positions that do not count, against torch's ``ignore_index``."""

    @settings(deadline=None, max_examples=60)
    @given(
        rows=st.integers(1, 40), vocab=st.integers(1, 40), upstream=st.sampled_from([1.0, -3.0]),
        ignore=st.sampled_from([-100, 0]), seed=st.integers(0, 2**32),
    )  # fmt: skip
    @pytest.mark.parametrize("function", [cross_entropy, functional.cross_entropy], ids=["fast", "formula"])
    def test_loss_and_gradient_are_those_of_torch(self, function, rows, vocab, upstream, ignore, seed):
        logits, targets = make(rows, vocab, seed)
        ignored = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.5
        ignored[seed % rows] = False
        targets[ignored] = ignore
        assume((targets != ignore).any())
        found = loss_and_gradient(lambda x, y: function(x, y, ignore_index=ignore), logits, targets, upstream)
        expected = loss_and_gradient(lambda x, y: F.cross_entropy(x, y, ignore_index=ignore), logits, targets, upstream)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("function", [cross_entropy, functional.cross_entropy], ids=["fast", "formula"])
    def test_without_any_position_that_counts_the_loss_is_0_and_no_weight_moves(self, function):
        logits, _ = make(5, 7)
        loss, gradient = loss_and_gradient(
            lambda x, y: function(x, y, ignore_index=-100), logits, torch.full((5,), -100)
        )
        assert loss == 0
        assert not gradient.any()

    def test_rows_on_either_side_of_a_chunk_border(self):
        logits, targets = make(1031, 509, dtype=torch.float32)
        targets[::3] = -100
        found = loss_and_gradient(lambda x, y: cross_entropy(x, y, ignore_index=-100), logits, targets)
        expected = loss_and_gradient(F.cross_entropy, logits.double(), targets)
        torch.testing.assert_close([v.double() for v in found], list(expected), rtol=1e-4, atol=1e-6)
