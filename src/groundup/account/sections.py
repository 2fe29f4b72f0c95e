"""The account of a run as tables, and its answer in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from groundup.display.section import Section
from groundup.display.units import count_text, flops_text, size_text, time_text

_GIB = 2**30
_PARAMETERS = {
    "embedding": "token embedding",
    "value_embeddings": "value embeddings",
    "qkv": "attention: queries, keys, values",
    "output_proj": "attention: output",
    "ffn": "feed-forward",
    "block_norms": "norms of the blocks",
    "value_gates": "gates of value embeddings",
    "scalars": "residual scalars",
    "final_norm": "final norm",
    "head": "output matrix",
}
_OF_A_BLOCK = ("qkv", "output_proj", "ffn", "block_norms")
_COMPONENTS = {
    "projections": "the projections of attention",
    "scores": "attention: queries x keys",
    "values": "attention: weights x values",
    "ffn": "the feed-forward layers",
    "head": "the output matrix",
}
_MOMENTS = {"loss": "at the loss", "backward": "in the backward pass", "update": "in the optimizer's update"}


def sections(document: dict[str, Any]) -> Iterator[Section]:
    """All tables of an account."""
    yield _head(document)
    yield parameter_section(document["parameters"])
    yield _flops(document)
    sequences = _sequences(document["setting"]["micro_batch_size"])
    there_is = (document.get("device") or {}).get("memory")
    yield memory_section(document["memory"], f"memory of a step with micro-batches of {sequences}", total=there_is)
    if "seconds" in document["run"]:
        yield _run(document)
    if "fit" in document:
        yield _fit(document)


def _head(document: dict[str, Any]) -> Section:
    model, setting = document["model"], document["setting"]
    shared = f" ({model['num_kv_heads']} of keys)" if model["num_kv_heads"] != model["num_heads"] else ""
    tied = ", tied" if model["tie_embeddings"] else ""
    several = (
        "" if setting["parallel"] == "ddp" else f"; {setting['parallel']}, counted as one process with a whole model"
    )
    options = [
        f"{name} = {model[name]}" for name, usual in (("norm", "pre"), ("position", "rope")) if model[name] != usual
    ]
    rows = [
        (
            "model",
            f"{model['num_layers']} layers, d_model {model['d_model']:,}, {model['num_heads']} heads{shared} of "
            f"{model['head_dim']}, {model['ffn']} d_ff {model['d_ff']:,}, vocabulary {model['vocab_size']:,}{tied}"
            + "".join(f", {option}" for option in options),
        ),
        ("step", f"{_passes(setting)} x {model['context_length']:,} tokens, {setting['optimizer']}"),
        (
            "computed",
            f"{setting['precision']}, {setting['attention']} attention, {setting['kernels']} kernels"
            + (", activations recomputed" if setting["activation_checkpointing"] else "")
            + several,
        ),
    ]
    return Section(document["name"], (), rows)


def _passes(setting: dict[str, Any]) -> str:
    passes = setting["passes"]
    return f"{setting['batch_size']:,}" + (
        f" (in {passes} micro-batches of {setting['micro_batch_size']:,})" if passes > 1 else ""
    )


def parameter_section(count: dict[str, int]) -> Section:
    """Parameters by component, each counted once."""
    layers, rows = count["num_layers"], []
    for key, name in _PARAMETERS.items():
        times = layers if key in _OF_A_BLOCK else 1
        if count[key]:
            each = f"{layers} x {count[key]:,}" if key in _OF_A_BLOCK else ""
            rows.append((name, f"{times * count[key]:,}", _share(times * count[key], count["total"]), each))
    inner = count["non_embedding"]
    rows.append(("all", f"{count['total']:,}", "", ""))
    name = f"all but embedding{'s' if count['value_embeddings'] else ''} and head"
    rows.append((name, f"{inner:,}", _share(inner, count["total"]), ""))
    return Section("parameters", ("component", "parameters", "share", "each"), rows)


def _flops(document: dict[str, Any]) -> Section:
    flops, context = document["flops"], document["model"]["context_length"]
    rows = []
    for matmul in flops["products"]:
        dimensions = f"({matmul['m']:,} x {matmul['n']:,}) ({matmul['n']:,} x {matmul['p']:,})"
        rows.append(
            (matmul["name"], dimensions, f"{matmul['count']:,}", f"{matmul['flops']:,}", f"{matmul['share']:.1%}")
        )
    rows.append(("all", "", "", f"{flops['forward_per_sequence']:,}", ""))
    step = flops["step"]
    note = (
        f"A training step: {flops_text(step['forward'])} forward, {flops_text(step['backward'])} backward, "
        f"{flops_text(step['optimizer'])} in the optimizer. {flops_text(flops['per_token'])} a token."
    )
    if step["repeated"] > 0:
        note += f" {flops_text(step['repeated'])} more are recomputed to save memory."
    elif step["repeated"] < 0:
        note += f" {flops_text(-step['repeated'])} less are computed, since most masked scores are skipped."
    title = f"matmuls of the forward pass of one sequence of {context:,} tokens"
    return Section(title, ("matmul", "dimensions", "count", "FLOPs", "share"), rows, note)


def memory_section(memory: dict[str, Any], title: str, *, total: float | None = None) -> Section:
    """Memory of a training step by part.

    Args:
        total: memory of the device, in bytes.
    """
    names = {"weights": "weights", "gradients": "gradients", "optimizer_state": "optimizer state"}
    names |= {"average": "average of the weights"} if memory["average"] else {}
    rows = [(name, size_text(memory[key]), "") for key, name in names.items()]
    kept: dict[str, int] = defaultdict(int)
    for tensor in memory["kept"]:
        kept[tensor["component"]] += tensor["bytes"]
    rows += [(f"saved: {component}", size_text(size), "") for component, size in kept.items()]
    moment, copy, needed = _MOMENTS[memory["peak_moment"]], memory["checkpoint_copy"], memory["needed"]
    one_memory = needed > memory["peak"]
    rows.append(("temporary tensors", size_text(memory["working"]), moment))
    if memory["workspace"]:
        rows.append(("cuBLAS workspaces", size_text(memory["workspace"]), ""))
    if copy and one_memory:
        rows.append(("copy of a checkpoint being written", size_text(copy), ""))
    in_gib = f", {needed / _GIB:,.2f} GiB" if needed >= _GIB else ""
    rows.append(("peak", size_text(needed), moment + in_gib))
    if total:
        rows.append(("available", size_text(total), ""))
    if copy and not one_memory:
        rows.append(("host memory", size_text(copy), "copy of a checkpoint being written"))
    note = "The peak is less than the sum: gradients are allocated as activations are freed."
    if total and needed > total:
        note += " It will not fit: use a smaller model, data.micro_batch_size or model.context_length."
    return Section(title, ("part", "size", "when"), rows, note)


def memory_bar(document: dict[str, Any], width: int = 60) -> list[tuple[str, int]]:
    """Parts of the memory at its peak, and how many of ``width`` cells of a bar each takes."""
    memory = document["memory"]
    fixed = memory["weights"] + memory["optimizer_state"] + memory["average"]
    parts = {
        "weights": memory["weights"],
        "optimizer state": memory["optimizer_state"],
        **({"average of the weights": memory["average"]} if memory["average"] else {}),
        "gradients and activations": max(0, memory["peak"] - fixed - memory["working"] - memory["workspace"]),
        "temporary": memory["working"] + memory["workspace"],
    }
    if memory["needed"] > memory["peak"]:
        parts["copy of a checkpoint"] = memory["checkpoint_copy"]
    room = max(memory["needed"], (document.get("device") or {}).get("memory") or 0)
    return [(name, round(width * size / room)) for name, size in parts.items()]


def _run(document: dict[str, Any]) -> Section:
    run, device = document["run"], document["device"]
    rows = [
        ("tokens", f"{run['tokens']:,} in {run['steps']:,} steps, {run['tokens_per_parameter']:,.3g} a parameter"),
        ("FLOPs", flops_text(run["flops"])),
    ]
    if run["seconds"] is None:
        rows.append(("time", f"n/a: {device['source']} states no peak for this precision"))
    else:
        rows += [
            ("peak", f"{device['flops'] / 1e12:,.4g} TFLOP/s ({device['source']}), of which {run['mfu']:.0%}"),
            ("a step", f"{time_text(run['seconds_per_step'])}, {run['tokens_per_second']:,.0f} tokens/s"),
            (
                "time",
                f"{time_text(run['seconds'])} = {run['seconds'] / 3600:,.2f} h = {run['seconds'] / 86_400:,.2f} days",
            ),
        ]
    return Section(f"the run on {device['name']}", (), rows)


def _fit(document: dict[str, Any]) -> Section:
    fit, rows = document["fit"], []
    if "memory" in fit:
        memory = f"{size_text(fit['memory'])} = {fit['memory'] / _GIB:,.2f} GiB"
        rows.append(
            (
                memory,
                f"hold a micro-batch of {_sequences(fit['batch_size'])}"
                if fit["batch_size"]
                else "do not hold a micro-batch of one sequence",
            )
        )
        rows.append(("", f"or, with micro-batches of {fit['model_at_batch_size']:,}, {_model(fit['model'])}"))
    if "hours" in fit:
        hours = time_text(3600 * fit["hours"])
        rows.append((hours, f"are enough for {fit['tokens']:,} tokens ({count_text(fit['tokens'])})"))
        rows.append(("", f"or, at {fit['tokens_per_parameter']} tokens a parameter, {_model(fit['model_for_hours'])}"))
    note = "Models of the same family: with the same head size, depth / width and d_ff / width."
    return Section("what fits", (), rows, note)


def _model(shape: dict[str, int] | None) -> str:
    if shape is None:
        return "no model of this family"
    return (
        f"{shape['parameters']:,} parameters: {shape['num_layers']} layers, d_model {shape['d_model']:,}, "
        f"{shape['num_heads']} heads, d_ff {shape['d_ff']:,}"
    )


def answer(document: dict[str, Any]) -> str:
    """The main figures in sentences."""
    count, flops, memory = document["parameters"], document["flops"], document["memory"]
    run, device = document["run"], document.get("device")
    most, part = max(flops["components"].items(), key=lambda item: item[1]["flops"])
    text = (
        f"{document['name']} has {count_text(count['total'])} parameters, {size_text(4 * count['total'])} in float32. "
        f"A token costs {flops_text(flops['per_token'])} to train on; of the forward pass {part['share']:.0%} are "
        f"{_COMPONENTS[most]}. A step needs {size_text(memory['needed'])}"
    )
    if device is None:
        return text + "."
    if device["memory"]:
        fits = "fits" if memory["needed"] <= device["memory"] else "does not fit"
        text += f", which {fits} the {size_text(device['memory'])} of {device['name']}"
    if run["seconds"] is not None:
        text += f". {count_text(run['tokens'])} tokens take {time_text(run['seconds'])} at {run['mfu']:.0%} of its peak"
    return text + "."


def comparison(one: dict[str, Any], other: dict[str, Any]) -> Section:
    """Two accounts side by side, with the second by the first."""
    rows = []
    for name, path, text in (
        ("parameters", ("parameters", "total"), lambda n: f"{n:,}"),
        ("but embedding and head", ("parameters", "non_embedding"), lambda n: f"{n:,}"),
        ("tokens of a step", ("run", "step_tokens"), lambda n: f"{n:,}"),
        ("FLOPs a token", ("flops", "per_token"), flops_text),
        ("FLOPs a step", ("flops", "step", "model"), flops_text),
        ("weights", ("memory", "weights"), size_text),
        ("optimizer state", ("memory", "optimizer_state"), size_text),
        ("saved activations", ("memory", "activations"), size_text),
        ("peak memory", ("memory", "peak"), size_text),
        ("run, FLOPs", ("run", "flops"), flops_text),
        ("run, time", ("run", "seconds"), time_text),
        ("tokens/s", ("run", "tokens_per_second"), lambda n: f"{n:,.0f}"),
    ):
        a, b = (_look(document, path) for document in (one, other))
        if a is not None and b is not None:
            rows.append((name, text(a), text(b), f"{b / a:.3g} x" if a else ""))
    return Section("side by side", ("", one["name"], other["name"], "ratio"), rows)


def kept_section(document: dict[str, Any]) -> Section:
    """Every saved activation."""
    rows = [
        (
            tensor["component"],
            tensor["name"],
            f"{tensor['times']} x ({tensor['shape']}) x {tensor['width']} bytes",
            size_text(tensor["bytes"]),
        )
        for tensor in document["memory"]["kept"]
    ]
    queries = "Q width of all queries, " if any("Q" in row[2] for row in rows) else ""
    note = f"B batch, S sequence, D d_model, F d_ff, H heads, {queries}J width of all keys, V vocabulary."
    return Section("saved activations", ("part", "tensor", "elements", "size"), rows, note)


def exercise_section(document: dict[str, Any]) -> Section:
    """Answers to the course's written exercise."""
    found = document["exercise"]
    rows = [
        ("parameters, gradients, AdamW's state", f"{found['fixed_bytes']:,} bytes = {size_text(found['fixed_bytes'])}"),
    ]
    for name, one in found["activations"].items():
        rows.append(
            (
                f"activations of a sequence, {name}'s list",
                f"{one['activation_bytes_per_sample']:,} bytes = {size_text(one['activation_bytes_per_sample'])}; "
                f"largest batch {one['max_batch_80e9']} in 80 GB, {one['max_batch_80GiB']} in 80 GiB",
            )
        )
        rows.append(("", one["formula"]))
    rows += [(f"AdamW's update, {name}", f"{flops:,} FLOPs") for name, flops in found["adamw_flops"].items()]
    rows += [
        ("forward, 1,024 sequences", f"{found['forward_flops_per_step']:,} FLOPs"),
        ("backward", f"{found['backward_flops_per_step']:,} FLOPs"),
        ("a step", f"{found['flops_per_step']:,} FLOPs"),
        (
            "a step on an A100 in float32",
            f"{found['seconds_per_step_a100_float32']:,.2f} s at {found['mfu']:.0%} of 19.5 TFLOP/s",
        ),
    ]
    rows += [
        (f"400,000 steps, {name}", f"{days:,.2f} days = {days / 365.25:,.2f} years")
        for name, days in found["days_a100"].items()
    ]
    rows.append(("by 6 x parameters x tokens", f"{found['days_by_6_parameters_tokens']:,.0f} days in float32"))
    return Section(
        "the written exercise",
        (),
        rows,
        "Its lists count every result once, in float32; the memory of a program is above.",
    )


def _look(document: dict[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _sequences(count: int) -> str:
    return f"{count:,} sequence{'' if count == 1 else 's'}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"
