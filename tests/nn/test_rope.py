import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.generation import generate
from groundup.nn import RotaryPositionalEmbedding, TransformerLM

THETA = 10_000.0


def rotated(x: torch.Tensor, positions: torch.Tensor, theta: float = THETA) -> np.ndarray:
    """The definition, pair by pair: the rotation matrix of each pair's angle, in float64."""
    x = x.double().numpy()
    positions = np.broadcast_to(positions.numpy(), x.shape[:-1])
    out, d = np.empty_like(x), x.shape[-1]
    for index in np.ndindex(x.shape[:-1]):
        for k in range(d // 2):
            angle = positions[index] * theta ** (-2 * k / d)
            matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            out[index][2 * k : 2 * k + 2] = matrix @ x[index][2 * k : 2 * k + 2]
    return out


def doubled(d_k: int, max_seq_len: int, theta: float = THETA) -> RotaryPositionalEmbedding:
    return RotaryPositionalEmbedding(theta, d_k, max_seq_len).double()


@settings(deadline=None, max_examples=40)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2),
    sequence=st.integers(1, 6),
    pairs=st.integers(1, 4),
    theta=st.sampled_from([2.0, 10_000.0, 500_000.0]),
    seed=st.integers(0, 2**32),
)
def test_each_pair_is_rotated_by_the_angle_of_its_position(lead, sequence, pairs, theta, seed):
    torch.manual_seed(seed)
    x = torch.randn(*lead, sequence, 2 * pairs, dtype=torch.float64)
    positions = torch.randint(50, (sequence,))
    rope = doubled(2 * pairs, 50, theta)
    np.testing.assert_allclose(rope(x, positions), rotated(x, positions, theta), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(rope(x), rotated(x, torch.arange(sequence), theta), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (3, 5), (1, 1, 5), (3, 1, 5), (3, 2, 5)], ids=str)
def test_positions_are_broadcast_over_the_leading_dimensions(shape):
    torch.manual_seed(0)
    x, positions = torch.randn(3, 2, 5, 8, dtype=torch.float64), torch.randint(20, shape)
    if shape == (3, 5):
        x = x[:, 0]
    np.testing.assert_allclose(doubled(8, 20)(x, positions), rotated(x, positions), rtol=1e-11, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(i=st.integers(0, 400), j=st.integers(0, 400), shift=st.integers(0, 100))
def test_the_dot_product_of_two_rotated_vectors_depends_on_their_distance_only(i, j, shift):
    rope = doubled(16, 512)
    q, k = torch.randn(2, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def score(i, j):
        return (rope(q, torch.tensor([i])) * rope(k, torch.tensor([j]))).sum()

    torch.testing.assert_close(score(i + shift, j + shift), score(i, j), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("positions", [None, torch.tensor([[7, 3, 0, 11]])], ids=["counted", "given"])
def test_while_compiling_the_same_numbers_come_out(dtype, positions, monkeypatch):
    rope = RotaryPositionalEmbedding(THETA, 8, 16)
    rope = rope.double() if dtype == torch.float64 else rope
    x = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    eager = rope(x, positions)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    compiled = rope(x, positions)
    assert compiled.dtype == eager.dtype == dtype
    torch.testing.assert_close(compiled, eager)


def test_the_compiled_module_gives_the_same_numbers():
    rope = RotaryPositionalEmbedding(THETA, 8, 16)
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.compile(rope, backend="eager", fullgraph=True)(x), rope(x))


def test_the_gradient_is_that_of_finite_differences():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(doubled(4, 3), x)


def test_late_positions_are_rotated_as_precisely_as_early_ones():
    rope = RotaryPositionalEmbedding(THETA, 64, 100_000)
    x = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    late = torch.tensor([99_999])
    np.testing.assert_allclose(rope(x, late), rotated(x, late), rtol=0, atol=1e-6)


def test_a_float64_input_keeps_its_precision():
    x = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rotated = RotaryPositionalEmbedding(THETA, 8, 4)(x)
    # The tables may be float32, the input may not: a vector at position 0 is not rotated at all.
    assert torch.equal(rotated[0], x[0])


def test_a_model_made_in_float64_is_as_precise_as_one_cast_to_it():
    made = TransformerLM(11, 8, 16, 2, 2, 32, dtype=torch.float64)
    cast = TransformerLM(11, 8, 16, 2, 2, 32).double()
    cast.load_state_dict(made.state_dict())
    ids = torch.arange(8)[None]
    torch.testing.assert_close(made(ids), cast(ids), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16])
def test_a_model_cast_to_16_bits_keeps_its_angles_in_float32(cast):
    model = TransformerLM(11, 64, 16, 2, 2, 32)
    exact = model.layers[0].attn.rope.cos.clone()
    model.to(cast)
    for layer in model.layers:
        assert layer.attn.rope.cos.dtype == layer.attn.rope.sin.dtype == torch.float32
        assert torch.equal(layer.attn.rope.cos, exact)
    assert model(torch.tensor([[1, 2, 3]])).dtype == cast


def test_casting_back_and_forth_loses_nothing():
    rope = RotaryPositionalEmbedding(THETA, 8, 64)
    cos, sin = rope.cos.clone(), rope.sin.clone()
    rope.bfloat16().double().half().float()
    assert torch.equal(rope.cos, cos)
    assert torch.equal(rope.sin, sin)


def test_a_model_made_without_memory_has_its_angles_once_it_has_memory():
    """The way to load a large checkpoint: no weights are initialized only to be overwritten."""
    model = TransformerLM(11, 8, 16, 1, 2, 32, device="meta").to_empty(device="cpu")
    expected = RotaryPositionalEmbedding(THETA, 8, 8)
    assert torch.equal(model.layers[0].attn.rope.cos, expected.cos)
    assert torch.equal(model.layers[0].attn.rope.sin, expected.sin)


def test_there_is_nothing_to_train_and_nothing_to_save():
    rope = RotaryPositionalEmbedding(THETA, 8, 64)
    assert not list(rope.parameters())
    assert not rope.state_dict()


def test_an_odd_head_size_is_refused():
    with pytest.raises(ConfigError, match=r"d_k = 7 is odd.*even"):
        RotaryPositionalEmbedding(THETA, 7, 64)


@pytest.mark.parametrize(
    ("x", "positions"), [(torch.zeros(9, 4), None), (torch.zeros(2, 4), torch.tensor([0, 8]))], ids=["counted", "given"]
)
def test_more_positions_than_there_are_angles_are_refused(x, positions):
    with pytest.raises(ConfigError, match=r"9 positions.*context_length = 8.*shorten"):
        RotaryPositionalEmbedding(THETA, 4, 8)(x, positions)


@pytest.mark.parametrize("options", [{}, {"position": "none"}, {"num_kv_heads": 1, "head_size": 2}], ids=str)
def test_a_model_for_a_longer_context_is_one_with_another_base_of_the_angles(options):
    torch.manual_seed(0)
    shape = {"vocab_size": 40, "context_length": 8, "d_model": 32, "num_layers": 2, "num_heads": 4} | options
    model = TransformerLM(ModelConfig(**shape), dtype=torch.float64)
    weights = model.state_dict()
    ids = torch.randint(40, (1, 20))
    with pytest.raises(ConfigError, match="longer than context_length = 8"):
        model(ids)
    model.lengthen(24)
    head_dim = model.config.head_dim
    other = TransformerLM(ModelConfig(**shape | {"context_length": 24, "rope_theta": model.config.rope_theta}))
    other.double().load_state_dict(weights)
    torch.testing.assert_close(model(ids), other(ids))
    assert model.config.context_length == model.context_length == 24
    if head_dim > 2:
        slowest = model.config.rope_theta ** (2 / head_dim - 1)
        assert slowest == pytest.approx(10_000 ** (2 / head_dim - 1) / 3)
    generated = generate(model, [1, 2, 3], 16, temperature=0)
    for length in range(3, 19):
        assert generated[length] == int(other(torch.tensor([generated[:length]]))[0, -1].argmax())
    for length in (24, 0, -1, 24 * 64 + 1, 10**20):
        with pytest.raises(
            ConfigError, match=r"longer context = .*more than the model's own 24 tokens, and at most 1536"
        ):
            model.lengthen(length)
