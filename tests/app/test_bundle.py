"""A bundle in a real browser, from a web server that knows nothing but files."""

import re

import numpy as np
import pytest
from browser import browser, page, static
from hostile import HOSTILE, with_text
from playwright.sync_api import expect
from records import random_run, random_trace
from small_store import write_run

from ringlens.app import bundle
from ringlens.errors import StoreError
from ringlens.store import Store

pytestmark = pytest.mark.browser

RUN = random_run()


def silent(done, total):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trace 1 ordinary, 2 hostile, 4 without routing; 3 is left out."""
    path = tmp_path_factory.mktemp("bundles")
    traces = [random_trace(RUN, n, seed=n) for n in (300, 60, 20)]
    pieces = [
        HOSTILE[i % len(HOSTILE)] if i % 3 == 0 else traces[1].tokens.text[i] for i in range(60)
    ]
    traces[1] = with_text(traces[1], pieces, prompt=HOSTILE[1], answer=HOSTILE[0], task=HOSTILE[2])
    bare = random_trace(RUN, 30, seed=7, routing=None, router_logits=None, heads=None)
    with Store(write_run(path / "store", RUN, [*traces, bare])) as store:
        bundle.to_folder(store, bundle.traces(store, [1, 2, 4], silent), path / "site")
        with pytest.raises(StoreError, match="already exists"):
            bundle.to_folder(store, bundle.traces(store, [1], silent), path / "site")
    return path / "site"


@pytest.fixture(scope="module")
def site(folder):
    with static(folder) as address, browser() as chrome, page(chrome) as (tab, complaints):
        yield address, tab, complaints


def test_the_list_leads_to_traces(site):
    address, tab, complaints = site
    tab.goto(address)
    expect(tab.locator("tbody tr")).to_have_count(3)
    tab.locator("tbody a").first.click()
    expect(tab.locator("#trace-app[data-ready]")).to_be_visible()
    expect(tab.locator("h1")).to_have_text("Make 24 from 2, 3, 4.")
    tab.get_by_role("link", name="Next").click()
    expect(tab).to_have_url(re.compile(r"\?trace=2$"))
    assert complaints == []


def test_a_token_shows_its_experts_and_the_text_its_colours(site):
    address, tab, complaints = site
    tab.goto(address + "?trace=1&tok=130&L=2")
    expect(tab.locator("#trace-app[data-ready]")).to_be_visible()
    panel = tab.locator(".trace-app aside, .trace-panel").first
    with_ids = random_trace(RUN, 300, seed=300).routing.expert_ids
    for expert in with_ids[RUN.sparse_layers.index(2), 130]:
        expect(panel).to_contain_text(f"E{expert}")
    for metric in ("logprob", "margin", "expert", "phase", "entropy"):
        tab.locator(f"[data-metric={metric}]").click()
        expect(tab.locator(f"[data-metric={metric}]")).to_have_attribute("aria-pressed", "true")
        expect(tab.locator(".legend")).not_to_be_empty()
    assert complaints == []


def test_usage_is_drawn_and_read(site):
    address, tab, complaints = site
    tab.goto(address + "?view=routing&trace=1&E=0")
    expect(tab.locator("#usage-app[data-ready]")).to_be_visible()
    ids = random_trace(RUN, 300, seed=300).routing.expert_ids
    share = (ids[0] == 0).sum() / 300
    fact = tab.locator(".routing-panel .fact").first
    expect(fact).to_have_text(f"Tokens{share:.2%}")
    tab.locator("[data-choice=think]").click()
    expect(tab.locator("[data-choice=think]")).to_have_attribute("aria-pressed", "true")
    phase = np.array(random_trace(RUN, 300, seed=300).tokens.phase)
    thought = (ids[0][phase == "think"] == 0).sum() / (phase == "think").sum()
    expect(fact).to_have_text(f"Tokens{thought:.2%}")
    tab.goto(address + "?view=routing&run=0")
    expect(tab.locator(".routing-note")).to_contain_text("360 tokens")  # of traces 1 and 2
    assert complaints == []


def test_hostile_text_stays_text(site):
    address, tab, complaints = site
    for query in ("", "?trace=2"):
        tab.goto(address + query)
        expect(tab.locator("#page")).to_contain_text(HOSTILE[1])
        assert tab.evaluate("window.hit") is None
        assert tab.locator("#page img, #page svg[onload]").count() == 0
    assert complaints == []


def test_what_was_not_recorded_or_is_not_there_is_said(site):
    address, tab, complaints = site
    tab.goto(address + "?trace=4")
    expect(tab.locator("#trace-app[data-ready]")).to_be_visible()
    expect(tab.locator("[data-metric=expert]")).to_be_disabled()
    assert tab.get_by_role("link", name="Routing").count() == 0
    assert complaints == []
    tab.goto(address + "?trace=3")
    expect(tab.locator("#page")).to_contain_text("There is no trace 3 in this bundle.")
