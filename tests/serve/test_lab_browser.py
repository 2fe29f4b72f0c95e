"""The lab as a reader has it, in Chromium: curves that grow, comparison, keys, a phone, the dark, hostile names."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="pip install '.[serve]'")

from groundup.record.run import RunDirectory
from groundup.record.sinks import JsonlSink
from groundup.reports.run_list import tag_run
from groundup.serve.lab import lab_app
from looks import check_looks, focused, has_visible_focus
from made_runs import make_run, rates_sweep
from stand_in import served

HOSTILE = '<img src=x onerror="window.hacked = 1">'
LONG = "long-" * 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "runs"
    make_run(folder / "wide", loss=1.3, steps=400, options={"model.d_model": 128}, sample=f"{HOSTILE} a cat")
    make_run(folder / "narrow", loss=1.5, steps=400)
    make_run(folder / "lost", loss=600.0, steps=400, status="diverged")
    make_run(folder / HOSTILE, loss=1.7)
    make_run(folder / LONG, loss=1.9, status="stopped")
    rates_sweep(folder / "sweeps" / "rates", {1e-3: [1.4, None], 2e-3: [1.45]})
    tag_run(folder / "wide", HOSTILE)
    (folder / "narrow" / "summary.json").write_text("[]")
    return folder


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[str]:
    with served(lab_app(folder)) as address:
        yield f"{address}/lab"


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder to change, and its lab."""
    with served(lab_app(tmp_path / "runs")) as address:
        yield tmp_path / "runs", f"{address}/lab"


def chart(page: Any, title: str) -> Any:
    return page.locator("figure", has=page.get_by_role("heading", name=title, exact=True))


def lines(page: Any, title: str) -> dict[str, int]:
    """The runs of a chart, and the number of points of their lines."""
    found = (
        chart(page, title)
        .locator("g.run")
        .evaluate_all(
            "all => all.map(g => [g.dataset.run, g.querySelector('.line:not(.faint)')])"
            ".map(([run, line]) => [run, line.getAttribute('d').split(/[ML]/).length - 1])"
        )
    )
    return dict(found)


def texts(page: Any, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_text_contents()]


def test_runs_are_listed_as_they_are_and_foreign_text_is_text(visit: Any, lab: str, tmp_path: Path) -> None:
    page = visit(f"{lab}#sort=run")
    page.get_by_role("button", name="All", exact=True).click()
    kept = Path(os.environ.get("GROUNDUP_SCREENSHOTS", tmp_path))
    page.screenshot(path=kept / "lab.png", full_page=True)
    names = texts(page, "#runs .line1 b")
    seeds = ["lr-0.001-seed0", "lr-0.001-seed1", "lr-0.002-seed0"]
    assert sorted(names) == sorted([HOSTILE, LONG, "lost", "narrow", *seeds, "wide"])
    page.get_by_label("Sort by").select_option("val_loss")
    assert texts(page, "#runs .line1 b")[:2] == ["wide", "lr-0.001-seed0"]
    page.get_by_role("button", name="Reverse the order").click()
    assert texts(page, "#runs .line1 b")[0] == "lost"
    row = page.locator("li.run", has_text="wide")
    assert "✓ finished" in row.text_content()
    assert "1.3000" in row.text_content()
    assert "400 / 400" in row.text_content()
    assert HOSTILE in row.locator(".tag").text_content()
    assert "▲ diverged" in page.locator("li.run", has_text="lost").text_content()
    assert "summary.json cannot be read" in page.locator("li.run", has_text="narrow").text_content()
    assert page.locator("li.group").text_content().startswith("sweeps/rates")
    assert HOSTILE in page.locator("#texts").text_content()
    assert page.locator("img").count() == 0
    assert "8 runs" in page.locator("#summary").text_content()


def test_curves_grow_while_training_and_a_new_run_appears(visit: Any, live: tuple[Path, str]) -> None:
    runs, address = live
    page = visit(address)
    assert "does not exist yet" in page.locator("#empty").text_content()
    make_run(runs / "first")
    (runs / "first" / "summary.json").unlink()
    sink = JsonlSink(runs / "first", after_step=100)
    with RunDirectory(runs / "first").locked():
        page.wait_for_selector("li.run .is-training")
        page.wait_for_selector("figure g.run")
        assert "1 training now" in page.locator("#summary").text_content()
        before = lines(page, "Training loss")["first"]
        for step in (102, 104, 106):
            sink.metrics({"step": step, "tokens": step, "wall_seconds": step / 50, "train_loss": 2.0, "val_loss": 2.5})
        page.wait_for_function(
            "() => document.querySelector('figure:nth-child(2) .line:not(.faint)').outerHTML.split('L').length > 52"
        )
        assert lines(page, "Training loss") == {"first": before + 3}
        sink.sample({"step": 106, "prompt": "Once", "text": " more"})
        page.wait_for_selector("text=Once more")
        sink.close()
    shutil.copytree(runs / "first", runs / "second")
    page.wait_for_selector("li.run >> text=second")
    page.wait_for_selector("figure g.run[data-run=second]")  # nothing was chosen by hand, so it is drawn, too
    shutil.rmtree(runs / "first")
    page.wait_for_selector("figure g.run[data-run=first]", state="detached")
    assert texts(page, "#runs .line1 b") == ["second"]


def test_runs_are_compared_and_options_that_differ_are_shown(visit: Any, lab: str) -> None:
    page = visit(f"{lab}#runs=wide,narrow&smooth=0")
    assert lines(page, "Validation loss") == {"wide": 21, "narrow": 21}
    assert len(page.locator("figure").all()) == 5
    heads = texts(page, "#table thead th")
    assert {"run", "val loss", "d_model"} <= set(heads)
    assert "num_layers" not in heads
    cells = {row[0]: dict(zip(heads, row, strict=True)) for row in
             (texts(page, f"#table tbody tr:nth-child({i}) > *") for i in (1, 2))}  # fmt: skip
    assert (cells["wide"]["d_model"], cells["narrow"]["d_model"]) == ("128", "64")
    page.get_by_role("button", name="val loss").click()
    page.get_by_role("button", name="val loss").click()
    assert texts(page, "#table tbody th")[0] == "narrow"
    assert focused(page) == "val loss"
    assert page.locator("#table th[aria-sort=descending]").text_content() == "val loss"
    page.locator("li.run", has_text="narrow").locator("input").uncheck()
    page.wait_for_selector("#table tbody.pairs")
    page.wait_for_function("() => document.getElementById('table').textContent.includes('model.num_layers')")


def test_a_run_that_diverged_does_not_flatten_the_others(visit: Any, lab: str) -> None:
    page = visit(f"{lab}#runs=lost,wide&smooth=0")
    box = chart(page, "Validation loss").locator("g.run[data-run=wide] .line").bounding_box()
    assert box["height"] > 100
    assert chart(page, "Validation loss").locator(".end title").text_content() == "lost diverged"
    plot, end = (chart(page, "Validation loss").locator(name).bounding_box() for name in (".plot", ".end"))
    assert plot["y"] <= end["y"] <= plot["y"] + plot["height"]


def test_axes_smoothing_and_charts(visit: Any, lab: str) -> None:
    page = visit(f"{lab}#runs=wide&smooth=0")
    ticks = lambda: texts(page, "figure:first-child .grid .x")  # noqa: E731 - asked again and again
    assert ticks()[-1] == "400"
    page.get_by_label("Against").select_option("tokens")
    assert ticks()[-1] == "500k"
    page.get_by_label("Against").select_option("time")
    assert ticks()[-1] == "8"
    page.get_by_label("log x").check()
    page.get_by_label("log y").check()
    assert re.search(r"x=time&.*logx=1&logy=1", page.url)
    page.get_by_label("log x").uncheck()

    def roughness() -> float:
        d = chart(page, "Training loss").locator(".line:not(.faint)").get_attribute("d")
        y = [float(point.split()[1]) for point in re.split("[ML]", d)[1:]]
        return sum(abs(a - 2 * b + c) for a, b, c in zip(y, y[1:], y[2:], strict=False))

    before = roughness()
    page.get_by_label("Smoothing").fill("20")
    assert roughness() < before / 3
    assert chart(page, "Training loss").locator(".faint").count() == 1
    page.get_by_text("Charts", exact=True).click()
    page.get_by_role("checkbox", name="Learning rate").uncheck()
    page.get_by_role("checkbox", name="Bits per byte").check()
    page.wait_for_selector("figure:nth-child(5) g.run")
    titles = texts(page, "figure h3")
    assert titles == ["Validation loss", "Training loss", "Gradient norm", "Speed", "Bits per byte"]


def test_a_link_shows_the_same_again(visit: Any, lab: str) -> None:
    page = visit(lab)
    page.get_by_role("button", name="None", exact=True).click()
    for name in ("narrow", "wide"):
        page.locator("li.run", has_text=name).locator("input").check()
    page.get_by_label("Against").select_option("tokens")
    page.get_by_label("Filter runs").fill("status = finished")
    page.wait_for_function("() => document.querySelectorAll('#runs li.run').length === 4")
    page.get_by_role("button", name="Copy link").click()
    link = page.evaluate("navigator.clipboard.readText()")
    other = visit(link)
    assert lines(other, "Validation loss") == lines(page, "Validation loss")
    assert other.get_by_label("Against").input_value() == "tokens"
    assert texts(other, "#runs b") == texts(page, "#runs b")
    assert texts(other, "#legend li span") == ["narrow", "wide"]


def test_a_wrong_filter_is_explained(visit: Any, lab: str) -> None:
    page = visit(lab)
    page.get_by_label("Filter runs").fill("d_modle > 3")
    page.wait_for_selector("#filter-problem:not(:empty)")
    assert "did you mean" in page.locator("#filter-problem").text_content()
    assert page.locator("#runs li.run").count() == 8


def test_the_pointer_reads_values_and_zooms(visit: Any, lab: str) -> None:
    page = visit(f"{lab}#runs=wide,narrow&smooth=0")
    plot = chart(page, "Validation loss").locator(".plot")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] - 40)
    tip = chart(page, "Validation loss").locator(".tip")
    assert re.search(r"step 3[68]0.*narrow.*1\.50.*wide.*1\.30", tip.text_content())
    assert chart(page, "Training loss").locator(".cross circle").count() == 2  # the cross-hair is in all charts
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 100, steps=4)
    page.mouse.up()
    assert re.search(r"zoom=\d+\.?\d*~\d+", page.url)
    assert "400" not in texts(page, "figure:first-child .grid .x")
    page.get_by_role("button", name="Reset zoom").click()
    assert "zoom" not in page.url
    page.locator("li.run", has_text="wide").hover()
    assert chart(page, "Validation loss").locator("g.run.lit").get_attribute("data-run") == "wide"
    assert chart(page, "Validation loss").locator("g.run.dim").get_attribute("data-run") == "narrow"


def test_all_can_be_done_by_the_keyboard(visit: Any, lab: str) -> None:
    page = visit(f"{lab}#runs=wide&smooth=0&sort=run")
    page.keyboard.press("Tab")
    assert focused(page) == "skip"
    page.keyboard.press("/")
    assert focused(page) == "filter"
    page.keyboard.press("Escape")
    seen = []
    for _ in range(6):
        page.keyboard.press("Tab")
        seen.append(focused(page))
        assert has_visible_focus(page), seen
    assert seen[:4] == ["sort", "order", "all", "none"]
    before = lines(page, "Validation loss")
    stop = page.locator("#runs input[tabindex='0']")
    assert stop.count() == 1
    stop.focus()
    page.keyboard.press("End")
    page.keyboard.press("Space")  # wide, the last by name
    page.wait_for_selector("figure g.run", state="detached")
    page.keyboard.press("Space")
    page.wait_for_selector("figure g.run[data-run=wide]")
    assert lines(page, "Validation loss") == before
    plot = chart(page, "Validation loss").locator(".plot")
    plot.focus()
    assert has_visible_focus(page)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert plot.get_attribute("aria-valuetext") == "step 380: wide 1.3009" or "step 380" in plot.get_attribute(
        "aria-valuetext"
    )
    page.keyboard.press("+")
    assert "zoom=" in page.url
    page.keyboard.press("Escape")
    assert "zoom=" not in page.url
    page.keyboard.press("End")
    page.keyboard.press("+")  # about the last step, behind which there is nothing to see
    assert re.search(r"zoom=[\d.]+~400$|zoom=[\d.]+~400&", page.url)
    page.keyboard.press("Escape")


def test_the_name_of_the_first_column_stays_above_it(visit: Any, lab: str) -> None:
    page = visit(f"{lab}#runs=wide,narrow", width=390)
    page.wait_for_selector("#table tbody tr:nth-child(2)")
    page.locator("#table thead").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('.scroll:has(#table)').scrollLeft = 300")
    head, row, second = (
        page.locator(f"#table {place}").bounding_box()
        for place in ("thead th:first-child", "tbody tr:first-child th", "thead th:nth-child(2)")
    )
    assert head["x"] == row["x"]
    assert second["x"] < head["x"]  # it has gone under the first, which is what is seen there
    at = [head["x"] + 8, head["y"] + head["height"] / 2]
    assert page.evaluate("at => document.elementFromPoint(...at).closest('th').textContent", at) == "run"


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_is_named_and_can_be_read(visit: Any, lab: str, width: int, tmp_path: Path) -> None:
    page = visit(f"{lab}#runs=wide,lost,{'long-' * 30},sweeps/rates/lr-0.001-seed0&sort=run", width=width)
    page.wait_for_selector("figure g.run")
    kept = Path(os.environ.get("GROUNDUP_SCREENSHOTS", tmp_path))
    page.screenshot(path=kept / f"lab-{width}.png", full_page=True)
    check_looks(page)


def test_the_theme_can_be_chosen_and_is_remembered(visit: Any, lab: str) -> None:
    page = visit(lab)
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")  # noqa: E731
    button = page.locator("#theme")
    assert ground() == "rgb(255, 255, 255)"
    button.click()
    button.click()
    assert button.get_attribute("aria-label") == "Theme: dark; change"
    assert ground() == "rgb(20, 23, 27)"
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert ground() == "rgb(20, 23, 27)"


def test_it_says_when_the_lab_is_gone_and_goes_on_when_it_is_back(visit: Any, lab: str) -> None:
    page = visit(lab, expected=("Failed to load resource",))
    page.route("**/lab/api/**", lambda route: route.abort())
    page.wait_for_selector("#trouble:not([hidden])")
    assert "does not answer" in page.locator("#trouble").text_content()
    page.unroute("**/lab/api/**")
    page.wait_for_selector("#trouble", state="hidden")


def test_samples_are_read_at_any_step(visit: Any, live: tuple[Path, str]) -> None:
    runs, address = live
    for name in ("a", "b"):
        make_run(runs / name)
        samples = [{"step": step, "prompt": f"{name}:", "text": f" at {step}"} for step in (50, 100, 200)]
        (runs / name / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    page = visit(f"{address}#runs=a,b")
    assert texts(page, "#texts blockquote") == ["a: at 200", "b: at 200"]
    page.locator("#step").focus()
    page.keyboard.press("ArrowLeft")
    assert texts(page, "#texts blockquote") == ["a: at 100", "b: at 100"]
    assert texts(page, "#texts small") == ["step 100", "step 100"]
    assert page.locator("#step").get_attribute("aria-valuetext") == "step 100"
    assert "sample=100" in page.url
    empty = [{"step": 300, "prompt": "", "text": "\n" * 40}, {"step": 400, "prompt": "a:", "text": ""}]
    for name, sample in zip(("a", "b"), empty, strict=True):
        (runs / name / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    page = visit(f"{address}#runs=a,b")
    assert texts(page, "#texts blockquote") == ["(only spaces and line breaks)", "a: (no text)"]
    assert max(box.bounding_box()["height"] for box in page.locator("#texts article").all()) < 150
