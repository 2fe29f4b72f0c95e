"""`groundup serve`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from groundup.cli.parse import call


def serve(arguments: list[str]) -> None:
    """Parse and run."""
    call(_serve, arguments, "serve")


def _serve(
    models: tuple[str, ...],
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    rows: int | None = None,
    queue: int = 64,
    timeout: float = 600.0,
    grace: float = 30.0,
    max_tokens: int = 16_384,
    max_body: str = "1MB",
    allowed_host: tuple[str, ...] = (),
    cors_origin: tuple[str, ...] = (),
    beyond: Literal["slide", "stop"] = "slide",
    weights: Literal["float32", "bfloat16", "int8"] = "float32",
    context: int = 0,
    longer_context: int = 0,
    checkpoint: str = "best",
    device: str = "auto",
    compile: bool = False,
    log: bool = False,
) -> None:
    """Serve models over HTTP with OpenAI's API: completions, chat, streaming, log-probabilities. Ctrl-C stops.

    Args:
        models: run directories, names of runs in runs/, folders or files that `groundup import` reads, or hf://ORG/NAME.
        host: address to listen on; 0.0.0.0 lets other machines in.
        port: port to listen on; 0 takes a free one.
        api_key: key that requests must have (Authorization: Bearer KEY); default: that of the variable
            GROUNDUP_API_KEY, which other users of the machine cannot read.
        rows: most texts of each model at once; default: as many as fit into memory, at most 32.
        queue: most texts of each model that wait; further ones are told to come later (429).
        timeout: most seconds of a request.
        grace: seconds that running requests get when the server is stopped.
        max_tokens: most new tokens of a text.
        max_body: most bytes of a request, such as 1MB.
        allowed_host: further names by which clients reach the server (Host header).
        cors_origin: sites whose pages may use the server, such as https://example.org.
        beyond: what follows when a text is as long as the context: go on with a sliding window, or stop.
        weights: type that the matrices are rounded to; the smaller ones are faster on a CPU.
        context: context length to limit another program's model to; 0 takes the model's.
        longer_context: context length beyond the model's own, for which its rotary embedding is rescaled; 0 keeps it.
        checkpoint: "best", "latest", or a step.
        device: device to run on; "auto" is cuda, then mps, then cpu.
        compile: compile the step of generation with torch.compile, for GPUs; on a CPU the C++ decoder is faster.
        log: write a line for each request to standard error.
    """
    from groundup.display.units import parse_size
    from groundup.errors import ConfigError
    from groundup.serve import check_packages

    check_packages("groundup serve")
    if not models:
        raise ConfigError("no model to serve; name a run, such as runs/mine")
    if queue < 0:
        raise ConfigError(f"--queue {queue}; expected 0 or greater")
    from groundup.serve.app import ServeOptions
    from groundup.serve.models import load_models
    from groundup.serve.server import listen
    from groundup.serve.server import serve as serve_until_stopped
    from groundup.system.threads import wait_by_load

    options = ServeOptions(
        host=host, port=port, api_key=os.environ.get("GROUNDUP_API_KEY") or None if api_key is None else api_key,
        allowed_hosts=allowed_host, cors_origins=cors_origin, max_body=parse_size(max_body), max_tokens=max_tokens,
        timeout=timeout, grace=grace, log=log,
    )  # fmt: skip
    with listen(options) as listening, wait_by_load():
        served = load_models(
            models, rows=rows, queue=queue, beyond=beyond, checkpoint=checkpoint, device=device, weights=weights,
            context=context, longer_context=longer_context, compile=compile, told=_tell,
        )  # fmt: skip
        serve_until_stopped(served, options, listening, runs=Path("runs"), told=_tell)


def _tell(line: str) -> None:
    print(line, flush=True)
