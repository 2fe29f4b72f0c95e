import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from groundup.config import ModelConfig
from groundup.errors import ConfigError
from groundup.nn import (
    MultiHeadSelfAttention,
    RMSNorm,
    RotaryPositionalEmbedding,
    TransformerBlock,
    TransformerLM,
    cross_entropy,
)
from groundup.nn.fast.accelerate import accelerate
from groundup.optim import AdamW

V, CONTEXT, D, HEADS, F_INNER = 50, 12, 16, 2, 24
ABLATIONS = [
    {"norm": norm, "position": position, "ffn": ffn}
    for norm, position, ffn in itertools.product(("pre", "post", "none"), ("rope", "none"), ("swiglu", "silu"))
]


def described(options) -> str:
    return "-".join(map(str, options.values()))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def model(layers: int = 2, *, dtype=torch.float64, **options) -> TransformerLM:
    return TransformerLM(V, CONTEXT, D, layers, HEADS, F_INNER, **options).to(dtype)


def with_random_gains(module):
    """Gains of one would hide a norm whose gain is left out."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "ln" in name:
                parameter.copy_(1 + torch.rand(parameter.shape))
    return module


def ids(batch: int = 3, length: int = CONTEXT) -> torch.Tensor:
    return torch.randint(V, (batch, length))


class TestBlock:
    """The order of norm, sublayer and sum, each part taken on its own."""

    def block(self, norm: str):
        rope = RotaryPositionalEmbedding(10_000.0, D // HEADS, CONTEXT).double()
        block = TransformerBlock(D, HEADS, F_INNER, rope, norm=norm, norm_eps=1e-3, dtype=torch.float64)
        return with_random_gains(block), torch.randn(2, 5, D, dtype=torch.float64)

    @staticmethod
    def rms_norm(x, layer):
        return F.rms_norm(x, (D,), layer.weight, 1e-3)

    def test_pre_norm_normalizes_what_goes_into_a_sublayer(self):
        block, x = self.block("pre")
        y = x + block.attn(self.rms_norm(x, block.ln1))
        expected = y + block.ffn(self.rms_norm(y, block.ln2))
        torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)

    def test_post_norm_normalizes_the_sum(self):
        block, x = self.block("post")
        y = self.rms_norm(x + block.attn(x), block.ln1)
        expected = self.rms_norm(y + block.ffn(y), block.ln2)
        torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)

    def test_no_norm_only_adds(self):
        block, x = self.block("none")
        y = x + block.attn(x)
        torch.testing.assert_close(block(x), y + block.ffn(y), rtol=1e-12, atol=1e-12)
        assert not any(isinstance(module, RMSNorm) for module in block.modules())

    @pytest.mark.parametrize(("option", "value"), [("norm", "Pre"), ("ffn", "relu")])
    def test_an_option_that_does_not_exist_is_refused(self, option, value):
        with pytest.raises(ConfigError, match=rf"{option} = '{value}'; expected one of '"):
            TransformerBlock(D, HEADS, F_INNER, **{option: value})


class TestLanguageModel:
    @pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
    @pytest.mark.parametrize("norm", ["pre", "post", "none"])
    def test_it_is_embedding_blocks_final_norm_and_head(self, norm, tied):
        lm, tokens = with_random_gains(model(3, norm=norm, tie_embeddings=tied)), ids()
        x = F.embedding(tokens, lm.token_embeddings.weight)
        if tied and norm != "none":  # the table has the head's small standard deviation, the residual stream unit size
            x = x / math.sqrt(2 / (D + V))
        for block in lm.layers:
            x = block(x)
        if norm == "pre":
            x = F.rms_norm(x, (D,), lm.ln_final.weight, 1e-5)
        torch.testing.assert_close(lm(tokens), F.linear(x, lm.lm_head.weight), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
    @pytest.mark.parametrize("options", ABLATIONS, ids=described)
    def test_state_has_exactly_the_published_names(self, options, tied):
        block = [f"attn.{name}_proj.weight" for name in ("q", "k", "v", "output")] + ["ffn.w1.weight", "ffn.w2.weight"]
        block += ["ffn.w3.weight"] if options["ffn"] == "swiglu" else []
        block += ["ln1.weight", "ln2.weight"] if options["norm"] != "none" else []
        expected = {f"layers.{i}.{name}" for i in range(2) for name in block}
        expected |= {"token_embeddings.weight", "lm_head.weight"}
        expected |= {"ln_final.weight"} if options["norm"] == "pre" else set()
        lm = model(2, **options, tie_embeddings=tied)
        assert set(lm.state_dict()) == expected
        assert (lm.lm_head.weight is lm.token_embeddings.weight) == tied

    @pytest.mark.parametrize("options", ABLATIONS, ids=described)
    def test_every_parameter_learns_and_flash_attention_changes_nothing(self, options):
        plain, flash = model(**options), accelerate(model(**options), kernels="plain")
        flash.load_state_dict(plain.state_dict())
        tokens = ids()
        for lm in (plain, flash):
            cross_entropy(lm(tokens[:, :-1]), tokens[:, 1:]).backward()
        torch.testing.assert_close(flash(tokens), plain(tokens), rtol=1e-11, atol=1e-12)
        for ours, torchs in zip(plain.parameters(), flash.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, torchs.grad, rtol=1e-9, atol=1e-12)
            assert ours.grad.any()

    def test_the_logits_of_a_position_depend_on_no_later_token(self):
        lm, tokens = model(), ids()
        changed = tokens.clone()
        changed[:, 7:] = (changed[:, 7:] + 1) % V
        torch.testing.assert_close(lm(changed)[:, :7], lm(tokens)[:, :7], rtol=0, atol=1e-13)
        torch.testing.assert_close(lm(tokens[:, :7]), lm(tokens)[:, :7], rtol=0, atol=1e-13)

    def test_with_rope_only_distances_matter(self):
        lm, tokens = model(), ids(length=6)
        moved = lm(tokens, torch.arange(6) + 4)
        torch.testing.assert_close(moved, lm(tokens), rtol=1e-10, atol=1e-11)
        stretched = lm(tokens, 2 * torch.arange(6))
        assert (stretched - moved).abs().max() > 1e-3

    def test_without_positions_one_layer_sees_a_set_of_earlier_tokens(self):
        tokens = ids(batch=1)
        shuffled = torch.cat([tokens[:, :-1].flip(1), tokens[:, -1:]], dim=1)
        nope, rope = model(1, position="none"), model(1)
        torch.testing.assert_close(nope(shuffled)[:, -1], nope(tokens)[:, -1], rtol=1e-11, atol=1e-12)
        assert (rope(shuffled)[:, -1] - rope(tokens)[:, -1]).abs().max() > 1e-3

    @pytest.mark.parametrize("options", ABLATIONS, ids=described)
    def test_a_sequence_fed_in_pieces_through_caches_gives_what_the_whole_gives(self, options):
        lm, tokens = model(**options), ids(batch=2)
        caches = lm.new_caches(batch_size=2)
        parts = [lm(piece, caches=caches) for piece in tokens.split((5, 1, 1, 3, 2), dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), lm(tokens), rtol=1e-11, atol=1e-12)

    def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_and_loss_in_float32(self):
        lm, tokens = model(dtype=torch.float32), ids()
        exact = cross_entropy(lm(tokens), tokens)
        lm.compute_dtype = torch.bfloat16
        logits = lm(tokens)
        loss = cross_entropy(logits, tokens)
        loss.backward()
        assert logits.dtype == torch.bfloat16
        assert loss.dtype == torch.float32
        assert {p.grad.dtype for p in lm.parameters()} == {p.dtype for p in lm.parameters()} == {torch.float32}
        assert loss.item() == pytest.approx(exact.item(), rel=0.01)
        assert {cache.keys.dtype for cache in lm.new_caches(1)} == {torch.bfloat16}

    @pytest.mark.parametrize("position", ["rope", "none"])
    def test_a_sequence_longer_than_the_context_is_refused(self, position):
        lm = model(position=position)
        with pytest.raises(ConfigError, match=r"13 tokens.*context_length = 12.*keep the last 12"):
            lm(ids(length=13))
        caches = lm.new_caches(batch_size=3)
        lm(ids(length=12), caches=caches)
        with pytest.raises(ConfigError, match=r"13 tokens.*context_length = 12"):
            lm(ids(length=1), caches=caches)

    def test_a_position_option_that_does_not_exist_is_refused(self):
        with pytest.raises(ConfigError, match="position = 'learned'; expected one of 'rope', 'none'"):
            model(position="learned")

    @pytest.mark.parametrize(
        ("d_model", "num_heads", "match"),
        [(15, 5, "3 is odd"), (15, 4, r"num_heads = 4 does not divide model\.d_model = 15"), (16, 0, "num_heads = 0")],
    )
    def test_a_shape_that_cannot_be_is_refused_with_its_reason(self, d_model, num_heads, match):
        with pytest.raises(ConfigError, match=match):
            TransformerLM(V, CONTEXT, d_model, 1, num_heads, F_INNER)

    def test_all_of_it_is_made_where_and_as_asked(self):
        lm = TransformerLM(V, CONTEXT, D, 2, HEADS, F_INNER, device="meta", dtype=torch.bfloat16)
        assert {(p.device.type, p.dtype) for p in lm.parameters()} == {("meta", torch.bfloat16)}
        assert {b.device.type for b in lm.buffers()} == {"meta"}

    def test_one_table_of_angles_serves_all_layers(self):
        lm = model(3)
        assert len({id(layer.attn.rope) for layer in lm.layers}) == 1


class TestConfig:
    @pytest.mark.parametrize("options", ABLATIONS, ids=described)
    def test_config_and_sizes_make_the_same_model(self, options):
        config = ModelConfig(
            vocab_size=V, context_length=CONTEXT, d_model=D, num_layers=2, num_heads=HEADS, d_ff=F_INNER, **options
        )
        made = []
        for make in (TransformerLM, TransformerLM.from_config, lambda config: TransformerLM(config=config)):
            torch.manual_seed(0)
            made.append(make(config).state_dict())
        torch.manual_seed(0)
        by_sizes = TransformerLM(V, CONTEXT, D, 2, HEADS, F_INNER, **options)
        assert by_sizes.config == config
        for state in made:
            torch.testing.assert_close(state, by_sizes.state_dict(), rtol=0, atol=0)

    def test_a_missing_size_is_an_error(self):
        with pytest.raises(TypeError, match="d_model"):
            TransformerLM(V, CONTEXT)

    def test_every_field_reaches_the_model(self):
        config = ModelConfig(
            vocab_size=V, context_length=CONTEXT, d_model=D, num_layers=3, num_heads=4, num_kv_heads=2, d_ff=40,
            rope_theta=500.0, norm="post", ffn="silu", tie_embeddings=True, norm_eps=1e-2,
        )  # fmt: skip
        lm = TransformerLM(config)
        first = lm.layers[0]
        assert (lm.vocab_size, lm.context_length, len(lm.layers)) == (V, CONTEXT, 3)
        assert (first.attn.num_heads, first.attn.num_kv_heads) == (4, 2)
        assert tuple(first.ffn.w1.weight.shape) == (40, D)
        assert not hasattr(first.ffn, "w3")
        assert (first.attn.rope.theta, first.attn.rope.max_seq_len) == (500.0, CONTEXT)
        assert (first.norm, first.ln1.eps, first.ln2.eps, lm.ln_final) == ("post", 1e-2, 1e-2, None)
        assert [layer.attn.layer_index for layer in lm.layers] == [0, 1, 2]
        assert lm.lm_head.weight is lm.token_embeddings.weight

    def test_position_none_has_no_rotary_embedding(self):
        config = ModelConfig(vocab_size=V, d_model=D, num_heads=HEADS, position="none")
        assert TransformerLM(config, device="meta").layers[0].attn.rope is None

    def test_a_vocabulary_still_to_be_taken_from_the_data_is_refused(self):
        with pytest.raises(ConfigError, match=r"model\.vocab_size = 0"):
            TransformerLM(ModelConfig(d_model=D, num_heads=HEADS))


class TestStart:
    """An untrained model should know nothing: every token is about equally likely."""

    @pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
    @pytest.mark.parametrize("layers", [4, 8])
    @pytest.mark.parametrize("options", ABLATIONS, ids=described)
    def test_the_first_loss_is_about_the_logarithm_of_the_vocabulary(self, options, layers, tied):
        lm = TransformerLM(1000, 32, 64, layers, 4, 192, **options, tie_embeddings=tied)
        x, y = torch.randint(1000, (2, 8, 32))
        with torch.no_grad():
            assert cross_entropy(lm(x), y).item() == pytest.approx(math.log(1000), abs=0.25)

    def test_so_it_is_at_full_width_with_tied_embeddings(self):
        lm = TransformerLM(10_000, 64, 512, 4, 8, 1344, tie_embeddings=True)
        x, y = torch.randint(10_000, (2, 2, 64))
        with torch.no_grad():
            assert cross_entropy(lm(x), y).item() == pytest.approx(math.log(10_000), abs=0.25)


@pytest.mark.parametrize("options", [{}, {"norm": "post"}, {"tie_embeddings": True}], ids=str)
def test_one_batch_can_be_learned_by_heart(options):
    lm = TransformerLM(V, 16, 32, 2, 2, 64, **options)
    # First tokens differ, and no token stands twice in a sequence: with distances only, "a a" looks like "a".
    tokens = torch.stack([torch.cat([torch.tensor([first]), 4 + torch.randperm(V - 4)[:16]]) for first in range(4)])
    x, y = tokens[:, :-1], tokens[:, 1:]
    optimizer = AdamW(lm.parameters(), lr=1e-2, betas=(0.9, 0.95), fused=True)
    for _ in range(100):
        optimizer.zero_grad()
        loss = cross_entropy(lm(x), y)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    assert torch.equal(lm(x).argmax(-1), y)


def test_a_model_without_initial_weights_is_the_same_model():
    config = ModelConfig(vocab_size=50, context_length=16, d_model=8, num_layers=2, num_heads=2, tie_embeddings=True)
    model = TransformerLM.uninitialized(config)
    assert model.lm_head.weight is model.token_embeddings.weight
    whole = TransformerLM(config)
    model.load_state_dict(whole.state_dict())
    token_ids = torch.arange(16)[None]
    assert torch.equal(model(token_ids), whole(token_ids))


def test_the_last_logits_are_those_of_all():
    model = TransformerLM(ModelConfig(vocab_size=50, context_length=16, d_model=8, num_layers=2, num_heads=2))
    token_ids = torch.arange(32).view(2, 16)
    torch.testing.assert_close(model(token_ids, logits_to_keep=3), model(token_ids)[:, -3:])


@pytest.mark.parametrize("layer", [TransformerLM, TransformerBlock, MultiHeadSelfAttention])
@pytest.mark.parametrize(
    ("options", "says"), [({"flash": True}, "accelerate"), ({"flush": 1}, "'flush'"), ({}, "missing")]
)
def test_wrong_arguments_are_refused_in_the_name_of_the_class(layer, options, says):
    sizes = (64, 16, 32, 2, 4, 64)[: {TransformerLM: 6, TransformerBlock: 3}.get(layer, 2) - (not options)]
    with pytest.raises(TypeError, match=rf"^{layer.__name__}\(\).*{says}"):
        layer(*sizes, **options)
