"""A click on a head tints the tokens it attends to: those recorded, and no others."""

import re
from functools import partial

import httpx
import numpy as np
import pytest
from browser import static
from playwright.sync_api import expect
from records import random_attention, random_run, random_trace
from small_store import write_run

from ringlens.app import bundle
from ringlens.store import Store

pytestmark = pytest.mark.browser

TOKENS, RUN = 160, random_run(record=("routing", "router_logits", "heads", "attention:4@1+2/0+3"))


def attention(seed, pos):
    """Four different positions of every token, of heads 0 and 3 of layers 1 and 2."""
    rng = np.random.default_rng(seed)
    found = random_attention(rng, (1, 2), (0, 3), pos)
    for i, each in enumerate(pos):
        for place in np.ndindex(2, 2):
            k = min(4, each + 1)
            found.positions[place[0], i, place[1], :k] = rng.permutation(each + 1)[:k]
    found.weights[:] /= 4  # of these four the sum is below 1, as of a head's
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Traces 1 and 2: heads and positions; 3: every second token's positions and no heads."""
    path = tmp_path_factory.mktemp("stores") / "store"
    traces = [
        random_trace(RUN, TOKENS, seed=i, attention=attention(i, range(TOKENS))) for i in (1, 2)
    ]
    half = attention(3, range(0, TOKENS, 2))
    traces.append(random_trace(RUN, TOKENS, seed=3, heads=None, attention=half))
    with Store(write_run(path, RUN, traces)) as store:
        yield store


def opened(tab, url):
    tab.goto(url)
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()


def click_cell(tab, column, layer, head):
    """A click on a cell of a map of heads."""
    canvas = tab.locator(f"canvas[data-column={column}]")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = (head + 0.5) / RUN.heads * box["width"], (layer + 0.5) / RUN.layers * box["height"]
    canvas.click(position={"x": x, "y": y})


def tinted(tab):
    """Tokens with a colour, as a set."""
    return set(
        tab.evaluate(
            """() => [...document.querySelectorAll('.t')].flatMap((t, i) =>
            ['', 'transparent', 'rgba(0, 0, 0, 0)'].includes(t.style.backgroundColor) ? [] : [i])"""
        )
    )


def listed(tab):
    """Positions and weights in the panel."""
    return [
        (int(row.get_attribute("data-pos")), row.locator("b").inner_text())
        for row in tab.locator(".source").all()
    ]


def recorded(store, trace, layer, head, pos):
    """What the store holds, as the panel should list it."""
    found = store.trace(trace).attention(layer, head)
    row = found.pos.tolist().index(pos)
    return [
        (int(at), f"{weight:.3f}" if weight >= 0.0005 else "< 0.001")
        for at, weight in zip(found.positions[row], found.weights[row], strict=True)
        if at >= 0
    ]


def expect_recorded(tab, store, trace, layer, head, pos):
    """The text and the panel show just what was recorded of a head at a token."""
    expect(tab.locator(f".legend-head[data-pos='{pos}']")).to_have_text(f"L{layer} head {head}")
    wanted = recorded(store, trace, layer, head, pos)
    expect(tab.locator(".source")).to_have_count(len(wanted))
    assert listed(tab) == wanted
    assert tinted(tab) == {at for at, _ in wanted}


def test_a_click_on_a_head_tints_what_it_attends_to(tab, address, store):
    opened(tab, f"{address}/trace/1?tok=100")
    expect(tab.locator(".head-grid canvas")).to_have_count(4)
    expect(tab.locator(".trace-panel")).to_contain_text("Click a cell in the maps above")
    click_cell(tab, "entropy", 1, 3)
    expect(tab).to_have_url(re.compile(r"[?&]h=1\.3"))
    expect_recorded(tab, store, 1, 1, 3, 100)
    expect(tab.get_by_role("button", name="Entropy", exact=True)).to_have_attribute(
        "aria-pressed", "false"
    )

    (heaviest, weight), *_ = recorded(store, 1, 1, 3, 100)
    tab.locator(".source").first.click()
    expect(tab.locator(".t").nth(heaviest)).to_have_class(re.compile("pointed"))
    tab.locator(".t").nth(heaviest).hover()
    expect(tab.locator(".trace-app > .tip")).to_contain_text(weight)
    other = next(i for i in range(99, 0, -1) if i not in dict(recorded(store, 1, 1, 3, 100)))
    tab.locator(".t").nth(other).hover()
    expect(tab.locator(".trace-app > .tip")).to_contain_text("not among the 4 recorded")

    tab.keyboard.press("ArrowRight")
    expect_recorded(tab, store, 1, 1, 3, 101)
    tab.keyboard.press("n")
    expect(tab).to_have_url(re.compile("/trace/2$"))
    expect(tab.locator(".crumbs")).to_contain_text("Trace 2")
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    tab.go_back()
    expect(tab.locator(".crumbs")).to_contain_text("Trace 1")
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    expect(tab).to_have_url(re.compile(r"/trace/1\?.*h=1\.3"))
    expect_recorded(tab, store, 1, 1, 3, 101)

    tab.keyboard.press("Escape")
    expect(tab.locator(".legend-head")).to_have_count(0)
    expect(tab).not_to_have_url(re.compile("h="))
    expect(tab).to_have_url(re.compile("tok=101"))
    expect(tab.get_by_role("button", name="Entropy", exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )


def test_of_other_heads_only_the_two_known_weights_are_shown(tab, address, store):
    opened(tab, f"{address}/trace/1?tok=100&h=0.2")
    heads = store.trace(1).heads(0)
    known = {0: heads["first_weight"][100, 2], 99: heads["previous_weight"][100, 2]}
    wanted = [(at, f"{known[at]:.3f}") for at in sorted(known, key=known.get, reverse=True)]
    expect(tab.locator(".source")).to_have_count(2)
    assert listed(tab) == wanted
    assert tinted(tab) == {0, 99}
    panel = tab.locator(".trace-panel")
    expect(panel).to_contain_text("Only its weights on the first and the previous token")
    expect(panel).to_contain_text("attention:8@0/2")
    tab.get_by_role(
        "button", name="Phase", exact=True
    ).click()  # another colour lets go of the head
    expect(tab.locator(".key")).to_have_count(3)
    expect(tab).not_to_have_url(re.compile("h="))


def test_by_keyboard(tab, address, store):
    opened(tab, f"{address}/trace/2?tok=50")
    expect(tab.locator(".head-grid canvas")).to_have_count(4)
    tab.keyboard.press("h")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight"):
        tab.keyboard.press(key)
    expect_recorded(tab, store, 2, 1, 3, 50)
    expect(tab.locator(".panel-title")).to_contain_text("#50")  # the token stays
    tab.keyboard.press("Enter")
    expect(tab.locator(".legend-head")).to_have_count(0)


def test_without_statistics_heads_are_chosen_from_a_list(tab, address, store):
    opened(tab, f"{address}/trace/3?tok=60")
    choice = tab.get_by_label("Head whose positions were recorded")
    assert choice.locator("option").all_inner_texts() == [
        "recorded heads", "L1 head 0", "L1 head 3", "L2 head 0", "L2 head 3",
    ]  # fmt: skip
    choice.select_option("L2 head 0")
    expect_recorded(tab, store, 3, 2, 0, 60)
    tab.locator(".t").nth(61).click()  # of this one nothing was recorded
    expect(tab.locator(".trace-panel")).to_contain_text("from here was not recorded")
    expect(tab.locator(".legend")).to_contain_text("not recorded")
    assert tinted(tab) == set()


def test_a_head_that_is_not_there_is_passed_over(tab, address):
    for asked in ("9999.0", "1.99", "x.y"):
        opened(tab, f"{address}/trace/1?tok=20&h={asked}")
        expect(tab.locator(".head-grid canvas")).to_have_count(4)
        expect(tab.locator(".legend-head")).to_have_count(0)


def test_in_a_bundle_as_well(tab, store, tmp_path):
    entries = bundle.traces(store, [1, 3], lambda done, total: None)
    bundle.to_folder(store, entries, tmp_path / "site")
    with static(tmp_path / "site") as url:
        opened(tab, f"{url}?trace=1&tok=100&h=2.3")
        expect_recorded(tab, store, 1, 2, 3, 100)


def test_blocks_hold_what_was_recorded(address, store):
    get = partial(httpx.get, timeout=300)
    body = get(f"{address}/data/trace/3/attention/1.3/7").json()
    assert (body["start"], body["tokens"], body["k"]) == (0, TOKENS, 4)
    said = [get(f"{address}/data/trace/1/attention/{path}") for path in ("1.9/5", "1/5", "1.0/999")]
    assert [answer.status_code for answer in said] == [404] * 3
    assert "no head '1.9'; write LAYER.HEAD" in said[0].text
