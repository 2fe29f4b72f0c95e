import pytest
import torch
import torch.nn.functional as F

from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.nn import KVCache, MultiHeadSelfAttention, RotaryPositionalEmbedding, TransformerLM
from groundup.nn.fast.accelerate import accelerate

D, HEADS, SEQUENCE = 24, 6, 7


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def attention(
    *, rope: bool = True, dtype=torch.float64, flash: bool = False, fast: bool = False, **options
) -> MultiHeadSelfAttention:
    rotary = RotaryPositionalEmbedding(10_000.0, D // HEADS, 32).to(dtype) if rope else None
    layer = MultiHeadSelfAttention(D, HEADS, rotary, dtype=dtype, **options)
    return accelerate(layer, kernels="fast" if fast else "plain", attention="flash" if flash else "plain")


def per_head(layer: MultiHeadSelfAttention, x, positions):
    """One head after the other, each with its own rows of the matrices."""
    size, heads = D // HEADS, []
    for h in range(HEADS):
        shared = h * layer.num_kv_heads // HEADS
        rows, kv_rows = (slice(head * size, (head + 1) * size) for head in (h, shared))
        q = x @ layer.q_proj.weight[rows].T
        k, v = (x @ project.weight[kv_rows].T for project in (layer.k_proj, layer.v_proj))
        if layer.rope is not None:
            q, k = layer.rope(q, positions), layer.rope(k, positions)
        heads.append(F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return torch.cat(heads, dim=-1) @ layer.output_proj.weight.T


@pytest.mark.parametrize("flash", [False, True], ids=["plain", "flash"])
@pytest.mark.parametrize("rope", [False, True], ids=["nope", "rope"])
@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
@pytest.mark.parametrize("kv_heads", [None, 1, 2, 3])
@pytest.mark.parametrize("fast", [False, True], ids=["formula", "fast"])
def test_heads_are_attentions_over_their_own_rows_or_those_they_share(flash, rope, lead, kv_heads, fast):
    layer = attention(rope=rope, flash=flash, num_kv_heads=kv_heads, fast=fast)
    x = torch.randn(*lead, SEQUENCE, D, dtype=torch.float64)
    expected = per_head(layer, x, torch.arange(SEQUENCE))
    torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(SEQUENCE,), (1, SEQUENCE), (2, SEQUENCE)], ids=str)
def test_given_positions_are_used_and_broadcast(shape):
    layer, x = attention(), torch.randn(2, SEQUENCE, D, dtype=torch.float64)
    positions = torch.randint(32, shape)
    torch.testing.assert_close(layer(x, positions), per_head(layer, x, positions), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("flash", [False, True], ids=["plain", "flash"])
def test_no_position_sees_a_later_one(flash):
    layer, x = attention(flash=flash), torch.randn(2, SEQUENCE, D, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4:] = torch.randn(2, SEQUENCE - 4, D)
    before, after = layer(x), layer(changed)
    torch.testing.assert_close(after[:, :4], before[:, :4], rtol=0, atol=1e-14)
    assert (after[:, 4:] != before[:, 4:]).any(-1).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_flash_and_plain_agree_forward_and_backward(dtype, tolerance):
    plain, flash = attention(dtype=dtype), attention(flash=True, dtype=dtype)
    flash.load_state_dict(plain.state_dict())
    x = torch.randn(3, SEQUENCE, D, dtype=dtype)
    results = []
    for layer in (plain, flash):
        y = x.clone().requires_grad_()
        out = layer(y)
        out.square().sum().backward()
        results.append([out.detach(), y.grad, *(p.grad for p in layer.parameters())])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("flash", [False, True], ids=["plain", "flash"])
@pytest.mark.parametrize("rope", [False, True], ids=["nope", "rope"])
@pytest.mark.parametrize("pieces", [(7,), (1, 1, 1, 1, 1, 1, 1), (3, 4), (4, 1, 2)], ids=str)
@pytest.mark.parametrize("kv_heads", [2, HEADS])
def test_a_sequence_fed_in_pieces_through_a_cache_gives_what_the_whole_gives(flash, rope, pieces, kv_heads):
    layer = attention(rope=rope, flash=flash, num_kv_heads=kv_heads)
    x = torch.randn(2, SEQUENCE, D, dtype=torch.float64)
    cache = KVCache((2, kv_heads, 10, D // HEADS), None, torch.float64)
    parts = [layer(piece, cache=cache) for piece in x.split(pieces, dim=1)]
    assert cache.length == SEQUENCE
    torch.testing.assert_close(torch.cat(parts, dim=1), layer(x), rtol=1e-11, atol=1e-12)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"num_heads = 5 does not divide .*d_model = 24"):
        MultiHeadSelfAttention(24, 5)


@pytest.mark.parametrize("kv_heads", [-1, 4, 9])
def test_heads_that_cannot_be_shared_evenly_are_refused(kv_heads):
    with pytest.raises(ConfigError, match=rf"num_kv_heads = {kv_heads} does not divide .*num_heads = 6"):
        MultiHeadSelfAttention(24, 6, num_kv_heads=kv_heads)


def test_a_rotary_embedding_of_another_head_size_is_refused():
    with pytest.raises(ConfigError, match=r"2.*8"):
        MultiHeadSelfAttention(24, 3, RotaryPositionalEmbedding(10_000.0, 2, 32))


def test_state_has_the_published_names_and_all_of_it_is_made_where_and_as_asked():
    layer = MultiHeadSelfAttention(8, 2, device="meta", dtype=torch.bfloat16)
    names = [f"{name}_proj.weight" for name in ("q", "k", "v", "output")]
    assert {name: tuple(w.shape) for name, w in layer.state_dict().items()} == dict.fromkeys(names, (8, 8))
    shared = MultiHeadSelfAttention(8, 2, num_kv_heads=1, device="meta")
    assert [len(shared.state_dict()[name]) for name in names] == [8, 4, 4, 8]
    assert {(w.device.type, w.dtype) for w in layer.state_dict().values()} == {("meta", torch.bfloat16)}


def test_a_config_makes_the_layer_that_its_sizes_make():
    config = ModelConfig(d_model=D, num_heads=HEADS, num_kv_heads=2)
    torch.manual_seed(0)
    by_config = MultiHeadSelfAttention(config, 3)
    torch.manual_seed(0)
    by_sizes = MultiHeadSelfAttention(D, HEADS, num_kv_heads=2)
    torch.testing.assert_close(by_config.state_dict(), by_sizes.state_dict(), rtol=0, atol=0)
    assert (by_config.layer_index, by_sizes.layer_index) == (3, 0)


def test_a_model_that_is_filled_on_a_device_has_the_tables_of_its_shared_rotary_embedding():
    config = ModelConfig(vocab_size=11, context_length=8, d_model=8, num_layers=3, num_heads=2)
    model = TransformerLM(config)
    filled = TransformerLM(config, device="meta").to_empty(device="cpu")
    filled.load_state_dict(model.state_dict())
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    assert torch.equal(filled(ids), model(ids))
