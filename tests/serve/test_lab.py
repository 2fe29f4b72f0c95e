"""The lab's API says what the run directories say while they grow, change or disappear, and only to this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest

pytest.importorskip("starlette", reason="pip install '.[serve]'")
from starlette.testclient import TestClient

from groundup.cli.main import main
from groundup.record import follow
from groundup.record.read import read_run
from groundup.record.run import RunDirectory
from groundup.record.sinks import JsonlSink
from groundup.reports.comparison import compare_runs, comparison_sections
from groundup.reports.run_list import list_runs, tag_run
from groundup.serve.lab import Lab, lab_app, playground_routes, routes
from made_runs import make_run, rates_sweep
from stand_in import StandIn, application

MEASURES = ("val_loss", "train_loss", "val_bpb")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    make_run(folder / "wide", loss=1.3, options={"model.d_model": 128})
    make_run(folder / "narrow", loss=1.5, status="stopped")
    return folder


class Client:
    """The lab of a folder as the page asks it, without the pause between two looks at the folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("groundup.serve.lab._FRESH_SECONDS", -1.0)
        self.http = TestClient(lab_app(folder), base_url="http://localhost")

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def runs(self, filter_text: str = "") -> dict[str, dict[str, Any]]:
        listed = self.get(f"/lab/api/runs?filter={quote_from_bytes(filter_text.encode())}")["runs"]
        return {run["run"]: run for run in listed if not run["hidden"]}

    def curves(self, run: str, at: str = "", measures: tuple[str, ...] = MEASURES) -> dict[str, Any]:
        query = "&".join([f"run={run}&at={at}", *(f"measure={name}" for name in measures)])
        return dict(self.get(f"/lab/api/curves?{query}")[run])


@pytest.fixture
def client(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(runs, monkeypatch)


class Page:
    """What a page knows of a run's curves: everything, then what is new."""

    def __init__(self, client: Client, run: str):
        self.client, self.run, self.at = client, run, ""
        self.curves: dict[str, list[list[float]]] = {}
        self.answers: list[dict[str, Any]] = []

    def poll(self) -> dict[str, Any]:
        found = self.client.curves(self.run, self.at)
        if not found["more"]:
            self.curves = {}
        for name, curve in found["curves"].items():
            columns = self.curves.setdefault(name, [[], [], []])
            for column, new in zip(columns, curve["points"], strict=True):
                column += new
        self.at = found["at"]
        return found

    def agrees_with(self, run: Path) -> bool:
        expected = read_run(run).curves
        return self.curves.keys() == expected.keys() and all(
            np.allclose(mine, theirs, rtol=1e-5, atol=0.01)
            for name, curve in expected.items()
            for mine, theirs in zip(self.curves[name], curve, strict=True)
        )


def line(step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "tokens": 10 * step, "wall_seconds": step / 10, **values}


# The list


def test_the_list_says_what_groundup_runs_says(runs: Path, client: Client) -> None:
    rates_sweep(runs / "sweeps" / "rates", {1e-3: [1.4, None], 2e-3: [1.45]})
    (runs / "narrow" / "config.toml").write_text("a = [")
    tag_run(runs / "wide", "good")
    found, expected = client.runs(), list_runs(runs)
    assert list(found) == [row["run"] for row in expected]
    for row in expected:
        shown = found[row["run"]]
        assert {name: shown[name] for name in row.keys() & shown.keys()} == {
            name: row[name] for name in row.keys() & shown.keys()
        }
    assert found["narrow"]["status"] == "broken"
    assert "config.toml cannot be read" in found["narrow"]["problem"]
    assert found["wide"]["tags"] == ["good"]
    assert found["wide"]["max_iters"] == 200
    assert {run["group"] for run in found.values() if run["sweep"]} == {"sweeps/rates"}
    assert found["sweeps/rates/lr-0.001-seed1"]["status"] == "diverged"
    assert found["wide"]["tokens_per_second"] == pytest.approx(1e5, rel=0.05)


def unfinished(run: Path, seconds_ago: float) -> None:
    (run / "summary.json").unlink(missing_ok=True)
    then = time.time() - seconds_ago
    os.utime(run / "metrics.jsonl", (then, then))


def test_a_run_whose_lock_is_held_is_training_now(runs: Path, client: Client) -> None:
    unfinished(runs / "wide", 3600)
    assert client.runs()["wide"]["status"] == "unfinished"
    with RunDirectory(runs / "wide").locked(), RunDirectory(runs / "narrow").locked():
        found = client.runs()
        assert (found["wide"]["status"], found["narrow"]["status"]) == ("training", "training")  # narrow is resumed
        assert RunDirectory(runs / "wide").is_being_trained()
    found = client.runs()
    assert (found["wide"]["status"], found["narrow"]["status"]) == ("unfinished", "stopped")


def test_looking_takes_no_lock(runs: Path) -> None:
    with RunDirectory(runs / "wide").locked():
        pass
    before = Path("/proc/locks").read_text()
    assert not RunDirectory(runs / "narrow").is_being_trained()
    assert Path("/proc/locks").read_text().count("\n") <= before.count("\n") + 1
    assert not (runs / "narrow" / ".lock").exists()


def test_a_run_that_another_machine_writes_is_training_now(runs: Path, client: Client) -> None:
    unfinished(runs / "wide", 1)
    assert client.runs()["wide"]["status"] == "training"
    unfinished(runs / "wide", 300)
    assert client.runs()["wide"]["status"] == "unfinished"


@pytest.mark.parametrize("text", ["d_model >= 100", "status = stopped", "val_loss < 1.4 or name ~ arro"])
def test_a_comparison_filters_as_groundup_runs_does(runs: Path, client: Client, text: str) -> None:
    assert list(client.runs(text)) == [row["run"] for row in list_runs(runs, filter_text=text)]


def test_words_filter_names_status_and_tags(runs: Path, client: Client) -> None:
    tag_run(runs / "wide", "Baseline")
    assert list(client.runs("base")) == ["wide"]
    assert list(client.runs("NARROW stop")) == ["narrow"]
    assert list(client.runs("wide stop")) == []


def test_a_wrong_filter_hides_nothing_and_says_what_is_wrong(client: Client) -> None:
    found = client.get("/lab/api/runs?filter=d_modle%3E3")
    assert "did you mean" in found["problem"]
    assert [run["hidden"] for run in found["runs"]] == [False, False]


def test_a_folder_that_is_not_there_yet_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(tmp_path / "runs", monkeypatch)
    assert client.get("/lab/api/runs")["missing"]
    assert client.get("/lab/api/curves?run=a&at=&measure=val_loss") == {"a": {"gone": True}}
    assert client.get("/lab/api/options?run=a") == {}
    make_run(tmp_path / "runs" / "a")
    assert list(client.runs()) == ["a"]


NAMES = ["with space", "ü 漢字", "100 % & more=1, #2?", '<img src=x onerror="alert(1)">', "a/b/c", "plus+", "%2e%2e"]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    client = Client(tmp_path, monkeypatch)
    make_run(tmp_path / name)
    run = client.runs()[name]
    assert run["id"].isascii()
    assert client.curves(run["id"])["curves"].keys() == set(MEASURES)
    assert client.get(f"/lab/api/samples?run={run['id']}")[run["id"]][0]["step"] == 200


def test_a_name_that_is_not_utf8_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(tmp_path, monkeypatch)
    make_run(tmp_path / "a")
    os.rename(tmp_path / "a", os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    (run,) = client.runs().values()
    assert run["id"] == "caf%E9"
    assert client.curves(run["id"])["curves"].keys() == set(MEASURES)


# Curves


def test_curves_are_those_of_the_report(runs: Path, client: Client) -> None:
    for name in ("wide", "narrow"):
        page = Page(client, name)
        assert not page.poll()["more"]
        assert page.agrees_with(runs / name)
    found = client.curves("wide", measures=("lr", "grad_norm", "tokens_per_second", "none"))
    assert found["curves"].keys() == {"lr", "grad_norm", "tokens_per_second"}
    assert found["tokens_per_step"] == 32 * 64
    assert {"val_perplexity", "lr"} <= set(found["names"])


def test_a_growing_run_sends_only_what_is_new(runs: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs / "wide"
    sink, page = JsonlSink(run, after_step=100), Page(client, "wide")
    page.poll()
    starts: list[int] = []
    original = follow.read_metrics
    monkeypatch.setattr(follow, "read_metrics", lambda path, start: starts.append(start) or original(path, start=start))
    for step in range(102, 112, 2):
        size = (run / "metrics.jsonl").stat().st_size
        sink.metrics(line(step, train_loss=2.0 + step / 1000, lr=1e-3))
        if step == 110:
            sink.metrics(line(step + 1, val_loss=2.5))
        found = page.poll()
        assert found["more"]
        assert starts.pop() == size
        assert found["curves"]["train_loss"]["points"][0] == [step]
        assert ("val_loss" in found["curves"]) == (step == 110)
        assert page.agrees_with(run)
    assert page.poll() == found | {"curves": {}}
    assert starts == []  # nothing is read where nothing has changed
    sink.close()


def test_a_line_that_is_being_written_comes_when_it_is_whole(runs: Path, client: Client) -> None:
    page = Page(client, "wide")
    page.poll()
    text = json.dumps(line(300, train_loss=1.25)) + "\n"
    with (runs / "wide" / "metrics.jsonl").open("a") as file:
        file.write(text[:20])
        file.flush()
        assert page.poll()["curves"] == {}
        file.write(text[20:])
        file.flush()
        assert page.poll()["curves"]["train_loss"]["points"][:2] == [[300], [1.25]]
    assert page.agrees_with(runs / "wide")


def resumed(run: Path) -> None:
    JsonlSink(run, after_step=100).close()


def written_over(run: Path) -> None:
    content = (run / "metrics.jsonl").read_text().replace('"step": 20,', '"step": 21,')
    (run / "metrics.jsonl").write_text(content)  # the same file and length


def a_step_again(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line(150, train_loss=9.0, val_loss=9.0)) + "\n")


def a_short_end(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:  # averages one step instead of two: part of the point before it
        file.write(json.dumps(line(201, train_loss=9.0)) + "\n" + json.dumps(line(203, train_loss=8.0)) + "\n")
        file.write(json.dumps(line(204, train_loss=7.5)) + "\n" + json.dumps(line(204, train_loss=7.0)) + "\n")


def emptied(run: Path) -> None:
    (run / "metrics.jsonl").write_text("")


@pytest.mark.parametrize("change", [resumed, written_over, a_step_again, a_short_end, emptied])
def test_what_changes_behind_the_page_is_sent_anew(runs: Path, client: Client, change: Callable[[Path], None]) -> None:
    page = Page(client, "wide")
    page.poll()
    change(runs / "wide")
    assert not page.poll()["more"]
    assert page.agrees_with(runs / "wide")


def test_damaged_lines_are_left_out(runs: Path, client: Client) -> None:
    file = runs / "wide" / "metrics.jsonl"
    content = file.read_bytes().splitlines(keepends=True)
    content[10:10] = [
        b"\x00\x00\n",
        b"[1]\n",
        b'{"step": "x"}\n',
        b'{"step": 3, "train_loss": "x"}\n',
        b"\xff\n",
        b"{" * 5000 + b"\n",
    ]
    file.write_bytes(b"".join(content))
    page = Page(client, "wide")
    page.poll()
    assert page.agrees_with(runs / "wide")
    assert len(page.curves["train_loss"][0]) == 100


def test_runs_disappear_and_come_back(runs: Path, client: Client) -> None:
    page = Page(client, "wide")
    page.poll()
    shutil.move(runs / "wide", runs.parent / "away")
    assert list(client.runs()) == ["narrow"]
    assert client.curves("wide", page.at) == {"gone": True}
    assert client.get("/lab/api/samples?run=wide&run=narrow").keys() == {"narrow"}
    make_run(runs / "wide", loss=3.0)
    assert not page.poll()["more"]
    assert page.agrees_with(runs / "wide")


def test_many_points_are_thinned_and_no_spike_is_lost(runs: Path, client: Client) -> None:
    values = np.random.default_rng(0).normal(2, 0.1, 50_000)
    values[[12_345, 40_000]] = 77.0, -5.0
    with (runs / "wide" / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(line(step + 1, train_loss=value)) + "\n" for step, value in enumerate(values))
    found = client.curves("wide", measures=("train_loss",))["curves"]["train_loss"]
    steps, losses, _ = found["points"]
    assert len(steps) <= 2000
    assert (steps[0], steps[-1], max(losses), min(losses)) == (1, 50_000, 77.0, -5.0)
    assert np.mean(found["means"][1]) == pytest.approx(values.mean(), rel=1e-4)
    many = client.get("/lab/api/curves?" + "run=wide&at=&" * 60 + "measure=train_loss")
    assert len(many["wide"]["curves"]["train_loss"]["points"][0]) <= 700


# Samples and options


def test_samples_are_those_in_the_file(runs: Path, client: Client) -> None:
    sink = JsonlSink(runs / "wide", after_step=200)
    for step in (210, 220):
        sink.sample({"step": step, "prompt": "A", "text": f"<b>{step}</b>", "temperature": 0.8})
        found = client.get("/lab/api/samples?run=wide")["wide"]
        assert [sample["step"] for sample in found] == [*range(200, step + 1, 10)]
        assert found[-1]["text"] == f"<b>{step}</b>"
    sink.close()


def test_options_that_differ_are_those_of_groundup_compare(runs: Path, client: Client) -> None:
    make_run(runs / "other", seed=3, options={"optim.max_learning_rate": 0.01})
    found = client.get("/lab/api/options?run=wide&run=other")
    expected = comparison_sections(compare_runs(runs / "wide", runs / "other"))[0].rows
    assert [(name, *values) for name, values in found.items()] == [tuple(row) for row in expected]
    assert found["model.d_model"] == ["128", "64"]
    alone = client.get("/lab/api/options?run=wide")
    assert alone["model.d_model"] == ["128"]
    assert len(alone) > 30
    (runs / "other" / "config.toml").write_text("a = [")
    found = client.get("/lab/api/options?run=wide&run=other&run=narrow")
    assert found["model.d_model"] == ["128", "unknown", "64"]
    assert len(found) < 5


# Safety


SECRET = "nothing of this may be read"
OUTSIDE = [
    "../secret",
    "..%2Fsecret",
    "%2e%2e/secret",
    "/etc",
    "wide/../../secret",
    "wide/../narrow",
    ".",
    "",
    "%00",
    "wide%00",
]


@pytest.mark.parametrize("run", OUTSIDE)
def test_no_id_leads_out_of_the_folder(runs: Path, client: Client, run: str) -> None:
    make_run(runs.parent / "secret", sample=SECRET)
    assert client.get(f"/lab/api/curves?run={run}&at=&measure=val_loss")[run] == {"gone": True}
    assert client.get(f"/lab/api/samples?run={run}") == {}
    assert client.get(f"/lab/api/options?run={run}") == {}


@pytest.mark.parametrize(
    "path",
    ["/page/../lab.py", "/page/..%2flab.py", "/page/%2e%2e/lab.py", "/page/lab.py", "/page/", "/page//etc/passwd"],
)
def test_only_the_files_of_the_page_are_served(client: Client, path: str) -> None:
    answer = client.http.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8001", "127.0.0.1:8001", "[::1]:8001", "192.168.1.9:8001", socket.gethostname()]
)
def test_this_machine_is_answered(client: Client, host: str) -> None:
    assert client.http.get("/lab/api/runs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8001",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "[::1",
        "a@localhost",
    ],
)
def test_a_name_that_is_made_to_lead_here_is_not_answered(client: Client, host: str) -> None:
    answer = client.http.get("/lab/api/runs", headers={"Host": host})
    assert answer.status_code == 403
    assert "--host" in answer.text


def test_a_name_that_is_listened_on_is_answered(runs: Path) -> None:
    http = TestClient(lab_app(runs, "gpu-box.example"), base_url="http://gpu-box.example:8001")
    assert http.get("/lab/api/runs").status_code == 200


@pytest.mark.parametrize("path", ["/lab", "/lab/api/runs", "/page/lab.js", "/page/style.css", "/page/none", "/"])
def test_everything_comes_with_a_strict_policy(client: Client, path: str) -> None:
    answer = client.http.get(path, follow_redirects=False)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "*" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_makes_no_markup_of_strings() -> None:
    page = Path(follow.__file__).parents[1] / "serve" / "page"
    sources = {path.name: path.read_text("utf-8") for path in page.iterdir() if path.suffix in (".html", ".css", ".js")}
    assert {
        "lab.html",
        "playground.html",
        "style.css",
        "lab.js",
        "playground.js",
        "chart.js",
        "shared.js",
    } <= sources.keys()
    for name, source in sources.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|DOMParser", source), name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source), name
        if name.endswith(".html"):
            assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", source), name
    assert sum(len(source.splitlines()) for source in sources.values()) < 1200


def test_each_page_links_to_the_other_only_if_that_is_there(runs: Path) -> None:
    alone, together = routes(runs), [*playground_routes(), *routes(runs), *StandIn().routes()]
    for served, linked in ((alone, False), (together, True)):
        http = TestClient(application(*served), base_url="http://localhost")
        assert ('<a href="/">Playground</a>' in http.get("/lab").text) == linked
    assert '<a href="/lab">Lab</a>' in http.get("/").text
    http = TestClient(application(*playground_routes()), base_url="http://localhost")
    assert '<a hidden href="/lab">Lab</a>' in http.get("/").text


# The verb


def test_torch_is_not_loaded(runs: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom groundup.serve.lab import Lab, lab_app\n"
        f"runs = Path({str(runs)!r})\nlab_app(runs)\nlab = Lab(runs)\n"
        "print(len(lab.runs()['runs']), len(lab.curves([('wide', '')], ['val_loss'])))\n"
        "print(len(lab.options(['wide', 'narrow'])) > 0)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "1", "True", "False"]


def test_ctrl_c_ends_it_in_one_line(runs: Path) -> None:
    command = [sys.executable, "-m", "groundup", "lab", str(runs), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    first = process.stdout.readline()
    address = re.search(r"http://127\.0\.0\.1:\d+", first)
    assert address, first
    with urllib.request.urlopen(address[0] + "/lab/api/runs") as answer:  # also follows no proxy for this machine
        assert len(json.load(answer)["runs"]) == 2
    with urllib.request.urlopen(address[0]) as answer:
        assert answer.url == f"{address[0]}/lab"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (out, err, process.returncode) == ("", "groundup: interrupted\n", 130)


def test_a_port_that_is_taken_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
        main(["lab", str(runs), "--port", str(taken.getsockname()[1])])
    assert ended.value.code == 2
    assert re.fullmatch(
        r"groundup: cannot listen on --host 127\.0\.0\.1 --port \d+: Address already in use; .*\n",
        capsys.readouterr().err,
    )


@pytest.mark.parametrize("arguments", [["nowhere"], ["--port", "99999"], ["--port", "-1"], ["--host", "not a host"]])
def test_what_cannot_be_served_is_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["lab", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_a_missing_package_is_one_line_that_says_what_to_install(runs: Path, package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\nfrom groundup.cli.main import main; main(['lab', {str(runs)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        done.stderr == "groundup: the lab needs the packages starlette and uvicorn; install them with: pip install "
        "starlette uvicorn (or, in a clone of groundup: pip install '.[serve]')\n"
    )


def test_threads_may_ask_at_once(runs: Path) -> None:
    import concurrent.futures

    lab = Lab(runs)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda i: lab.curves([("wide", ""), ("narrow", "")], ["val_loss", "train_loss"]), range(40))
        )
    assert all(curves == found[0] for curves in found)
