"""The dashboard on imported runs: choices are shown, what is not known is said to be so."""

import base64
import re
from dataclasses import replace

import numpy as np
import pytest
from browser import page
from records import random_run, random_trace
from small_store import write_run

from ringlens.app import make_app
from ringlens.app.trace import payload
from ringlens.store import ChoiceArrays

HOST = {"Host": "127.0.0.1:8050"}
RUN = random_run(
    mode="imported", record=("routing",), expert_bias=np.full((3, 16), np.nan, np.float32)
)
FULL = random_trace(random_run(), 150, router_logits=None, heads=None)
OFFSETS = (0, 70, 149)  # of traces 1 to 3: the last has no row at all


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    unknown = np.full(150, np.nan, np.float32)
    tokens = replace(FULL.tokens, logprob=unknown, entropy=unknown)
    traces = [
        replace(FULL, tokens=tokens, routing=choices(FULL.routing, first)) for first in OFFSETS
    ]
    return write_run(path, RUN, traces)


def choices(routing, first):
    return ChoiceArrays(routing.layers, routing.expert_ids[:, first:149], first)


def decoded(text, dtype):
    return np.frombuffer(base64.b64decode(text), "<" + dtype)


@pytest.mark.parametrize("pos", [0, 63, 64, 100, 128, 149])
@pytest.mark.parametrize("trace_id", [1, 2, 3])
def test_routing_stands_at_its_tokens_and_others_have_none(store, trace_id, pos):
    body = payload.routing(store, trace_id, pos)
    first = OFFSETS[trace_id - 1]
    assert body["start"] <= pos < body["start"] + body["tokens"]
    if not body["layers"]:
        assert first >= min(149, body["start"] + payload.ROUTING_BLOCK)
        return
    ids = decoded(body["ids"], "u2").reshape(3, body["tokens"], 3)
    at = np.arange(body["start"], body["start"] + body["tokens"])
    known = (at >= first) & (at < 149)
    assert (ids[:, ~known] == payload.NO_EXPERT).all()
    np.testing.assert_array_equal(ids[:, known], FULL.routing.expert_ids[:, at[known]])
    for name, size in (("weights", 3), ("affinities", 3), ("margin", 1), ("entropy", 1)):
        values = decoded(body[name], "f4")
        assert np.isnan(values).all()
        assert len(values) == 3 * body["tokens"] * size
    assert not decoded(body["bias_flips"], "u1").any()
    assert decoded(body["shut_out_counts"], "u2").tolist() == [0] * (3 * body["tokens"])


def test_every_address_answers(path, store):
    app = make_app(path)
    client = app.server.test_client()
    for trace_id in (1, 2, 3):
        for name in ("tokens", "margin", "layer/2", "experts", "routing/149", "statistics/heads/5"):
            response = client.get(f"/data/trace/{trace_id}/{name}", headers=HOST)
            assert response.status_code == 200, name
            assert response.is_json
    app.server.extensions["ringlens.sources"].close()


@pytest.mark.browser
def test_a_trace_shows_its_choices_and_says_what_is_not_known(address, chrome):
    from playwright.sync_api import expect

    with page(chrome) as (tab, complaints):
        tab.goto(f"{address}/trace/1?tok=100&L=2&metric=margin")
        panel = tab.locator(".trace-panel")
        expect(panel).to_contain_text("in no order")
        expect(panel).to_contain_text("This run was imported")
        for expert in FULL.routing.expert_ids[1, 100]:
            expect(panel.locator(".layer-detail")).to_contain_text(f"E{expert}")
        expect(tab.locator("[data-metric=margin]")).to_be_disabled()
        expect(tab.locator("[data-metric=expert]")).to_be_disabled()
        expect(tab.locator("[data-metric=entropy]")).to_be_disabled()
        expect(tab.locator("[data-metric=phase]")).to_have_attribute("aria-pressed", "true")
        tab.goto(f"{address}/trace/2?tok=149")
        expect(panel).to_contain_text("reported no routing of this token")
        tab.goto(f"{address}/trace/2?tok=10")
        expect(panel).to_contain_text("reported no routing of this token")
        tab.goto(f"{address}/trace/2?tok=75")
        expect(panel).to_contain_text("in no order")
        tab.goto(f"{address}/")
        expect(tab.locator(".runs-table")).to_contain_text("imported")
        assert complaints == []


@pytest.mark.browser
def test_usage_counts_what_is_known(address, chrome, store):
    from playwright.sync_api import expect

    run_id = store.trace(1).summary["run_id"]
    with page(chrome) as (tab, complaints):
        tab.goto(f"{address}/routing?run={run_id}&L=2&E=5")
        expect(tab.locator(".routing-note")).to_contain_text("tokens")
        panel = tab.locator(".routing-panel")
        expect(panel).to_contain_text("Expert 5")
        expect(panel.locator(".token-table")).to_be_visible()
        expect(panel).to_contain_text("Where it is chosen")
        for metric in ("weight", "flips"):
            button = tab.locator(f"[data-choice={metric}]")
            expect(button).to_be_disabled()
            expect(button).to_have_attribute("title", re.compile("not recorded: imported runs"))
        tab.locator("[data-choice=lift]").click()
        expect(tab.locator(".routing-note")).to_contain_text("lift")
        tab.get_by_role("button", name="Exclusive").click()
        expect(panel.locator(".token-table, p.dim").first).to_be_visible()
        tab.goto(f"{address}/routing?trace=2&metric=flips")
        expect(tab.locator("[data-choice=share]")).to_have_attribute("aria-pressed", "true")
        expect(panel).to_contain_text("Choose an expert")
        assert complaints == []
