"""A text of many tokens: their spans are made when they come near the screen."""

import pytest
from browser import page, served
from playwright.sync_api import expect
from records import random_run, random_trace

from ringlens.analysis.roles.labelling import label_store
from ringlens.store import Store, StoreWriter

pytestmark = pytest.mark.browser

TOKENS = 9_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    run = random_run(record=("tokens",))
    trace = random_trace(run, TOKENS, routing=None, router_logits=None, heads=None)
    with StoreWriter(path) as writer:
        writer.commit(writer.start_run(run), [trace])
        label_store(writer)
    return path


def test_what_is_far_from_the_screen_is_made_when_it_is_looked_at(store, chrome):
    query = """
        select step, token_start from steps join tokens using (trace_id)
        where token_start > 6_000 and pos = token_start and tokens.text similar to '[ a-zA-Z]+'
        order by step limit 1"""
    with Store(store) as opened:
        ((step, start),) = opened.sql(query).fetchall()
        opened.annotate(1, step=step, label="far away")
    with served(store) as address, page(chrome) as (tab, complaints):
        tab.goto(f"{address}/trace/1")
        expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
        made = tab.locator(".t")
        assert 0 < made.count() < 6_000
        expect(tab.locator(".t.annotated")).to_have_count(0)

        tab.goto(f"{address}/trace/1?tok={start}")
        expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
        assert tab.evaluate("() => document.querySelector('.t.focused').tokenIndex") == start
        expect(tab.locator(".t.focused")).to_be_in_viewport()
        expect(tab.locator(".t.annotated.focused")).to_have_count(1)
        assert made.count() < TOKENS

        tab.keyboard.press("Control+f")  # the browser searches what is there
        expect(made).to_have_count(TOKENS)
        with Store(store) as opened:
            ((text,),) = opened.sql("select text from traces").fetchall()
        shown = "".join(made.all_text_contents())
        assert shown.replace("\n", "") == text.replace("\n", "")
        assert complaints == []
