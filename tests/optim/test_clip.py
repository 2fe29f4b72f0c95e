import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import ConfigError, TrainingError
from groundup.optim import clip_gradients, gradient_clipping
from groundup.optim.clip import clip_factor


def parameters(gradients) -> list[torch.nn.Parameter]:
    made = []
    for gradient in gradients:
        p = torch.nn.Parameter(torch.zeros(1) if gradient is None else torch.zeros_like(gradient))
        p.grad = None if gradient is None else gradient.clone()
        made.append(p)
    return made


@settings(deadline=None, max_examples=60)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=5),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    limit=st.sampled_from([1e-3, 0.5, 3.0, 100.0, math.inf]),
    seed=st.integers(0, 2**32),
)
def test_gradients_and_norm_are_those_of_torch(shapes, scale, limit, seed):
    generator = torch.Generator().manual_seed(seed)
    gradients = [scale * torch.randn(shape, generator=generator) for shape in shapes]
    ours, theirs = parameters([*gradients, None]), parameters([*gradients, None])
    norm = gradient_clipping(iter(ours), limit)
    expected_norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
    torch.testing.assert_close(norm, expected_norm)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    assert ours[-1].grad is None


def test_one_norm_is_taken_over_all_gradients_and_all_are_scaled_alike():
    p, q = parameters([torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])])
    kept = p.grad
    assert gradient_clipping((p, q), 2.0).item() == pytest.approx(5.0)
    assert p.grad is kept
    assert p.grad.tolist() == pytest.approx([3 * 2 / (5 + 1e-6), 0.0])
    assert q.grad.item() == pytest.approx(4 * 2 / (5 + 1e-6))


def test_a_small_norm_is_not_divided_by_alone():
    (p,) = parameters([torch.tensor([3e-6, 4e-6])])
    gradient_clipping([p], 1e-6)
    assert p.grad.tolist() == pytest.approx([3e-6 / 6, 4e-6 / 6], rel=1e-5)


@pytest.mark.parametrize("limit", [5.0, 6.0, math.inf])
def test_a_norm_within_the_limit_changes_no_bit(limit):
    gradient = torch.tensor([3.0, 4.0])
    (p,) = parameters([gradient])
    gradient_clipping([p], limit)
    assert torch.equal(p.grad, gradient)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_stops_training_and_nothing_is_scaled(broken):
    gradients = [torch.tensor([30.0, 40.0]), torch.tensor([1.0, broken])]
    made = parameters(gradients)
    with pytest.raises(TrainingError, match=r"gradient norm is (nan|inf)"):
        gradient_clipping(made, 1.0)
    for p, gradient in zip(made, gradients, strict=True):
        assert torch.equal(p.grad.nan_to_num(nan=7.0), gradient.nan_to_num(nan=7.0))


@pytest.mark.parametrize("made", [[], parameters([None])], ids=["no parameters", "no gradients"])
def test_without_gradients_the_norm_is_zero(made):
    assert gradient_clipping(made, 1.0).item() == 0.0


def test_the_norm_of_bfloat16_gradients_is_not_rounded_to_bfloat16():
    gradients = [torch.full((1000,), 1.0).bfloat16(), torch.full((7,), 1.0).bfloat16()]
    assert gradient_clipping(parameters(gradients), math.inf).item() == pytest.approx(math.sqrt(1007), rel=1e-6)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_a_limit_that_is_not_positive_is_refused(limit):
    with pytest.raises(ConfigError, match=rf"max_l2_norm = {limit}; expected a positive number"):
        gradient_clipping(parameters([torch.ones(2)]), limit)


class TestWithoutLooking:
    """clip_gradients: the same scaling, and the caller looks at the norm when it suits."""

    @pytest.mark.parametrize("limit", [0.5, 5.0, 100.0, math.inf])
    def test_it_scales_as_the_other_does(self, limit):
        gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
        looked, unlooked = parameters(gradients), parameters(gradients)
        assert torch.equal(gradient_clipping(looked, limit), clip_gradients(unlooked, limit))
        for a, b in zip(looked, unlooked, strict=True):
            assert torch.equal(a.grad, b.grad)

    @pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
    def test_broken_gradients_are_left_for_the_caller_to_find(self, broken):
        gradients = [torch.tensor([30.0, 40.0]), torch.tensor([1.0, broken])]
        made = parameters(gradients)
        assert not torch.isfinite(clip_gradients(made, 1.0))
        assert torch.equal(made[0].grad, gradients[0])
        assert made[1].grad[0] == 1

    def test_it_never_asks_for_a_number(self):
        # Tensors on the meta device have shapes and no values: whoever asks for one gets an error.
        made = [torch.nn.Parameter(torch.empty(3, 4, device="meta")) for _ in range(2)]
        for p in made:
            p.grad = torch.empty_like(p)
        assert clip_gradients(made, 1.0).shape == ()
        with pytest.raises(RuntimeError):
            gradient_clipping(made, 1.0)

    @pytest.mark.parametrize(
        ("norm", "factor"),
        [(0.0, 1.0), (2.0, 1.0), (4.0, 2 / 4.000001), (math.nan, 1.0), (math.inf, 1.0)],
        ids=str,
    )
    def test_a_gpu_multiplies_by_one_what_is_not_to_be_clipped(self, norm, factor):
        assert clip_factor(torch.tensor(norm, dtype=torch.float64), 2.0).item() == factor


def test_bfloat16_gradients_stay_bfloat16_when_they_are_scaled():
    (p,) = parameters([torch.tensor([3.0, 4.0], dtype=torch.bfloat16)])
    assert gradient_clipping([p], 1.0).dtype == torch.float32
    assert p.grad.dtype == torch.bfloat16
    assert p.grad.tolist() == pytest.approx([0.6, 0.8], rel=4e-3)


def test_gradients_of_several_dtypes_have_one_norm():
    made = parameters([torch.tensor([3.0], dtype=torch.bfloat16), torch.tensor([4.0], dtype=torch.float64)])
    assert gradient_clipping(made, math.inf).item() == pytest.approx(5.0, rel=1e-12)
