"""Where an expert is named, its card is a click away; where it differs, so is chance."""

import re

import pytest
from browser import page
from playwright.sync_api import expect
from probed_store import write_probed_store

from ringlens.sandbox import confine
from ringlens.store import Store

pytestmark = pytest.mark.browser

EXPERT = re.compile(r"^Layer (\d+), expert (\d+)$")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(write_probed_store(tmp_path_factory.mktemp("stores") / "store")) as store:
        yield store


@pytest.fixture(scope="module")
def one(chrome):
    """One page of the browser for all tests."""
    with page(chrome, viewport={"width": 1280, "height": 720}) as (tab, _):
        yield tab


def leads_to_card(tab, link):
    expect(link).to_be_visible()
    link.click()
    expect(tab.locator("h1")).to_have_text(EXPERT)


def test_an_answer_in_sql_leads_to_experts(one, address, store):
    if confine.missing():
        pytest.skip(f"no sandbox: {confine.missing()}")
    ((run,),) = store.sql("select run_id from runs").fetchall()
    one.goto(f"{address}/sql?q=select run_id, 2 as layer, 7 as expert from runs")
    link = one.locator("#sql-grid .sql-link")
    expect(link).to_have_attribute("href", f"/expert/2/7?run={run}")
    leads_to_card(one, link)


def test_a_trace_leads_to_experts(one, address):
    one.goto(f"{address}/trace/1?tok=40&metric=expert&L=2")
    expect(one.locator("#trace-app[data-ready=true]")).to_be_visible()
    named = one.locator(".routing-grid a, .layer-detail a")
    expect(named.first).to_be_visible()
    assert all(
        re.match(r"/expert/\d+/\d+\?run=", link.get_attribute("href")) for link in named.all()
    )
    one.locator(".legend button.key").first.click()
    leads_to_card(one, one.get_by_role("link", name=re.compile("^Card of E")))


def test_what_a_probe_measured_is_of_its_run(one, address, store):
    ((run,),) = store.sql("select run_id from runs").fetchall()
    one.goto(f"{address}/probes?probe=ablation")
    link = one.locator("#probes-app tbody a").first
    expect(link).to_have_attribute("href", re.compile(rf"^/expert/1/\d\?run={run}$"))


@pytest.mark.parametrize("path", ["/routing?L=2&E=7", "/routing?trace=1&L=2&E=7", "/expert/2/7"])
def test_whether_it_is_real_is_one_click_away(one, address, path):
    if confine.missing():
        pytest.skip(f"no sandbox: {confine.missing()}")
    one.goto(address + path)
    one.get_by_role("link", name="Is it real?").click()
    expect(one.locator("#compare-app[data-ready=true]")).to_be_visible()
    expect(one.locator(".focus-card h2")).to_have_text("Layer 2, expert 7")
    assert one.get_by_label("Selection A").input_value().startswith("run_id = '")
