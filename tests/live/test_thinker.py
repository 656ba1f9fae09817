"""The queue of a live model and the end of its process, with a program that needs no model."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_worker import BOOT, SHAPE
from waiting import wait_for

from ringlens.errors import NotInStoreError, RequestError
from ringlens.live.asked import FIELDS, Asked, Limits, asked_in
from ringlens.live.sets import ProblemSets
from ringlens.live.thinker import LiveModel, Thinker

ACT = "ablate:2/3@think"


@pytest.fixture
def thinker():
    thinker = Thinker("nowhere", LiveModel("a model", limits=Limits(waiting=3, kept=6)), BOOT)
    yield thinker
    thinker.close()


def thoughts(thinker, seen=None):
    return {each["number"]: each for each in thinker.news(seen or {})["thoughts"]}


def over(thinker, *numbers):
    """These thoughts, once they are over."""

    def done():
        found = thoughts(thinker)
        return all(found[number]["state"] in ("done", "failed") for number in numbers)

    wait_for(done)
    found = thoughts(thinker)
    return [found[number] for number in numbers]


def text(thought):
    return "".join(token[0] for token in thought["tokens"])


def test_the_plain_run_is_thought_first_and_once(thinker):
    assert thinker.ask({"prompt": "count 3", "interventions": [ACT]}) == [1, 2]
    plain, acted = over(thinker, 1, 2)
    assert plain["pair"] == acted["pair"] == 1
    assert (plain["asked"]["interventions"], acted["asked"]["interventions"]) == ([], [ACT])
    assert text(plain) == text(acted) == "count 3 0 1 2"
    assert [phase for _, phase, _ in plain["tokens"]] == [0, 2, 1, 1]  # one was read otherwise
    assert (plain["reason"], plain["trace"], plain["written"]) == ("stop", 1, 3)
    assert thinker.ask({"prompt": "count 3", "interventions": ["force:2/5"]}) == [3, 4]
    again, other = over(thinker, 3, 4)
    assert (again["trace"], text(again)) == (1, text(plain))  # what stands there already
    assert other["trace"] == 4
    assert thinker.ask({"prompt": "count 3", "interventions": [ACT], "beside": False}) == [5]
    assert over(thinker, 5)[0]["pair"] == 5
    assert thinker.news({})["model"]["shape"] == SHAPE


def test_news_are_what_was_not_seen(thinker):
    thinker.ask({"prompt": "count 4"})
    (whole,) = over(thinker, 1)
    edition = whole["edition"]
    rest = thoughts(thinker, {1: (edition, 3)})[1]
    assert (rest["start"], rest["tokens"]) == (3, whole["tokens"][3:])
    # Tokens that were told before are read otherwise: all are told again.
    assert thoughts(thinker, {1: (edition - 1, 3)})[1]["tokens"] == whole["tokens"]


def test_one_runs_and_others_wait_and_both_can_be_stopped(thinker):
    first, second, third = (thinker.ask({"prompt": "wait"})[0] for _ in range(3))
    states = [thoughts(thinker)[number]["state"] for number in (second, third)]
    assert states == ["waiting", "waiting"]
    thinker.stop(third)
    (taken_out,) = over(thinker, third)
    assert (taken_out["reason"], taken_out["trace"], taken_out["tokens"]) == (
        "interrupted",
        None,
        [],
    )
    wait_for(lambda: thoughts(thinker)[first]["state"] == "running")
    thinker.stop(first)
    thinker.stop(first)  # a second click
    (stopped,) = over(thinker, first)
    assert (stopped["reason"], stopped["trace"]) == ("interrupted", first)
    wait_for(lambda: thoughts(thinker)[second]["state"] == "running")
    thinker.stop(second)
    over(thinker, second)
    with pytest.raises(NotInStoreError, match="no thought 99"):
        thinker.stop(99)


def test_the_queue_has_an_end_and_old_thoughts_leave_the_page(thinker):
    wait_for(lambda: thinker.news({})["model"]["state"] == "ready")
    for _ in range(4):  # one runs, three wait
        thinker.ask({"prompt": "wait"})
    with pytest.raises(RequestError, match="3 thoughts are waiting, and 3 are the most"):
        thinker.ask({"prompt": "wait"})
    for number in (4, 3, 2, 1):
        thinker.stop(number)
    over(thinker, 1, 2, 3, 4)
    for _ in range(6):
        over(thinker, *thinker.ask({"prompt": "count 1"}))
    assert len(thoughts(thinker)) == 6
    assert min(thoughts(thinker)) == 5


def test_what_cannot_be_thought_about_says_why(thinker):
    thinker.ask({"prompt": "fail"})
    thinker.ask({"prompt": "count 1"})
    failed, after = over(thinker, 1, 2)
    assert (failed["state"], failed["error"]) == ("failed", "layer 9 has no experts.")
    assert after["state"] == "done"


def test_the_end_of_the_process_is_said_and_what_waits_is_thought_after_a_new_start(thinker):
    thinker.ask({"prompt": "die"})
    thinker.ask({"prompt": "count 2"})
    (failed,) = over(thinker, 1)
    assert "has ended (exit code 3: OutOfMemoryError: too much)" in failed["error"]
    model = thinker.news({})["model"]
    assert (model["state"], "OutOfMemoryError" in model["said"]) == ("ended", True)
    assert thoughts(thinker)[2]["state"] == "waiting"
    with pytest.raises(RequestError, match="start it again first"):
        thinker.ask({"prompt": "count 2"})
    thinker.restart()
    (done,) = over(thinker, 2)
    assert text(done) == "count 2 0 1"
    with pytest.raises(RequestError, match="nothing to start"):
        thinker.restart()


def test_the_process_ends_with_the_thinker():
    thinker = Thinker("nowhere", LiveModel("a model"), BOOT)
    thinker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(thinker.pid, 0)


def test_a_process_that_does_not_start_says_so():
    thinker = Thinker("nowhere", LiveModel("a model"), "raise SystemExit('no such thing')")
    wait_for(lambda: thinker.news({})["model"]["state"] == "ended")
    assert (
        "a model was not loaded: its process has ended (exit code 1: no such thing)"
        in (thinker.news({})["model"]["said"])
    )
    thinker.close()


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": 3}, "the prompt is empty"),
        ({"prompt": "x" * 20_001}, "has 20,001 characters, and 20,000 are the most"),
        ({"prompt": "a\0b"}, "in no text"),
        ({"prompt": "a\ud800b"}, "in no text"),
        ({"prompt": "a", "interventions": "ablate:5/3"}, "must be a list of texts"),
        ({"prompt": "a", "interventions": ["ablate"]}, "is no intervention"),
        ({"prompt": "a", "interventions": ["ablate:x/3"]}, "no list of numbers"),
        ({"prompt": "a", "interventions": ["ablate:1/3"] * 17}, "17 interventions, and 16"),
        ({"prompt": "a", "interventions": ["steer:1/resid_post=1*/etc/x.npy"]}, "from a file"),
        ({"prompt": "a", "interventions": ["steer:1/resid_post=1*x.npy @think"]}, "from a file"),
        ({"prompt": "a", "max_new_tokens": 4097}, "1 to 4096"),
        ({"prompt": "a", "max_new_tokens": True}, "whole number"),
        ({"prompt": "a", "temperature": -1}, "from 0 to 100"),
        ({"prompt": "a", "seed": 2**31}, "whole number"),
        ({"prompt": "a", "beside": 1}, "true or false"),
        ({"prompt": "a", "model": "b"}, "has no 'model'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(body, says):
    with pytest.raises(RequestError, match=says):
        asked_in(body, Limits(), ProblemSets())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_request_is_refused_or_within_the_limits(body):
    limits = Limits(characters=10, tokens=50)
    try:
        wanted = asked_in(body, limits, ProblemSets())
    except (NotInStoreError, RequestError):
        return
    for asked in wanted:
        assert isinstance(asked, Asked)
        assert asked.prompt.strip() and len(asked.prompt) <= 10
        assert 1 <= asked.max_new_tokens <= 50
        assert 0 <= asked.temperature <= 100
