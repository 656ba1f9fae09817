"""A list of more traces than the grid asks for at a time, in a real browser."""

from dataclasses import replace

import pytest
from playwright.sync_api import expect
from records import random_run, random_trace
from small_store import write_run
from waiting import wait_for

from ringlens.store import Store

pytestmark = pytest.mark.browser

COUNT = 450


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Traces of few tokens, every third of them correct."""
    run = random_run()
    bare = replace(random_trace(run, 12, seed=1), routing=None, router_logits=None, heads=None)
    traces = [replace(bare, correct=number % 3 == 0, task=f"t{number}") for number in range(COUNT)]
    with Store(write_run(tmp_path_factory.mktemp("stores") / "store", run, traces)) as store:
        yield store


def scrolled_to_the_end(tab):
    tab.locator(".ag-body-viewport").evaluate("(node) => { node.scrollTop = node.scrollHeight; }")


def numbers(tab):
    """Traces on screen in the order of the rows."""
    rows = tab.locator("#traces .ag-row:not(.ag-row-loading)")
    at = "(all) => all.map((row) => [row.ariaRowIndex, row.getAttribute('row-id')].map(Number))"
    return [trace for _, trace in sorted(rows.evaluate_all(at))]


def choose(tab, verdict):
    tab.locator(f"#verdict input[value='{verdict}'] + label").click()


def test_a_filter_shows_its_first_rows_wherever_one_was(tab, address):
    tab.goto(address)
    expect(tab.locator("#traces [row-id='1']")).to_be_visible()
    scrolled_to_the_end(tab)
    expect(tab.locator(f"#traces [row-id='{COUNT}']")).to_be_visible()

    choose(tab, "correct")  # traces 1, 4, 7, …
    expect(tab.locator("#found")).to_have_text("150 traces")
    expect(tab.locator("#traces [row-id='1']")).to_be_visible()
    wait_for(lambda: numbers(tab)[:5] == [1, 4, 7, 10, 13])
    scrolled_to_the_end(tab)
    expect(tab.locator("#traces [row-id='448']")).to_be_visible()

    tab.locator("#search").fill("nobody wrote this")
    expect(tab.locator("#found")).to_have_text("0 traces")
    expect(tab.locator("#traces .ag-row")).to_have_count(0)
    tab.locator("#search").fill("")
    expect(tab.locator("#found")).to_have_text("150 traces")
    expect(tab.locator("#traces [row-id='1']")).to_be_visible()
    choose(tab, "all")
    expect(tab.locator("#found")).to_have_text(f"{COUNT} traces")
    expect(tab.locator("#traces [row-id='2']")).to_be_visible()
    wait_for(lambda: numbers(tab)[:5] == [1, 2, 3, 4, 5])
