"""The course's constructors: sizes one by one in place of a config."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from groundup.config import ModelConfig

if TYPE_CHECKING:
    from groundup.nn.attention import RotaryPositionalEmbedding

Arguments = tuple[Any, ...]


def or_sizes(from_sizes: Callable[..., Arguments]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a constructor that takes a ModelConfig take the course's sizes too.

    Args:
        from_sizes: maps the course's arguments to the positional arguments of the constructor.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def either(self: Any, *args: Any, device: Any = None, dtype: Any = None, **options: Any) -> None:
            takes_config = "config" in options or (args and isinstance(args[0], ModelConfig))
            if not takes_config:
                _check(type(self).__name__, from_sizes, args, options)
                args, options = from_sizes(*args, **options), {}
            init(self, *args, device=device, dtype=dtype, **options)

        return either

    return decorate


def _check(name: str, from_sizes: Callable[..., Arguments], args: Arguments, options: dict[str, Any]) -> None:
    """Refuse arguments as Python does, in the name of the class; ``name`` is the class's."""
    if old := {"flash", "fast"} & options.keys():  # of version 0.1
        raise TypeError(
            f"{name}() has no argument {min(old)!r}: it is always plain; groundup.nn.fast.accelerate.accelerate(model) "
            f"makes it fast"
        )
    signature = inspect.signature(from_sizes)
    try:
        signature.bind(*args, **options)
    except TypeError as error:
        raise TypeError(f"{name}(): {error}; or give it one ModelConfig") from None
    known = signature.parameters.keys() | {field.name for field in dataclasses.fields(ModelConfig)}
    if unknown := [option for option in options if option not in known]:
        raise TypeError(f"{name}() has no argument {unknown[0]!r}, and ModelConfig no such field")


def attention_sizes(
    d_model: int, num_heads: int, rope: RotaryPositionalEmbedding | None = None, *, num_kv_heads: int | None = None
) -> Arguments:
    """``MultiHeadSelfAttention(d_model, num_heads, rope)``: without rope, no position information."""
    config = ModelConfig(
        d_model=d_model, num_heads=num_heads, num_kv_heads=num_kv_heads or 0, position=_position(rope)
    )  # fmt: skip
    return config, 0, rope


def block_sizes(
    d_model: int,
    num_heads: int,
    d_ff: int,
    rope: RotaryPositionalEmbedding | None = None,
    *,
    num_kv_heads: int | None = None,
    **options: Any,
) -> Arguments:
    """``TransformerBlock(d_model, num_heads, d_ff, rope)``; ``norm``, ``ffn`` and ``norm_eps`` as in ModelConfig."""
    config = ModelConfig(
        d_model=d_model, num_heads=num_heads, num_kv_heads=num_kv_heads or 0, d_ff=d_ff, position=_position(rope),
        **options,
    )  # fmt: skip
    return config, 0, rope


def model_sizes(
    vocab_size: int,
    context_length: int,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int,
    rope_theta: float = 10_000.0,
    *,
    num_kv_heads: int | None = None,
    **options: Any,
) -> Arguments:
    """``TransformerLM(vocab_size, context_length, …)``; every other field of ModelConfig by keyword."""
    config = ModelConfig(
        vocab_size=vocab_size, context_length=context_length, d_model=d_model, num_layers=num_layers,
        num_heads=num_heads, num_kv_heads=num_kv_heads or 0, d_ff=d_ff, rope_theta=rope_theta, **options,
    )  # fmt: skip
    return (config,)


def _position(rope: RotaryPositionalEmbedding | None) -> Any:
    return "none" if rope is None else "rope"
