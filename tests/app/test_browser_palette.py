"""The command palette in a real browser, by keys alone."""

import pytest
from hostile import HOSTILE
from playwright.sync_api import expect
from thoughts import Thought, write_thoughts

from ringlens.app.pages import PAGES
from ringlens.store import Store

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    thoughts = [Thought([0, 1], prompt=f"{text} sheep. ") for text in HOSTILE[:3]]
    with Store(write_thoughts(tmp_path_factory.mktemp("stores") / "store", thoughts)) as store:
        yield store


def opened(tab):
    tab.keyboard.press("Control+k")
    expect(tab.locator("#palette")).to_be_visible()
    expect(tab.get_by_role("combobox", name="Go to a page")).to_be_focused()


def typed(tab, text):
    opened(tab)
    tab.keyboard.type(text)
    expect(tab.locator("#palette[data-asked=true]")).to_be_visible()


def titles(tab):
    return tab.locator(".palette-option b")


def chosen(tab):
    return tab.locator(".palette-option[aria-selected=true] b")


def test_from_anywhere_to_anywhere(tab, address):
    tab.goto(f"{address}/sql")
    expect(tab.get_by_role("combobox", name="Query")).to_be_visible()
    typed(tab, "L2 E7")
    expect(chosen(tab)).to_have_text("Layer 2, expert 7")
    tab.keyboard.press("Enter")
    expect(tab.locator("h1")).to_have_text("Layer 2, expert 7")
    expect(tab.locator("#palette")).to_be_hidden()
    typed(tab, "2")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    expect(chosen(tab)).to_have_text("Trace 2 beside trace 3")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    typed(tab, "sheep")
    expect(titles(tab)).to_have_text(["Trace 1", "Trace 2", "Trace 3"])
    tab.keyboard.press("ArrowUp")  # from the first to the last
    expect(chosen(tab)).to_have_text("Trace 3")
    tab.keyboard.press("Escape")
    expect(tab.locator("#palette")).to_be_hidden()
    assert tab.url.endswith("/trace/2")  # Escape was the palette's
    assert tab.evaluate("() => window.hit") is None


def test_what_is_done_without_the_server(tab, address):
    tab.goto(f"{address}/?search=sheep")
    expect(tab.locator("#found")).to_have_text("3 traces")
    before = tab.evaluate("() => window.ringlens.theme()")
    tab.locator("#search").focus()  # also while one types
    typed(tab, "dark")
    expect(titles(tab)).to_have_text(["Theme"])
    tab.keyboard.press("Enter")
    assert tab.evaluate("() => window.ringlens.theme()") != before
    tab.locator("#help-button").click()
    expect(tab.locator("#help")).to_contain_text("Ctrl")
    opened(tab)  # in place of the help
    expect(tab.locator("#help")).to_be_hidden()
    expect(titles(tab)).to_have_text(
        [*(page.label for page in PAGES if page.label), "Theme", "Keyboard"]
    )
    tab.keyboard.press("Control+k")
    expect(tab.locator("#palette")).to_be_hidden()
    tab.locator("#palette-button").click()
    tab.keyboard.type("comp")
    tab.keyboard.press("Enter")  # before the server has answered
    tab.wait_for_url("**/compare")
    typed(tab, "L99 E1")
    expect(tab.locator(".palette-said")).to_contain_text("Layer 99 has no experts")
    tab.locator("#palette").get_by_role("combobox").fill("nothing at all")
    expect(tab.locator(".palette-said")).to_have_text("Nothing is called so.")
