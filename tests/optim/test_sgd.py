import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import ConfigError
from groundup.optim import SGD


def losses(lr: float, steps: int) -> list[float]:
    """The experiment of the course: the mean square of 100 weights, minimized."""
    weights = torch.nn.Parameter(5 * torch.randn(10, 10, generator=torch.Generator().manual_seed(42)).double())
    optimizer, found = SGD([weights], lr=lr), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (weights**2).mean()
        found.append(loss.item())
        loss.backward()
        optimizer.step()
    return found


@settings(deadline=None, max_examples=30)
@given(lr=st.floats(0, 1000))
def test_the_mean_square_shrinks_by_its_closed_form(lr):
    # The gradient is w / 50, so each step multiplies all weights by 1 - 0.02 lr / sqrt(t + 1).
    found = losses(lr, 8)
    expected = found[0]
    for t in range(1, 8):
        expected *= (1 - 0.02 * lr / math.sqrt(t)) ** 2
        assert found[t] == pytest.approx(expected, rel=1e-6, abs=1e-12 * found[0] * max(1, lr) ** 2)


def test_the_published_table():
    ten, hundred, thousand = (losses(lr, 10) for lr in (10.0, 100.0, 1000.0))
    ratios = [15.4683 / 24.1693, 11.4026 / 24.1693, 8.9213 / 24.1693, 7.2263 / 24.1693]
    assert [loss / ten[0] for loss in ten[1:5]] == pytest.approx(ratios, rel=1e-4)
    assert ten[9] / ten[0] == pytest.approx(3.2482 / 24.1693, rel=1e-4)
    assert [loss / hundred[0] for loss in hundred[1:4]] == pytest.approx([1, 4.1468 / 24.1693, 0.09924 / 24.1693], 1e-4)
    assert hundred[4] < 1e-25 * hundred[0]
    assert [loss / thousand[0] for loss in thousand[1:3]] == pytest.approx([361, 1_506_962.4 / 24.1693], rel=1e-4)
    assert thousand[9] / thousand[0] == pytest.approx(2.240e18 / 24.1693, rel=1e-3)


def test_each_parameter_counts_its_own_steps_and_one_without_gradient_stays():
    early, late = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = SGD([early, late], lr=1.0)
    for step in range(3):
        early.grad = torch.ones(1)
        late.grad = torch.ones(1) if step == 2 else None
        optimizer.step()
    assert early.item() == pytest.approx(-(1 + 1 / math.sqrt(2) + 1 / math.sqrt(3)))
    assert late.item() == -1.0


def test_the_count_of_steps_is_part_of_the_state():
    p = torch.nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    first = SGD([p], lr=1.0)
    first.step()
    second = SGD([p], lr=1.0)
    second.load_state_dict(first.state_dict())
    second.step()
    assert p.item() == pytest.approx(-1 - 1 / math.sqrt(2))


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    p = torch.nn.Parameter(torch.tensor([3.0]))

    def closure():
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert SGD([p], lr=0.1).step(closure) == 9.0
    assert p.item() == pytest.approx(3 - 0.1 * 6)


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf])
def test_an_impossible_rate_is_refused(lr):
    with pytest.raises(ConfigError, match=rf"lr = {lr}; expected a finite number, 0 or greater"):
        SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
