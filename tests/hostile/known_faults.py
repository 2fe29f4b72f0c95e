"""What hostile cases are allowed to end as, and why: damage that no checksum covers, and faults that are not mended."""

from __future__ import annotations

import fnmatch

from hostile_cases import Case
from hostile_runner import Outcome

UNNOTICED: dict[str, str] = {
    "by train:train/*": "training opens a data set by its sizes; `groundup data check` compares the hashes",
    "by sweep*:train/*": "training opens a data set by its sizes; `groundup data check` compares the hashes",
    "by *:*/checkpoints/best:*": "a name of a checkpoint that is not there is replaced by the newest one",
    "by *:*/checkpoints/latest:*": "a name of a checkpoint that is not there is replaced by the newest one",
    "by [!r]*:*/config.toml:*": "options have other possible values; only a resume compares them",
    "by resume:*/config.toml:truncated:18": "options of samples are at their defaults then; a session may change them",
    "by report*:*/config.toml:*": "options have other possible values; only a resume compares them",
    "by *:*/summary.json:*": "a summary has no hash, and a run that was stopped has none",
    "by *:*/environment.json:*": "the description of the machine has no hash",
    "by *:*/sweep.json:place:missing": "without it, a sweep's folder is one of single runs",
    "by *:*.png:*": "a picture has no hash",
    "by *:ids.npy:flipped:*": "a bare array has no hash",
    "by encode:tok/meta.json:flipped:*": "a key of an option that has its default; the hash says that ids are the same",
    "by encode:tok/merges.txt:flipped:*": "a letter of the header; the hash says that ids are the same",
    "by encode:tok/meta.json:place:missing": "without it the other two are GPT-2's files",
    "by *:tok.tiktoken:*": "another library's file has no hash; one that ends at a line is whole",
    "by *:tokenizer.json:*": "another library's file has no hash",
    "by *:counts.npz:replaced:*": "other counts are as good as these",
    "by *:plan.toml:*": "the text of a user, of which many others are a plan",
    "by *:recipe.toml:*": "the text of a user, of which many others are a recipe",
    "by encode-again:train/index.json:place:missing": "without it the text is encoded again",
    "by encode-again:*:place:dangling": "a link is followed, and the file is made where it leads",
    "by encode-on:part/progress.json:place:missing": "without it nothing was begun, and all is encoded",
    "by encode-on:part/progress.json:place:dangling": "a dangling link counts as a missing file",
    "by encode-on:part/documents.bin:changing:*": "a change after the last look at a file cannot be seen",
    "by *:*/tags.json:*": "a letter of a tag is another one",
    "by *:*.jsonl:*": "a record has no hash; whole lines that are gone, and letters of texts, do not show",
    "by encode*:text*": "the text of a user, of which any bytes are a text",
}
"""Cases, by a pattern of their names, whose result may be another one without a word: nothing on the disk tells the
damaged file from an undamaged one."""

KNOWN_FAULTS: dict[str, str] = {}
"""Outcomes, as ``kind actor:target:kind:detail``, that are faults and not mended yet."""


def is_unnoticed(case: Case) -> bool:
    """Whether a case may have another result without a word."""
    return any(fnmatch.fnmatchcase(case.name, pattern) for pattern in UNNOTICED)


def is_known(outcome: Outcome) -> bool:
    """Whether an outcome is a fault that is known."""
    return any(fnmatch.fnmatchcase(f"{outcome.kind} {outcome.case.name}", pattern) for pattern in KNOWN_FAULTS)
