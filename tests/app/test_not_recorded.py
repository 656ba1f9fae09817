"""What a run did not record is shown as such, never as a zero: gaps, and a sentence."""

import dataclasses

import numpy as np
import pytest
from browser import page
from playwright.sync_api import expect
from records import random_run, random_trace

from ringlens.app import bundle
from ringlens.store import Store, StoreWriter

pytestmark = pytest.mark.browser

GAP = 120  # the first token of trace 2 whose entropy is not known
TOKENS = 200


def without(trace, first):
    """The trace with log-probabilities and entropies unknown from a token on."""
    tokens = trace.tokens
    logprob, entropy = tokens.logprob.copy(), tokens.entropy.copy()
    logprob[first:] = entropy[first:] = np.nan
    tokens = dataclasses.replace(tokens, logprob=logprob, entropy=entropy)
    return dataclasses.replace(trace, tokens=tokens)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Trace 1: tokens alone; 2: known up to GAP; 3: routing and no log-probabilities."""
    path = tmp_path_factory.mktemp("stores") / "store"
    with StoreWriter(path) as writer:
        bare, full = random_run(record=()), random_run()
        nothing = {"routing": None, "router_logits": None, "heads": None}
        trace = without(random_trace(bare, TOKENS, seed=1, **nothing), 0)
        writer.commit(writer.start_run(bare), [trace])
        traces = [
            without(random_trace(full, TOKENS, seed=i), first) for i, first in ((2, GAP), (3, 0))
        ]
        writer.commit(writer.start_run(full), traces)
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module")
def tab(chrome):
    with page(chrome, color_scheme="light") as (tab, complaints):
        yield tab
        assert complaints == []


def open_trace(tab, url):
    tab.goto(url)
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()


# Share of the ribbon's columns, between two shares of its width, in which anything is drawn.
INK = """([from, to]) => {
  const canvas = document.querySelector('canvas.profile');
  const [w, h] = [canvas.width, Math.floor(canvas.height * 36 / 43)];
  const [left, right] = [Math.ceil(from * w) + 3, Math.floor(to * w) - 3];
  const data = canvas.getContext('2d').getImageData(left, 0, right - left, h).data;
  const columns = new Set();
  for (let i = 3; i < data.length; i += 4) if (data[i]) columns.add(((i - 3) / 4) % (right - left));
  return columns.size / (right - left);
}"""


def test_a_trace_of_tokens_alone_has_no_flat_ribbon(tab, address):
    open_trace(tab, f"{address}/trace/1?tok=150&metric=entropy")
    for name in ("Entropy", "Surprise", "Margin", "Expert"):
        button = tab.get_by_role("button", name=name, exact=True)
        expect(button).to_be_disabled()
        assert "not recorded" in button.get_attribute("title")
    expect(tab.locator("[data-metric=phase]")).to_have_attribute("aria-pressed", "true")
    facts = tab.locator(".panel-head .fact b")
    assert facts.all_inner_texts() == ["not recorded"] * 3
    tab.locator(".t").nth(150).hover()
    expect(tab.locator(".trace-app > .tip")).to_contain_text("not recorded")


def test_unknown_tokens_are_a_gap(tab, address):
    open_trace(tab, f"{address}/trace/2?tok=150&metric=entropy")
    expect(tab.locator(".legend")).to_contain_text(f"not recorded for {TOKENS - GAP} tokens")
    tab.wait_for_function(f"() => ({INK})([0.25, 0.5]) > 0.5")
    assert tab.evaluate(INK, [GAP / TOKENS, 1]) == 0
    assert tab.locator(".panel-head .fact b").all_inner_texts() == ["not recorded"] * 3
    tab.keyboard.press("4")
    expect(tab.locator(".legend")).not_to_contain_text("not recorded")


def test_without_log_probabilities_the_first_known_colour_is_taken(tab, address):
    open_trace(tab, f"{address}/trace/3?tok=100&L=2")
    expect(tab.locator("[data-metric=margin]")).to_have_attribute("aria-pressed", "true")
    expect(tab.locator(".layer-detail th", has_text="Weight")).to_contain_text("sums to")
    title = tab.locator(".routing-grid .chip").first.get_attribute("title")
    assert "weight share" in title
    tab.goto(f"{address}/")
    expect(tab.locator("#traces .ag-row")).to_have_count(3)
    meters = tab.locator("#traces .ag-cell[col-id=entropy] .unknown")
    expect(meters).to_have_count(2)


def test_a_bundle_says_it_too(store, tmp_path):
    import json

    entries = bundle.traces(store, [1, 2, 3], lambda done, total: None)
    bundle.to_folder(store, entries, tmp_path / "site")
    data = tmp_path / "site" / "data"
    traces = json.loads((data / "index.json").read_text())["traces"]
    assert [trace["entropy"] is None for trace in traces] == [True, False, True]
    known = [json.loads((data / f"trace/{i}/boot.json").read_text())["recorded"] for i in (1, 2, 3)]
    assert [each["entropy"] for each in known] == [False, True, False]
    assert [each["expert"] for each in known] == [False, True, True]
