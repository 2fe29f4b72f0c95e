"""`groundup evaluate`."""

from __future__ import annotations

import json
from typing import Literal

from groundup.cli.parse import DEFAULT_READING, Reading, call
from groundup.config import END_OF_TEXT


def evaluate(arguments: list[str]) -> None:
    """Parse and run."""
    call(_evaluate, arguments, "evaluate")


def _evaluate(
    models: tuple[str, ...],
    /,
    *,
    checkpoint: str = "best",
    split: Literal["train", "valid"] = "valid",
    data: str = "",
    text: str = "",
    separator: str = END_OF_TEXT,
    read: Reading = DEFAULT_READING,
    tasks: str = "",
    tasks_folder: str = "",
    num_fewshot: int | None = None,
    chat: bool = False,
    add_bos_token: bool = False,
    limit: str = "",
    weights: Literal["float32", "bfloat16", "int8"] = "float32",
    device: str = "auto",
    json_output: bool = False,
) -> None:
    """Loss, perplexity and bits per byte of models on a full split or on text; or their results on tasks of lm-eval.

    Args:
        models: run directories, names of runs in runs/, folders or files that `groundup import` reads, or hf://ORG/NAME.
        checkpoint: of a run: "best", "latest", or a step.
        split: split of the run's data.
        data: other token shards to evaluate on instead; they must come from the same tokenizer.
        text: text to evaluate on instead, with the same definition for every model: files or folders with commas
            between them, of the formats that `groundup encode` reads; - for standard input.
        separator: of --text, token between the documents of plain text.
        tasks: tasks of lm-evaluation-harness to run instead: names or YAML files, with commas between them.
        tasks_folder: folder with further tasks. Python code that they name is run.
        num_fewshot: of --tasks, solved examples before each question; default: the task's.
        chat: of --tasks, render questions by the chat template of the run.
        add_bos_token: of --tasks, put the token that begins a text before each context.
        limit: of --text, bytes to read, such as 1MB; of --tasks, questions of each task, or a share below 1.
        weights: type that the matrices are rounded to. But for --tasks, the loss in float32 is printed beside it.
        device: device to run on; "auto" is the one that the run used, or else cuda, then mps, then cpu.
        json_output: print one JSON object for each model instead of a table.
    """
    from dataclasses import asdict

    from groundup.display.console import make_console
    from groundup.display.progress import progress_bar
    from groundup.evaluation import compare
    from groundup.evaluation import tasks as harness

    chosen = compare.checked_options(
        models, split=split, data=data, text=text, separator=separator, read=read, tasks=tasks,
        tasks_folder=tasks_folder, num_fewshot=num_fewshot, chat=chat, add_bos_token=add_bos_token, limit=limit,
    )  # fmt: skip
    scored, run = list[compare.Evaluated](), list[list[harness.TaskResult]]()
    try:
        with progress_bar(make_console(stderr=json_output)) as progress:
            if tasks:
                for rows in harness.evaluate_tasks(
                    models, chosen.tasks, folder=tasks_folder, num_fewshot=num_fewshot, limit=chosen.questions,
                    chat=chat, add_bos_token=add_bos_token, checkpoint=checkpoint, weights=weights, device=device,
                    progress=progress,
                ):  # fmt: skip
                    run.append(rows)
            else:
                for one in compare.evaluate_models(
                    models, checkpoint=checkpoint, split=split, data=data, text=chosen.text, limit=chosen.bytes,
                    weights=weights, device=device, progress=progress,
                ):  # fmt: skip
                    scored.append(one)
    finally:  # of several models, what was found before an error
        for one in scored if json_output else ():
            print(json.dumps(one.values()))
        for name, rows in zip(models, run, strict=False) if json_output else ():
            print(json.dumps({"model": name, "weights": weights, "results": [asdict(row) for row in rows]}))
        if scored and not json_output:
            compare.print_evaluated(make_console(), scored)
        if run and not json_output:
            harness.print_tasks(make_console(), run)
