"""Annotating in a browser, by keys alone, while another process annotates too."""

import pytest
from browser import browser, chromium, served
from playwright.sync_api import expect
from records import random_run, random_trace

from ringlens.store import Store, StoreWriter

RUN = random_run()
LAYER = RUN.sparse_layers[0]
TOKEN = "a-token-for-tests"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    chromium()
    path = tmp_path_factory.mktemp("annotated") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, 12, seed=i) for i in range(2)])
        span = {"start": 0, "end": 9, "token_start": 2, "token_end": 8, "text": "abcdefghi"}
        writer.replace_rows(run_id, "steps", [{"trace_id": 1, "step": 0, **span}])
        writer.finish_run(run_id)
    return path


@pytest.fixture(scope="module")
def chrome():
    with browser() as found:
        yield found


def test_a_step_is_annotated_by_keys_and_others_words_come_in(store, chrome):
    with served(store, token=TOKEN, author="Ada") as address:
        page = chrome.new_page()
        page.on("dialog", lambda dialog: pytest.fail("a script of the store ran"))
        page.goto(address)
        page.goto(f"{address.partition('?')[0]}trace/1?tok=4")
        expect(page.locator("#trace-app[data-ready=true]")).to_be_visible()
        strip = page.get_by_role("group", name="Annotations")
        expect(strip.get_by_role("button", name="Annotate")).to_be_visible()
        page.keyboard.press("a")
        dialog = page.get_by_role("dialog", name="Annotate")
        expect(dialog.get_by_role("radio", name="step 0, tokens 2 to 7")).to_be_checked()
        expect(dialog.get_by_role("textbox", name="Label")).to_be_focused()
        expect(dialog.get_by_role("textbox", name="Author")).to_have_value("Ada")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("says something")
        page.keyboard.type(HOSTILE)
        page.keyboard.press("Tab")
        page.keyboard.type("one\ntwo")
        page.keyboard.press("Control+Enter")
        expect(dialog).to_have_count(0)
        mine = strip.locator(".annotation", has_text=HOSTILE)
        expect(mine).to_contain_text("step 0")
        expect(page.locator(".trace-text .t.annotated")).to_have_count(1)
        with Store(store) as opened:
            (row,) = opened.annotations().to_arrow_table().to_pylist()
            assert (row["label"], row["note"], row["author"]) == (HOSTILE, "one\ntwo", "Ada")
            opened.annotate(1, label="said elsewhere", author="Bob")
        expect(strip.locator(".annotation", has_text="said elsewhere")).to_be_visible()
        mine.press("Enter")
        said = page.get_by_role("dialog", name="What Ada said")
        said.get_by_role("textbox", name="Label").fill("aha")
        said.get_by_role("button", name="Save correction").click()
        expect(strip.locator(".annotation", has_text="aha")).to_be_visible()
        strip.locator(".annotation", has_text="said elsewhere").click()
        page.get_by_role("button", name="Retract").click()
        expect(strip.locator(".annotation")).to_have_count(1)
        page.close()
    with Store(store) as opened:
        assert len(opened.annotations(history=True)) == 4


def test_a_persons_label_stands_before_the_automatic_one(store, chrome):
    with Store(store) as opened:
        opened.annotate(expert=(LAYER, 2), label="commas", author="Ada")
    with served(store) as address:  # without a token nobody may write
        page = chrome.new_page()
        page.goto(f"{address}/expert/{LAYER}/2")
        card = page.get_by_role("region", name="What it is for")
        expect(card).to_contain_text("said by Ada")
        expect(card).to_contain_text("Automatic label")
        page.keyboard.press("a")
        dialog = page.get_by_role("dialog", name="Annotate")
        expect(dialog.get_by_role("alert")).to_contain_text("without a token")
        expect(dialog.get_by_role("button", name="Save")).to_be_disabled()
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        page.close()
