"""Two traces side by side in a real browser: one focus, keys, the address."""

import csv
from urllib.parse import parse_qs, urlsplit

import pytest
from hostile import HOSTILE
from playwright.sync_api import expect
from thoughts import Thought, write_thoughts

from ringlens.sandbox import confine
from ringlens.store import Store

pytestmark = pytest.mark.browser

FIRST, SECOND = [0, 1, 2, 3, 4], [0, 1, 7, 2, 3, 4]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """1, 2, 3: of one problem, with hostile text; the second has a detour; 4: of another."""

    def thought(states, **more):
        texts = [f"{HOSTILE[i % len(HOSTILE)]} and step {i}. " for i in range(len(states))]
        return Thought(states, texts=texts, prompt=HOSTILE[0], **more)

    thoughts = [
        thought(FIRST),
        thought(SECOND, correct=False, backtracks=frozenset({3})),
        thought(FIRST),
        thought(FIRST, problem="q"),
    ]
    with Store(write_thoughts(tmp_path_factory.mktemp("stores") / "store", thoughts)) as store:
        yield store


def ready(tab):
    expect(tab.locator("#beside-app[data-ready=true]")).to_be_visible()


def asked(tab):
    return {name: values[0] for name, values in parse_qs(urlsplit(tab.url).query).items()}


def expect_focus(tab, first, second):
    """Both steps are in focus; None stands for no partner."""
    row = tab.locator(".beside-row[aria-selected=true]")
    expect(row).to_have_count(1)
    expect(row).to_be_in_viewport()
    for cell, step in zip(row.locator(".beside-step").all(), (first, second), strict=True):
        expect(cell).to_contain_text("no partner" if step is None else f"step {step}")
    focus = {"first": first, "second": second}
    assert asked(tab) == {name: str(step) for name, step in focus.items() if step is not None}


def test_a_trace_leads_to_itself_beside_another(tab, address):
    tab.goto(f"{address}/trace/1")
    tab.get_by_role("link", name="Beside…").click()
    ready(tab)
    assert urlsplit(tab.url).path == "/beside/1/2"  # of another verdict
    expect(tab.locator(".beside-rows .beside-row")).to_have_count(6)
    expect(tab.locator(".beside-step.none")).to_have_count(1)
    expect(tab.locator(".beside-chance")).to_contain_text("in random order, p = ")
    assert tab.evaluate("() => window.hit") is None
    tab.goto(f"{address}/trace/4")
    expect(tab.locator(".button.disabled", has_text="Beside…")).to_have_attribute(
        "title", "The store has no other trace of this problem by this model."
    )


def test_a_click_or_a_key_moves_both(tab, address):
    tab.goto(f"{address}/beside/1/2")
    ready(tab)
    tab.locator(".beside-row").filter(has_text="step 3").first.click()
    expect_focus(tab, 2, 3)
    tab.keyboard.press("k")
    expect_focus(tab, None, 2)
    for key, focus in (("j", (2, 3)), ("U", (None, 2)), ("d", (2, 3)), ("j", (3, 4))):
        tab.keyboard.press(key)
        expect_focus(tab, *focus)
    tab.reload()
    ready(tab)
    expect_focus(tab, 3, 4)
    box = tab.locator(".beside-overview canvas").bounding_box()
    tab.mouse.click(box["x"] + 64 + 30, box["y"] + box["height"] - 25)  # the second's first step
    expect_focus(tab, 0, 0)
    tab.mouse.click(box["x"] + 64 + 60, box["y"] + box["height"] / 2)  # the band of the first pair
    expect_focus(tab, 0, 0)
    tab.keyboard.press("Escape")
    expect(tab.locator("[aria-selected=true]")).to_have_count(0)
    assert asked(tab) == {}


@pytest.mark.extra
def test_experts_that_differ_are_listed_and_lead_to_their_cards(tab, address, store):
    if confine.missing():
        pytest.skip(f"no sandbox: {confine.missing()}")
    tab.goto(f"{address}/beside/1/2?first=3")
    ready(tab)
    tab.keyboard.press("e")
    expect(tab.locator("#sql-grid .sql-link").first).to_be_visible()
    found = store.sql(asked(tab)["q"]).df()
    assert found["share_of_1"].sum() == pytest.approx(found["share_of_2"].sum())
    assert found["share_of_1"].sum() == pytest.approx(found["layer"].nunique())
    tab.locator("#sql-grid .sql-link").first.click()
    row = found.iloc[0]
    expect(tab.locator("h1")).to_have_text(f"Layer {row['layer']}, expert {row['expert']}")


def expect_sides(tab, first, second):
    expect(tab.get_by_label("Trace on the left")).to_have_value(str(first))
    expect(tab.get_by_label("Trace on the right")).to_have_value(str(second))
    assert urlsplit(tab.url).path == f"/beside/{first}/{second}"
    ready(tab)


def test_other_traces_sides_and_where_a_step_leads(tab, address):
    tab.goto(f"{address}/beside/1/2?first=3")
    ready(tab)
    expect(tab.locator(".beside-ways")).to_contain_text("Step 3 on trace 1")
    tab.keyboard.press("2")
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    assert asked(tab)["tok"] == str(1 + 4 * 12)
    tab.go_back()
    ready(tab)
    tab.keyboard.press("x")
    expect_sides(tab, 2, 1)
    tab.keyboard.press("n")
    expect_sides(tab, 2, 3)
    tab.get_by_label("Trace on the left").select_option("1")
    expect_sides(tab, 1, 3)
    expect(tab.locator(".beside-step.none")).to_have_count(0)


def test_behind_it_are_numbers_and_files(tab, address, tmp_path):
    tab.goto(f"{address}/beside/1/2")
    ready(tab)
    tab.get_by_role("button", name="Behind “Alignment”").click()
    dialog = tab.locator("#behind")
    expect(dialog.locator("tbody tr")).to_have_count(6)
    for name in ("SQL", "Python"):
        expect(dialog.get_by_role("button", name=name, exact=True)).to_be_visible()
    for name in ("CSV", "SVG", "PNG"):
        with tab.expect_download() as download:
            dialog.get_by_role("button", name=name, exact=True).click()
        file = tmp_path / download.value.suggested_filename
        download.value.save_as(file)
        assert file.stat().st_size > 300
        if name == "CSV":
            with file.open(newline="") as lines:
                assert len(list(csv.reader(lines))) == 7
    assert tab.evaluate("() => window.hit") is None


def test_what_cannot_be_aligned_says_so(tab, address):
    tab.goto(f"{address}/beside/1/4")
    expect(tab.locator(".state")).to_contain_text("choose two traces of one problem")
    tab.goto(f"{address}/beside/1/1")
    expect(tab.locator(".state")).to_contain_text("Both are trace 1")
