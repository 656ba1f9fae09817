"""axe-core looks at every page, in both colour schemes, and at what opens over them."""

import pytest
from axe import grave, installed
from browser import page
from playwright.sync_api import expect
from probed_store import write_probed_store
from slow_files import few

from ringlens.app.pages import PAGES
from ringlens.sandbox import confine
from ringlens.store import Store

pytestmark = pytest.mark.browser

ADDRESSES = {
    "store": ("/", ".ag-row .trace-link"),
    "trace": ("/trace/1?tok=40&h=2.1", ".layer-facts"),
    "beside": ("/beside/1/2?first=3", "#beside-app[data-ready=true]"),
    "routing": ("/routing?L=2&E=7", ".token-table"),
    "expert": ("/expert/2/7", "#expert-app[data-ready=true]"),
    "heads": ("/heads/1", "#heads-app[data-ready=true]"),
    "compare": ("/compare", "#compare-app[data-ready=true]"),
    "probes": ("/probes?probe=ablation", "#probes-app tbody tr"),
    "live": ("/live", ".state"),
    "runs": ("/runs/{run}", "#runs-app tbody tr"),
    "sql": ("/sql?q=from trace_summary", "#sql-grid .ag-row"),
}
"""An address of each page, and what it shows when it is whole."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    installed()
    with Store(write_probed_store(tmp_path_factory.mktemp("stores") / "store")) as store:
        yield store


@pytest.fixture(scope="module")
def one(chrome):
    """One page of the browser for all tests: what it has fetched once it keeps."""
    with page(chrome, viewport={"width": 1280, "height": 720}) as (tab, _):
        yield tab


def opened(tab, address, store, name):
    path, whole = ADDRESSES[name]
    ((run,),) = store.sql("select run_id from runs").fetchall()
    tab.goto(address + path.format(run=run))
    expect(tab.locator(whole).first).to_be_visible()


def in_both_schemes(tab):
    found = []
    for scheme in ("dark", "light"):
        tab.evaluate("(scheme) => window.ringlens.setTheme(scheme)", scheme)
        # Colours on their way from one scheme to the other are those of none.
        tab.evaluate("() => Promise.allSettled(document.getAnimations().map((a) => a.finished))")
        found += [(scheme, *each) for each in grave(tab)]
    return found


@pytest.mark.parametrize("name", few((page.name for page in PAGES), 5))
def test_no_page_has_a_grave_fault(one, address, store, name):
    if name in ("sql", "compare") and confine.missing():
        pytest.skip(f"no sandbox: {confine.missing()}")
    opened(one, address, store, name)
    assert in_both_schemes(one) == []


def test_what_opens_over_a_page_has_none(one, address, store):
    opened(one, address, store, "beside")
    one.get_by_role("button", name="Behind “Alignment”").click()
    expect(one.locator("#behind")).to_be_visible()
    assert in_both_schemes(one) == []
    one.keyboard.press("Control+k")  # in its place
    one.keyboard.type("trace")
    expect(one.locator("#palette[data-asked=true]")).to_be_visible()
    assert in_both_schemes(one) == []
    one.keyboard.press("Escape")
    expect(one.locator("#palette")).to_be_hidden()
    one.keyboard.press("?")
    expect(one.locator("#help")).to_be_visible()
    assert in_both_schemes(one) == []


def test_a_fault_is_found(one, address, store):
    """Else what finds none would be none that looks."""
    opened(one, address, store, "beside")
    one.evaluate("() => document.querySelector('#page').appendChild(document.createElement('img'))")
    one.evaluate("() => document.querySelector('h1').style.color = '#777777'")
    assert {rule for _, rule, _ in in_both_schemes(one)} >= {"image-alt"}
