"""Multiple choice: the right letter, or a flag, and never another letter."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlens.errors import ProblemError
from ringlens.graders import choice
from ringlens.graders.ungraded import REASONS, UNGRADED, UngradedError
from ringlens.problem import Grade, Problem, check_problem, grade

PROMPT = "Which is a fish?\nA) A cat\nB. Trout\n(C) I, a dog\n**D)** None"
FISH = Problem("f", choice.TASK, PROMPT, "B")

# {t} is the letter that is meant, {d} another one.
CERTAIN = [
    r"\boxed{{{t}}}", r"\boxed{{({t})}}", r"\boxed{{\text{{{t}}}}}", r"\boxed{{\textbf{{({t})}}}}",
    r"So $\boxed{{{t}.}}$ and done", r"First \boxed{{{d}}}, no: \boxed{{{t}}}", "{t}", "({t})",
    "**{t}**", "{t}.", "{t})", "Some words.\n\n{t}", "The answer is {t}.", "The answer is ({t})",
    "The answer is **{t}**", "Answer: {t}", "ANSWER: {t}", "Final answer: ({t})",
    "The correct option is {t}.", "The correct answer is option {t}", "The answer is: {t}",
    "The answer is {t}, since it swims.", "{t}) Trout", "{t}. Trout",
    "We look at {d} first. The answer is {t}.",
]  # fmt: skip
TWOFOLD = [
    r"\boxed{{{t}, {d}}}", r"\boxed{{{t} \text{{ or }} {d}}}", "The answer is {t} or {d}.",
    "The answer is {t}. The answer is {d}.", "The answer is ({t}) and ({d})",
    "The answer is {t}, no, {d}", "The answer is {t}. Wait, actually ({d}).",
    "({t}) or ({d})", "{t}) Trout\n{d}) None", "The answer is {t}/{d}",
    "Answer: {t}\nSorry, I meant ({d})", r"\boxed{{({t})({d})}}",
]  # fmt: skip
NONE = [
    "The answer is not {t}", "the answer is a mystery", "I think it is a trout", "Trout",
    r"\boxed{{Trout}}", r"\boxed{{}}", r"\boxed{{Z}}", "The answer is Z", 
    "The answer is I think so",
    "The answer is A dog's", "\u0412", "\uff22", "{t}rout", "-", "?", "B2", "{t}{t}", "\0", "🐟",
    "A fish is a trout", r"\boxed{{1}}", "option {t} is wrong", "The answers are in the book",
]  # fmt: skip
LETTERS = "ABCD"


def filled(forms):
    pairs = [(t, d) for t, d in itertools.product(LETTERS, repeat=2) if t != d]
    return [(form.format(t=t, d=d), t) for form in forms for t, d in pairs]


def found(text):
    """The letter, or the reason why there is none."""
    return grade(FISH, f"</think>{text}")


def test_certain_forms_give_their_letter():
    cases = filled(CERTAIN)
    wrong = [(text, t, found(text)) for text, t in cases if found(text).answer != t]
    print(len(cases), "answers")
    assert wrong == []


def test_answers_in_two_ways_or_in_none_are_flagged_and_not_graded():
    cases = filled(TWOFOLD + NONE)
    print(len(cases), "answers")
    for text, _ in cases:
        said = found(text)
        assert said.correct is None, (text, said)
        assert said.flags[0] == UNGRADED, (text, said)
        assert said.flags[1] in REASONS
    assert {found(text).flags[1] for text, _ in filled(TWOFOLD)} == {"ambiguous"}


def test_no_answer_is_wrong_and_a_right_one_is_right():
    assert grade(FISH, "<think>It swims") == Grade(None, False)
    assert found("The answer is (b)") == Grade("B", True)
    assert found("The answer is C.") == Grade("C", False)
    assert grade(Problem("f", choice.TASK, PROMPT), "</think>B") == Grade("B", None)
    assert found("x" * 200_000).flags == (UNGRADED, "size")


@given(st.text(max_size=300) | st.text("ABCDabcd().:,* \n{}\\boxedansweri", max_size=80))
def test_any_text_gives_a_letter_that_it_holds_or_a_reason(text):
    try:
        letter = choice.choice(text, None, LETTERS)
    except UngradedError as error:
        letter = error.reason
    assert letter in REASONS or (letter in LETTERS and letter in text.upper())


def test_letters_are_those_that_the_prompt_lists():
    assert choice.letters(PROMPT) == "ABCD"
    assert choice.letters("Which?") == "ABCDEFGHIJ"
    assert choice.letters("A) one\nC) three") == "ABCDEFGHIJ"
    for answer in ("E", "Trout", "", "AB"):
        with pytest.raises(ProblemError, match="none of the letters A to D"):
            check_problem(Problem("f", choice.TASK, PROMPT, answer), "here")
    check_problem(Problem("f", choice.TASK, PROMPT, "(b)"), "here")
