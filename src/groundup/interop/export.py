"""`groundup export`: a run in the format of another program, compared with the run before it counts as done."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from groundup.errors import CheckpointError, ConfigError, TokenizerError
from groundup.interop import gguf, hugging_face, plain
from groundup.interop.card import model_card
from groundup.interop.gguf_tokenizer import differences
from groundup.interop.model import (
    Model,
    check_weights,
    flushing,
    model_of_checkpoint,
    new_file,
    new_folder,
    why_no_chat,
)
from groundup.interop.verify import (
    TOLERANCE,
    Comparison,
    asked_llama_cpp,
    asked_transformers,
    compare,
    compare_ids,
    sample_ids,
    small_enough,
    within,
)
from groundup.record.run import RunDirectory
from groundup.system.command import command, quoted
from groundup.system.threads import in_background
from groundup.train.checkpoint.folder import with_checkpoint

if TYPE_CHECKING:
    from groundup.tokenizer import Tokenizer

Target = Literal["hugging-face", "gguf", "tiktoken", "folder"]
Dtype = Literal["f32", "f16", "bf16", "q8_0"]

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_NAME_OF = {dtype: name for name, dtype in DTYPES.items()} | {torch.float64: "f64"}
_SUFFIX = {"gguf": ".gguf", "tiktoken": ".tiktoken", "folder": "-folder"}
_FOLDER_OF_ALL = Path("exports")
_ROUNDED_TOLERANCE = 0.05
"""Largest difference of a log-probability in llama.cpp where weights are not float32; a wrong rotation gives 1."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and how it was checked."""

    out: Path
    family: str
    """Class in transformers, or architecture in llama.cpp."""
    bytes: int
    dtype: str
    difference: float | None
    """Largest difference of a logit from the run's; None where no weights were written."""
    checks: list[str]
    """What was compared, in lines."""
    next: str
    """What to try."""


def export_model(
    run: str | Path,
    out: Path | None = None,
    to: Target = "hugging-face",
    *,
    checkpoint: str = "best",
    dtype: Dtype | None = None,
    license_name: str = "",
    repo: str = "",
    overwrite: bool = False,
) -> Exported:
    """Write a run's checkpoint in another format, read it back, and compare tensors, logits and token ids.

    Nothing is written unless they are equal: tensors exactly, once they are rounded to the dtype, logits of the same
    weights within 1e-5, and ids. Other programs that are installed (transformers, llama.cpp) are asked, too.

    Args:
        out: file or folder to write; None takes one in ``exports/`` with the run's name.
        dtype: of the tensors; None keeps that of the checkpoint. q8_0 is for GGUF alone.
        license_name: for the model card or the GGUF file, such as "apache-2.0".
        repo: name on the Hub, for the model card.
        overwrite: replace an earlier export.

    Raises:
        ConfigError: the format cannot express the model or an option given here, or the output exists.
        CheckpointError: the checkpoint is damaged, or what was written is not equal.
        TokenizerError: the format cannot express the tokenizer.
    """
    directory = RunDirectory.open(run)
    if out is None:
        out = _FOLDER_OF_ALL / f"{directory.path.resolve().name}{_SUFFIX.get(to, '')}"
    if dtype == "q8_0" and to != "gguf":
        raise ConfigError(f"--dtype q8_0 with --to {to}, and only GGUF has it; use --to gguf, or f32, f16 or bf16")
    if license_name and to in ("tiktoken", "folder"):
        raise ConfigError(f"--license with --to {to}, which has no place for it; use --to hugging-face or gguf")
    if to == "tiktoken":
        if dtype or checkpoint != "best":
            given = "--dtype" if dtype else "--checkpoint"
            raise ConfigError(f"{given} with --to tiktoken, which writes the tokenizer alone; leave it out")
        return _export_tokenizer(directory.tokenizer(), out, overwrite=overwrite)

    def export(folder: Path) -> Exported:
        model = model_of_checkpoint(directory, folder)
        with in_background(check_weights, folder, model) as checked:
            return _export(model, directory, out, to, dtype, license_name, repo, checked, overwrite=overwrite)

    return with_checkpoint(directory, checkpoint, export)


def _export(
    model: Model,
    directory: RunDirectory,
    out: Path,
    to: Target,
    dtype: Dtype | None,
    license_name: str,
    repo: str,
    checked: Callable[[], object],
    *,
    overwrite: bool,
) -> Exported:
    wanted = DTYPES.get(dtype or "")
    if to == "gguf":
        return _export_gguf(model, out, dtype, license_name, checked, overwrite=overwrite)
    if to == "folder":
        return _export_plain(model, out, wanted, checked, overwrite=overwrite)
    words: list[str | Path] = ["export", directory.path, "--to", to, "--checkpoint", str(model.state["step"])]
    # The card may be published, and says nothing of folders around the export.
    place = repo or (f"./{out.name}" if out.is_absolute() else str(out))
    chats = is_chat(model)
    card = model_card(
        model.config, directory.path, model.state, license_name=license_name, place=place,
        parameters=sum(map(math.prod, model.weights.shapes.values())),
        command=command(*words, *(["--dtype", dtype] if dtype else [])), begin=model.begin_and_end()[0],
        is_chat=chats,
    )  # fmt: skip
    prompt = f"{model.begin_and_end()[0]}Once upon a time"
    following = (
        f"AutoModelForCausalLM.from_pretrained({(repo or str(out))!r}) in transformers, with "
        f"{'tokenizer.apply_chat_template' if chats else f'a prompt such as {prompt!r}'}; README.md has the code"
    )
    return _export_folder(model, out, wanted, card, following, checked, overwrite=overwrite)


def is_chat(model: Model) -> bool:
    """Whether a model has a chat template that can be used."""
    return bool(model.chat_template) and not why_no_chat(model, "")


def _export_folder(
    model: Model,
    out: Path,
    dtype: torch.dtype | None,
    card: str,
    following: str,
    checked: Callable[[], object],
    *,
    overwrite: bool,
) -> Exported:
    with new_folder(out, hugging_face.FILES, overwrite=overwrite) as folder:
        family = hugging_face.write_folder(folder, model, dtype, card=card)
        written = hugging_face.read_folder(folder, without_tokenizer=model.tokenizer is None)
        with flushing(folder):
            found, checks = compared(model, written)
        if small_enough(written.weights):
            ids = sample_ids(model.config.model, model.tokenizer)
            said = asked_transformers(folder, ids, found.logits, model.tokenizer)
            checks += [said] if said else []
        checked()
        size = _size(folder)
    return Exported(out, family, size, dtypes_of(written), found.difference, checks, following)


def _export_gguf(
    model: Model, out: Path, dtype: Dtype | None, license_name: str, checked: Callable[[], object], *, overwrite: bool
) -> Exported:
    kept = dtypes_of(model)
    chosen = dtype or (kept if kept in ("f16", "bf16") else "f32")
    with new_file(out, lambda head: head.startswith(b"GGUF"), overwrite=overwrite) as path:
        family = gguf.write_gguf(path, model, chosen, license_name)
        written = gguf.read_gguf(path)
        with flushing(path):
            found, checks = compared(model, written)
        if small_enough(written.weights) and model.tokenizer is not None:
            ids = sample_ids(model.config.model, model.tokenizer)
            # llama.cpp rounds activations to the dtype of the weights, too.
            tolerance = TOLERANCE if chosen == "f32" else _ROUNDED_TOLERANCE
            said = asked_llama_cpp(path, ids, found.logits, model.tokenizer, tolerance=tolerance)
            checks += [said] if said else []
        checked()
        size = path.stat().st_size
    if model.tokenizer is not None:
        checks += differences(model.tokenizer)
    if is_chat(model):
        following = f"llama-cli -m {quoted(str(out))} --jinja"
    else:
        prompt = f"{model.begin_and_end()[0]}Once upon a time"
        following = f"llama-completion -m {quoted(str(out))} -no-cnv -p {quoted(prompt)}"
    return Exported(out, f"{family} (GGUF)", size, dtypes_of(written), found.difference, checks, following)


def _export_plain(
    model: Model, out: Path, dtype: torch.dtype | None, checked: Callable[[], object], *, overwrite: bool
) -> Exported:
    with new_folder(out, plain.FILES, overwrite=overwrite) as folder:
        plain.write_plain(folder, model, dtype)
        written = plain.read_plain(folder)
        with flushing(folder):
            found, checks = compared(model, written)
        checked()
        size = _size(folder)
    following = command("import", out, "--out", Path("runs") / f"{out.name}-imported")
    return Exported(out, "groundup", size, dtypes_of(written), found.difference, checks, following)


def _export_tokenizer(tokenizer: Tokenizer, out: Path, *, overwrite: bool) -> Exported:
    from groundup.tokenizer import Tokenizer

    if not isinstance(tokenizer.pattern, str):
        raise TokenizerError("tiktoken splits text once, and this tokenizer several times; use --to hugging-face")
    special = {name: tokenizer.token_id(name) for name in tokenizer.special_tokens}
    with new_file(out, lambda head: bool(re.match(rb"[A-Za-z0-9+/]+=* \d+\n", head)), overwrite=overwrite) as path:
        tokenizer.save_tiktoken(path)
        written = Tokenizer.from_tiktoken(path, pattern=tokenizer.pattern, special_tokens=special)
        count = compare_ids(tokenizer, written, str(out))
    named = [f"--special-tokens {quoted(f'{name}={token_id}')}" for name, token_id in special.items()]
    following = " ".join(
        ["pattern and special tokens, which the file lacks:", f"--pattern {quoted(tokenizer.pattern)}", *named]
    )
    return Exported(out, "tokenizer", out.stat().st_size, "", None, [f"{count:,} token ids equal"], following)


def compared(model: Model, written: Model) -> tuple[Comparison, list[str]]:
    """Compare a model with what was written of it; returns lines on what was found.

    Raises:
        CheckpointError: a tensor, a logit or a token id differs.
    """
    found = compare(model.side, written.side, sample_ids(model.config.model, model.tokenizer))
    before, after = dtypes_of(model), dtypes_of(written)
    if before == after and not within(found.difference, found.largest):
        raise CheckpointError(
            f"{written.weights.source} has other logits than the run, by up to {found.difference:.3g}; nothing was kept"
        )
    rounding = "" if before == after else f", from rounding to {after}"
    lines = [
        f"{len(written.weights.shapes):,} tensors read back equal; largest difference of a logit "
        f"{found.difference:.1e}{rounding} ({found.positions} positions, logits up to {found.largest:.3g})"
    ]
    if model.tokenizer is not None and written.tokenizer is not None:
        lines += [f"{compare_ids(model.tokenizer, written.tokenizer, written.weights.source):,} token ids equal"]
    return found, lines


def dtypes_of(model: Model) -> str:
    """Names of the dtypes of a model's matrices."""
    matrices = [dtype for name, dtype in model.weights.dtypes.items() if len(model.weights.shapes[name]) > 1]
    return ", ".join(model.kinds or sorted({_NAME_OF[dtype] for dtype in matrices}))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
