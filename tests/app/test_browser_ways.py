"""Finding one's way in a real browser: in a trace, in the list of traces, to a definition."""

import re
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from browser import on_map, page, served
from paths import TESTS
from playwright.sync_api import expect
from records import random_run, random_tokens, random_trace
from slow_files import few
from small_store import write_run

from ringlens.app.pages import PAGES
from ringlens.sandbox import confine
from ringlens.store import Store
from ringlens.store.schema.glossary import GLOSSARY

pytestmark = pytest.mark.browser

LONG = 16_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Six traces of 60 to 160 tokens, and one (7) of 16,000 without routing and heads."""
    run = random_run()
    traces = [
        random_trace(run, 60 + 20 * i, seed=i, correct=bool(i % 2), task=f"task {i % 3}")
        for i in range(6)
    ]
    tokens = random_tokens(np.random.default_rng(9), (20, LONG - 40, 20))
    bare = {"routing": None, "router_logits": None, "heads": None, "correct": None}
    counts = {"n_prompt": 20, "n_think": LONG - 40, "n_answer": 20}
    long = replace(traces[0], tokens=tokens, text="".join(tokens.text), **bare, **counts)
    path = tmp_path_factory.mktemp("stores") / "store"
    with Store(write_run(path, run, [*traces, long])) as store:
        yield store


def open_trace(tab, url):
    tab.goto(url)
    ready(tab)


def ready(tab):
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()


def asked(tab):
    return {name: values[0] for name, values in parse_qs(urlsplit(tab.url).query).items()}


def marked(tab):
    """Texts under the highlights, and that under the one in focus."""
    return tab.evaluate(
        "() => ['found', 'found-now'].map((name) => [...CSS.highlights.get(name)].map(String))"
    )


def places(text, wanted):
    return [match.start() for match in re.finditer(re.escape(wanted), text, re.IGNORECASE)]


def test_a_text_is_found_across_tokens_whatever_its_case(tab, address, store):
    trace = store.trace(2)
    ends = trace.tokens()["end"]
    starts = [0, *ends[:-1]]
    wanted = trace.text[starts[20] + 1 : ends[21]]  # from inside a token to the end of the next
    assert "\n" not in wanted
    there = places(trace.text, wanted)

    open_trace(tab, f"{address}/trace/2")
    tab.keyboard.press("/")
    expect(tab.locator("#find")).to_be_focused()
    tab.keyboard.type(wanted.upper())
    expect(tab.locator("#find-count")).to_have_text(re.compile(rf"^{len(there)} places?$"))
    tab.keyboard.press("Enter")
    expect(tab.locator("#find-count")).to_have_text(f"1 of {len(there)}")
    at = int(np.searchsorted(ends, there[0], side="right"))
    assert asked(tab) == {"find": wanted.upper(), "tok": str(at)}
    others, now = marked(tab)
    assert [text.replace("\n", "") for text in now] == [trace.text[there[0] :][: len(wanted)]]
    assert len(others) == len(there) - 1  # a short trace is on screen as a whole
    tab.keyboard.press("Shift+Enter")  # before the first comes the last
    expect(tab.locator("#find-count")).to_have_text(f"{len(there)} of {len(there)}")

    tab.reload()  # the address alone gives the same
    ready(tab)
    expect(tab.locator("#find")).to_have_value(wanted.upper())
    expect(tab.locator("#find-count")).to_have_text(f"{len(there)} of {len(there)}")
    tab.locator("#find").fill("nowhere.*")
    expect(tab.locator("#find-count")).to_have_text("not found")
    tab.locator("#find").press("Escape")
    expect(tab.locator("#find")).not_to_be_focused()
    assert marked(tab) == [[], []]
    assert "find" not in asked(tab)


def test_peaks_and_phases_are_a_key_away(tab, address, store):
    tokens = store.trace(4).tokens()
    phase, entropy = np.array(tokens["phase"]), np.array(tokens["entropy"], float)
    own = np.where(phase == "prompt", np.nan, entropy)
    least = np.sort(own[np.isfinite(own)])[int(0.95 * np.isfinite(own).sum())]
    near = [np.nanmax(own[max(0, i - 4) : i + 5], initial=-1) for i in range(len(own))]
    peaks = [i for i in range(len(own)) if own[i] >= least and own[i] == near[i]]
    starts = [i for i in range(len(phase)) if i == 0 or phase[i] != phase[i - 1]]

    def focus(pos):
        expect(tab.locator(".panel-title")).to_contain_text(f"#{pos} ")

    open_trace(tab, f"{address}/trace/4")
    for peak in peaks[:3]:
        tab.keyboard.press(".")
        focus(peak)
    tab.keyboard.press(",")
    focus(peaks[min(2, len(peaks) - 1) - 1])
    tab.keyboard.press("}")
    focus(next(start for start in starts if start > peaks[min(2, len(peaks) - 1) - 1]))
    tab.get_by_role("button", name="previous phase ({)").click()
    tab.keyboard.press("{")
    focus(0)
    tab.reload()
    ready(tab)
    focus(0)
    open_trace(tab, f"{address}/trace/7")  # its last phase is far below the screen
    tab.keyboard.press("{")
    focus(LONG - 20)
    expect(tab.locator(".line.current")).to_be_in_viewport()


def test_a_long_trace_marks_what_is_on_screen_alone(tab, address, store):
    text = store.trace(7).text
    wanted = "wait"
    there = places(text, wanted)
    assert len(there) > 1000
    open_trace(tab, f"{address}/trace/7?find={wanted}&tok={LONG - 1}")
    expect(tab.locator("#find-count")).to_contain_text(f"{len(there):,}")
    expect(tab.locator(".line.current")).to_be_in_viewport()
    tab.locator("#find").press("Shift+Enter")
    expect(tab.locator(".line.current")).to_be_in_viewport()
    others, now = marked(tab)
    assert [*map(str.lower, others + now)] == [wanted] * (len(others) + 1)
    assert 0 < len(others) < len(there) / 4


def test_the_list_lives_in_the_address(tab, address, store, chrome):
    order = "select trace_id from traces where correct order by n_think desc, trace_id"
    listed = [trace_id for (trace_id,) in store.sql(order).fetchall()]
    tab.goto(address)
    expect(tab.locator("#found")).to_have_text("7 traces")
    tab.locator("#verdict").get_by_text("Correct").click()
    expect(tab.locator("#found")).to_have_text(f"{len(listed)} traces")
    thinking = tab.locator("#traces .ag-header-cell[col-id=n_think]")
    thinking.locator(".ag-header-cell-label").click()
    thinking.locator(".ag-header-cell-label").click()
    expect(thinking).to_have_attribute("aria-sort", "descending")
    tab.wait_for_url(re.compile("sort=-n_think"))
    assert asked(tab) == {"verdict": "correct", "sort": "-n_think"}

    link = tab.locator("#traces .ag-row[row-index='1'] .ag-cell[col-id=prompt] a")
    with tab.context.expect_page() as opened:
        link.click(button="middle")
    other = opened.value
    ready(other)
    expect(other.locator("#list-place")).to_have_text(f"2 of {len(listed)} in the list")
    other.close()
    link.click()
    ready(tab)
    expect(tab).to_have_url(re.compile(rf"/trace/{listed[1]}\?verdict=correct&sort=-n_think"))
    tab.keyboard.press("n")
    expect(tab.locator("#list-place")).to_have_text(f"3 of {len(listed)} in the list")
    expect(tab).to_have_url(re.compile(rf"/trace/{listed[2]}\?verdict=correct&sort=-n_think"))
    ready(tab)
    tab.keyboard.press("p")
    expect(tab.locator("#list-place")).to_contain_text("2 of")
    for _ in range(3):
        tab.go_back()
    expect(tab.locator("#found")).to_have_text(f"{len(listed)} traces")
    expect(thinking).to_have_attribute("aria-sort", "descending")
    rows = tab.locator("#traces .ag-row")
    expect(rows).to_have_count(len(listed))
    shown = {int(row.get_attribute("row-index")): row.get_attribute("row-id") for row in rows.all()}
    assert [int(shown[i]) for i in range(len(listed))] == listed

    tab.locator("#nav-store").click()  # the page's own entry: the whole list
    expect(tab.locator("#found")).to_have_text("7 traces")
    assert asked(tab) == {}
    tab.goto(f"{address}/trace/1?verdict=correct")
    expect(tab.locator("#list-place")).to_contain_text("not among")
    tab.goto(f"{address}/?sort=nothing")
    expect(tab.locator(".state")).to_contain_text("a column of the order must be one of trace_id")


def test_labels_tell_their_definition(tab, address):
    open_trace(tab, f"{address}/trace/2?tok=30")
    expect(tab.locator(".layer-facts")).to_be_visible()
    label = tab.locator(".layer-facts .term", has_text="group margin")
    label.hover()
    tip = tab.get_by_role("tooltip").filter(has_text=GLOSSARY["group margin"].meaning)
    expect(tip).to_be_visible()
    expect(tip).to_contain_text(GLOSSARY["group margin"].formula)
    tab.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    tab.locator("[data-metric=logprob]").focus()
    tab.keyboard.press("Tab")  # by keyboard, so that the focus is seen
    button = tab.locator("[data-metric=margin]")
    expect(button).to_be_focused()
    expect(button).to_have_attribute("aria-describedby", "term-tip")
    expect(tab.locator("#term-tip")).to_contain_text(GLOSSARY["margin"].meaning)


# --- the routing heatmap of many experts ----------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Where a store of one trace of a model with 128 experts on 20 layers is served."""
    run = random_run(layers=22, dense=2, experts=128, groups=8, groups_kept=4, k=4)
    path = tmp_path_factory.mktemp("stores") / "wide"
    trace = random_trace(run, 40, seed=1, router_logits=None, heads=None)
    with served(write_run(path, run, [trace])) as url:
        yield url


def ranges(tab):
    """First and last expert, first and last layer on screen."""
    said = tab.locator(".usage-map canvas").get_attribute("data-window")
    return [float(each) for each in said.split()]


def drawn(tab):
    expect(tab.locator(".usage-map canvas[data-window]")).to_be_visible()
    expect(tab.locator(".panel-title, .strongest").first).to_be_visible()


def test_the_map_goes_to_an_expert_zooms_and_pans(tab, wide):
    tab.goto(f"{wide}/routing")
    drawn(tab)
    assert ranges(tab) == [0, 127, 2, 21]
    for text, said in (
        ("somewhere", "Write a layer and an expert"),
        ("99 1", "Layer 99 has no experts: layers 2 to 21 do"),
        ("L3 E128", "There is no expert 128: a layer has 0 to 127"),
    ):
        tab.keyboard.press("/")
        tab.keyboard.type(text)
        tab.keyboard.press("Enter")
        expect(tab.get_by_role("alert")).to_contain_text(said)
        tab.keyboard.press("Escape")
    for text, expert in (("L12 E100", 100), ("11 101", 101), ("10/102", 102), ("e100 l12", 100)):
        tab.keyboard.press("/")
        tab.keyboard.type(text)
        tab.keyboard.press("Enter")
        expect(tab.locator(".routing-panel h2")).to_have_text(f"Expert {expert}")
    assert asked(tab) == {"L": "12", "E": "100", "zoom": "84-115,4-19"}
    assert ranges(tab) == [84, 115, 4, 19]
    tab.reload()  # the address alone gives the same
    drawn(tab)
    assert ranges(tab) == [84, 115, 4, 19]

    tab.keyboard.press("+")
    tab.wait_for_url(re.compile("zoom=(?!84-)"))
    left, right, top, bottom = ranges(tab)
    assert 84 < left <= 100 <= right < 115
    assert 4 < top <= 12 <= bottom < 19
    tab.keyboard.press("Shift+ArrowRight")
    tab.wait_for_function(f"() => !location.search.includes('zoom={left:g}-')")
    moved = ranges(tab)
    assert moved[0] > left
    assert moved[2:] == [top, bottom]
    tab.keyboard.press("ArrowLeft")  # the expert before comes back on screen
    expect(tab.locator(".routing-panel h2")).to_have_text("Expert 99")
    assert ranges(tab)[0] <= 99 <= ranges(tab)[1]
    tab.get_by_role("button", name="the whole map").click()
    tab.wait_for_function("() => !location.search.includes('zoom')")
    assert ranges(tab) == [0, 127, 2, 21]

    x, y = on_map(tab, 0.5, 0.1)
    tab.mouse.move(x, y)
    tab.mouse.wheel(0, -400)
    tab.wait_for_url(re.compile("zoom="))
    before = ranges(tab)
    assert before[1] - before[0] < 127
    tab.mouse.down()
    tab.mouse.move(x - 60, y, steps=4)
    tab.mouse.up()
    tab.wait_for_function(f"() => !location.search.includes('zoom={before[0]:.1f}-')")
    assert ranges(tab)[0] > before[0]
    expect(tab.locator(".routing-panel h2")).to_have_text("Expert 99")  # a drag is no click


def test_behind_the_map_are_its_numbers_and_files(tab, wide):
    tab.goto(f"{wide}/routing?L=4&E=70&metric=lift&phase=think")
    drawn(tab)
    tab.get_by_role("button", name="Behind “Layer × expert”").click()
    expect(tab.locator("#behind tbody tr")).to_have_count(400)
    expect(tab.locator("#behind p").last).to_contain_text(f"of {20 * 128:,} rows")
    for kind in ("PNG", "SVG", "CSV"):
        with tab.expect_download() as download:
            tab.get_by_role("button", name=kind, exact=True).click()
        assert download.value.suggested_filename == f"routing-lift-think.{kind.lower()}"


def test_keys_are_the_maps_while_a_choice_has_the_keyboard(tab, wide):
    tab.goto(f"{wide}/routing?L=4&E=70")
    drawn(tab)
    tab.locator("[data-choice=think]").click()
    tab.wait_for_url(re.compile("phase=think"))
    tab.keyboard.press("]")
    tab.wait_for_url(re.compile("L=5&"))
    tab.keyboard.press("ArrowRight")
    tab.wait_for_url(re.compile("E=71"))
    assert asked(tab)["phase"] == "think"


# --- nothing overflows ---------------------------------------------------------------------------

ADDRESSES = {
    "store": ("/", ".ag-row .trace-link"),
    "trace": ("/trace/2?tok=30", ".layer-facts"),
    "beside": ("/beside/1/2", ".state"),
    "routing": ("/routing?trace=2&L=9&E=70", ".token-table"),
    "expert": ("/expert/9/70", "#expert-app[data-ready=true]"),
    "heads": ("/heads/2", "#heads-app[data-ready=true]"),
    "compare": ("/compare", "#compare-app[data-ready=true]"),
    "probes": ("/probes", ".state"),
    "runs": ("/", "#runs-app tbody tr"),
    "sql": ("/sql?q=from trace_summary", "#sql-grid .ag-row"),
    "live": ("/live", ".state"),
}
"""An address of each page, and what it shows when it is whole."""


@pytest.fixture(scope="module")
def wordy(tmp_path_factory):
    """Where a store is served whose names are long."""
    model = (
        "/mnt/checkpoints/organisation/folder-of-a-group/Ring-flash-2.0-128k-instruct-nf4-double"
    )
    run = random_run(layers=22, dense=2, experts=128, groups=8, groups_kept=4, k=8, model=model)
    names = {"task": "an-unusually-long-name-of-a-benchmark", "answer": "x" * 90}
    prompt = "Explain " + "antidisestablishmentarianism " * 8
    traces = [random_trace(run, 40, seed=i, prompt=prompt, **names) for i in range(3)]
    folder = tmp_path_factory.mktemp("stores") / "-".join(["a-long-name-of-a-folder"] * 6)
    with served(write_run(folder, run, traces)) as url:
        yield url


def test_what_the_policy_forbids_is_a_complaint(chrome, wordy):
    """So that all tests whose pages must not complain see it, of every page."""
    with page(chrome) as (tab, complaints):
        tab.goto(wordy)
        outside = "Object.assign(document.createElement('img'), {src: 'http://127.0.0.2:9/x.png'})"
        with tab.expect_console_message(lambda said: said.text.startswith("policy: ")):
            tab.evaluate(f"void document.body.append({outside})")
    assert any("img-src forbids" in said for said in complaints)


@pytest.mark.parametrize("name", few(page.name for page in PAGES))
def test_nothing_is_cut_at_1280_by_720(tab, wordy, name):
    if name in ("sql", "compare") and confine.missing():
        pytest.skip(f"no sandbox: {confine.missing()}")
    address, last = ADDRESSES[name]
    tab.goto(wordy + address)
    if name == "runs":
        tab.locator(".runs-table a").first.click()
    expect(tab.locator(last).first).to_be_visible()
    assert tab.evaluate((TESTS / "support" / "cut_text.js").read_text()) == []
