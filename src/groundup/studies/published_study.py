"""The published study: its plans, and the texts that they run on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from groundup.config import load_toml
from groundup.errors import ConfigError, FileMissingError
from groundup.sweeps.plan import find_plan

PLANS = ("learning-rate", "batch-size-fixed-rate", "batch-size-tuned-rate", "ablations", "corpora", "ladder")
BUDGETS = {
    "minutes": {"stories": 2048, "web": 2048},
    "laptop": {"stories": 8192, "web": 8192},
    "paper": {"stories": 10_000, "web": 32_000},
}
"""Vocabulary size for each text, by budget."""
LIMITS = {
    "minutes": (
        "The models have 1.4 million parameters and see 0.4 million tokens, where the published ones have 36 million "
        "and see 164 million: losses do not compare, and the best learning rate, the best batch size or the price of "
        "an ablation may differ at that size.",
        "The chapters are not independent: the learning rate 0.01, both batches of 16, “as it is” and “stories” are "
        "one setting with the same seeds, made once for each.",
        "Every run ends long before its model has learned what it can. What learns fast looks better here than what "
        "ends well: small batches, for one, which take more steps over the same tokens.",
        "All variants of the ablations have the baseline's learning rate, unless their name says otherwise; each "
        "might do better at another.",
        "Gradients are clipped and AdamW bounds each step, so few learning rates diverge to NaN within 195 steps. "
        "Instability shows as losses that rise above their start, and as seeds that end far apart.",
        "The ladder holds for one processor with a run on each core, not for a GPU. Compilation is left out, since the "
        "compiler would take most of the time.",
    ),
    "laptop": (
        "The models have about 3 million parameters and see 2 million tokens, where the published ones have 36 million "
        "and see 164 million: losses do not compare, and the best settings may differ at that size.",
        "All variants of the ablations have the baseline's learning rate, unless their name says otherwise; each "
        "might do better at another.",
        "The ladder holds for this machine and for one seed.",
    ),
    "paper": (
        "All variants of the ablations have the baseline's learning rate, unless their name says otherwise; each "
        "might do better at another.",
        "Batch sizes and the ladder have one seed per setting.",
    ),
}
"""Limits of the study, by budget."""
_FOLDERS = {"stories": ("stories", "tinystories", "TinyStories"), "web": ("web", "webtext", "owt", "openwebtext")}
_ENDINGS = (".txt", ".txt.zst", ".txt.gz", ".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class TextSource:
    """A text to train on, and its held-out split."""

    name: str
    """"stories" or "web"."""
    train: Path
    valid: Path


def find_texts(folder: Path) -> list[TextSource]:
    """The stories and the web text below a folder: ``tinystories/train.txt.zst`` and ``valid.txt.zst``, and so on.

    Raises:
        FileMissingError: neither is there.
    """
    found = []
    for name, places in _FOLDERS.items():
        for place in places:
            splits = [_file(folder / place / split) for split in ("train", "valid")]
            if splits[0] and splits[1]:
                found.append(TextSource(name, splits[0], splits[1]))
                break
    if not found:
        expected = " or ".join(f"{folder / places[0]}/train.txt and valid.txt" for places in _FOLDERS.values())
        raise FileMissingError(f"no text in {folder}; expected {expected} (also .jsonl, .parquet, .zst, .gz)")
    return found


def possible_plans(budget: str, texts: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The plans that can be run, and why each of the others cannot.

    Raises:
        ConfigError: no such budget.
    """
    if budget not in BUDGETS:
        raise ConfigError(f"--budget {budget}; expected one of {', '.join(BUDGETS)}")
    there, possible, left_out = set(texts), [], {}
    for name in PLANS:
        document = load_toml(find_plan(name))
        wanted = {text for text in _FOLDERS if f"data/{text}/" in str(document)}
        if budget not in document.get("budgets", {}):
            left_out[name] = f"has no budget {budget!r}"
        elif missing := wanted - there:
            left_out[name] = f"needs the {' and the '.join(sorted(missing))} text, which is not there"
        else:
            possible.append(name)
    return possible, left_out


def _file(stem: Path) -> Path | None:
    places = (stem.with_name(stem.name + ending) for ending in _ENDINGS)
    return next((place for place in places if os.path.isfile(place)), None)
