"""The trace page in a real browser: one axis of tokens, on which a click drives everything."""

import csv
import json
import xml.etree.ElementTree as ET
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hostile import HOSTILE
from playwright.sync_api import expect
from ran import by_python, by_sql
from slow_files import few
from thoughts import Thought, write_thoughts

from ringlens.store import Store, StoreWriter

pytestmark = pytest.mark.browser

STEPS, TOKENS = 6, 12


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """1: six steps of hostile text, two go back, with beliefs; 2: without steps."""
    roles = ["plan_generation", "active_computation", "uncertainty_management", *["unknown"] * 3]
    texts = [f"{HOSTILE[i % len(HOSTILE)]} and step {i}. " for i in range(STEPS)]
    thought = Thought([0, 1, 0, 2, 1, 2], texts=texts, roles=roles, backtracks=frozenset({2, 4}))
    path = write_thoughts(tmp_path_factory.mktemp("stores") / "store", [thought, Thought([0])])
    with Store(path) as store:
        ((run,),) = store.sql("select run_id from runs").fetchall()
    with StoreWriter(path) as writer:
        said = json.dumps({"answer": HOSTILE[1], "correct": True, "final": True})
        rows = [{"unit": 0, "key": "candidate", "json": said}]
        rows += [{"unit": 0, "key": "p", "step": i, "value": i / 10} for i in range(STEPS)]
        rows = [{"probe": "belief", "trace_id": 1, **row} for row in rows]
        writer.replace_rows(run, "probes", rows)
    with Store(path) as store:
        yield store


def opened(tab, url):
    tab.goto(url)
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()


def first(step):
    return 1 + step * TOKENS


def expect_focus(tab, pos, step=None):
    """Text, ribbon, panel and address are at a token, and at its step."""
    expect(tab.locator(".panel-title")).to_contain_text(f"#{pos} ")
    assert parse_qs(urlsplit(tab.url).query)["tok"] == [str(pos)]
    assert tab.evaluate("() => document.querySelector('.t.focused').tokenIndex") == pos
    count = tab.locator(".t").count()
    left = tab.evaluate("() => parseFloat(document.querySelector('.cursor').style.left)")
    assert left == pytest.approx((pos + 0.5) / count * width(tab), abs=1)
    if step is not None:
        expect(tab.locator(".step-card")).to_contain_text(f"step {step}")


def width(tab):
    return tab.evaluate("() => document.querySelector('.track').clientWidth")


def click_track(tab, name, pos):
    """A click on a track where a token is."""
    canvas = tab.locator(f"canvas.{name}")
    expect(canvas).to_be_visible()
    box = canvas.bounding_box()
    count = tab.locator(".t").count()
    canvas.click(position={"x": (pos + 0.5) / count * box["width"], "y": box["height"] - 3})


def test_a_click_anywhere_drives_all(tab, address):
    opened(tab, f"{address}/trace/1")
    click_track(tab, "steps-track", first(2) + 7)
    expect_focus(tab, first(2), 2)  # a click on a step leads to its beginning
    expect(tab.locator(".step-card")).to_contain_text("doubt")
    expect(tab.locator(".step-card")).to_contain_text("goes back")
    click_track(tab, "belief-track", 30)
    expect_focus(tab, 30, 2)
    click_track(tab, "change-track", 44)
    expect_focus(tab, 44, 3)
    rows = tab.locator(".routing-grid tbody tr")
    expect(rows.last).to_have_class("current")  # the click was on the lowest layer
    tab.locator(".t").nth(20).click()
    expect_focus(tab, 20, 1)
    dots = tab.locator(".path-canvas")
    dots.scroll_into_view_if_needed()
    expect(dots).to_be_visible()
    tab.reload()
    expect_focus(tab, 20, 1)
    assert tab.evaluate("() => window.hit") is None


def test_keys_go_from_step_to_step(tab, address):
    opened(tab, f"{address}/trace/1")
    for step in range(3):
        tab.keyboard.press("j")
        expect_focus(tab, first(step), step)
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("k")  # from inside a step to its beginning
    expect_focus(tab, first(2), 2)
    tab.keyboard.press("k")
    expect_focus(tab, first(1), 1)


def test_a_point_of_the_path_leads_to_its_step(tab, address):
    opened(tab, f"{address}/trace/1?tok=3")
    canvas = tab.locator(".path-canvas")
    canvas.scroll_into_view_if_needed()
    found = tab.evaluate(
        """async () => {
          const body = await (await fetch('/data/trace/1/map')).json();
          const floats = (text) => new Float32Array(
            Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
          return [[...floats(body.x)], [...floats(body.y)]];
        }"""
    )
    x, y = map(np.array, found)
    box = canvas.bounding_box()
    scale = min((box["width"] - 28) / np.ptp(x), (box["height"] - 28) / np.ptp(y))
    at = {
        "x": box["width"] / 2 + (x[3] - (x.min() + x.max()) / 2) * scale,
        "y": box["height"] / 2 - (y[3] - (y.min() + y.max()) / 2) * scale,
    }
    canvas.click(position=at)
    expect_focus(tab, first(3), 3)


def test_the_map_of_layers_is_chosen_in_the_address(tab, address):
    opened(tab, f"{address}/trace/1")
    expect(tab.locator("canvas.change-track")).to_be_visible()
    tab.get_by_label("What the map of layers shows").select_option("expert")
    expect(tab.locator("canvas.expert-track")).to_be_visible()
    tab.reload()
    expect(tab.locator("canvas.expert-track")).to_be_visible()
    expect(tab.locator("canvas.change-track")).to_have_count(0)


def behind(tab, name):
    tab.get_by_role("button", name=f"Behind “{name}”").click()
    dialog = tab.locator("#behind")
    expect(dialog).to_be_visible()
    return dialog


def text_of(dialog, part):
    dialog.get_by_role("button", name=part, exact=True).click()
    return dialog.locator(".behind-code").inner_text()


def saved(tab, dialog, name, folder):
    with tab.expect_download() as download:
        dialog.get_by_role("button", name=name, exact=True).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


@pytest.mark.parametrize("name", few(["Steps", "Entropy", "Belief", "Routing change"], 1))
def test_behind_a_chart_are_its_numbers(tab, address, store, tmp_path, name):
    opened(tab, f"{address}/trace/1")
    dialog = behind(tab, name)
    made = {"sql": text_of(dialog, "SQL"), "python": text_of(dialog, "Python")}
    rows = len(by_sql(store, made))
    assert rows == len(by_python(made)) > 0
    dialog.get_by_role("button", name="Table", exact=True).click()
    expect(dialog.locator("tbody tr")).to_have_count(rows)
    path = saved(tab, dialog, "CSV", tmp_path)
    with path.open(newline="") as file:
        assert len(list(csv.reader(file))) == rows + 1
    drawing = ET.parse(saved(tab, dialog, "SVG", tmp_path)).getroot()
    assert {node.tag.rpartition("}")[2] for node in drawing.iter()} <= {
        "svg", "title", "rect", "path", "text",
    }  # fmt: skip
    assert saved(tab, dialog, "PNG", tmp_path).read_bytes()[:4] == b"\x89PNG"
    tab.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert tab.evaluate("() => window.hit") is None


def test_what_is_not_there_names_its_command(tab, address):
    opened(tab, f"{address}/trace/2")
    quiet = tab.locator(".track-quiet:visible")
    expect(quiet.filter(has_text="ringlens probe belief")).to_be_visible()
    expect(quiet.filter(has_text="was not recorded")).to_be_visible()
    expect(tab.locator(".path-map")).to_contain_text("three steps")
