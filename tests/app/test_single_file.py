"""One file, opened from disk in a real browser: every interaction of its pages, and no request."""

import json
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from browser import browser, on_map, page
from hostile import HOSTILE
from playwright.sync_api import expect
from records import random_attention, random_run, random_trace
from thoughts import Thought, write_thoughts

from ringlens.app import bundle
from ringlens.store import Store, StoreWriter

pytestmark = pytest.mark.browser

WIDE = random_run(experts=128, groups=4, record=("routing", "heads", "attention:4@1+2/0+3"))
STEPS, TOKENS = 6, 12
LINES = "\u2028</script>\n"  # what ends a line or a script to some readers


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """1: hostile text in six steps, with beliefs; 2: another; 3: a wide model with heads."""
    folder = tmp_path_factory.mktemp("single")
    roles = ["plan_generation", "active_computation", "uncertainty_management", *["unknown"] * 3]
    texts = [f"{HOSTILE[i % len(HOSTILE)]} and step {i}.{LINES}" for i in range(STEPS)]
    thought = Thought(
        [0, 1, 0, 2, 1, 2],
        texts=texts,
        roles=roles,
        backtracks=frozenset({2, 4}),
        prompt="</script><script>window.hit = 1</script>",
        entropy=[0.2, 0.2, 3, 0.2, 0.2, 0.2],
    )
    path = write_thoughts(folder / "store", [thought, Thought([0])])
    with StoreWriter(path) as writer:
        with Store(path) as store:
            ((run,),) = store.sql("select run_id from runs").fetchall()
        said = json.dumps({"answer": HOSTILE[1], "correct": True, "final": True})
        rows = [{"unit": 0, "key": "candidate", "json": said}]
        rows += [{"unit": 0, "key": "p", "step": i, "value": i / 10} for i in range(STEPS)]
        rows = [{"probe": "belief", "trace_id": 1, **row} for row in rows]
        writer.replace_rows(run, "probes", rows)
        heads = random_attention(np.random.default_rng(0), (1, 2), (0, 3), range(90))
        wide = writer.start_run(WIDE)
        writer.commit(wide, [random_trace(WIDE, 90, seed=3, router_logits=None, attention=heads)])
        writer.finish_run(wide)
    with Store(path) as store:
        entries = bundle.traces(store, [1, 2, 3], lambda done, total: None)
        size = bundle.to_file(store, entries, folder / "one.html")
    assert size == (folder / "one.html").stat().st_size
    return (folder / "one.html").as_uri()


@pytest.fixture(scope="module")
def chrome():
    with browser() as chrome:
        yield chrome


@pytest.fixture
def tab(chrome, file):
    """A page without a network, which asks for nothing but the file, and complains of nothing."""
    with page(chrome, offline=True, color_scheme="light") as (tab, complaints):
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        yield tab
        assert {url.partition("?")[0] for url in asked if not url.startswith("blob:")} <= {file}
        assert complaints == []
        assert tab.evaluate("() => window.hit") is None


def opened(tab, url, frame="#trace-app"):
    tab.goto(url)
    expect(tab.locator(f"{frame}[data-ready=true]")).to_be_visible()


def asked(tab, name):
    return parse_qs(urlsplit(tab.url).query).get(name, [None])[0]


def expect_focus(tab, pos):
    expect(tab.locator(".panel-title")).to_contain_text(f"#{pos} ")
    assert tab.evaluate("() => document.querySelector('.t.focused').tokenIndex") == pos
    assert asked(tab, "tok") == str(pos)


def first(step):
    return 1 + step * TOKENS


def press(tab, *keys):
    """Press keys on a page that hears them."""
    expect(tab.locator("[data-ready=true]").first).to_be_visible()
    for key in keys:
        tab.keyboard.press(key)


def click_track(tab, name, part):
    """A click on a track, so far along it."""
    canvas = tab.locator(f"canvas.{name}")
    expect(canvas).to_be_visible()
    box = canvas.bounding_box()
    canvas.click(position={"x": part * box["width"], "y": box["height"] - 3})


def test_the_list_leads_to_traces_and_back(tab, file):
    tab.goto(file)
    expect(tab.locator("tbody tr")).to_have_count(3)
    expect(tab.locator("tbody tr").first).to_contain_text("</script><script>")
    tab.locator("tbody a").first.click()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    expect(tab.locator("h1")).to_have_text("</script><script>window.hit = 1</script>")
    expect(tab.locator(".trace-text")).to_contain_text(HOSTILE[0])
    tab.get_by_role("link", name="Next").click()
    expect(tab.locator("h1")).to_have_text("What is it?")
    press(tab, "p")
    expect(tab.locator("h1")).to_contain_text("</script>")
    press(tab, "n")
    expect(tab.locator("h1")).to_have_text("What is it?")
    tab.go_back()
    expect(tab.locator("h1")).to_contain_text("</script>")
    tab.get_by_role("link", name="store", exact=True).click()
    expect(tab.locator("tbody tr")).to_have_count(3)


def test_a_click_anywhere_moves_the_focus(tab, file):
    opened(tab, f"{file}?trace=1")
    count = tab.locator(".t").count()
    tab.locator(".t").nth(20).click()
    expect_focus(tab, 20)
    click_track(tab, "steps-track", (first(2) + 7) / count)
    expect_focus(tab, first(2))
    expect(tab.locator(".step-card")).to_contain_text("goes back")
    click_track(tab, "belief-track", 30.5 / count)
    expect_focus(tab, 30)
    click_track(tab, "change-track", 44.5 / count)
    expect_focus(tab, 44)
    expect(tab.locator(".routing-grid tbody tr").last).to_have_class("current")
    tab.get_by_label("What the map of layers shows").select_option("expert")
    click_track(tab, "expert-track", 50.5 / count)
    expect_focus(tab, 50)
    assert asked(tab, "map") == "expert"
    dots = tab.locator(".path-canvas")
    dots.scroll_into_view_if_needed()
    expect(dots).to_be_visible()
    tab.reload()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    expect_focus(tab, 50)


def test_keys_walk_through_the_thought(tab, file):
    opened(tab, f"{file}?trace=1")
    for step in range(3):
        press(tab, "j")
        expect_focus(tab, first(step))
    press(tab, "ArrowRight", "k")
    expect_focus(tab, first(2))
    press(tab, "ArrowLeft")
    expect_focus(tab, first(2) - 1)
    press(tab, "ArrowDown")
    assert int(asked(tab, "tok")) > first(2) - 1
    press(tab, "ArrowUp", "]")
    assert asked(tab, "L") == "3"
    press(tab, "[", "[")
    assert asked(tab, "L") == "1"
    expect(tab.locator(".layer-title")).to_contain_text("Layer 1")
    press(tab, ".")
    assert first(2) <= int(asked(tab, "tok")) < first(3)  # where it was uncertain
    press(tab, "}")
    expect(tab.locator(".phase-tag")).to_have_text("answer")
    press(tab, "{", "{")
    expect(tab.locator(".phase-tag")).to_have_text("prompt")
    panel = tab.locator(".trace-panel")
    press(tab, "m")
    assert panel.evaluate("node => node.scrollTop") > 0
    press(tab, "m", "Escape")
    expect(tab.locator(".t.focused")).to_have_count(0)
    press(tab, "?")
    expect(tab.locator("#help")).to_contain_text("next, previous step")
    expect(tab.locator("#help")).to_contain_text("zoom in, out")
    expect(tab.locator("#help")).not_to_contain_text("SQL")
    press(tab, "?")
    expect(tab.locator("#help")).to_be_hidden()


def test_colours_and_themes(tab, file):
    opened(tab, f"{file}?trace=1&tok=20")
    token = tab.locator(".t").nth(20)

    def colour():
        return token.evaluate("node => node.style.backgroundColor")

    seen = set()
    for key, metric in enumerate(("entropy", "logprob", "margin", "expert", "phase"), 1):
        press(tab, str(key))
        button = tab.locator(f"[data-metric={metric}]")
        expect(button).to_have_attribute("aria-pressed", "true")
        expect(tab.locator(".legend")).not_to_be_empty()
        seen.add(colour())
    assert len(seen) >= 3
    tab.locator("[data-metric=expert]").click()
    tab.get_by_label("Layer", exact=True).select_option("3")
    assert asked(tab, "L") == "3"
    key = tab.locator(".legend button.key").first
    key.click()
    expect(tab.locator(".legend button.key[aria-pressed=true]")).to_have_count(1)
    before = tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
    press(tab, "t")
    expect(tab.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    assert tab.evaluate("() => getComputedStyle(document.body).backgroundColor") != before
    tab.get_by_role("button", name="dark or light").click()
    expect(tab.locator("html")).to_have_attribute("data-mantine-color-scheme", "light")


def test_finding_a_text(tab, file):
    opened(tab, f"{file}?trace=1")
    press(tab, "/")
    expect(tab.locator("#find")).to_be_focused()
    tab.locator("#find").fill("and step")
    expect(tab.locator("#find-count")).to_have_text("6 places")
    press(tab, "Enter", "Enter")
    expect(tab.locator("#find-count")).to_have_text("2 of 6")
    press(tab, "Shift+Enter")
    expect(tab.locator("#find-count")).to_have_text("1 of 6")
    tab.get_by_role("button", name="next place").click()
    expect(tab.locator("#find-count")).to_have_text("2 of 6")
    tab.reload()
    expect(tab.locator("#find")).to_have_value("and step")
    tab.locator("#find").focus()
    press(tab, "Escape")
    expect(tab.locator("#find-count")).to_have_text("")


def test_heads_tint_the_text(tab, file):
    opened(tab, f"{file}?trace=3&tok=60")
    canvas = tab.locator(".head-grid canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.click(position={"x": 3.5 / WIDE.heads * box["width"], "y": 1.5 / 4 * box["height"]})
    expect(tab.locator(".legend-head")).to_have_count(1)
    assert asked(tab, "h") == "1.3"
    expect(tab.locator(".source")).to_have_count(4)
    tab.locator(".source").first.click()
    expect(tab.locator(".t.pointed")).to_have_count(1)
    press(tab, "Escape")
    expect(tab.locator(".legend-head")).to_have_count(0)
    press(tab, "h", "ArrowRight")
    expect(tab.locator(".legend-head")).to_have_count(1)
    tab.get_by_label("Head whose positions were recorded").select_option("2.0")
    assert asked(tab, "h") == "2.0"


def test_hovering_tells(tab, file):
    opened(tab, f"{file}?trace=1")
    tab.locator(".t").nth(20).hover()
    expect(tab.locator(".trace-app > .tip")).to_contain_text("probability")
    tab.locator("canvas.belief-track").hover(position={"x": 200, "y": 10})
    expect(tab.locator(".ribbon-tip")).to_contain_text("final answer")
    tab.locator("[data-metric=entropy]").hover()
    expect(tab.locator("#term-tip")).to_be_visible()


def test_behind_charts_are_tables_programs_and_files(tab, file, tmp_path):
    opened(tab, f"{file}?trace=1&tok=20")
    for name in ("Steps", "Entropy", "Belief", "Routing change", "Experts by layer"):
        tab.get_by_role("button", name=f"Behind “{name}”").click()
        dialog = tab.locator("#behind")
        expect(dialog.locator("tbody tr").first).to_be_visible()
        dialog.get_by_role("button", name="Python", exact=True).click()
        expect(dialog.locator(".behind-code")).to_contain_text("rl.Store('store')")
        with tab.expect_download() as download:
            dialog.get_by_role("button", name="CSV", exact=True).click()
        assert len(download.value.path().read_text().splitlines()) > 1
        press(tab, "Escape")
        expect(dialog).to_have_count(0)


def test_an_expert_leads_to_its_usage(tab, file):
    opened(tab, f"{file}?trace=1&tok=20&L=2")
    chosen = tab.locator(".expert-link").first
    name = chosen.inner_text()
    chosen.click()
    expect(tab.locator("#usage-app[data-ready=true]")).to_be_visible()
    expect(tab.locator(".routing-panel h2")).to_have_text(f"Expert {name[1:]}")
    tab.get_by_role("link", name="Text").click()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()


def zoomed(tab):
    """First and last expert that the address says are shown."""
    expect(tab).to_have_url(re.compile("zoom="))
    return [float(each) for each in asked(tab, "zoom").partition(",")[0].split("-")]


def test_usage_of_experts(tab, file):
    opened(tab, f"{file}?view=routing&run=1", "#usage-app")
    panel = tab.locator(".routing-panel")
    expect(panel).to_contain_text("Strongest in this view")
    for metric in ("weight", "lift", "flips", "share"):
        tab.locator(f"[data-choice={metric}]").click()
        expect(tab.locator(f"[data-choice={metric}]")).to_have_attribute("aria-pressed", "true")
    for phase in ("prompt", "think", "answer", "difference"):
        tab.locator(f"[data-choice={phase}]").click()
        assert asked(tab, "phase") == phase
    tab.locator(".strongest button").first.click()
    expect(panel.locator("h2")).to_contain_text("Expert")
    tab.keyboard.press("/")
    tab.keyboard.type("L2 E70")
    press(tab, "Enter")
    expect(panel.locator("h2")).to_have_text("Expert 70")
    tab.get_by_role("button", name="the whole map").click()
    expect(tab).not_to_have_url(re.compile("zoom="))
    press(tab, "ArrowRight", "]")
    assert (asked(tab, "L"), asked(tab, "E")) == ("3", "71")
    press(tab, "+")
    left, right = zoomed(tab)
    assert left < 71 < right and right - left < 127
    press(tab, "Shift+ArrowRight")
    expect(tab).not_to_have_url(re.compile(f"zoom={left:g}-"))
    assert zoomed(tab)[0] > left
    tab.reload()
    expect(tab.locator("#usage-app[data-ready=true]")).to_be_visible()
    tab.get_by_role("button", name="the whole map").click()
    expect(tab).not_to_have_url(re.compile("zoom="))
    x, y = on_map(tab, 0.5, 0.5)
    tab.mouse.move(x, y)
    expect(tab.locator(".usage-map-box .tip")).to_contain_text("L2 · E6")
    tab.mouse.wheel(0, -300)
    wide = zoomed(tab)
    tab.mouse.down()
    tab.mouse.move(x - 200, y, steps=3)
    tab.mouse.up()
    expect(tab).not_to_have_url(re.compile(f"zoom={wide[0]:g}-"))
    assert asked(tab, "E") == "71"  # it moved, and chose nothing
    tab.mouse.dblclick(x, y)
    expect(tab).not_to_have_url(re.compile("zoom="))
    tab.mouse.click(*on_map(tab, 0.5, 0.1))
    expect(tab).to_have_url(re.compile(r"[?&]L=1\b"))
    tab.get_by_role("button", name="Behind").click()
    with tab.expect_download() as download:
        tab.locator("#behind").get_by_role("button", name="SVG", exact=True).click()
    assert download.value.path().read_text().startswith("<svg")
    press(tab, "Escape")
    expect(tab.locator("#behind")).to_have_count(0)
    press(tab, "Escape")
    expect(panel).to_contain_text("Strongest in this view")


def test_it_says_what_it_reveals_and_has_no_dead_buttons(tab, file):
    opened(tab, f"{file}?trace=1")
    tab.get_by_role("button", name="what this holds").click()
    expect(tab.locator("#about")).to_contain_text("91% of the tokens")
    press(tab, "Escape")
    expect(tab.locator(".track-quiet:visible")).to_contain_text("was not recorded")
    assert tab.locator(".track-quiet code").count() == 0  # commands are its owner's
    assert tab.locator("a[href^='/'], a[href='']").count() == 0
    tab.goto(f"{file}?trace=9")
    expect(tab.locator("#page")).to_contain_text("There is no trace 9 in this bundle.")
