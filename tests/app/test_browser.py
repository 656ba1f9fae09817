"""The dashboard in a real browser: what a person does, and what a hostile token must not do."""

import re

import pytest
from browser import on_map, page, served
from hostile import HOSTILE, with_text
from playwright.sync_api import expect
from records import random_run, random_trace
from small_store import write_run

from ringlens.store import Store, StoreWriter

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four ordinary traces (1-4), one of hostile text (5), one without routing and heads (6)."""
    path = tmp_path_factory.mktemp("stores") / "store"
    run = random_run()
    traces = [random_trace(run, 300, seed=i) for i in range(4)]
    hostile = random_trace(run, 60, seed=9)
    pieces = [
        HOSTILE[i % len(HOSTILE)] if i % 3 == 0 else hostile.tokens.text[i] for i in range(60)
    ]
    hostile = with_text(hostile, pieces, prompt=HOSTILE[1], answer=HOSTILE[0], task=HOSTILE[2])
    bare = random_trace(run, 30, seed=7, routing=None, router_logits=None, heads=None)
    with Store(write_run(path, run, [*traces, hostile, bare])) as store:
        yield store


@pytest.fixture
def tab(chrome):
    """A page that must end without any complaint."""
    with page(chrome, color_scheme="dark") as (tab, complaints):
        yield tab
        assert complaints == []


def chosen(tab):
    """Expert ids shown in the panel, by layer."""
    rows = tab.locator(".routing-grid tbody tr")
    return {
        int(rows.nth(i).get_attribute("data-layer")): [
            int(text) for text in rows.nth(i).locator(".chip").all_inner_texts()
        ]
        for i in range(rows.count())
    }


def recorded(store, trace_id, pos):
    query = "select layer, expert_ids from routing where trace_id = ? and pos = ?"
    return {layer: list(ids) for layer, ids in store.sql(query, [trace_id, pos]).fetchall()}


def open_trace(tab, url):
    tab.goto(url)
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()


def test_from_the_list_to_the_experts_of_a_token(tab, address, store):
    tab.goto(address)
    expect(tab.locator("#found")).to_have_text("6 traces")
    expect(tab.locator("#traces .ag-row")).to_have_count(6)
    tab.locator("#traces .ag-row[row-id='3'] .ag-cell[col-id=prompt]").click()
    expect(tab).to_have_url(re.compile("/trace/3$"))

    tokens = tab.locator(".t")
    expect(tokens).to_have_count(300)
    tokens.nth(137).click()
    expect(tab.locator(".routing-grid tbody tr")).to_have_count(3)
    assert chosen(tab) == recorded(store, 3, 137)
    expect(tab).to_have_url(re.compile("tok=137"))

    tab.keyboard.press("ArrowRight")
    expect(tab.locator(".panel-title")).to_contain_text("#138")
    assert chosen(tab) == recorded(store, 3, 138)
    tab.keyboard.press("]")
    layer = int(re.search(r"L=(\d+)", tab.url).group(1))
    expect(tab.locator(".layer-title")).to_contain_text(f"Layer {layer}")
    expect(tab.locator(".routing-grid tr.current")).to_have_attribute("data-layer", str(layer))

    flips = store.sql(
        "select list_sort(bias_flips) from routing where trace_id = 3 and pos = 138 and layer = ?",
        [layer],
    ).fetchall()[0][0]
    marked = tab.locator(".routing-grid tr.current .chip.by-bias").all_inner_texts()
    assert sorted(map(int, marked)) == list(flips)
    expect(tab.locator(".head-grid canvas")).to_have_count(4)

    tab.keyboard.press("n")
    expect(tab).to_have_url(re.compile("/trace/4$"))
    expect(tab.locator(".crumbs")).to_contain_text("Trace 4")
    text = store.trace(4).text.replace("\n", "")
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    assert "".join(tab.locator(".t").all_text_contents()).replace("\n", "") == text
    tab.go_back()
    expect(tab.locator(".panel-title")).to_contain_text("#138")


def test_colours_follow_the_metric_and_the_url(tab, address, store):
    open_trace(tab, f"{address}/trace/1?tok=5&L=2&metric=expert")
    fills = "() => [...document.querySelectorAll('.t')].map((t) => t.style.backgroundColor)"
    tab.wait_for_function("() => document.querySelectorAll('.t')[9].style.backgroundColor")
    by_expert = tab.evaluate(fills)
    first = store.sql("select expert_ids[1] from routing where trace_id=1 and layer=2 order by pos")
    experts = [row[0] for row in first.fetchall()]
    # One colour an expert: the colours partition the tokens exactly as the experts do.
    assert len(set(zip(experts, by_expert, strict=True))) == len(set(experts))
    assert len(set(by_expert)) == len(set(experts))

    tab.get_by_role("button", name="Phase", exact=True).click()
    tab.wait_for_function("() => document.querySelectorAll('.key').length === 3")
    phases = store.sql("select phase from tokens where trace_id = 1 order by pos").fetchall()
    by_phase = tab.evaluate(fills)
    assert len(set(zip(phases, by_phase, strict=True))) == len(set(by_phase)) == 3
    expect(tab).to_have_url(re.compile("metric=phase"))
    for name in ("Margin", "Surprise", "Entropy"):
        tab.get_by_role("button", name=name, exact=True).click()
        expect(tab.locator(".legend-bar")).to_be_visible()
    assert len(set(tab.evaluate(fills))) > 3

    background = "() => getComputedStyle(document.querySelector('.page')).backgroundColor"
    dark = tab.evaluate(background)
    tab.keyboard.press("t")
    assert tab.evaluate(background) != dark
    tab.reload()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    assert tab.evaluate(background) != dark  # the choice is kept


def test_heatmap_click_shows_the_experts_tokens(tab, address, store):
    tab.goto(f"{address}/routing")
    expect(tab.locator(".usage-map canvas[data-window]")).to_be_visible()
    expect(tab.locator(".strongest button").first).to_be_visible()
    layer, expert = 2, 6
    x, y = on_map(tab, (expert + 0.5) / 16, 1.5 / 3)  # layers 1, 2, 3: the second row
    tab.mouse.move(x, y)
    hover = tab.locator(".usage-map .tip")
    expect(hover).to_contain_text(re.compile(rf"^L{layer} · E{expert} "))
    tab.mouse.click(x, y)
    expect(tab.locator(".routing-panel h2")).to_have_text(f"Expert {expert}")
    expect(tab).to_have_url(re.compile(f"L={layer}&E={expert}"))
    query = """
        select token_id, count(*) as n from routing join tokens using (trace_id, pos)
        where layer = 2 and list_contains(expert_ids, 6)
        group by token_id order by n desc, token_id"""
    counts = [f"{n:,}" for _, n in store.sql(query).fetchall()]
    rows = tab.locator(".token-table tbody tr")
    expect(rows.first).to_be_visible()
    shown = [rows.nth(i).locator(".value").first.inner_text() for i in range(rows.count())]
    assert shown == counts[:12]

    tab.locator(".context").first.click()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    expect(tab.locator(".t.focused")).to_have_count(1)
    pos = int(re.search(r"tok=(\d+)", tab.url).group(1))
    trace_id = int(re.search(r"/trace/(\d+)", tab.url).group(1))
    assert expert in recorded(store, trace_id, pos)[layer]


def test_hostile_text_is_text(tab, address):
    tab.goto(address)
    expect(tab.locator("#traces")).to_contain_text("<img src=x")
    open_trace(tab, f"{address}/trace/5?tok=0")
    assert tab.locator(".t").nth(0).inner_text() == HOSTILE[0]
    expect(tab.locator("h1")).to_have_text(HOSTILE[1])
    tab.locator(".t").nth(6).click()
    expect(tab.locator(".token-glyph")).to_contain_text("<img␣src=x")
    tab.goto(f"{address}/routing?trace=5&L=1&E=0")
    expect(tab.locator(".token-table")).to_be_visible()
    assert tab.evaluate("() => window.hit") is None
    assert tab.locator("img[src=x], svg[onload]").count() == 0


def test_what_is_missing_says_so(tab, address):
    open_trace(tab, f"{address}/trace/6?tok=2")
    expect(tab.locator(".trace-panel")).to_contain_text("did not record routing")
    expect(tab.locator(".trace-panel")).to_contain_text("did not record heads")
    expect(tab.get_by_role("button", name="Expert")).to_be_disabled()
    tab.goto(f"{address}/trace/99")
    expect(tab.locator(".state h1")).to_have_text("No trace 99")
    tab.get_by_role("link", name="All traces").click()
    expect(tab.locator("#found")).to_have_text("6 traces")


def test_a_running_capture_appears(chrome, tmp_path):
    run = random_run()
    with StoreWriter(tmp_path / "store") as writer, page(chrome) as (tab, complaints):
        with served(tmp_path / "store") as url:
            tab.goto(url)
            expect(tab.locator(".state")).to_contain_text("ringlens capture ring-nano")
            run_id = writer.start_run(run)
            writer.commit(run_id, [random_trace(run, 40, seed=1)])
            expect(tab.locator("#traces .ag-row")).to_have_count(1)
            expect(tab.locator("#stats")).to_contain_text("capturing")
            writer.commit(run_id, [random_trace(run, 40, seed=i) for i in (2, 3)])
            expect(tab.locator("#traces .ag-row")).to_have_count(3)
        expect(tab.locator(".offline")).to_contain_text("does not answer")
        # What was asked when the server ended has no answer, if anything was.
        gone = ("ERR_CONNECTION", "the server did not respond")
        assert [c for c in complaints if not any(sign in c for sign in gone)] == []
