"""The names of the published course assignment, called as its adapters call them: by keyword, weights by name.

Each result is held against torch's own function or the formula in float64, at the tolerance of the course's tests.
"""

import io
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import tiktoken
import torch
import torch.nn.functional as F

import groundup

LAYERS, V, BATCH, QUERIES, KEYS, HEADS, D, D_FF, THETA = 3, 1000, 4, 12, 16, 4, 64, 128, 10_000.0


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def in_embeddings() -> torch.Tensor:
    return normal(4, BATCH, QUERIES, D)


@pytest.fixture
def in_indices() -> torch.Tensor:
    return torch.randint(V, (BATCH, KEYS), generator=torch.Generator().manual_seed(6))


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    """A reference model's state: random numbers under the published names."""
    shapes = {"attn.q_proj": (D, D), "attn.k_proj": (D, D), "attn.v_proj": (D, D), "attn.output_proj": (D, D),
              "ffn.w1": (D_FF, D), "ffn.w2": (D, D_FF), "ffn.w3": (D_FF, D), "ln1": (D,), "ln2": (D,)}  # fmt: skip
    all_shapes = {f"layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in shapes.items()}
    all_shapes |= {"token_embeddings": (V, D), "ln_final": (D,), "lm_head": (V, D)}
    return {
        f"{name}.weight": normal(seed, *shape) / (math.sqrt(shape[-1]) if len(shape) == 2 else 1)
        for seed, (name, shape) in enumerate(all_shapes.items())
    }


def block_of(weights: dict[str, torch.Tensor], layer: int) -> dict[str, torch.Tensor]:
    prefix = f"layers.{layer}."
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


class Reference:
    """The model in float64 on torch's functions; rotation as a complex product."""

    @staticmethod
    def rope(x: torch.Tensor, positions: torch.Tensor, theta: float = THETA) -> torch.Tensor:
        x = x.double()
        half = torch.arange(x.shape[-1] // 2, dtype=torch.float64)
        angles = positions.double()[..., None] * theta ** (-2 * half / x.shape[-1])
        turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * torch.polar(
            torch.ones_like(angles), angles
        )
        return torch.view_as_real(turned).flatten(-2)

    @classmethod
    def attention(cls, x, q, k, v, o, positions=None):
        x = x.double()

        def heads(w):
            return F.linear(x, w.double()).unflatten(-1, (HEADS, -1)).transpose(-3, -2)

        q, k, v = heads(q), heads(k), heads(v)
        if positions is not None:
            q, k = cls.rope(q, positions), cls.rope(k, positions)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.linear(attended.transpose(-3, -2).flatten(-2), o.double())

    @classmethod
    def block(cls, x, w):
        x, w = x.double(), {name: weight.double() for name, weight in w.items()}
        projections = [w[f"attn.{name}_proj.weight"] for name in ("q", "k", "v", "output")]
        x = x + cls.attention(F.rms_norm(x, (D,), w["ln1.weight"], 1e-5), *projections, torch.arange(x.shape[-2]))
        y = F.rms_norm(x, (D,), w["ln2.weight"], 1e-5)
        gated = F.silu(F.linear(y, w["ffn.w1.weight"])) * F.linear(y, w["ffn.w3.weight"])
        return x + F.linear(gated, w["ffn.w2.weight"])

    @classmethod
    def lm(cls, indices, w):
        x = F.embedding(indices, w["token_embeddings.weight"].double())
        for i in range(LAYERS):
            x = cls.block(x, block_of(w, i))
        return F.linear(F.rms_norm(x, (D,), w["ln_final.weight"].double(), 1e-5), w["lm_head.weight"].double())


def close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=atol)


class TestModel:
    def test_linear(self, weights, in_embeddings):
        weight = weights["layers.0.ffn.w1.weight"]
        layer = groundup.Linear(in_features=D, out_features=D_FF)
        layer.load_state_dict({"weight": weight})
        close(layer(in_embeddings), F.linear(in_embeddings.double(), weight.double()))

    def test_embedding(self, weights, in_indices):
        table = weights["token_embeddings.weight"]
        layer = groundup.Embedding(num_embeddings=V, embedding_dim=D)
        layer.load_state_dict({"weight": table})
        assert torch.equal(layer(in_indices), table[in_indices])

    def test_swiglu(self, weights, in_embeddings):
        w = {f"{name}.weight": weights[f"layers.0.ffn.{name}.weight"] for name in ("w1", "w2", "w3")}
        layer = groundup.SwiGLU(d_model=D, d_ff=D_FF)
        layer.load_state_dict(w)
        w1, w2, w3 = (weight.double() for weight in w.values())
        x = in_embeddings.double()
        close(layer(in_embeddings), F.linear(F.silu(F.linear(x, w1)) * F.linear(x, w3), w2), atol=1e-5)

    @pytest.mark.parametrize("lead", [(BATCH,), (2, BATCH // 2)], ids=["3-D", "4-D"])
    def test_scaled_dot_product_attention(self, lead):
        q, k, v = normal(1, *lead, QUERIES, D), normal(2, *lead, KEYS, D), normal(3, *lead, KEYS, D // 2)
        mask = normal(5, *lead, QUERIES, KEYS) > 0
        for m in (mask, None):
            expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), m)
            close(groundup.scaled_dot_product_attention(Q=q, K=k, V=v, mask=m), expected)

    def test_multihead_self_attention(self, weights, in_embeddings):
        w = {name: weights[f"layers.0.attn.{name}"] for name in self.projections}
        layer = groundup.MultiHeadSelfAttention(d_model=D, num_heads=HEADS)
        layer.load_state_dict(w)
        close(layer(in_embeddings), Reference.attention(in_embeddings, *w.values()))

    @pytest.mark.parametrize("token_positions", [None, torch.arange(QUERIES)[None]], ids=["none", "(1, S)"])
    def test_multihead_self_attention_with_rope(self, weights, in_embeddings, token_positions):
        w = {name: weights[f"layers.0.attn.{name}"] for name in self.projections}
        rope = groundup.RotaryPositionalEmbedding(theta=THETA, d_k=D // HEADS, max_seq_len=KEYS)
        layer = groundup.MultiHeadSelfAttention(d_model=D, num_heads=HEADS, rope=rope)
        layer.load_state_dict(w)
        found = layer(in_embeddings, token_positions=token_positions)
        close(found, Reference.attention(in_embeddings, *w.values(), torch.arange(QUERIES)))

    projections = tuple(f"{name}_proj.weight" for name in ("q", "k", "v", "output"))

    def test_rope(self, in_embeddings):
        rope = groundup.RotaryPositionalEmbedding(THETA, D, QUERIES)
        positions = torch.arange(QUERIES)
        close(rope(in_embeddings, positions), Reference.rope(in_embeddings, positions))

    def test_transformer_block(self, weights, in_embeddings):
        rope = groundup.RotaryPositionalEmbedding(theta=THETA, d_k=D // HEADS, max_seq_len=KEYS)
        block = groundup.TransformerBlock(d_model=D, num_heads=HEADS, d_ff=D_FF, rope=rope)
        block.load_state_dict(block_of(weights, 0))
        close(block(in_embeddings), Reference.block(in_embeddings, block_of(weights, 0)), atol=1e-5)

    @pytest.mark.parametrize("length", [KEYS, KEYS // 2], ids=["full", "truncated"])
    def test_transformer_lm(self, weights, in_indices, length):
        model = groundup.TransformerLM(
            vocab_size=V, context_length=KEYS, d_model=D, num_layers=LAYERS, num_heads=HEADS, d_ff=D_FF,
            rope_theta=THETA,
        )  # fmt: skip
        model.load_state_dict(weights)
        indices = in_indices[..., :length]
        close(model(indices), Reference.lm(indices, weights), rtol=1e-4, atol=1e-4)

    def test_rms_norm(self, weights, in_embeddings):
        gain = weights["layers.1.ln1.weight"]
        layer = groundup.RMSNorm(d_model=D, eps=1e-5)
        layer.load_state_dict({"weight": gain})
        close(layer(in_embeddings), F.rms_norm(in_embeddings.double(), (D,), gain.double(), 1e-5))

    def test_silu(self, in_embeddings):
        close(groundup.silu(in_embeddings), F.silu(in_embeddings.double()))

    def test_silu_feed_forward(self, weights, in_embeddings):
        w1, w2 = weights["layers.0.ffn.w1.weight"], weights["layers.0.ffn.w2.weight"]
        layer = groundup.SiLUFeedForward(d_model=D, d_ff=D_FF)
        layer.load_state_dict({"w1.weight": w1, "w2.weight": w2})
        expected = F.linear(F.silu(F.linear(in_embeddings.double(), w1.double())), w2.double())
        close(layer(in_embeddings), expected, atol=1e-5)


class TestTraining:
    def test_get_batch(self):
        dataset = np.arange(100)
        x, y = groundup.get_batch(dataset=dataset, batch_size=32, context_length=7, device="cpu")
        assert x.dtype == y.dtype == torch.int64
        assert x.shape == (32, 7)
        assert torch.equal(y, x + 1)
        with pytest.raises((RuntimeError, AssertionError)):
            groundup.get_batch(dataset=dataset, batch_size=32, context_length=7, device="cuda:99")

    @pytest.mark.parametrize("shift", [0.0, 100.0])
    def test_softmax(self, shift):
        x = normal(0, 3, 5) + shift
        close(groundup.softmax(x, dim=-1), F.softmax(x.double(), -1))

    @pytest.mark.parametrize("scale", [1.0, 1000.0])
    def test_cross_entropy(self, scale):
        logits, targets = scale * normal(0, 8, 5), torch.tensor([1, 0, 2, 2, 4, 1, 4, 0])
        expected = F.cross_entropy(logits.double(), targets)
        close(groundup.cross_entropy(logits, targets), expected, atol=1e-4)

    def test_gradient_clipping(self):
        ours, theirs = ([torch.nn.Parameter(torch.zeros(5, 5)) for _ in range(6)] for _ in range(2))
        for parameters in (ours, theirs):
            parameters[-1].requires_grad_(False)
            for seed, p in enumerate(parameters[:-1]):
                p.grad = normal(seed, 5, 5)
        groundup.gradient_clipping(parameters=tuple(ours), max_l2_norm=1e-2)
        torch.nn.utils.clip_grad_norm_(theirs, 1e-2)
        for a, b in zip(ours[:-1], theirs[:-1], strict=True):
            close(a.grad, b.grad)

    def test_adamw(self):
        def train(optimizer_class):
            torch.manual_seed(42)
            layer = torch.nn.Linear(3, 2, bias=False)
            optimizer = optimizer_class(
                layer.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8
            )  # fmt: skip
            for _ in range(1000):
                optimizer.zero_grad()
                x = torch.rand(3)
                ((layer(x) - torch.tensor([x[0] + x[1], -x[2]])) ** 2).sum().backward()
                optimizer.step()
            return layer.weight.detach()

        assert issubclass(groundup.AdamW, torch.optim.Optimizer)
        close(train(groundup.AdamW), train(torch.optim.AdamW), atol=1e-4)

    def test_sgd(self):
        p = torch.nn.Parameter(torch.tensor([2.0]))
        optimizer = groundup.SGD([p], lr=0.1)
        for _ in range(2):
            p.grad = torch.ones(1)
            optimizer.step()
        assert p.item() == pytest.approx(2 - 0.1 - 0.1 / math.sqrt(2))

    def test_get_lr_cosine_schedule(self):
        found = [
            groundup.get_lr_cosine_schedule(
                it=it, max_learning_rate=1.0, min_learning_rate=0.1, warmup_iters=7, cosine_cycle_iters=21
            )
            for it in range(25)
        ]
        cosine = [0.1 + 0.45 * (1 + math.cos(math.pi * (it - 7) / 14)) for it in range(7, 21)]
        assert found == pytest.approx([it / 7 for it in range(7)] + cosine + [0.1] * 4, rel=1e-7)

    def test_checkpointing(self, tmp_path):
        def make(seed):
            torch.manual_seed(seed)
            model = torch.nn.Sequential(groundup.Linear(4, 8), groundup.Linear(8, 2))
            return model, groundup.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)

        model, optimizer = make(0)
        for _ in range(3):
            model(normal(0, 5, 4)).square().sum().backward()
            optimizer.step()
        file = io.BytesIO()
        groundup.save_checkpoint(model=model, optimizer=optimizer, iteration=3, out=file)
        file.seek(0)
        path = tmp_path / "checkpoint.pt"
        groundup.save_checkpoint(model=model, optimizer=optimizer, iteration=3, out=path)
        for src in (file, path):
            other, other_optimizer = make(1)
            assert groundup.load_checkpoint(src=src, model=other, optimizer=other_optimizer) == 3
            torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
            found, expected = other_optimizer.state_dict(), optimizer.state_dict()
            assert found["param_groups"] == expected["param_groups"]
            torch.testing.assert_close(found["state"], expected["state"], rtol=0, atol=0)

    def test_generate(self, weights):
        model = groundup.TransformerLM(
            vocab_size=V, context_length=KEYS, d_model=D, num_layers=LAYERS, num_heads=HEADS, d_ff=D_FF
        )  # fmt: skip
        model.load_state_dict(weights)
        expected = [5, 7]
        for _ in range(4):
            expected.append(int(Reference.lm(torch.tensor([expected]), weights)[0, -1].argmax()))
        found = groundup.generate(
            model, prompt_ids=[5, 7], max_tokens=4, temperature=0.0, top_p=0.9, eos_token_id=None
        )  # fmt: skip
        assert found == expected


class TestTokenizer:
    def test_train_bpe(self, tmp_path):
        """The worked example of the course, in bytes: its ties, its merges, its order."""
        path = tmp_path / "corpus.txt"
        path.write_text(" low" * 5 + " lower" * 2 + " widest" * 3 + " newest" * 6)
        vocab, merges = groundup.train_bpe(
            input_path=path, vocab_size=256 + 1 + 4, special_tokens=["<|endoftext|>"]
        )  # fmt: skip
        # s t and e s are equally frequent, and (s, t) is greater; then e st; of the rest, o w and l o come 7 times.
        assert merges == [(b"s", b"t"), (b"e", b"st"), (b"o", b"w"), (b"l", b"ow")]
        assert sorted(vocab) == list(range(261))
        expected = {bytes([b]) for b in range(256)} | {b"<|endoftext|>", b"st", b"est", b"ow", b"low"}
        assert set(vocab.values()) == expected

    def test_get_tokenizer(self, gpt2_files):
        ours = gpt2_tokenizer(*gpt2_files, special_tokens=["<|endoftext|>", "<|endoftext|><|endoftext|>"])
        theirs = tiktoken_gpt2(*gpt2_files)
        text = "Héllò, how're you? 🙃\n\n <|endoftext|>\n\nI'll see…  1984"
        ids = ours.encode(text)
        assert ids == theirs.encode(text, allowed_special={"<|endoftext|>"})
        assert ours.decode(ids) == text
        assert list(ours.encode_iterable(iter(["Héllò, how're y", *text[15:]]))) == ids
        doubled = ours.encode("a<|endoftext|><|endoftext|>b<|endoftext|>")
        assert [ours.decode([i]) for i in doubled] == ["a", "<|endoftext|><|endoftext|>", "b", "<|endoftext|>"]


def byte_of_character() -> dict[str, int]:
    """GPT-2 prints bytes as characters: itself where it can be seen, else the next one from U+0100 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [b for b in range(256) if b not in seen]
    return {chr(b): b for b in seen} | {chr(256 + n): b for n, b in enumerate(unseen)}


def read_merges(path) -> list[tuple[bytes, bytes]]:
    byte = byte_of_character()
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [tuple(bytes(byte[c] for c in part) for part in line.split(" ")) for line in lines]


def gpt2_tokenizer(vocab_path, merges_path, special_tokens):
    byte = byte_of_character()
    entries = json.loads(vocab_path.read_text(encoding="utf-8"))
    vocab = {i: bytes(byte[c] for c in token) for token, i in entries.items() if token != "<|endoftext|>"}
    vocab[entries["<|endoftext|>"]] = b"<|endoftext|>"
    return groundup.Tokenizer(vocab=vocab, merges=read_merges(merges_path), special_tokens=special_tokens)


def tiktoken_gpt2(vocab_path, merges_path) -> tiktoken.Encoding:
    singles = [bytes([b]) for b in byte_of_character().values()]
    tokens = [*singles, *(a + b for a, b in read_merges(merges_path))]
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    return tiktoken.Encoding(
        "gpt2",
        pat_str=pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={"<|endoftext|>": 50256},
    )


class TestModule:
    def test_every_promised_name_is_there_and_no_other(self):
        promised = """train_bpe Tokenizer Linear Embedding RMSNorm SwiGLU SiLUFeedForward RotaryPositionalEmbedding silu
            softmax scaled_dot_product_attention MultiHeadSelfAttention TransformerBlock TransformerLM cross_entropy SGD
            AdamW get_lr_cosine_schedule gradient_clipping get_batch save_checkpoint load_checkpoint generate
            LanguageModel load train""".split()
        assert sorted(groundup.__all__) == sorted(promised)
        assert set(promised) <= set(dir(groundup))
        assert all(callable(getattr(groundup, name)) for name in promised)

    def test_an_unknown_name_is_an_attribute_error(self):
        with pytest.raises(AttributeError, match="module 'groundup' has no attribute 'Transformer'"):
            _ = groundup.Transformer

    def test_importing_it_loads_nothing_large(self):
        code = "import sys, groundup; print([m for m in ('torch', 'numpy', 'regex', 'rich') if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_names_load_on_first_use(self):
        code = "import sys; from groundup import silu; print('torch' in sys.modules, 'groundup.train' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", "False"]
