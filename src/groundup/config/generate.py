"""Options of the verbs that generate text in a terminal."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from groundup.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """How text is sampled, and what follows at the end of the context.

    Raises:
        ConfigError: fewer tokens than one.
    """

    # The docstrings of the fields are the help of the flags.
    tokens: int | None = None
    """Maximum number of tokens of a text, or of a reply."""
    temperature: float | None = None
    """Sampling temperature; 0 always takes the most probable token."""
    top_p: float | None = None
    """Nucleus sampling: sample from the most probable tokens whose probabilities sum to this."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 from all."""
    min_p: float = 0.0
    """Leave out tokens less probable than this share of the most probable one."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that are already in the text become less probable."""
    stop: tuple[str, ...] = ()
    """End the text before the first of these strings."""
    seed: int | None = None
    """Seed of sampling; default: a new one each time."""
    beyond: Literal["slide", "stop"] = "slide"
    """What follows when the text is as long as the context: go on with a sliding window, or stop."""

    def __post_init__(self) -> None:
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"--tokens {self.tokens}; expected at least 1")

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of :meth:`groundup.language_model.LanguageModel.sampling`."""
        return {name: value for name, value in asdict(self).items() if name != "beyond"}
