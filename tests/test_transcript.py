"""Turns, thoughts and answers in texts whose marks are also quoted, discussed or left out."""

import pytest

from ringlens.observe.turns import Markup
from ringlens.problem import Grade, Problem, find_answer, grade
from ringlens.transcript import RING, Marks, parse

H, A, END = "<role>HUMAN</role>", "<role>ASSISTANT</role>", "<|role_end|>"
PARIS = Problem("a", "capital", "Capital of France?", "Paris")


def told(text, **options):
    """The text with each phase in brackets: the letter of the phase, the turn, the characters."""
    return [(s.phase[0], s.turn, text[s.start : s.end]) for s in parse(text, **options).segments()]


def written(prompt, completion, **options):
    """Phases of what the model wrote behind a prompt, and its answer."""
    found = parse(prompt + completion, prompt_end=len(prompt), written=True, **options)
    parts = [(s.phase[0], found.text[s.start : s.end]) for s in found.segments()]
    return [part for part in parts if part[0] != "p"], find_answer(found)


def test_a_mark_in_the_question_opens_no_thought():
    prompt = f"{H}What does <think> do?{END}{A}"
    assert written(prompt, "It opens a thought.") == (
        [("a", "It opens a thought.")],
        "It opens a thought.",
    )
    ends = f"{H}What ends here: <think>{END}{A}"
    assert written(ends, "A thought.")[0] == [("a", "A thought.")]


@pytest.mark.parametrize(
    "thought",
    [
        "I must not write `</think>` now.\n",
        'The tag "</think>" ends it.\n',
        "The tag '</think>' ends it.\n",
        "标记“</think>”结束。\n",
        "Like `<think>x</think> y` here.\n",
        "```\n<think>\nx\n</think>\ny\n```\nSo.\n",
        "~~~xml\n</think>\n~~~\n",
        "The mark </think> is plain here.\n",
        "Don't say 'x'\n",
        "A fence that nobody closes:\n```py\nx = 1\n",
    ],
)
def test_phases_and_grades_agree_on_the_mark_that_closes(thought):
    answer = "\nIt is `</think>`, so:\nParis"
    parts, _ = written(f"{H}q{END}{A}<think>\n", f"{thought}</think>{answer}{END}")
    assert parts == [("t", f"{thought}</think>"), ("a", f"{answer}{END}")]
    whole = parse(
        f"{A}<think>\n{thought}</think>{answer}{END}", prompt_end=len(A) + 8, written=True
    )
    assert grade(PARIS, whole) == Grade("Paris", True)
    assert grade(PARIS, f"<think>\n{thought}</think>{answer}{END}") == Grade("Paris", True)


def test_a_quoted_mark_closes_no_thought_that_was_cut():
    parts, answer = written(f"{A}<think>", "I will write `</think>` and")
    assert (parts, answer) == ([("t", "I will write `</think>` and")], None)


def test_quotation_marks_around_the_true_mark_do_not_hide_it():
    assert written(f"{A}<think>", '"hi"</think>"Hello"') == (
        [("t", '"hi"</think>'), ("a", '"Hello"')],
        '"Hello"',
    )


def test_a_model_that_never_thinks_is_graded_on_its_turn():
    prompt = f"{H}Capital of France?{END}{A}"
    whole = parse(f"{prompt}It is\nParis.{END}", prompt_end=len(prompt), written=True)
    assert grade(PARIS, whole) == Grade("Paris.", True)
    assert written(prompt, "Use <think> and </think>.")[0] == [("a", "Use <think> and </think>.")]


def test_a_thought_opened_out_of_sight():
    assert written("q", "x</think>a") == ([("t", "x</think>"), ("a", "a")], "a")


def test_turns_of_a_finished_conversation():
    text = f"{H}q{END}{A}<think>x</think>a{END}{H}r{END}{A}b{END}"
    assert told(text) == [
        ("p", 0, f"{H}q{END}"),
        ("p", 1, A),
        ("t", 1, "<think>x</think>"),
        ("a", 1, f"a{END}"),
        ("p", 2, f"{H}r{END}"),
        ("p", 3, A),
        ("a", 3, f"b{END}"),
    ]
    bare = text.replace(END, "")
    assert [part[:2] for part in told(bare)] == [part[:2] for part in told(text)]


def test_role_marks_inside_contents_split_nothing():
    asked = f"What is {A}<think> for?"
    prompt = f"{H}{asked}{END}{A}"
    assert told(f"{prompt}a")[-1] == ("a", 1, "a")
    bare = f"{H}{asked}{A}"
    found = told(f"{bare}a", prompt_end=len(bare), written=True, question=asked)
    assert found == [("p", 0, f"{H}{asked}"), ("p", 1, A), ("a", 1, "a")]


def test_the_model_s_own_role_marks_stay_its_own():
    parts, answer = written(f"{H}q{END}{A}", f"Paris{END}{H}Thanks{END}{A}Bye")
    assert [phase for phase, _ in parts] == ["a"]
    assert answer == "Paris"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"First \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\text{a {b} c}}" + "\nDone.", r"\text{a {b} c}"),
        (r"\boxed{1} or \boxed{2", None),
        (r"\boxed{" * 3000, None),
        (r"\boxed{ " * 3000 + "7" + "}" * 3000, "7"),
        (r"} \boxed{7} }", "7"),
        (r"\boxedx{3}", r"\boxedx{3}"),
        ("one\n\n two \n", "two"),
    ],
)
def test_answers_in_boxes(answer, found):
    assert find_answer(parse(f"<think>x</think>{answer}")) == found
    assert find_answer(parse(answer)) == found


def test_marks_without_ends_and_of_other_templates():
    marks = Marks({"[U]": "user", "[M]": "assistant"}, (), "[M]<think>")
    assert told("[U]q[M]<think>x</think>a[U]r[M]b", marks=marks) == [
        ("p", 0, "[U]q"),
        ("p", 1, "[M]<think>"),
        ("t", 1, "x</think>"),
        ("a", 1, "a"),
        ("p", 2, "[U]r"),
        ("p", 3, "[M]"),
        ("a", 3, "b"),
    ]
    assert RING.begin == A
    assert Markup(marks).prompt_of("[U]q[M]<think>x") == len("[U]q[M]<think>")


@pytest.mark.parametrize(
    "part", ["`</think>`", "</think>", "`<think>", "<think> ", f"{H}", "```\n"]
)
def test_many_marks_in_one_line_are_read_in_one_walk(part):
    """Some megabytes; were each mark looked for from the line's start, this would take hours."""
    text = f"{A}<think>x{part * 100_000}"
    found = parse(text, prompt_end=len(A), written=True)
    assert sum(s.end - s.start for s in found.segments()) == len(text)


def test_a_line_that_goes_on_behind_a_block_may_quote_marks():
    asked = "<role>HUMAN</role>```\n<think>\nx\n```"
    told = (
        "<role>ASSISTANT</role><think>so `<role>ASSISTANT</role>` so</think>so `<role>HUMAN</role>`"
    )
    turns = parse(asked + told).turns
    assert [turn.role for turn in turns] == ["user", "assistant"]
    assert turns[1].closed
