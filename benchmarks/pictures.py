"""Pictures of the README and the documentation, each from a real run.

    python benchmarks/pictures.py demo      # docs/images/demo.svg: an excerpt of what `groundup demo` prints
    python benchmarks/pictures.py report    # docs/images/report.png: the page of `groundup report`; needs chromium
    python benchmarks/pictures.py lab       # docs/images/lab.png: the lab while a run trains; needs chromium
    python benchmarks/pictures.py playground    # docs/images/playground.png: `groundup serve`; needs chromium
    python benchmarks/pictures.py site      # screenshots of the site that `make docs` has built, into build/docs/shots

`demo` takes about three minutes on two cores, `report` about four. Everything is run in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH = 104
STEPS = 1780
"""Steps of the pictured demo: what two free cores of an AMD EPYC do in two and a half minutes."""
THEME = TerminalTheme(
    (23, 27, 34),
    (221, 225, 230),
    [(23, 27, 34), (229, 99, 99), (126, 200, 128), (224, 184, 96), (104, 160, 240), (190, 140, 230), (90, 200, 205),
     (221, 225, 230)],
)  # fmt: skip
PLAN = """
name = "learning-rate"
question = "Which peak learning rate is best, and where does training diverge?"
recipe = "minutes"
seeds = 4
baseline = { max_learning_rate = 0.01 }
[options]
train = "data/train"
valid = "data/valid"
vocab_size = 0
d_model = 64
context_length = 64
batch_size = 8
max_iters = 120
eval_interval = 20
eval_windows = 64
log_interval = 2
[axes]
max_learning_rate = [0.001, 0.003, 0.01, 0.03, 0.1]
[rules]
min_learning_rate = "max_learning_rate / 10"
"""


def groundup(*arguments: object, folder: Path) -> str:
    """Run a verb in a folder and return what it prints."""
    command = [sys.executable, "-m", "groundup", *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def excerpt(printed: str) -> list[str]:
    """Lines of the demo that fit on one screen: files, plan, a few evaluations, one story and the curve."""
    parts = re.split(r"^(\d  .*?) ─+$", printed, flags=re.MULTILINE)
    body = dict(zip(parts[1::2], parts[2::2], strict=True))
    lines = [f"$ groundup demo --steps {STEPS}"]
    for heading, text in body.items():
        rows = [row.rstrip() for row in text.strip("\n").split("\n")]
        lines += ["", heading]
        if heading.startswith("4"):
            lines += [row for row in rows if row.startswith(("model", "data", "length", "optimizer", "device"))]
            evaluations = [row for row in rows if re.match(r"step +\d+  valid", row)]
            lines += [*evaluations[:2], *evaluations[3:-1:3], evaluations[-1]]
        elif heading.startswith("5"):
            begin = next(i for i, row in enumerate(rows) if "loss, nats per token" in row)
            paragraphs = "\n".join(rows[:begin]).split("\n\n")[:4]
            for paragraph in paragraphs:
                words = " ".join(paragraph.split())
                lines += [*textwrap.wrap(words, WIDTH - 4, initial_indent="  ", subsequent_indent="  "), ""]
            lines += rows[begin : rows.index("", begin)]
        else:
            lines += [row for row in rows if row.startswith("data/demo")]
    return [line for i, line in enumerate(lines) if line.strip() or (i and lines[i - 1].strip())]


def styled(line: str) -> Text:
    """A styled line."""
    if line.startswith("$"):
        return Text(line, "bold")
    if re.match(r"\d  [a-z]", line):
        return Text(f"{line} {'─' * (WIDTH - 4 - len(line))}", "bold cyan")
    text = Text(line)
    text.highlight_regex(r"valid loss [\d.]+", "green")
    text.highlight_regex("[●]", "yellow")
    text.highlight_regex("[⠀-⣿]+", "blue")
    if re.match('  [A-Z"a-z]', line):
        text.stylize("italic")
    return text


def demo() -> Path:
    """Run the demo and draw an excerpt of what it prints."""
    with tempfile.TemporaryDirectory() as folder:
        printed = groundup("demo", "--steps", STEPS, folder=Path(folder))
    return draw(excerpt(printed))


def draw(lines: list[str]) -> Path:
    """Terminal lines as an SVG without external fonts."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in lines:
        console.print(styled(line), no_wrap=True, overflow="crop")
    drawn = console.export_svg(title="groundup demo", theme=THEME, font_aspect_ratio=0.6, unique_id="demo")
    # rich names a web font; the reader's monospace font needs no server.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    drawn = re.sub("Fira Code", "ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono", drawn)
    path = IMAGES / "demo.svg"
    path.write_text("\n".join(line.rstrip() for line in drawn.split("\n")), encoding="utf-8")
    return path


def report() -> Path:
    """Run a small sweep on the built-in stories and take a picture of its report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "plan.toml").write_text(PLAN, encoding="utf-8")
        make_tokens(folder)
        groundup("sweep", "plan.toml", folder=folder)
        groundup("report", "runs/learning-rate", "--out", "out", folder=folder)
        path = IMAGES / "report.png"
        with chromium(1280, 1000) as browser:
            page = browser.new_page()
            page.goto((folder / "out" / "report.html").as_uri())
            page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
            page.screenshot(path=path)
    return path


def make_tokens(folder: Path) -> None:
    """Token shards of the built-in stories in data/train and data/valid."""
    for split, megabytes, seed in (("train", 1, 0), ("valid", 0.1, 1)):
        groundup("stories", f"{split}.txt", "--megabytes", megabytes, "--seed", seed, folder=folder)
    groundup("tokenizer", "train", "train.txt", "--vocab-size", 1024, "--out", "tok", folder=folder)
    for split in ("train", "valid"):
        groundup("encode", f"{split}.txt", "--tokenizer", "tok", "--out", f"data/{split}", folder=folder)


SMALL = (
    "train demo --data.train data/train --data.valid data/valid --d_model 64 --num_layers 2 --num_heads 2 "
    "--max_learning_rate 0.01 --min_learning_rate 0.001 --context_length 64 --batch_size 8 "
    "--eval_interval 20 --eval_windows 32 --log_interval 2 --sample.interval 100 --sample.tokens 60 "
    "--warmup_iters 30"
).split()


@contextlib.contextmanager
def going(*arguments: object, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A verb that goes on beside the block, and is interrupted when that ends."""
    command = [sys.executable, "-u", "-m", "groundup", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def address_of(process: subprocess.Popen[str]) -> str:
    """The address that a server prints."""
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"http://[\w.:]+", line):
            return found[0]
    sys.exit("the server has printed no address")


def lab() -> Path:
    """Train five small models, and take a picture of the lab while a sixth is half-way."""
    path = IMAGES / "lab.png"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokens(folder)
        variants = [("base", ()), ("lr-0.003", ("--max_learning_rate", 0.003)), ("narrow", ("--d_model", 32)),
                    ("lr-0.03", ("--max_learning_rate", 0.03)), ("post-norm", ("--norm", "post"))]  # fmt: skip
        for run, options in variants:
            groundup(*SMALL, "--max_iters", 300, *options, "--name", run, folder=folder)
        groundup("runs", "--tag", "base", "baseline", folder=folder)
        deep = (*SMALL, "--max_iters", 300, "--num_layers", 4, "--name", "deep")
        shown = going("lab", "--port", 0, folder=folder)
        with going(*deep, folder=folder), shown as server, chromium(1440, 1000) as browser:
            page = browser.new_page()
            page.goto(address_of(server))
            page.wait_for_selector("li.run .is-training", timeout=120_000)
            half_way = "() => document.querySelector('progress')?.value >= 150"
            page.wait_for_function(half_way, timeout=600_000)
            page.wait_for_timeout(3000)
            page.screenshot(path=path)
    return with_few_colours(path)


def playground() -> Path:
    """Train a small model, serve it, and take a picture of a text with the alternatives of one token."""
    path = IMAGES / "playground.png"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tokens(folder)
        groundup(*SMALL, "--max_iters", 600, "--name", "mine", folder=folder)
        with going("serve", "runs/mine", "--port", 0, folder=folder) as server, chromium(1280, 860) as browser:
            page = browser.new_page()
            page.goto(address_of(server))
            page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
            for field, value in (("max_tokens", "90"), ("seed", "1"), ("temperature", "0.7")):
                page.locator(f"#{field}").fill(value)
            page.get_by_role("button", name="Generate").click()
            page.wait_for_selector("#text:not([aria-busy]) .tok", timeout=120_000)
            page.locator("#text .q2, #text .q3").nth(3).focus()
            page.screenshot(path=path)
    return with_few_colours(path)


def with_few_colours(path: Path) -> Path:
    """Write a picture of a page anew with 128 colours, in a third of the bytes."""
    from PIL import Image

    Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def chromium(width: int, height: int) -> Any:
    """Context manager of a headless browser with a window of this size."""
    import shutil

    from playwright import sync_api as playwright

    @contextlib.contextmanager
    def opened() -> Any:
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(
                executable_path=shutil.which("chromium") or "chromium", args=["--no-sandbox"]
            )
            yield browser.new_context(viewport={"width": width, "height": height})
            browser.close()

    return opened()


def site() -> Path:
    """Take a picture of each page of the built site at two widths."""
    built, shots = ROOT / "build" / "docs" / "site", ROOT / "build" / "docs" / "shots"
    shots.mkdir(parents=True, exist_ok=True)
    for width in (1280, 400):
        with chromium(width, 900) as browser:
            page = browser.new_page()
            for file in sorted(built.rglob("*.html")):
                page.goto(file.as_uri())
                page.screenshot(path=shots / f"{'-'.join(file.relative_to(built).with_suffix('').parts)}-{width}.png")
    return shots


def main() -> None:
    """Make the requested picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", choices=["demo", "report", "lab", "playground", "site"])
    pictures = {"demo": demo, "report": report, "lab": lab, "playground": playground, "site": site}
    print(pictures[parser.parse_args().picture]())


if __name__ == "__main__":
    main()
