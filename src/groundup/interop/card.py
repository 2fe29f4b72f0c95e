"""Model card: the README.md of an exported folder, from what the run directory says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from groundup.config import RunConfig, flatten
from groundup.display.markdown import fenced, table
from groundup.record.read import MEASURES, UNITS, Run, read_run
from groundup.version import VERSION

_POINTS = 12
"""Most rows of the table of the curve."""
_SECTIONS = ("model", "optim", "data", "train")
_OF_MACHINE = ("data.train", "data.valid", "data.vocab", "data.merges", "train.device")

_IDENTIFIER = re.compile(r"[a-z0-9.-]+")
"""Names of licenses that YAML takes as they are."""


def model_card(
    config: RunConfig,
    run: Path,
    state: dict[str, Any],
    *,
    license_name: str = "",
    parameters: int,
    place: str,
    command: str,
    begin: str,
    is_chat: bool = False,
) -> str:
    """Return the card of a run's checkpoint as Markdown with the header that the Hub reads.

    Args:
        config: options of the checkpoint.
        state: of the checkpoint.
        license_name: identifier such as "apache-2.0"; empty where none is given.
        parameters: their number, without a second one of a tied matrix.
        place: what ``from_pretrained`` takes: the name on the Hub, or the folder.
        command: that made the export.
        begin: the token that begins a text; empty for none.
        is_chat: whether it has a chat template that can be used.
    """
    model, found, license_name = config.model, read_run(run), license_name or "unknown"
    header = [
        "---",
        f"license: {license_name if _IDENTIFIER.fullmatch(license_name) else json.dumps(license_name)}",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [groundup]",
        "---",
    ]
    shared = f" ({model.kv_heads} of keys)" if model.kv_heads != model.num_heads else ""
    facts = {
        "parameters": f"{parameters:,}",
        "shape": f"{model.num_layers} layers, d_model {model.d_model}, {model.num_heads} heads{shared} of "
        f"{model.head_dim}, d_ff {model.ffn_dim}, vocabulary {model.vocab_size:,}, context {model.context_length:,}",
        "steps": f"{state['step']:,}",
        "tokens": f"{state['tokens']:,}",
        "SHA-256 of the training data": state.get("dataset_sha256") or "not recorded",
        "SHA-256 of the tokenizer": state.get("tokenizer_sha256") or "not recorded",
    }
    imported = found.environment.get("imported")
    if isinstance(imported, dict):
        facts["imported from"] = " ".join(str(imported[key]) for key in ("source", "revision") if imported.get(key))
    for measure, name in MEASURES.items():
        if (value := found.figures.get(measure)) is not None:
            facts[f"final {name}"] = f"{value:.4f} {UNITS[measure]}"
    parts = [
        "\n".join(header),
        f"# {config.name}",
        f"A language model, trained and exported with groundup {VERSION}.",
        table(("", ""), list(facts.items())),
        "## Use",
        fenced(_usage(place, begin, is_chat=is_chat), "python"),
    ]
    if curve := _curve(found):
        parts += ["## Training curve", curve]
    parts += ["## Recipe", "Options that differ from groundup's defaults:", fenced(_recipe(config), "toml")]
    parts += ["## Export", fenced(command, "bash")]
    if not license_name:
        parts += ["No license was given: set `license` at the top before you publish the model."]
    return "\n\n".join(parts) + "\n"


def _usage(place: str, begin: str, *, is_chat: bool) -> str:
    load = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(place)})\n"
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(place)})\n"
    )
    if is_chat:
        return (
            f'{load}messages = [{{"role": "user", "content": "Who are you?"}}]\n'
            "inputs = tokenizer.apply_chat_template(\n"
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"\n'
            ")\n"
            "output = model.generate(**inputs, max_new_tokens=100)[0]\n"
            'print(tokenizer.decode(output[inputs["input_ids"].shape[1] :], skip_special_tokens=True))'
        )
    prompt = f"{begin}Once upon a time"
    return (
        f'{load}inputs = tokenizer({json.dumps(prompt, ensure_ascii=False)}, return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0]))"
    )


def _curve(run: Run) -> str:
    """A table of some evaluations, the first and the last among them."""
    measure = next((name for name in ("val_loss", "train_loss") if name in run.curves), None)
    if measure is None:
        return ""
    curve = run.curves[measure]
    some = np.unique(np.linspace(0, len(curve.steps) - 1, _POINTS).round().astype(int))
    rows = [(f"{int(curve.steps[i]):,}", f"{curve.values[i]:.4f}") for i in some]
    return table(("step", MEASURES[measure]), rows)


def _recipe(config: RunConfig) -> str:
    """Options as TOML, without names and paths of the machine."""
    usual, found = flatten(RunConfig()), flatten(config)
    sections: dict[str, list[str]] = {}
    for name, value in found.items():
        section, _, last = name.rpartition(".")
        if section.partition(".")[0] in _SECTIONS and value != usual[name] and name not in _OF_MACHINE:
            sections.setdefault(section, []).append(f"{last} = {json.dumps(value, ensure_ascii=False)}")
    return "\n\n".join("\n".join([f"[{section}]", *lines]) for section, lines in sections.items())
