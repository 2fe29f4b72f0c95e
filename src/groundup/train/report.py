"""What a run finds out about itself while it goes on: lines of metrics, evaluations, and texts by the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from groundup.account import training_flops_per_token
from groundup.config import RunConfig
from groundup.data.shards import TokenShards
from groundup.nn import TransformerLM
from groundup.record import json_values
from groundup.record.sinks import Sinks
from groundup.system.interruption import Interruption
from groundup.train.evaluate import Evaluation, evaluate_unless
from groundup.train.preview.measure import known_peak, peak_memory
from groundup.train.ranks.parallel import Parallel
from groundup.train.sample_text import sample_line
from groundup.train.state import TrainState

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer


class Reporter:
    """Measures the run at the steps that are due for it, and writes down what it finds.

    A step's report has two parts. :meth:`begin` writes the line of metrics, or notes in the state what is due of it,
    so that a checkpoint can be saved in between; :meth:`finish` evaluates and samples, which can take long. A signal
    breaks that off, and what is cut stays due in the state: the next session makes it again.

    All ranks must call both for every step, since they evaluate together.

    Args:
        state: of the run; what is best so far is noted in it, and losses that were reported are dropped from it.
        store: what to evaluate on; None for nothing.
        tokenizer: None writes no samples.
        clock: seconds of the run so far, over all its sessions.
        interruption: breaks off what :meth:`finish` does.
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
        interruption: Interruption,
    ):
        self._config, self._state, self._sinks = config, state, sinks
        self._model, self._parallel, self._store, self._tokenizer = model, parallel, store, tokenizer
        self._device, self._clock, self._interruption = device, clock, interruption
        self._peak = (known_peak(config.train, device) or 0.0) * parallel.ranks.size
        self._last_logged = (state.tokens, state.train_seconds)

    def begin(
        self, step_metrics: Mapping[str, Any] | None, found: Mapping[str, Any] | None = None, *, last: bool = False
    ) -> None:
        """Metrics of the latest step, where it is one for them; what else it is due for is noted in the state.

        Args:
            step_metrics: for the steps that have a line; None before the first.
            found: what is worth a line at any step.
            last: whether it is the run's last step.
        """
        config, state = self._config, self._state
        line: dict[str, Any] = dict(found or {})
        if step_metrics is not None and (last or state.step % config.train.log_interval == 0):
            line = self._training_metrics() | dict(step_metrics) | line
        interval = config.sample.interval
        state.due_sample = bool(interval and self._tokenizer and state.step and (last or state.step % interval == 0))
        if self._store is not None and (last or state.step % config.train.eval_interval == 0):
            state.due_line = json_values(line)  # it is saved as JSON
        else:
            self._write(line)

    def finish(self) -> bool:
        """Evaluate and sample, where the state says that it is due.

        Returns:
            Whether the step's validation loss is the best so far.
        """
        state, is_best = self._state, False
        if state.due_line is not None:
            line, scored = state.due_line, None
            if self._store is not None:
                if (scored := self._evaluate(self._store)) is None:
                    return False
                line = line | {
                    "val_loss": scored.loss,
                    "val_perplexity": scored.perplexity,
                    "val_bpb": scored.bits_per_byte,
                }
                better = state.best_val_loss is None or scored.loss < state.best_val_loss
                is_best = better and state.step > 0 and math.isfinite(scored.loss)
                if is_best:
                    state.best_val_loss, state.best_step = scored.loss, state.step
            state.due_line = None
            self._write(line)
        if state.due_sample:  # without a tokenizer, by now, there is nothing to write
            state.due_sample = self._tokenizer is not None and not self._sample(self._tokenizer)
        return is_best

    def _write(self, line: Mapping[str, Any]) -> None:
        state = self._state
        if line:
            state.wall_seconds = self._clock()
            heading = {"step": state.step, "tokens": state.tokens, "wall_seconds": round(state.wall_seconds, 3)}
            self._sinks.metrics({**heading, **line})

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

    def _evaluate(self, store: TokenShards) -> Evaluation | None:
        with self._parallel.reading(self._model):
            return evaluate_unless(
                self._stop,
                self._model,
                store,
                self._config.model.context_length,
                self._config.train.eval_batch_size,
                self._config.train.eval_windows,
                self._parallel.ranks,
            )

    def _sample(self, tokenizer: Tokenizer) -> bool:
        """Whether the sample is written: it is not if a signal asks to stop."""
        if self._stop():
            return False
        together = self._parallel.all_compute
        if not (self._parallel.ranks.is_main or together):
            return True
        # Ranks that take no part in the sample cannot be asked: they wait for the first one before the next step.
        stop = self._stop if together else lambda: self._interruption.signal is not None
        with self._parallel.reading(self._model):
            line = sample_line(self._model, tokenizer, self._config, self._state.step, stop)
        if line is not None:
            self._sinks.sample(line)
        return line is not None

    def _stop(self) -> bool:
        return self._interruption.received_by_any(self._parallel.ranks)
