"""Annotating in a browser, by keys alone, while others annotate too; and seen in every view."""

import pytest
from browser import browser, chromium, page, served
from playwright.sync_api import expect
from probed_store import write_probed_store
from records import random_run

from ringlens.app import bundle
from ringlens.store import Store

TOKEN = "a-token-for-tests"
LAYER = random_run().sparse_layers[0]
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    chromium()
    return write_probed_store(tmp_path_factory.mktemp("annotated") / "store")


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def dashboard(store):
    """Served to whoever has the token: its address without it."""
    with served(store, token=TOKEN, author="Ada") as address:
        yield address.partition("?")[0]


@pytest.fixture
def tab(chrome, dashboard):
    with page(chrome) as (tab, complaints):
        tab.on("dialog", lambda dialog: pytest.fail("a script of the store ran"))
        tab.goto(f"{dashboard}?token={TOKEN}")
        yield tab
        assert complaints == [] or all("400" in each for each in complaints)  # what was refused


def test_a_step_is_annotated_by_keys_and_others_words_come_in(store, dashboard, tab):
    tab.goto(f"{dashboard}trace/1?tok=31")
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    strip = tab.get_by_role("group", name="Annotations of trace 1")
    expect(strip.get_by_role("button", name="Annotate")).to_be_visible()
    tab.keyboard.press("a")
    dialog = tab.get_by_role("dialog", name="Annotate")
    expect(dialog.get_by_role("radio", name="step 0, tokens 30 to 33")).to_be_checked()
    expect(dialog.get_by_role("textbox", name="Label")).to_be_focused()
    expect(dialog.get_by_role("textbox", name="Author")).to_have_value("Ada")
    tab.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("says something")
    tab.keyboard.type(HOSTILE)
    tab.keyboard.press("Tab")
    tab.keyboard.type("one\ntwo")
    tab.keyboard.press("Control+Enter")
    expect(dialog).to_have_count(0)
    mine = strip.locator(".annotation", has_text=HOSTILE)
    expect(mine).to_contain_text("step 0")
    expect(tab.locator(".trace-text .t.annotated")).to_have_count(1)
    panel = tab.get_by_role("complementary", name="Focused token")
    expect(panel.locator(".annotation", has_text=HOSTILE)).to_be_visible()
    with Store(store) as opened:
        (row,) = opened.annotations().to_arrow_table().to_pylist()
        assert (row["label"], row["note"], row["author"]) == (HOSTILE, "one\ntwo", "Ada")
        opened.annotate(1, label="said elsewhere", author="Bob")
    expect(strip.locator(".annotation", has_text="said elsewhere")).to_be_visible()
    mine.press("Enter")
    said = tab.get_by_role("dialog", name="What Ada said")
    said.get_by_role("textbox", name="Label").fill("aha")
    said.get_by_role("button", name="Save correction").click()
    expect(strip.locator(".annotation", has_text="aha")).to_be_visible()
    strip.locator(".annotation", has_text="said elsewhere").click()
    tab.get_by_role("button", name="Retract").click()
    expect(strip.locator(".annotation")).to_have_count(1)
    with Store(store) as opened:
        assert len(opened.annotations(history=True)) == 4


def annotate(tab, key, about, label):
    """Say something by keys."""
    tab.keyboard.press(key)
    dialog = tab.get_by_role("dialog", name="Annotate")
    expect(dialog.get_by_role("radio", name=about)).to_be_checked()
    tab.keyboard.type(label)
    tab.keyboard.press("Enter")
    expect(dialog).to_have_count(0)


def test_steps_are_annotated_where_heads_are_shown_and_side_by_side(store, dashboard, tab):
    tab.goto(f"{dashboard}heads/1?steps=4-3")
    expect(tab.locator("#heads-app[data-ready=true]")).to_be_visible()
    annotate(tab, "a", "step 4, tokens 46 to 49", "looks back")
    pair = tab.locator(".pair-card")
    expect(pair.locator(".annotation", has_text="looks back")).to_be_visible()
    tab.goto(f"{dashboard}beside/2/1")
    expect(tab.locator("#beside-app[data-ready=true]")).to_be_visible()
    cell = tab.locator(".beside-step", has=tab.get_by_text("looks back"))
    expect(cell).to_contain_text("step 4")
    cell.click()
    annotate(tab, "A", "step 4, tokens 46 to 49", "so do I")
    expect(cell.locator(".annotation")).to_have_count(2)
    tab.keyboard.press("Escape")
    annotate(tab, "a", "the whole trace 2", "calmer")
    expect(tab.get_by_role("group", name="Annotations of trace 2")).to_contain_text("calmer")


def test_an_expert_is_annotated_on_the_map_and_its_label_goes_along(store, dashboard, tab):
    tab.goto(f"{dashboard}routing?L={LAYER}&E=2")
    panel = tab.get_by_role("complementary", name="Expert")
    expect(panel.get_by_role("button", name="Annotate")).to_be_visible()
    annotate(tab, "a", f"layer {LAYER}, expert 2", "commas")
    expect(panel.locator(".annotation", has_text="commas")).to_be_visible()
    with Store(store) as opened:
        ids = opened.trace(1).routing(LAYER)["expert_ids"]
    pos = int((ids == 2).any(axis=1).argmax())
    tab.goto(f"{dashboard}trace/1?tok={pos}&L={LAYER}")
    expect(tab.locator(".layer-detail")).to_contain_text("“commas”, says Ada")


def test_a_persons_label_stands_before_the_automatic_one(store, chrome):
    with Store(store) as opened:
        opened.annotate(expert=(LAYER, 3), label="digits", author="Ada")
    with served(store) as address:  # without a token nobody may write
        tab = chrome.new_page()
        tab.goto(f"{address}/expert/{LAYER}/3")
        card = tab.get_by_role("region", name="What it is for")
        expect(card).to_contain_text("said by Ada")
        expect(card).to_contain_text("Automatic label")
        tab.keyboard.press("a")
        dialog = tab.get_by_role("dialog", name="Annotate")
        expect(dialog.get_by_role("alert")).to_contain_text("without a token")
        expect(dialog.get_by_role("button", name="Save")).to_be_disabled()
        tab.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        tab.close()


def test_a_file_shows_what_was_said_and_takes_no_more(store, chrome, tmp_path):
    with Store(store) as opened:
        opened.annotate(1, step=2, label="in the file", note="a note", author="Cleo")
        opened.annotate(expert=(LAYER, 4), label="brackets", author="Cleo")
        entries = bundle.traces(opened, [1, 2], lambda done, total: None)
        bundle.to_file(opened, entries, tmp_path / "one.html")
    with page(chrome) as (tab, complaints):
        address = f"file://{tmp_path}/one.html"
        tab.goto(address)
        expect(tab.locator("tbody tr").first).to_contain_text("in the file")
        tab.goto(f"{address}?trace=1&tok=39")
        strip = tab.get_by_role("group", name="Annotations of trace 1")
        expect(strip.locator(".annotation", has_text="in the file")).to_contain_text("step 2")
        expect(strip.get_by_role("button", name="Annotate")).to_have_count(0)
        tab.keyboard.press("a")
        strip.locator(".annotation", has_text="in the file").click()
        dialog = tab.get_by_role("dialog", name="What Cleo said")
        expect(dialog.get_by_role("textbox", name="Note")).to_have_value("a note")
        expect(dialog.get_by_role("alert")).to_contain_text("this is a copy")
        expect(dialog.get_by_role("button", name="Save")).to_be_disabled()
        tab.keyboard.press("Escape")
        tab.goto(f"{address}?view=routing&trace=1&L={LAYER}&E=4")
        panel = tab.get_by_role("complementary", name="Expert")
        expect(panel.locator(".annotation")).to_contain_text("brackets")
        tab.get_by_role("button", name="what this holds, and what it reveals").click()
        expect(tab.get_by_role("dialog")).to_contain_text("with the names of those who wrote them")
        assert complaints == []
