"""The page of a trace's heads in a real browser."""

import re

import pytest
from playwright.sync_api import expect
from probed_store import KEEN, write_probed_store

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_probed_store(tmp_path_factory.mktemp("stores") / "store")


@pytest.fixture(scope="module")
def store(path):
    from ringlens.store import Store

    with Store(path) as store:
        yield store


def ready(tab):
    expect(tab.locator("#heads-app[data-ready=true]")).to_be_visible()


def test_from_a_trace_to_its_heads_and_to_a_step(tab, address):
    tab.goto(f"{address}/trace/1")
    tab.get_by_role("link", name="Heads").click()
    expect(tab.locator("h1")).to_have_text("Attention heads")
    ready(tab)
    layer, head = KEEN
    tab.keyboard.press("]")
    for _ in range(layer - 1):
        tab.keyboard.press("]")
    for _ in range(head):
        tab.keyboard.press("ArrowRight")
    expect(tab.locator(".heads-about")).to_contain_text(f"L{layer} head {head}: 9.000")
    expect(tab.locator(".heads-steps")).to_contain_text(f"layer {layer}, head {head}")
    box = tab.locator(".heads-steps canvas").bounding_box()
    tab.mouse.click(
        box["x"] + 34 + 3.5 * (box["width"] - 34) / 12, box["y"] + 0.9 * (box["height"] - 18)
    )
    expect(tab.locator(".pair-card h2")).to_have_text("Step 10 pays 70% to step 3")
    expect(tab.locator(".pair-card")).to_contain_text("<b>says</b>")  # as text
    tab.reload()
    ready(tab)
    expect(tab.locator(".pair-card h2")).to_have_text("Step 10 pays 70% to step 3")
    tab.get_by_role("button", name=re.compile("Behind “Which steps")).click()
    expect(tab.locator("#behind tbody tr").first).to_be_visible()
    tab.keyboard.press("Escape")
    tab.get_by_role("link", name="Step 3 on the trace").click()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    assert f"tok=42&h={layer}.{head}" in tab.url


def test_what_was_recorded_stands_where_the_probe_was_not_run(tab, address):
    tab.goto(f"{address}/heads/2")
    ready(tab)
    expect(tab.locator("#measure")).to_have_value("entropy")
    tab.locator("#measure").select_option("first_weight")
    tab.wait_for_url(re.compile("metric=first_weight"))
    expect(tab.locator(".heads-steps .command")).to_contain_text("ringlens probe receivers")
    tab.goto(f"{address}/heads/77")
    expect(tab.locator(".state")).to_contain_text("no trace 77")
