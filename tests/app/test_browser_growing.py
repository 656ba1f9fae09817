"""A capture that runs while somebody looks: traces appear, the running one grows, and how fast."""

import pytest
from browser import served
from playwright.sync_api import expect
from records import part, random_run, random_trace
from waiting import wait_for

from ringlens.store import StoreWriter

pytestmark = pytest.mark.browser

RUN = random_run(planned=4, sampling={"max_new_tokens": 400})
TRACE = random_trace(RUN, 400, seed=5)


@pytest.fixture
def writer(tmp_path):
    with StoreWriter(tmp_path / "store") as writer:
        yield writer


@pytest.fixture
def address(writer, tmp_path):
    with served(tmp_path / "store") as address:
        yield address


def tokens(tab):
    return tab.locator(".t")


def follows(tab):
    """Whether the end of the text is on screen."""
    return tab.locator(".trace-text").evaluate(
        "(node) => node.scrollTop + node.clientHeight > node.scrollHeight - 80"
    )


def test_the_running_trace_grows_and_its_reader_stays(tab, writer, address):
    run_id = writer.start_run(RUN)
    (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 200, None)])
    tab.goto(f"{address}/trace/{trace_id}?tok=150&metric=phase")
    expect(tokens(tab)).to_have_count(200)
    facts = tab.locator(".fact-row")
    expect(facts).to_contain_text("thinking, 120 of at most 400 new tokens")
    while not follows(tab):
        tab.locator(".trace-text").evaluate("(node) => { node.scrollTop = node.scrollHeight; }")
    writer.commit(run_id, [part(TRACE, 200, 300, trace_id)])
    expect(tokens(tab)).to_have_count(300)
    expect(facts).to_contain_text("220 of at most 400")
    wait_for(lambda: follows(tab))  # who reads the end reads the new end
    expect(tab.locator(".t.focused")).to_have_count(1)
    assert tab.evaluate("() => document.querySelector('.t.focused').tokenIndex") == 150
    pressed = tab.locator("button[data-metric=phase]")
    expect(pressed).to_have_attribute("aria-pressed", "true")

    tab.locator(".trace-text").evaluate("(node) => { node.scrollTop = 200; }")
    writer.commit(run_id, [part(TRACE, 300, 400, trace_id)])
    expect(tokens(tab)).to_have_count(400)
    at = tab.locator(".trace-text").evaluate("(node) => node.scrollTop")
    assert at == pytest.approx(200, abs=40)
    expect(facts).to_contain_text("finish: stop")
    expect(tab.locator(".live")).to_have_count(0)
    tab.keyboard.press("ArrowRight")  # the keys are those of the view that is shown, once
    expect(tab.locator(".panel-title")).to_contain_text("#151 ")


def test_traces_appear_with_progress_and_pace(tab, writer, address):
    run_id = writer.start_run(RUN)
    tab.goto(address)
    expect(tab.locator("h2").filter(has_text="Waiting for the first trace")).to_be_visible()
    writer.commit(run_id, [random_trace(RUN, 60, seed=1)])
    row = tab.locator(".runs-table tbody tr")
    expect(row).to_contain_text("1 of 4")
    expect(tab.locator("#found")).to_have_text("1 trace")
    (trace_id,) = writer.commit(run_id, [part(TRACE, 0, 100, None)])
    expect(tab.locator("#found")).to_have_text("2 traces")
    expect(row).to_contain_text("1 of 4")  # the second one runs
    expect(row).to_contain_text("tokens/s")
    expect(row.locator(".run-progress i")).to_have_attribute("style", "width: 25%;")
    writer.commit(run_id, [part(TRACE, 100, 400, trace_id)])
    expect(row).to_contain_text("2 of 4")
    writer.finish_run(run_id)
    expect(row).to_contain_text("just now")
    expect(row.locator(".pulse")).to_have_count(0)


def test_a_run_that_nobody_writes_to_is_interrupted(tab, tmp_path):
    with StoreWriter(tmp_path / "store") as gone:
        gone.commit(gone.start_run(RUN), [part(TRACE, 0, 50, None)])
    with served(tmp_path / "store") as address:
        tab.goto(address)
        expect(tab.locator(".runs-table tbody tr")).to_contain_text("interrupted")
        expect(tab.locator(".runs-table .pulse")).to_have_count(0)
