"""Check that a plan can continue in its sweep's directory, and write ``sweep.json``."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup.config import changed_options
from groundup.data.shards import TokenShards
from groundup.errors import ConfigError, TrainingError
from groundup.record.parent import absolute_init
from groundup.record.sweep import SweepDirectory, SweepDocument
from groundup.sweeps.plan import Plan
from groundup.sweeps.trials import Trial
from groundup.version import VERSION, installed_version

# Options that may differ when a trial continues: where the run lies, where it runs, and where metrics are sent.
_FREE = ("name", "runs_dir", "train.device", "track.")
_TOKENS = ("data.train", "data.valid")
_PATHS = (*_TOKENS, "data.vocab", "data.merges")

Options = dict[str, Any]


def adopt(directory: SweepDirectory, plan: Plan, trials: Sequence[Trial], ended: Collection[str]) -> list[str]:
    """Check the trials against those in the directory, and write ``sweep.json``. A trial continues only if its options
    and tokens are unchanged.

    Args:
        ended: trials that have results.

    Returns:
        Trials whose results were removed: their options or tokens changed, and their run directories are gone.

    Raises:
        ConfigError: a trial was begun with other options or tokens; both are named.
        TrainingError: a trial's folder holds a run that this sweep did not begin.
        DataError: ``sweep.json`` is damaged.
    """
    before = directory.document()
    known, known_tokens = (before.trials, before.tokens) if before else ({}, {})
    options = {trial.name: _absolute(trial.options) for trial in trials}
    tokens = _token_hashes(options.values())
    outdated = _with_other_tokens(directory.path, known, known_tokens, tokens, ended)
    for name, now in options.items():
        folder = directory.path / name
        begun = (folder / "config.toml").exists()
        if name not in known and begun:
            raise TrainingError(
                f"{folder} holds a run that this sweep did not begin; move it away, or choose another --directory"
            )
        changed = changed_options(known[name], now, _FREE) if name in known else []
        if changed and begun:
            raise ConfigError(
                f"{folder} was begun with other options: {', '.join(changed)}; restore the plan, remove the folder, or "
                "choose another --directory"
            )
        if changed:
            outdated.append(name)
    versions: dict[str, str | None] = {"groundup": VERSION, "python": platform.python_version()}
    document = SweepDocument(
        plan=plan.document,
        sha256=plan.sha256,
        budget=plan.chosen,
        versions=versions | {package: installed_version(package) for package in ("torch", "numpy")},
        tokens=known_tokens | tokens,
        base=_absolute(plan.base_options),
        trials=known | options,
    )
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.forget(outdated)
    directory.write(document)
    return outdated


def _with_other_tokens(
    folder: Path,
    known: Mapping[str, Options],
    before: Mapping[str, str],
    now: Mapping[str, str],
    ended: Collection[str],
) -> list[str]:
    """Ended trials whose tokens changed; an error if their run directories still exist."""
    changed = {path for path, sha256 in now.items() if before.get(path, sha256) != sha256}
    outdated = []
    for name in ended:
        options = known.get(name, {})
        found = next((option for option in _TOKENS if options.get(option) in changed), None)
        if found is not None and (folder / name / "config.toml").exists():
            path = options[found]
            raise ConfigError(
                f"{found} = {path} is not what {folder / name} was trained on (SHA-256 {before[path][:12]}…, now "
                f"{now[path][:12]}…); restore it, remove the folder, or choose another --directory"
            )
        if found is not None:
            outdated.append(name)
    return outdated


def _absolute(options: Mapping[str, Any]) -> Options:
    """Options with absolute paths, valid from any working directory."""
    paths = {name: os.path.realpath(options[name]) for name in _PATHS if options[name]}
    if options["train.init"]:
        paths["train.init"] = absolute_init(options["train.init"])
    return dict(options) | paths


def _token_hashes(trials: Iterable[Options]) -> dict[str, str]:
    """SHA-256 of all token files that exist here, by path. Other machines of a cluster may have more."""
    paths = {str(options[name]) for options in trials for name in _TOKENS if options[name]}
    return {path: TokenShards.open(path).sha256 for path in sorted(paths) if Path(path).exists()}
