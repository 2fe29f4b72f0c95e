"""`groundup export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from groundup.cli.parse import call


def export(arguments: list[str]) -> None:
    """Parse and run."""
    call(_export, arguments, "export")


def _export(
    run: Path,
    /,
    *,
    to: Literal["hugging-face", "gguf", "tiktoken", "folder"] = "hugging-face",
    out: Path | None = None,
    checkpoint: str = "best",
    dtype: Literal["f32", "f16", "bf16", "q8_0"] | None = None,
    license: str = "",
    push: str = "",
    overwrite: bool = False,
) -> None:
    """Write a run's model for other programs, read it back, and compare tensors, logits and token ids.

    What a format cannot express is refused by name. Nothing is written unless all is equal.

    Args:
        run: run directory, or the name of a run in runs/.
        to: hugging-face: a folder for transformers. gguf: a file for llama.cpp. tiktoken: the tokenizer alone. folder:
            groundup's own, with every option, for `groundup import`.
        out: file or folder to write. Default: the run's name, in exports/.
        checkpoint: "best", "latest", or a step.
        dtype: of the tensors; q8_0 is for gguf alone. Default: that of the checkpoint.
        license: of the model, for its card or GGUF file: an identifier such as apache-2.0.
        push: repository on the Hugging Face Hub (ORG/NAME) to upload the export to. A new one is private.
        overwrite: replace an earlier export.
    """
    from groundup.display.console import make_console, print_pairs
    from groundup.display.units import size_text
    from groundup.interop import hub
    from groundup.interop.export import export_model

    if push:
        hub.check_repo(push)
    found = export_model(
        run, out, to, checkpoint=checkpoint, dtype=dtype, license_name=license, repo=push, overwrite=overwrite
    )  # fmt: skip
    dtypes = f", {found.dtype}" if found.dtype else ""
    rows = {"written": f"{found.out}  ({size_text(found.bytes)}{dtypes})", "family": found.family}
    rows |= {"verified": "\n".join(found.checks)} | ({"pushed": hub.push(found.out, push)} if push else {})
    print_pairs(make_console(), rows | {"next": found.next})
