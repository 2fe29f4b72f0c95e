"""The page as a reader has it, in Chromium: it draws, answers, fits a phone and stays with itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from groundup.reports.content import Preface
from groundup.reports.report import write_report
from made_runs import ablations_sweep, make_sweep, rates_sweep

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

for package in ("jinja2", "matplotlib", "plotly", "scipy"):
    pytest.importorskip(package)
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
WIDTHS = {"desk": 1280, "phone": 390}
HOSTILE = '<img src=x onerror="window.hacked = 1"><a href="https://example.com">x</a>'

# Boxes of the texts that may stand beside one another: those of the page, and in a plot its titles and ticks.
BOXES = """() => [...document.querySelectorAll(
    'h1, h2, h3, nav a, header > ul li, thead span, .question, .finding, .strip dt, .strip dd, .note, '
    + '.controls label, .legend .tools > *, .legend li, '
    + 'summary, .pairs dt, .pairs dd, pre, .xtitle, .ytitle, .xtick text, .ytick text, .text text')]
  .map(element => [element.textContent.trim().slice(0, 40), element.getBoundingClientRect(), element])
  .filter(([text, box]) => text && box.width && box.height)
  .map(([text, box]) => [text, box.left, box.top + scrollY, box.right, box.bottom + scrollY])"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    ablations_sweep(folder / "ablations")
    rates = {1e-3: [1.5, 1.51], 2e-3: [1.4, 1.41], 3e-3: [1.39, 1.42], 4e-3: [None, 1.45], 8e-3: [None, None]}
    published = {"source": "A paper on rates", "losses": {"1e-3": 1.377, "5e-3": "NaN"}}
    rates_sweep(folder / "rates", rates, published=published)
    cells = {f"c{i}": {"variant": f"variant number {i} {HOSTILE}", "losses": [1.4 + i / 50]} for i in range(20)}
    make_sweep(folder / "many", cells, question=HOSTILE)
    begun, _ = (make_sweep(folder / name, {"a": {"losses": [1.4, 1.5]}}) for name in ("begun", "after"))
    for metrics in begun.glob("*/metrics.jsonl"):
        metrics.unlink()
    names = ("ablations", "rates", "many", "begun", "after")
    preface = Preface("Of all that there is.", [f"Nothing {HOSTILE}" * 3], "groundup reproduce")
    return write_report([folder / name for name in names], folder / "out", preface=preface).page


@pytest.fixture(scope="module", params=WIDTHS)
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("no chromium; `apt-get install chromium` to run this test")
    phone = request.param == "phone"
    with playwright.sync_playwright() as started:
        context = started.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, args=FLAGS, headless=True,
            viewport={"width": WIDTHS[request.param], "height": 900}, is_mobile=phone, has_touch=phone,
        )  # fmt: skip
        yield context
        context.close()


@pytest.fixture
def page(browser: BrowserContext, report: Path) -> Iterator[Page]:
    """The page, which must not have complained or asked the network for anything by the end of the test."""
    page, complaints = browser.new_page(), []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    local = ("file:", "data:", "blob:")
    page.on("request", lambda request: None if request.url.startswith(local) else complaints.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=60_000)
    yield page
    assert complaints == []
    assert not page.evaluate("Boolean(window.hacked)")
    page.close()


def trace(page: Page, plot: str) -> list[dict[str, Any]]:
    return page.evaluate(
        f"document.getElementById('{plot}').data.map(t => ({{n: t.x.length, last: t.x[t.x.length - 1], "
        "y: t.y[t.y.length - 1], width: t.line && t.line.width}))"
    )


def axis(page: Page, plot: str, letter: str) -> dict[str, Any]:
    layout = page.evaluate(f"(({{title, type}}) => ({{title: title.text, type}}))({plot_axis(plot, letter)})")
    return dict(layout)


def plot_axis(plot: str, letter: str) -> str:
    return f"document.getElementById('{plot}').layout.{letter}axis"


def test_it_is_drawn_and_a_picture_of_it_is_kept(page: Page, tmp_path: Path) -> None:
    kept = Path(os.environ.get("GROUNDUP_SCREENSHOTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=kept / f"report-{page.viewport_size['width']}.png", full_page=True)
    assert page.locator(".main-svg").count() >= 6
    for place in range(3):
        assert trace(page, f"curves-{place}")
        assert trace(page, f"summary-{place}")


def test_it_fits_its_window(page: Page) -> None:
    width, inner = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner
    outside = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3, p, label, select, button, summary, dd, .plot')]"
        ".filter(e => e.offsetWidth && !e.closest('.scroll'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent.slice(0, 40))"
    )
    assert outside == []


def test_no_text_lies_on_another(page: Page) -> None:
    page.evaluate("document.querySelectorAll('.legend ul').forEach(e => { e.style.maxHeight = 'none'; })")
    boxes, slack = page.evaluate(BOXES), 1.5
    assert len(boxes) > 100
    overlapping = [
        (a[0], b[0])
        for place, a in enumerate(boxes)
        for b in boxes[place + 1 :]
        if min(a[3], b[3]) - max(a[1], b[1]) > slack and min(a[4], b[4]) - max(a[2], b[2]) > slack
    ]
    assert overlapping == []


def test_a_chapter_without_curves_takes_none_from_others(page: Page) -> None:
    assert page.locator("#curves-3").is_hidden()
    assert page.locator("#curves-4 .main-svg").first.is_visible()
    assert page.locator("#published-1-title").is_visible()


def test_the_axes_can_be_chosen(page: Page) -> None:
    steps = trace(page, "curves-0")
    page.locator("#controls-0 select[name=x]").select_option("tokens")
    tokens = trace(page, "curves-0")
    assert [line["last"] for line in tokens] == [line["last"] * 32 * 64 for line in steps]
    assert axis(page, "curves-0", "x")["title"] == "tokens"
    page.locator("#controls-0 select[name=x]").select_option("flops")
    assert min(line["last"] for line in trace(page, "curves-0")) > 1e10
    page.locator("#controls-0 select[name=x]").select_option("seconds")
    assert axis(page, "curves-0", "x")["title"] == "wall-clock time (seconds)"
    assert max(line["last"] for line in trace(page, "curves-0")) == pytest.approx(4.0)
    page.locator("#controls-0 [name=logx]").check()
    page.locator("#controls-0 [name=logy]").check()
    assert [axis(page, "curves-0", letter)["type"] for letter in "xy"] == ["log", "log"]
    page.locator("#controls-0 select[name=measure]").select_option("val_bpb")
    bits = trace(page, "curves-0")
    assert axis(page, "curves-0", "y")["title"] == "validation bits per byte"
    assert [line["y"] for line in bits] == pytest.approx([0.37 * line["y"] for line in steps], rel=1e-5)


def test_lines_can_be_put_away_by_the_keyboard(page: Page) -> None:
    before = trace(page, "curves-1")
    box = page.locator("#legend-1 li input").first
    box.focus()
    page.keyboard.press("Space")
    assert len(trace(page, "curves-1")) < len(before)
    page.locator("#legend-1 button[name=none]").press("Enter")
    assert trace(page, "curves-1") == []
    page.locator("#legend-1 button[name=all]").press("Enter")
    assert len(trace(page, "curves-1")) == len(before)


def test_smoothing_calms_the_curve(page: Page) -> None:
    def roughness() -> float:
        return float(page.evaluate(
            "(y => y.slice(2).reduce((sum, v, i) => sum + Math.abs(v - 2 * y[i + 1] + y[i]), 0))"
            "(Array.from(document.getElementById('curves-2').data.slice(-1)[0].y))"
        ))  # fmt: skip

    page.locator("#controls-2 select[name=measure]").select_option("train_loss")
    page.locator("#controls-2 [name=smooth]").fill("0")
    rough = roughness()
    page.locator("#controls-2 [name=smooth]").fill("20")
    assert roughness() < rough / 5
    assert page.locator("#controls-2 output").inner_text() == "20 %"


def test_many_cells_are_found_by_name_and_the_table_is_sorted(page: Page) -> None:
    page.locator("#legend-2 [name=find]").fill("number 17")
    assert page.locator("#legend-2 li:visible").count() == 1
    column = page.locator("#study-2 thead button", has_text="validation loss")
    column.click()
    column.click()
    assert "variant number 19" in page.locator("#study-2 tbody th").first.inner_text()


@pytest.mark.parametrize("browser", ["desk"], indirect=True)  # a phone has no pointer that hovers
def test_what_a_line_is_stands_beside_the_pointer(page: Page) -> None:
    plot = page.locator("#curves-1 .nsewdrag").first
    plot.scroll_into_view_if_needed()
    place = page.evaluate(
        "(() => { const p = document.getElementById('curves-1'), l = p._fullLayout,"
        " t = p.data.reduce((a, b) => b.y[b.y.length - 1] < a.y[a.y.length - 1] ? b : a),"
        " b = p.getBoundingClientRect(), i = t.x.length - 3; return [b.left + l._size.l + l.xaxis.d2p(t.x[i]),"
        " b.top + l._size.t + l.yaxis.d2p(t.y[i])]; })()"
    )
    page.mouse.move(place[0] - 30, place[1] - 30)
    page.mouse.move(*place, steps=5)
    page.wait_for_selector("#curves-1 .hovertext", timeout=5000)
    assert "max_learning_rate" in page.locator("#curves-1 .hovertext").first.text_content()


def test_dark_is_dark(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    page.wait_for_function("document.getElementById('curves-0').layout.font.color === '#e8eaed'")
