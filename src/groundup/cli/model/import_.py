"""`groundup import`."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.parse import call


def import_(arguments: list[str]) -> None:
    """Parse and run."""
    call(_import, arguments, "import")


def _import(
    source: str,
    /,
    *,
    out: Path,
    context: int = 0,
    tokenizer: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model of another program as a run, and compare the two.

    Llama, Mistral, Qwen2, Qwen3, SmolLM and Arcee are read. What groundup cannot express is refused by name.

    Args:
        source: a folder of transformers; a GGUF file (f32, f16, bf16, q8_0); hf://ORG/NAME, hf://ORG/NAME@REVISION or
            hf://ORG/NAME/FILE.gguf on the Hugging Face Hub; or what `groundup export --to folder` wrote.
        out: run directory to write.
        context: context length to limit the model to. Default: the model's.
        tokenizer: file or folder of another tokenizer.
        overwrite: replace an earlier import.
    """
    from groundup.display.console import make_console, print_pairs
    from groundup.display.units import size_text
    from groundup.interop.importing import import_model

    found = import_model(source, out, context=context, tokenizer=tokenizer, overwrite=overwrite)
    rows = {
        "written": f"{found.out}  ({found.parameters:,} parameters, {size_text(found.bytes)}, {found.dtype})",
        "family": found.family,
    }
    print_pairs(make_console(), rows | {"verified": "\n".join(found.checks), "next": found.next})
