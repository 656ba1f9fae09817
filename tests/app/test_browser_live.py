"""A model that thinks before somebody's eyes: typed, growing, stopped, killed, taken up again."""

import os
import signal
from pathlib import Path

import pytest
from browser import served
from playwright.sync_api import expect
from waiting import wait_for

from ringlens import problems
from ringlens.store import Store
from ringlens.store.check.check import check

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-tests"
QUESTION = "Make 24 from 4, 6, 1, using each number once."
ACT = "ablate:5/3+7@think"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("live") / "store"


@pytest.fixture(scope="module")
def dashboard(place):
    """A dashboard with a model, on a store that it makes: its address and its process."""
    with served(place, token=TOKEN, live="ring-nano") as address:
        yield address


def opened(tab, dashboard):
    base = dashboard.partition("?")[0]
    tab.goto(f"{base}live?token={TOKEN}")
    expect(tab.locator("#live-model")).to_have_text("ring-nano")  # loaded


def ask(tab, prompt, act=None, tokens=None, temperature=None):
    tab.get_by_label("Question").fill(prompt)
    if act is not None:
        tab.get_by_label("Kind of intervention").select_option(act[0])
        tab.get_by_label("Layers").fill(act[1])
        tab.get_by_label("Experts").fill(act[2])
        tab.get_by_label("Where").select_option(act[3])
        tab.get_by_role("button", name="Add", exact=True).click()
    if tokens is not None:
        tab.get_by_label("New tokens").fill(str(tokens))
    if temperature is not None:
        tab.get_by_label("Temperature").fill(str(temperature))
    tab.get_by_role("button", name="Think").click()


def text_of(thought):
    return thought.locator(".live-text").evaluate("(node) => node.textContent")


def test_a_typed_problem_grows_and_an_intervention_stands_beside(tab, dashboard, place):
    opened(tab, dashboard)
    ask(tab, QUESTION, ("ablate", "5", "3+7", "think"), tokens=14)
    expect(tab.get_by_label("Intervention", exact=True)).to_have_value(ACT)
    plain, acted = tab.locator(".live-thought").nth(0), tab.locator(".live-thought").nth(1)
    expect(plain.locator(".live-name")).to_have_text("Plain run")
    expect(acted.locator(".live-name")).to_have_text(ACT)
    seen = set()
    while plain.get_attribute("data-state") != "done":
        seen.add(plain.locator(".lt").count())
    assert len(seen) > 2  # it grew before our eyes
    expect(acted).to_have_attribute("data-state", "done")
    expect(acted.locator(".live-parts")).to_have_text("the same so far")
    with Store(place) as store:
        rows = store.sql(
            "select trace_id, interventions, text, finish_reason from traces join runs using "
            "(run_id) order by trace_id"
        ).fetchall()
        assert [row[1] for row in rows] == [None, [ACT]]
        assert [row[2] for row in rows] == [text_of(plain), text_of(acted)]
        assert {row[3] for row in rows} == {"length"}
        assert check(store).findings == []
    acted.get_by_role("link", name="Trace 2").click()
    expect(tab.locator("#trace-app[data-ready=true]")).to_be_visible()


def test_a_problem_of_a_set_is_graded_and_the_pair_stands_side_by_side(tab, dashboard, place):
    opened(tab, dashboard)
    tab.get_by_label("Set of problems").select_option("countdown")
    problem = problems("countdown", 3)[2]
    tab.get_by_label("Problem", exact=True).select_option(problem.id)
    question = tab.get_by_label("Question")
    expect(question).to_have_value(problem.prompt)
    tab.get_by_label("New tokens").fill("40")
    tab.get_by_role("button", name="type one").click()
    tab.get_by_label("Intervention", exact=True).fill(ACT)
    tab.get_by_role("button", name="Think").click()
    pair = tab.locator(".live-pair", has_text=problem.id)
    for thought in (pair.locator(".live-thought").nth(i) for i in range(2)):
        expect(thought).to_have_attribute("data-state", "done")
        expect(thought.locator(".live-grade")).to_have_text("wrongno answer")  # it was cut off
    with Store(place) as store:
        graded = store.sql(
            "select problem_id, expected, correct from traces where expected is not null"
        ).fetchall()
        assert graded == [(problem.id, problem.answer, False)] * 2
    assert f"set=countdown&problem={problem.id}" in tab.url
    question.fill("Another question")  # which is of no set
    expect(tab.get_by_label("Set of problems")).to_have_value("")
    tab.reload()
    expect(question).to_have_value(problem.prompt)
    pair.get_by_role("link", name="Side by side").click()
    expect(tab.locator("#beside-app[data-ready=true]")).to_be_visible()


def test_a_thought_can_be_stopped_and_what_was_thought_stays(tab, dashboard, place):
    opened(tab, dashboard)
    ask(tab, "Say much.", tokens=4000, temperature=40)  # which finds no end
    thought = tab.locator(".live-pair", has_text="Say much.").locator(".live-thought")
    expect(thought.locator(".lt[data-phase='1']").nth(3)).to_be_attached()
    thought.get_by_role("button", name="Stop").click()
    expect(thought).to_have_attribute("data-state", "done")
    expect(thought.locator(".live-state")).to_have_text("stopped")
    with Store(place) as store:
        last = max(trace.trace_id for trace in store)
        assert store.trace(last).summary["finish_reason"] == "interrupted"
        assert store.trace(last).text == text_of(thought)


def test_what_cannot_be_asked_is_said_beside_the_form(tab, dashboard):
    opened(tab, dashboard)
    ask(tab, "Anything.", ("ablate", "0", "1", "everywhere"), tokens=4)  # a layer without experts
    thought = tab.locator(".live-pair").first.locator(".live-thought").last
    expect(thought).to_have_attribute("data-state", "failed")
    expect(thought.locator(".live-error")).to_contain_text("layer")
    tab.get_by_label("Intervention", exact=True).fill("ablate")


def committed(place, prompt):
    """How many tokens of the trace of a prompt are in the store."""
    query = "select count(*) from tokens join traces using (trace_id) where prompt = $prompt"
    with Store(place) as store:
        return store.sql(query, params={"prompt": prompt}).fetchall()[0][0]


def worker(place):
    """Process id of the model's process, and that of the dashboard that started it."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
        if b"ringlens.live.worker" in words and os.fsencode(place) in words:
            return int(folder.name), parent
    return None


@pytest.mark.extra
def test_a_killed_model_is_said_started_again_and_its_thought_taken_up(tab, dashboard, place):
    opened(tab, dashboard)
    ask(tab, "Say more.", tokens=4000, temperature=40)
    pairs = tab.locator(".live-pair", has_text="Say more.")
    thought = pairs.last.locator(".live-thought")
    expect(thought.get_by_role("link")).to_be_visible()
    wait_for(lambda: committed(place, "Say more."))
    pid, parent = worker(place)
    os.kill(pid, signal.SIGKILL)
    kept = committed(place, "Say more.")
    said = tab.locator(".live-said")
    expect(said).to_contain_text("has ended (SIGKILL")
    expect(thought.locator(".live-error")).to_contain_text("the same question takes it up")
    said.get_by_role("button", name="Start it again").click()
    expect(tab.locator("#live-model")).to_have_text("ring-nano")
    tab.get_by_role("button", name="Think").click()
    expect(pairs).to_have_count(2)
    again = pairs.first.locator(".live-thought")
    expect(again.locator(".lt").nth(kept + 9)).to_be_attached()  # behind what was stored
    again.get_by_role("button", name="Stop").click()
    expect(again).to_have_attribute("data-state", "done")
    with Store(place) as store:
        last = store.trace(max(trace.trace_id for trace in store))
        assert last.summary["resumed_at"]
        assert last.text == text_of(again)
        assert check(store).findings == []
    os.kill(parent, signal.SIGKILL)  # the last of this module: the dashboard itself
    wait_for(lambda: worker(place) is None)
