# SPDX-License-Identifier: Apache-2.0
"""The page of a profile: one file that shows the profile's own numbers, to everybody, without a network."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from edgemoe.host.studies.profile import charts, page, tables
from PIL import Image

from ..models.support import TINY
from ..programs import needed
from .profiles import found

VOID = {"meta", "img", "input", "link", "br"}
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
TABLES = ("timeline", "activity", "parts", "queues", "decibels", "bytes")


class Outline(HTMLParser):
    """Elements with their attributes; one that is not closed in order fails the test."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.labelled: set[int] = set()  # places of controls inside a label
        self.texts: dict[str, str] = {}  # of elements with an id
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if "label" in self.open:
            self.labelled.add(len(self.elements))
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.open, self.getpos())

    def handle_data(self, data: str) -> None:
        if self.elements and "id" in self.elements[-1][1]:
            name = self.elements[-1][1]["id"]
            self.texts[name] = self.texts.get(name, "") + data

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def text() -> str:
    return page.render(found(True))


@pytest.fixture(scope="module")
def outline(text: str) -> Outline:
    return Outline(text)


def test_nothing_comes_from_elsewhere(text: str, outline: Outline) -> None:
    """No address but those inside the page, and a policy that would keep the browser from following another."""
    for _, attributes in outline.elements:
        for name in ("src", "href", "srcset", "action", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:")), attributes
    styles = text.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in styles and set(re.findall(r"url\(.(.{5})", styles)) == {"data:"}
    [policy] = [m["content"] for m in outline.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert 1_000_000 < len(text) < 3_000_000


def test_it_is_sound_html_with_names_for_all(outline: Outline, text: str) -> None:
    assert text.startswith("<!doctype html>") and outline.all("html")[0]["lang"] == "en"
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in outline.elements:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set(attributes.get(name, "").split()) <= set(ids), (tag, attributes)
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert all(image.get("alt") for image in outline.all("img"))
    for place, (tag, attributes) in enumerate(outline.elements):
        if tag in ("select", "input"):
            assert place in outline.labelled, attributes
        if tag in ("canvas", "svg"):
            assert attributes["role"] == "img" and (attributes.get("aria-label") or attributes.get("aria-labelledby"))
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and set(levels) == {1, 2}


def test_it_holds_the_profile(outline: Outline) -> None:
    assert json.loads(outline.texts["profile"]) == json.loads(json.dumps(found(True)))
    plots = json.loads(outline.texts["plots"])
    assert set(plots) == {a["data-plot"] for _, a in outline.elements if "data-plot" in a}
    assert set(plots) == {
        "timeline",
        "activity",
        "bus",
        "parts",
        "bytes",
        "decibels",
        "queues-0",
        "queues-1",
        "queues-all",
    }


def test_a_name_is_no_markup(text: str) -> None:
    assert "a &lt;picture&gt;" in text and "<picture>" not in text


@pytest.mark.parametrize("rtl", [True, False])
def test_plots_draw_the_tables(rtl: bool) -> None:
    """Vega itself draws each from the profile's tables; every number that a plot writes or names is one of theirs."""
    profile = json.loads(json.dumps(found(rtl)))
    drawn = {}
    for name, spec in charts.charts(profile).items():
        whole = spec | {"datasets": {table: profile[table] for table in TABLES}, "width": 600}
        drawn[name] = vl_convert.vegalite_to_svg(whole)
    bars = len(re.findall(r'<path[^>]*fill="#', drawn["timeline"]))
    assert bars == sum(row["unit"] != "end" for row in profile["timeline"])
    for task, name in ((0, "seg"), (1, "dep")):
        shown = re.findall(r"expert: (\d+); layer: (\d+); tokens: (\d+)", drawn[f"queues-{task}"])
        rows = [row for row in profile["queues"] if row["task"] == name]
        assert sorted(shown) == sorted((str(r["expert"]), str(r["layer"]), str(r["tokens"])) for r in rows)
    parts = re.findall(r"clock cycles: ([\d.]+)", drawn["parts"])
    assert len(parts) == len(profile["parts"])
    assert drawn["bytes"].count("which: moved") == len(profile["bytes"])
    assert drawn["decibels"].count("error: alone") == len(profile["decibels"])


def test_colours_are_explained(text: str) -> None:
    profile = found(True)
    for colours in charts.legends(profile).values():
        assert len(set(colours.values())) == len(colours)
        for label, colour in colours.items():
            assert f'<li><i style="background: {colour}"></i>{tables.words(label)}</li>' in text


def test_routing_maps_show_the_routes(text: str) -> None:
    maps = re.findall(r"<svg viewBox.*?</svg>", text.partition("<script")[0], re.S)
    profile = found(True)
    assert len(maps) == len(profile["routes"])
    for shown, route in zip(maps, profile["routes"], strict=True):
        patches = route["experts"][profile["model"]["prefix"] :]
        assert re.findall(r"<text[^>]*>(\d+)</text>", shown) == [str(chosen[0]) for chosen in patches]
        assert re.findall(r": expert ([\d, then]+)</title>", shown) == [", then ".join(map(str, c)) for c in patches]


def test_tables_have_the_same_numbers() -> None:
    profile = found(True)
    shown = tables.tables(profile)
    cycles = [int(row[5].replace(",", "")) for row in shown["timeline"].rows]
    assert sum(cycles) == profile["cycles"] and len(cycles) == len(profile["timeline"])
    assert sum(int(row[-2].replace(",", "")) for row in shown["kinds"].rows) == profile["cycles"]
    assert sum(int(row[1].replace(",", "")) for row in shown["bytes"].rows) == profile["bytes_moved"]
    assert [len(table.headers) for table in shown.values()] == [len(table.rows[0]) for table in shown.values()]


# ------------------------------------------------------------------------------------------------ in a browser

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browse(text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """Opens the page in headless Chromium; whatever it says, or asks of the network, fails the test."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        needed("chromium")
    from playwright.sync_api import sync_playwright

    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text)
    complaints: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program)

        def open_page(**options: Any) -> Any:
            shown = browser.new_context(**options).new_page()
            shown.on("console", lambda message: complaints.append(message.text))
            shown.on("pageerror", lambda error: complaints.append(str(error)))
            shown.on(
                "request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else complaints.append(r.url)
            )
            shown.goto(path.as_uri())
            shown.wait_for_selector("[data-plots][data-attention][data-reordering]", state="attached", timeout=60_000)
            return shown

        yield open_page
        browser.close()
    assert not complaints


def signals(shown: Any) -> list[float]:
    """What the axis of the timeline goes from and to, as its labels say."""
    labels = shown.locator('[data-plot="timeline"] .role-axis-label text').all_text_contents()
    return [float(label.replace("k", "e3")) for label in labels if re.fullmatch(r"[\d.]+k?", label)]


def test_all_is_drawn_and_moves(browse: Open) -> None:
    shown = browse(viewport={"width": 1100, "height": 800})
    assert shown.locator(".plot svg").count() == 9
    before = shown.locator('[data-plot="timeline"]').text_content()
    assert max(signals(shown)) > 0.8 * found(True)["cycles"]
    shown.get_by_label("Show").select_option(label="layer 1 experts")
    shown.wait_for_function(
        "before => document.querySelector('[data-plot=timeline]').textContent !== before", arg=before
    )
    spans = [row for row in found(True)["timeline"] if row["part"] == "layer 1 experts"]
    assert all(spans[0]["start"] <= cycle <= spans[-1]["end"] for cycle in signals(shown))


def test_reordering_by_keyboard(browse: Open) -> None:
    """What is drawn and told follows the time and the queues."""
    shown = browse(viewport={"width": 1100, "height": 800})
    caption, time = shown.locator("#reordering-caption"), shown.get_by_label("Time")
    frames = set()
    time.focus()
    for key, words in (("ArrowLeft", "queues of its experts"), ("Home", "chooses experts"), ("End", "weights once")):
        shown.keyboard.press(key)
        assert words in caption.text_content()
        frames.add(shown.evaluate("document.getElementById('reordering-canvas').toDataURL()"))
    assert len(frames) == 2, "all is at home at the beginning and at the end, and away in between"
    profile = found(True)
    used = {row["expert"] for row in profile["queues"] if row["tokens"]}
    assert f"{len(used)} times" in shown.locator("#reordering-count").text_content()
    shown.keyboard.press("Home")
    shown.get_by_role("button", name="Play").press("Enter")
    shown.wait_for_function("document.getElementById('reordering-time').valueAsNumber > 5")
    shown.get_by_role("button", name="Pause").press("Enter")
    assert shown.get_by_role("button", name="Play").count() == 1
    shown.get_by_role("button", name="2 Queue").press("Enter")
    assert "queues of its experts" in caption.text_content()


def test_attention_by_keyboard(browse: Open) -> None:
    """Each head's canvas says where the chosen patch looks most: where the profile's picture is white."""
    shown = browse(viewport={"width": 1100, "height": 800})
    shown.locator("#attention-task").select_option("dep")
    shown.locator("#attention-query").focus()
    shown.keyboard.press("Home")
    shown.wait_for_function("document.getElementById('attention-where').textContent.includes('CLS')")
    [row] = [row for row in found(True)["attention"] if (row["layer"], row["task"]) == (1, "dep")]
    with Image.open(io.BytesIO(base64.b64decode(row["png"].partition(",")[2]))) as picture:
        grey = np.asarray(picture).reshape(TINY.heads, TINY.tokens, TINY.tokens)
    for canvas, most in zip(shown.locator("#attention-heads canvas").all(), grey[:, 0].argmax(-1), strict=True):
        patch = int(most) - TINY.prefix
        down, across = divmod(patch, TINY.patches_per_row)
        where = f"row {down + 1}, column {across + 1}" if patch >= 0 else "the CLS token"
        assert canvas.get_attribute("aria-label").endswith(f"the CLS token looks most at {where}")
    shown.locator("#attention-heads canvas").first.click(position={"x": 2, "y": 2})
    shown.wait_for_function("document.getElementById('attention-where').textContent === 'row 1, column 1'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1100])
def test_everybody_can_use_it(browse: Open, scheme: str, width: int) -> None:
    """axe-core finds nothing: contrasts, names, order; and nothing is wider than the window."""
    from axe_playwright_python.sync_playwright import Axe

    shown = browse(viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce")
    found_ = Axe().run(shown)
    assert not found_.violations_count, found_.generate_report()
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 29)")
    labels = shown.locator(".plot .role-axis-label text").first
    assert labels.evaluate("e => getComputedStyle(e).fill") == shown.evaluate("getComputedStyle(document.body).color")


def test_on_paper(browse: Open, tmp_path: Path) -> None:
    """Dark or not, it is printed on white, without what only a screen can do."""
    shown = browse(viewport={"width": 1100, "height": 800}, color_scheme="dark")
    shown.emulate_media(media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not shown.locator("nav").is_visible() and not shown.get_by_label("Show").is_visible()
    assert shown.locator("#reordering-canvas").is_visible()
    shown.pdf(path=tmp_path / "report.pdf", format="A4")
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes()))
    assert 2 <= pages <= 12
