"""The page of an expert in a real browser: reached from where it is named, and leading on."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import page
from hostile import HOSTILE
from playwright.sync_api import expect
from thoughts import Thought, write_thoughts

from ringlens.sandbox import confine
from ringlens.store import Store

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four thoughts, whose texts try to be markup."""
    texts = [f"{HOSTILE[i % len(HOSTILE)]} and step {i}. " for i in range(4)]
    thoughts = [Thought([0, 1, 0, 1], texts=texts, correct=i > 1) for i in range(4)]
    path = tmp_path_factory.mktemp("stores") / "store"
    with Store(write_thoughts(path, thoughts)) as store:
        yield store


def ready(tab):
    expect(tab.locator("#expert-app[data-ready=true]")).to_be_visible()


def asked(tab):
    return {name: values[0] for name, values in parse_qs(urlsplit(tab.url).query).items()}


def test_from_a_token_to_the_card_and_back(tab, address, store):
    tab.goto(f"{address}/trace/1?tok=20")
    chip = tab.locator(".routing-grid tbody tr").nth(1).locator(".chip").first
    expert = chip.inner_text()
    chip.click()
    expect(tab.locator("h1")).to_have_text(f"Layer 2, expert {expert}")
    ready(tab)
    rows = tab.locator("table[aria-label='Load by phase'] tbody tr")
    expect(rows.first).to_be_visible()
    query = f"""select count(*) from routing join tokens using (trace_id, pos)
        where layer = 2 and phase = 'think' and list_contains(expert_ids, {expert})"""
    ((times,),) = store.sql(query).fetchall()
    think = rows.filter(has_text="think")
    expect(think.locator("td").last).to_have_text(f"{times:,}")

    tab.locator("[data-phase=all]").click()
    tab.wait_for_url(re.compile("phase=all"))
    tab.reload()
    ready(tab)
    expect(tab.locator("[data-phase=all]")).to_have_attribute("aria-pressed", "true")
    assert tab.evaluate("() => window.hit") is None

    tab.get_by_role("button", name="Behind “Words it serves”").click()
    expect(tab.locator("#behind tbody tr").first).to_be_visible()
    tab.keyboard.press("Escape")
    tab.locator(".contexts a").first.click()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()
    assert "tok" in asked(tab)


def test_keys_and_company_lead_to_other_experts(tab, address):
    tab.goto(f"{address}/expert/2/5")
    ready(tab)
    tab.keyboard.press("ArrowRight")
    expect(tab.locator("h1")).to_have_text("Layer 2, expert 6")
    ready(tab)
    tab.keyboard.press("]")
    expect(tab.locator("h1")).to_have_text("Layer 3, expert 6")
    ready(tab)
    company = tab.get_by_role("region", name="Experts beside it").locator("a").first
    name = company.inner_text()
    company.click()
    expect(tab.locator("h1")).to_have_text(f"Layer 3, expert {name.removeprefix('E')}")
    expect(tab.get_by_role("region", name="Without it")).to_contain_text("ringlens ablate")


@pytest.mark.extra
def test_tokens_are_chosen_and_refused(chrome, address):
    if confine.missing():
        pytest.skip(f"no sandbox: {confine.missing()}")
    with page(chrome) as (tab, complaints):
        choose_tokens(tab, address)
        assert len(complaints) == 2  # the refusal, as an answer and in the console
        assert all("400" in each for each in complaints)


def choose_tokens(tab, address):
    tab.goto(f"{address}/expert/2/5?where=correct")
    ready(tab)
    expect(tab.get_by_role("status").first).to_have_text("2 traces")
    tab.keyboard.press("/")
    expect(tab.locator("#where")).to_be_focused()
    tab.locator("#where").fill("correct and <b>")
    with tab.expect_response(re.compile("card/load")):
        tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text("There is no card of these tokens")
    tab.get_by_role("button", name="All tokens of the run").click()
    expect(tab.get_by_role("status").first).to_have_text("4 traces")
    assert "where" not in asked(tab)


def test_an_expert_that_is_not_there(tab, address):
    tab.goto(f"{address}/expert/2/99")
    expect(tab.locator(".state")).to_contain_text("no expert")
