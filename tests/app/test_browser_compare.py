"""The page that compares, in a real browser: what is asked, found, and found in nothing."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import page
from planted import liked_in_thought, planted
from playwright.sync_api import expect

from ringlens.sandbox import confine
from ringlens.store import Store

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(confine.missing()), reason=f"no sandbox: {confine.missing()}"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = planted(
        tmp_path_factory.mktemp("stores") / "store", liked_in_thought, traces=10, tokens=60
    )
    with Store(path) as store:
        yield store


def ready(tab):
    expect(tab.locator("#compare-app[data-ready=true]")).to_be_visible()


def asked(tab):
    return {name: values[0] for name, values in parse_qs(urlsplit(tab.url).query).items()}


def survivors(tab):
    said = tab.locator(".compare-said").inner_text()
    return int(re.search(r": ([\d,]+) of", said)[1].replace(",", ""))


def test_two_selections_and_their_controls(tab, address):
    tab.goto(f"{address}/compare")
    ready(tab)
    preset = tab.get_by_role("button", name="Think against answer")
    expect(preset).to_have_attribute("aria-pressed", "true")
    expect(tab.get_by_role("button", name="Run against run")).to_be_disabled()
    found = survivors(tab)
    assert found >= 3  # expert 5 on three layers

    tab.get_by_role("button", name="In random order").click()
    expect(tab.locator(".compare-said")).to_contain_text("in random order:")
    assert survivors(tab) < found
    tab.keyboard.press("0")
    expect(tab.locator(".compare-said")).to_contain_text("Of the store")
    tab.get_by_role("button", name="q ≤ 0.05").click()
    tab.keyboard.press("e")
    ready(tab)
    expect(tab.get_by_role("button", name="Equal tokens only")).to_have_attribute(
        "aria-pressed", "true"
    )
    assert asked(tab) == {"fdr": "0.05", "within": "token"}

    map_of = tab.get_by_role("img", name="Difference of the shares, A minus B")
    box = map_of.bounding_box()
    x = 30 + (box["width"] - 30) * 5.5 / 16
    map_of.click(position={"x": x, "y": 4})
    title = tab.locator(".focus-card a")
    expect(title).to_have_text("Layer 1, expert 5")
    tab.keyboard.press("]")
    expect(title).to_have_text("Layer 2, expert 5")
    tab.reload()
    ready(tab)
    expect(title).to_have_text("Layer 2, expert 5")
    tab.get_by_role("button", name="Behind “Difference”").click()
    expect(tab.locator("#behind tbody tr")).to_have_count(48)
    tab.keyboard.press("Escape")
    title.click()
    expect(tab.locator("h1")).to_have_text("Layer 2, expert 5")


def test_what_is_typed_is_compared_or_refused(chrome, address):
    with page(chrome) as (tab, complaints):
        tab.goto(f"{address}/compare?a=correct&b=not correct")
        ready(tab)
        choice = tab.get_by_label("Phase", exact=True)
        choice.select_option(label="think")
        assert asked(tab)["group"]
        tab.keyboard.press("/")
        box = tab.get_by_label("Selection A")
        expect(box).to_be_focused()
        box.fill("<img src=x onerror=window.hit=1>")
        tab.keyboard.press("Enter")
        expect(tab.get_by_role("alert")).to_contain_text("These cannot be compared")
        assert tab.evaluate("() => window.hit") is None
        tab.get_by_role("button", name="Think against answer").click()
        ready(tab)
        expect(tab.locator(".compare-said")).to_contain_text("Of the store")
        assert all("400" in each for each in complaints)
