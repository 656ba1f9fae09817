"""The ledger of candidate answers: known stories, and the words that state an answer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import ROOT
from thoughts import Thought, opened

from ringlens.analysis.trajectory import reflections, stated_answers
from ringlens.analysis.trajectory.reflections import CHANGES, change
from ringlens.errors import ConfigError, StoreError

NUMBERS = "Make 24 from 2, 3, 4, using each number once."
STORY = [
    "I need 24 from these numbers. ",
    "So the answer is 2 + 3 * 4. ",
    "Wait, the answer is wrong. ",
    "The answer is (2 + 4) * 3, I think. ",
    "No, still the answer is (2+4)*3. ",
    "The answer should be 2 * 3 * 4. ",
    "Check: \\boxed{4 * 3 * 2} is 24. ",
]


def of(texts, **more):
    more = {"task": "countdown", "prompt": NUMBERS + " ", "expected": "2 * 3 * 4"} | more
    return Thought([0] * len(texts), texts=texts, **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    lost = [STORY[5], "Hmm, so my answer is none. "]
    with opened(tmp_path_factory.mktemp("s") / "s", [of(STORY), of(lost, correct=False)]) as store:
        yield store


def test_each_change_of_a_story_is_named(store):
    frame = reflections(store)
    own = frame[frame["trace_id"] == 1]
    assert own["answer"].tolist() == [
        "2 + 3 * 4", "(2 + 4) * 3", "(2+4)*3", "2 * 3 * 4", "4 * 3 * 2", "24",
    ]  # fmt: skip
    assert own["correct"].tolist() == [False, False, False, True, True, True]
    changes = ["changed", "repeated", "corrective", "confirmatory", "confirmatory"]
    assert own["change"].isna().iloc[0] and own["change"].tolist()[1:] == changes
    assert own["step"].tolist()[:-1] == [1, 3, 4, 5, 6] and own["step"].isna().iloc[-1]
    other = frame[frame["trace_id"] == 2]
    assert other["change"].tolist()[1:] == ["overturned", "changed"]
    assert frame.attrs["changes"] == {
        "confirmatory": 2, "corrective": 1, "overturned": 1, "repeated": 1, "changed": 2,
    }  # fmt: skip
    assert (frame.attrs["first"], frame.attrs["last"], frame.attrs["traces"]) == (0.5, 0.5, 2)
    assert frame.attrs["p"] == 1  # as much was mended as was spoilt


def test_thoughts_that_mend_themselves_gain(tmp_path):
    thoughts = [of([STORY[1], STORY[5]]) for _ in range(8)]
    with opened(tmp_path / "s", thoughts, tokens=6) as store:
        found = reflections(store).attrs
    assert (found["first"], found["last"]) == (0, 1)
    assert found["p"] == 2 / 2**8


def test_the_finder_can_be_replaced(store):
    frame = reflections(
        store, "trace_id = 1", candidates=lambda text, role: ["2*3*4"] * ("24" in text)
    )
    assert frame["correct"].all() and len(frame) == 3


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("So the answer is 13 + (16 - 9).", ["13 + (16 - 9)"]),
        ("The final answer is: **42**.", ["42"]),
        ("Final answer: $x = 3.5$", ["x = 3.5"]),
        (r"Thus \boxed{\frac{1}{2}} holds, and \boxed{7}.", [r"\frac{1}{2}", "7"]),
        (r"The answer is \boxed{12}.", ["12"]),
        ("The answer would be 12, because 3 * 4 = 12.", ["12"]),
        ("The answer is wrong.", []),
        ("The answer is not 12.", []),
        ("I need the answer to this.", []),
        ("", []),
    ],
)
def test_what_states_an_answer(text, answers):
    assert stated_answers(text) == answers


def test_every_told_answer_of_the_held_out_thoughts_is_found_and_no_other():
    """The generator says which steps give the answer; the last one is the answer alone."""
    lines = (ROOT / "ringlens" / "data" / "thoughts.heldout.jsonl").read_text().splitlines()
    for told in map(json.loads, lines):
        found = [stated_answers(step["text"], step["role"]) for step in told["steps"][:-1]]
        assert [answer for answers in found for answer in answers] == [told["answer"]]


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200))
def test_any_text_has_answers_that_stand_in_it(text):
    for answer in stated_answers(f"The answer is {text}"):
        assert answer and answer in f"The answer is {text}"


@given(st.sampled_from([None, True, False]), st.sampled_from([None, True, False]))
def test_every_pair_of_answers_has_one_name(before, after):
    found = change(("a", before), "b", after)
    assert (found is None) == (before is None or after is None)
    assert found is None or found in CHANGES
    assert change(None, "b", after) is None


def test_what_has_no_ledger_is_refused(store, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'candidates'"):
        reflections(store, candidate=None)
    with pytest.raises(StoreError, match="is in a step"):
        reflections(store, "phase = 'answer'")
