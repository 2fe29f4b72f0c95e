"""What a run finds out about itself while it goes on: lines of metrics, evaluations, and texts by the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from groundup.account import training_flops_per_token
from groundup.config import RunConfig
from groundup.data.shards import TokenShards
from groundup.nn import TransformerLM
from groundup.track import Sinks
from groundup.train.evaluate import Evaluation, evaluate
from groundup.train.measure import known_peak, peak_memory
from groundup.train.parallel import Parallel
from groundup.train.sample_text import sample_line
from groundup.train.state import TrainState

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


class Reporter:
    """Measures the run at the steps that are due for it, and writes down what it finds.

    All ranks must call :meth:`report` for every step, since they evaluate together.

    Args:
        state: of the run; what is best so far is noted in it, and losses that were reported are dropped from it.
        store: what to evaluate on; None for nothing.
        tokenizer: None writes no samples.
        clock: seconds of the run so far, over all its sittings.
    """

    def __init__(
        self,
        config: RunConfig,
        state: TrainState,
        sinks: Sinks,
        *,
        model: TransformerLM,
        parallel: Parallel,
        store: TokenShards | None,
        tokenizer: Tokenizer | None,
        device: str,
        clock: Callable[[], float],
    ):
        self._config, self._state, self._sinks = config, state, sinks
        self._model, self._parallel, self._store, self._tokenizer = model, parallel, store, tokenizer
        self._device, self._clock = device, clock
        self._peak = (known_peak(config.train, device) or 0.0) * parallel.ranks.size
        self._last_logged = (state.tokens, state.train_seconds)

    def report(
        self, step_metrics: Mapping[str, Any] | None, found: Mapping[str, Any] | None = None, *, last: bool = False
    ) -> bool:
        """Metrics, evaluation and sample of the latest step, where it is one for them.

        Args:
            step_metrics: for the steps that have a line; None before the first.
            found: what is worth a line at any step.
            last: whether it is the run's last step.

        Returns:
            Whether the step's validation loss is the best so far.
        """
        config, state = self._config, self._state
        line: dict[str, Any] = dict(found or {})
        if step_metrics is not None and (last or state.step % config.train.log_interval == 0):
            line = self._training_metrics() | dict(step_metrics) | line
        is_best = False
        if self._store is not None and (last or state.step % config.train.eval_interval == 0):
            scored = self._evaluate(self._store)
            line |= {
                "val_loss": scored.loss,
                "val_perplexity": scored.perplexity,
                "val_bpb": scored.bits_per_byte,
            }
            better = state.best_val_loss is None or scored.loss < state.best_val_loss
            is_best = better and state.step > 0 and math.isfinite(scored.loss)
            if is_best:
                state.best_val_loss, state.best_step = scored.loss, state.step
        if line:
            state.wall_seconds = self._clock()
            heading = {"step": state.step, "tokens": state.tokens, "wall_seconds": round(state.wall_seconds, 3)}
            self._sinks.metrics(heading | line)
        interval = config.sample.interval
        if interval and self._tokenizer and state.step and (last or state.step % interval == 0):
            self._sample(self._tokenizer)
        return is_best

    def _training_metrics(self) -> dict[str, Any]:
        state = self._state
        tokens, seconds = self._last_logged
        rate = (state.tokens - tokens) / max(state.train_seconds - seconds, 1e-9)
        self._last_logged = (state.tokens, state.train_seconds)
        mean_loss = sum(state.pending_losses) / len(state.pending_losses)
        state.pending_losses = []
        mfu = rate * training_flops_per_token(self._config.model) / self._peak if self._peak else None
        return {
            "train_loss": mean_loss,
            "tokens_per_second": round(rate, 1),
            "mfu": mfu,
            "peak_memory": peak_memory(self._device),
        }

    def _evaluate(self, store: TokenShards) -> Evaluation:
        with self._parallel.reading(self._model):
            return evaluate(
                self._model,
                store,
                self._config.model.context_length,
                batch_size=self._config.train.eval_batch_size,
                limit=self._config.train.eval_windows,
                ranks=self._parallel.ranks,
            )

    def _sample(self, tokenizer: Tokenizer) -> None:
        if self._parallel.ranks.is_main or self._parallel.all_compute:
            with self._parallel.reading(self._model):
                line = sample_line(self._model, tokenizer, self._config, self._state.step)
            self._sinks.sample(line)
