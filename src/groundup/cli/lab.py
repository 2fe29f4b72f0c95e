"""`groundup lab`."""

from __future__ import annotations

from pathlib import Path

from groundup.cli.parse import call


def lab(arguments: list[str]) -> None:
    """Parse and run."""
    call(_lab, arguments, "lab")


def _lab(runs_dir: Path = Path("runs"), /, *, port: int = 8001, host: str = "127.0.0.1") -> None:
    """Show the runs of a folder in the browser while they are trained: curves, samples, differences.

    groundup lab
    groundup lab runs/learning-rate --port 8080

    It only reads, loads no model, and follows new runs by itself. From another machine: ssh -L 8001:localhost:8001 HOST

    Args:
        runs_dir: folder of runs and sweeps; index.sqlite is kept there.
        port: 0 takes any free one.
        host: address to listen on. Anyone who can reach it can read the runs; 0.0.0.0 opens them to the network.
    """
    from groundup.serve import check_packages

    check_packages("the lab")
    from groundup.serve.lab import serve_lab

    serve_lab(runs_dir, host, port, lambda address: print(f"{runs_dir}: {address}  (Ctrl-C ends it)", flush=True))
