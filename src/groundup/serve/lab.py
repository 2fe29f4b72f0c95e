"""The lab: a page that shows the runs of a folder while they are trained, and its JSON API. Needs no torch.

The routes of the lab and of the playground can be served together; each page links to the other if it is there.

    /lab                  the page
    /lab/api/runs         all runs, their status and figures; ?filter= as `groundup runs --filter`
    /lab/api/curves       ?run=ID&at=VERSION:LINES&measure=NAME: only the points that are new since
    /lab/api/samples      ?run=ID: texts that the runs wrote
    /lab/api/options      ?run=ID: options in which the runs differ, or all options of one run
    /                     the playground
    /page/NAME            scripts and style of both
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_from_bytes, unquote_plus

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import NoMatchFound, Route
from starlette.types import ASGIApp

from groundup.config.expressions import Filter
from groundup.display.units import value_text
from groundup.errors import ConfigError, FileMissingError
from groundup.record.curve import Curve, bucket_means, thin
from groundup.record.follow import GrowingCurves, GrowingSamples
from groundup.record.read import MEASURES
from groundup.record.run import RunDirectory
from groundup.reports.comparison import differing_options
from groundup.reports.run_list import Row, column_names, refresh
from groundup.serve.gate import LOCAL, HostCheck
from groundup.system.files import why

Kept = TypeVar("Kept", GrowingCurves, GrowingSamples)

API = "/lab/api"
"""Where the routes with content begin; the others are pages and scripts."""
_PAGE = Path(__file__).parent / "page"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".html": "text/html", ".svg": "image/svg+xml"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Headers of all that the pages consist of: nothing is loaded from elsewhere, and nothing elsewhere may embed it."""
_POINTS = 40_000
# A chart is some hundred pixels wide; minimum and maximum of each bucket keep the spikes.
_MOST_OF_A_CURVE, _FEWEST_OF_A_CURVE = 2000, 300
_FRESH_SECONDS, _LONGEST_ANSWER = 1.0, 0.5
# About 10 MB each, with 100,000 lines of metrics.
_KEPT_RUNS = 300
_MOST_SAMPLES = 500
_COLUMNS = (
    "run", "name", "sweep", "variant", "status", "seed", "val_loss", "val_bpb", "train_loss", "best_val_loss", "steps",
    "tokens", "seconds", "tokens_per_second", "parameters", "device", "tags", "problem",
)  # fmt: skip


class Lab:
    """The runs below a folder, as the page asks for them. Threads may share it.

    A run's id is its path below the folder, percent-encoded. An id is only looked up among the runs that were found, so
    none leads out of the folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.RLock()
        self._rows: dict[str, Row] = {}
        self._looked = float("-inf")
        self._curves: OrderedDict[str, GrowingCurves] = OrderedDict()
        self._samples: OrderedDict[str, GrowingSamples] = OrderedDict()

    def rows(self) -> dict[str, Row]:
        """All runs by id, with the columns and options of `groundup runs`; read again at most once a second.

        Raises:
            FileMissingError: the folder does not exist.
        """
        with self._lock:
            if time.monotonic() - self._looked > _FRESH_SECONDS:
                self._rows = {_id(row["run"]): row for row in refresh(self.folder)}
                for kept in (self._curves, self._samples):
                    for gone in kept.keys() - self._rows.keys():
                        del kept[gone]
                self._looked = time.monotonic()
            return self._rows

    def runs(self, filter_text: str = "") -> dict[str, Any]:
        """All runs for the list, and which of them a filter leaves out."""
        try:
            rows = self.rows()
        except FileMissingError:
            return {"folder": str(self.folder), "missing": True, "runs": [], "problem": ""}
        holds, problem = _filter(filter_text, rows.values())
        runs = [self._listed(key, row) | {"hidden": not holds(row)} for key, row in rows.items()]
        return {"folder": str(self.folder), "missing": False, "runs": runs, "problem": problem}

    def _listed(self, key: str, row: Row) -> dict[str, Any]:
        place = self.folder / row["run"]
        listed = {name: row.get(name) for name in _COLUMNS} | {"id": key, "max_iters": _steps_of(row)}
        listed["started"] = _modified(place / "config.toml") or _modified(place / "metrics.jsonl")
        if row["status"] in ("unfinished", "stopped", "crashed") and RunDirectory(place).is_being_trained():
            listed["status"] = "training"
        if row["sweep"]:
            listed["group"] = str(Path(row["run"]).parent)
        return listed

    def curves(self, asked: Sequence[tuple[str, str]], measures: Sequence[str]) -> dict[str, Any]:
        """Curves of runs: all of a run, thinned, or only the points behind those that the page has.

        The answer takes about half a second at most, and has one run at least; the page asks again for the others.

        Args:
            asked: the id of each run, and what the page has of it as VERSION:LINES; empty for nothing.
        """
        most = max(_FEWEST_OF_A_CURVE, min(_MOST_OF_A_CURVE, _POINTS // (len(asked) * len(measures) or 1)))
        found, began = dict[str, Any](), time.monotonic()
        for key, at in asked:
            if not found or time.monotonic() - began < _LONGEST_ANSWER:
                found[key] = self._curves_of(key, at, measures, most)
        return found

    def _curves_of(self, key: str, at: str, measures: Sequence[str], most: int) -> dict[str, Any]:
        with self._lock:
            curves = self._kept(self._curves, GrowingCurves, key)
            if curves is None:
                return {"gone": True}
            try:
                curves.update()
            except OSError as error:
                return {"problem": f"metrics.jsonl cannot be read: {why(error)}"}
            version, _, lines = at.partition(":")
            since = int(lines) if version == curves.version and lines.isdecimal() else 0
            found = {name: curve for name in measures if (curve := curves.curve(name, since)) is not None}
            if since and any(len(curve.steps) > most for curve in found.values()):  # many at once are thinned again
                since, found = 0, {name: curve for name in found if (curve := curves.curve(name)) is not None}
            return {
                "at": f"{curves.version}:{curves.lines}",
                "more": bool(since),
                "tokens_per_step": curves.tokens_per_step,
                "names": curves.names,
                "curves": {
                    name: _points(curve, most) for name, curve in found.items() if len(curve.steps) or not since
                },
            }

    def samples(self, asked: Sequence[str]) -> dict[str, Any]:
        """The last samples of runs, in the order they were written."""
        found = {}
        for key in asked:
            with self._lock, contextlib.suppress(OSError):
                if (samples := self._kept(self._samples, GrowingSamples, key)) is not None:
                    samples.update()
                    found[key] = samples.lines[-_MOST_SAMPLES:]
        return found

    def options(self, asked: Sequence[str]) -> dict[str, list[str]]:
        """Options in which runs differ, with each run's value; all options of a single run."""
        with contextlib.suppress(FileMissingError):
            rows = self.rows()
            chosen = [_options(rows[key]) if key in rows else {} for key in asked]
            if len(chosen) == 1:
                return {name: [value_text(value)] for name, value in chosen[0].items()}
            # The options of a damaged run are unknown.
            known = [place for place, options in enumerate(chosen) if options]
            found = {}
            for name, values in differing_options([chosen[place] for place in known]).items():
                found[name] = ["unknown"] * len(chosen)
                for place, value in zip(known, values, strict=True):
                    found[name][place] = value
            return found
        return {}

    def _kept(self, kept: OrderedDict[str, Kept], kind: Callable[[Path], Kept], key: str) -> Kept | None:
        try:
            row = self.rows().get(key)
        except FileMissingError:
            row = None
        if row is None:
            return None
        if key not in kept:
            kept[key] = kind(self.folder / row["run"])
        kept.move_to_end(key)
        while len(kept) > _KEPT_RUNS:
            kept.popitem(last=False)
        return kept[key]


def _id(run: str) -> str:
    return quote_from_bytes(os.fsencode(run), safe="/")


def _options(row: Row) -> Row:
    return {name: value for name, value in row.items() if "." in name}


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _filter(text: str, rows: Iterable[Row]) -> tuple[Callable[[Row], bool], str]:
    """A test of runs: a comparison as for `groundup runs --filter`, or words that the name, status or tags contain."""
    rows = list(rows)
    if re.search(r"[=<>~]", text):
        try:
            return Filter(text, column_names(rows)), ""
        except ConfigError as error:
            return lambda row: True, str(error).removeprefix("--filter: ")
    words = text.lower().split()

    def has_all(row: Row) -> bool:
        there = " ".join([row["run"], row["name"], row["status"], row["variant"] or "", *row["tags"]]).lower()
        return all(word in there for word in words)

    return has_all, ""


def _points(curve: Curve, most: int) -> dict[str, Any]:
    """A curve as lists of steps, values and seconds; a thinned one with the means of buckets, to smooth from."""
    made: dict[str, Any] = {"points": _lists(thin(curve, most))}
    if len(curve.steps) > most:
        made["means"] = _lists(bucket_means(curve, most // 2))
    return made


def _lists(curve: Curve) -> list[list[float]]:
    steps, values, seconds = (column.tolist() for column in curve)
    return [[float(f"{x:.9g}") for x in steps], [float(f"{y:.6g}") for y in values], [round(s, 2) for s in seconds]]


# Routes


def routes(runs: Path) -> list[Route]:
    """The lab's page and API for the runs below a folder, which need not exist yet."""
    lab = Lab(runs)

    def list_of_runs(request: Request) -> Response:
        return _json(lab.runs(dict(_query(request)).get("filter", "").strip()))

    def curves(request: Request) -> Response:
        query = _query(request)
        asked = [value for name, value in query if name == "run"]
        have = [value for name, value in query if name == "at"]
        measures = [value for name, value in query if name == "measure"] or list(MEASURES)
        return _json(lab.curves(list(zip(asked, [*have, *[""] * len(asked)], strict=False)), measures))

    def samples(request: Request) -> Response:
        return _json(lab.samples([value for name, value in _query(request) if name == "run"]))

    def options(request: Request) -> Response:
        return _json(lab.options([value for name, value in _query(request) if name == "run"]))

    return [
        Route("/lab", _page("lab.html", ("playground", "/")), name="lab"),
        Route("/lab/api/runs", list_of_runs),
        Route("/lab/api/curves", curves),
        Route("/lab/api/samples", samples),
        Route("/lab/api/options", options),
        Route("/page/{name}", _file),
    ]


def playground_routes() -> list[Route]:
    """The playground's page at ``/``, which talks to ``/v1/models``, ``/v1/completions`` and ``/tokenize``."""
    return [Route("/", _page("playground.html", ("lab", "/lab")), name="playground"), Route("/page/{name}", _file)]


def lab_app(runs: Path, host: str = "127.0.0.1") -> ASGIApp:
    """The lab alone, as an ASGI application."""
    first = Route("/", lambda request: RedirectResponse("lab", headers=HEADERS))
    names = (*LOCAL, host, socket.gethostname(), socket.getfqdn())
    app = Starlette(routes=[first, *routes(runs)])
    return HostCheck(app, hosts=names, any_address=True, origins=(), option="--host", origin_option="")


def _query(request: Request) -> list[tuple[str, str]]:
    """The query; ids stay percent-encoded, since names of folders need not be UTF-8."""
    text = request.scope["query_string"].decode("ascii", "replace")
    pairs = (pair.partition("=")[::2] for pair in text.split("&"))
    return [(name, value if name == "run" else unquote_plus(value)) for name, value in pairs]


def _json(content: Any) -> Response:
    # ASCII, so that names that are not UTF-8 can be sent at all. What JSON lacks cannot occur: curves are finite.
    text = json.dumps(content, separators=(",", ":"))
    return Response(text, media_type="application/json", headers=HEADERS)


def _page(file: str, other: tuple[str, str]) -> Callable[[Request], Response]:
    """A page, whose link to the other page is shown if that is served, too."""

    def page(request: Request) -> Response:
        text = (_PAGE / file).read_text(encoding="utf-8")
        with contextlib.suppress(NoMatchFound):
            request.app.url_path_for(other[0])
            text = text.replace(f'<a hidden href="{other[1]}"', f'<a href="{other[1]}"')
        return Response(text, media_type="text/html", headers=HEADERS)

    return page


def _file(request: Request) -> Response:
    """A script or style; only names that are in the folder are known."""
    name = request.path_params["name"]
    there = {path.name: path for path in _PAGE.iterdir() if path.suffix in _TYPES and path.suffix != ".html"}
    if name not in there:
        return Response("not found\n", status_code=404, media_type="text/plain", headers=HEADERS)
    return Response(there[name].read_bytes(), media_type=_TYPES[there[name].suffix], headers=HEADERS)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a host's port.

    Raises:
        ConfigError: the port is taken or not allowed, or the host is not this machine.
    """
    if not 0 <= port < 1 << 16:  # the resolver would take the rest of it
        raise ConfigError(f"--port {port}; expected 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(address)
            found.listen(128)
        except OSError:
            found.close()
            raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot listen on --host {host} --port {port}: {why(error)}; choose another") from None
    return found


def serve_lab(runs: Path, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the lab until Ctrl-C.

    Args:
        ready: called with the page's address once it can be opened.

    Raises:
        FileMissingError: the folder does not exist, and is not the one that training makes by itself.
        ConfigError: as :func:`listen`.
    """
    import uvicorn

    if not runs.is_dir() and runs != Path("runs"):
        raise FileMissingError(f"no folder {runs}; expected one with runs, such as runs")
    with listen(host, port) as listening:
        config = uvicorn.Config(
            lab_app(runs, host), log_level="error", lifespan="off", timeout_graceful_shutdown=1, server_header=False
        )
        address = f"[{host}]" if ":" in host else host
        ready(f"http://{address}:{listening.getsockname()[1]}")
        uvicorn.Server(config).run(sockets=[listening])


def _steps_of(row: Row) -> Any:
    """The number of steps that a run will have; None if it ends by its time."""
    return None if row.get("train.minutes") else row.get("train.max_iters")
