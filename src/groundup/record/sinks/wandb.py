"""Weights & Biases."""

import os
import secrets
from pathlib import Path
from typing import Any

from groundup.display.display import Metrics
from groundup.errors import MissingExtraError, TrainingError


class WandbSink:
    """Metrics and samples as a W&B run: offline where there is no account, or where ``WANDB_MODE=offline`` says so.

    The run's W&B id is kept in its directory: a resumed run continues it, and runs of one name stay apart.

    Raises:
        MissingExtraError: the package wandb is not installed.
        TrainingError: W&B does not start, for want of a login or of a network.
    """

    def __init__(self, run_dir: Path, project: str, name: str, config: Metrics, group: str = ""):
        try:
            import wandb
        except ImportError:
            raise MissingExtraError.for_package("wandb", "wandb", "--track.wandb") from None
        kept = run_dir / "wandb_id"
        if not kept.exists():
            kept.write_text(secrets.token_hex(4), encoding="utf-8")
        about: dict[str, Any] = {
            "project": project, "name": name, "group": group or None, "id": kept.read_text(encoding="utf-8"),
            "resume": "allow", "dir": str(run_dir), "config": dict(config),
        }  # fmt: skip
        try:
            self._run = wandb.init(**about)
        except wandb.errors.Error as error:
            unspecified = not ({"WANDB_MODE", "WANDB_API_KEY"} & set(os.environ))
            if not (unspecified and "api key" in str(error).lower()):
                raise TrainingError(
                    f"W&B does not start: {str(error).rstrip('.')}; log in with `wandb login` where there is a "
                    f"network, or set WANDB_MODE=offline, which needs neither"
                ) from None
            self._run = wandb.init(**about, mode="offline")
            wandb.termwarn(f"not logged in: recorded offline; `wandb sync {run_dir}/wandb/offline-*` sends it later")
        self._html = wandb.Html

    def metrics(self, line: Metrics) -> None:
        self._run.log({k: v for k, v in line.items() if k != "step" and v is not None}, step=line["step"])

    def sample(self, line: Metrics) -> None:
        self._run.log({"sample": self._html(f"<pre>{_escaped(line['text'])}</pre>")}, step=line["step"])

    def close(self) -> None:
        self._run.finish()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
