"""Model shapes by name: presets for `groundup account`."""

from __future__ import annotations

from groundup.config import DataConfig, ModelConfig, RunConfig, TrainConfig


def _gpt2(layers: int, d_model: int, heads: int) -> RunConfig:
    model = ModelConfig(
        vocab_size=50_257, context_length=1024, d_model=d_model, num_layers=layers, num_heads=heads, d_ff=4 * d_model
    )
    return RunConfig(model=model, data=DataConfig(batch_size=1), train=TrainConfig(kernels="plain", attention="plain"))


def _report(
    *, vocab_size: int, layers: int = 8, d_model: int = 512, heads: int = 8, d_ff: int = 1408, tied: bool = False
) -> RunConfig:
    model = ModelConfig(
        vocab_size=vocab_size, context_length=256, d_model=d_model, num_layers=layers, num_heads=heads, d_ff=d_ff,
        tie_embeddings=tied,
    )  # fmt: skip
    return RunConfig(model=model, data=DataConfig(batch_size=128), train=TrainConfig(max_iters=5000))


def _shared_heads(
    *, vocab_size: int, context: int, layers: int, d_model: int, heads: int, kv_heads: int, d_ff: int,
    theta: float, tied: bool,
) -> RunConfig:  # fmt: skip
    model = ModelConfig(
        vocab_size=vocab_size, context_length=context, d_model=d_model, num_layers=layers, num_heads=heads,
        num_kv_heads=kv_heads, d_ff=d_ff, rope_theta=theta, tie_embeddings=tied,
    )  # fmt: skip
    return RunConfig(model=model, data=DataConfig(batch_size=1), train=TrainConfig(precision="bf16"))


PRESETS: dict[str, tuple[str, RunConfig]] = {
    "gpt2-small": ("GPT-2's shape with SwiGLU, as the course's exercise has it", _gpt2(12, 768, 12)),
    "gpt2-medium": ("GPT-2's shape with SwiGLU, as the course's exercise has it", _gpt2(24, 1024, 16)),
    "gpt2-large": ("GPT-2's shape with SwiGLU, as the course's exercise has it", _gpt2(36, 1280, 20)),
    "gpt2-xl": ("GPT-2's shape with SwiGLU, as the course's exercise has it", _gpt2(48, 1600, 25)),
    "report-36m": ("the original report's TinyStories model", _report(vocab_size=10_000)),
    "report-58m": ("the original report's OpenWebText model", _report(vocab_size=32_000)),
    "report-42m": ("the original report's OpenWebText model, tied", _report(vocab_size=32_000, tied=True)),
    "report-70m": (
        "the original report's larger OpenWebText model, tied",
        _report(vocab_size=32_000, layers=10, d_model=640, heads=10, d_ff=1728, tied=True),
    ),
    "course-base": ("the course's base model", _report(vocab_size=10_000, layers=4, heads=16, d_ff=1344)),
    "llama3-1b": (
        "the shape of Llama 3.2 1B (rotary scaling left out)",
        _shared_heads(
            vocab_size=128_256, context=8192, layers=16, d_model=2048, heads=32, kv_heads=8, d_ff=8192,
            theta=500_000.0, tied=True,
        ),
    ),
    "llama3-8b": (
        "the shape of Llama 3 8B",
        _shared_heads(
            vocab_size=128_256, context=8192, layers=32, d_model=4096, heads=32, kv_heads=8, d_ff=14_336,
            theta=500_000.0, tied=False,
        ),
    ),
    "qwen2-0.5b": (
        "the shape of Qwen2.5 0.5B (its biases left out)",
        _shared_heads(
            vocab_size=151_936, context=4096, layers=24, d_model=896, heads=14, kv_heads=2, d_ff=4864,
            theta=1_000_000.0, tied=True,
        ),
    ),
    "qwen2-7b": (
        "the shape of Qwen2.5 7B (its biases left out)",
        _shared_heads(
            vocab_size=152_064, context=4096, layers=28, d_model=3584, heads=28, kv_heads=4, d_ff=18_944,
            theta=1_000_000.0, tied=False,
        ),
    ),
}  # fmt: skip
"""Name to description and run, with one sequence per step where no batch size is published."""
