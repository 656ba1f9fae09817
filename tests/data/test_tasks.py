"""Traces that ring-nano learns from: what they say is true, and what is said of their steps."""

import json
import random
import re
from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlens.data import countdown, path, sets
from ringlens.data.tasks import congruences, graphs, mix, numbers, products, story
from ringlens.errors import ProblemError
from ringlens.problem import Problem, grade
from ringlens.prompts.problems import problems

TRACES = list(islice(mix.traces(seed=7), 600))
THOUGHTS = [json.loads(line) for line in path("thoughts.heldout.jsonl").open()]
BY_TASK = {module.TASK: module for module in (congruences, graphs, numbers, products)}

EQUATION = re.compile(r"([\d,]*\d) ([-+*/]|mod) ([\d,]*\d) = ([\d,]*\d)")
LISTED = re.compile(r"(?:They give|From these come) ([\d, ]+\d)")

kinds = st.sampled_from(mix.KINDS)
seeds = st.integers(0, 2**40)


def trace_of(kind, seed):
    rng = random.Random(seed)
    return kind.tell(rng, kind.sample(rng))


def number(text):
    return int(text.replace(",", ""))


def false_equations(text):
    """Equations of a sentence that do not hold."""
    wrong = []
    for x, op, y, result in EQUATION.findall(text):
        a, b, c = number(x), number(y), number(result)
        right = {"+": a + b, "-": a - b, "*": a * b, "mod": a % b, "/": a // b}[op]
        if right != c or (op == "/" and a % b):
            wrong.append((x, op, y, result))
    return wrong


@given(kinds, seeds)
def test_steps_tile_the_completion_and_hang_together(kind, seed):
    trace = trace_of(kind, seed)
    steps = trace.steps
    assert steps[0].start == 0
    assert steps[-1].end == len(trace.completion)
    assert all(left.end == right.start for left, right in pairwise(steps))
    assert next(step.parent for step in steps) == -1
    assert all(0 <= step.parent < index for index, step in enumerate(steps) if index)
    path, at = set(), len(steps) - 1
    while at >= 0:
        path.add(at)
        at = steps[at].parent
    assert [step.on_path for step in steps] == [index in path for index in range(len(steps))]
    assert all(trace.text_of(step) for step in steps)
    said = "\n".join(trace.text_of(step) for step in steps[:-1])
    assert trace.completion == f"<think>\n{said}\n</think>\n{trace.answer}"
    assert trace.text_of(steps[-1]) == trace.answer
    assert steps[-1].role == "final_answer_emission"


@given(kinds, seeds)
def test_what_is_said_is_true_where_no_error_is_marked(kind, seed):
    trace = trace_of(kind, seed)
    for step in trace.steps:
        wrong = false_equations(trace.text_of(step))
        assert step.has_error or not wrong, trace.text_of(step)
        if step.has_error and step.role == "active_computation":
            assert wrong


@given(kinds, seeds)
def test_prompts_parse_back_and_answers_are_what_they_are_said_to_be(kind, seed):
    trace = trace_of(kind, seed)
    module = BY_TASK[trace.task]
    if module is numbers:
        listed = trace.fields["numbers"], trace.fields["target"]
        assert countdown.parse_prompt(trace.prompt) == (tuple(listed[0]), listed[1])
    else:
        assert module.parse_prompt(trace.prompt) == trace.fields
    assert module.verify(trace.fields, trace.answer) == trace.correct
    problem = Problem("a", trace.task, trace.prompt, trace.answer)
    found = grade(problem, trace.completion)
    assert (found.answer, found.correct) == (trace.answer, trace.correct)


@given(kinds, seeds)
def test_solutions_verify(kind, seed):
    fields = kind.sample(random.Random(seed))
    assert kind.verify(fields, kind.solution(fields))


@given(seeds)
def test_graph_searches_say_where_they_are(seed):
    trace = trace_of(mix.kind_of("graphs"), seed)
    edges = {frozenset(edge) for edge in trace.fields["edges"]}
    at = [trace.fields["start"]]
    for step in trace.steps:
        text = trace.text_of(step)
        if step.role == "fact_retrieval":
            node, others = re.search(r"([A-L]) is joined to (.*)\.", text).groups()
            told = set(re.findall(r"[A-L]", others))
            assert told == {n for edge in edges if node in edge for n in edge - {node}}
            assert node == at[-1]
        elif step.role == "active_computation" or step.is_backtrack:
            at = re.search(r"((?:[A-L]-)*[A-L])\.$", text)[1].split("-")
            assert all(frozenset(pair) in edges for pair in pairwise(at))
    assert at[-1] == trace.fields["goal"]


@given(seeds)
def test_number_searches_list_what_two_numbers_give(seed):
    trace = trace_of(mix.kind_of("four numbers"), seed)
    last = None
    for step in trace.steps:
        text = trace.text_of(step)
        if left := re.search(r"(?:leaving|leaves) ([\d, ]+)\.$", text):
            last = tuple(map(int, left[1].split(", ")))
        elif listed := LISTED.match(text):
            assert len(last) == 2
            found = [move.result for move in countdown.moves(*last)]
            told = [int(n) for n in listed[1].split(", ")]
            assert told[: len(found)] == found
            misses = " not there" in text or "but no" in text
            assert (trace.fields["target"] in found) != misses


def test_every_role_and_flag_appears_in_traces_and_bundled_thoughts():
    drawn = [step for trace in TRACES for step in trace.steps]
    bundled = [story.Step(**{k: v for k, v in step.items() if k != "text"})
               for row in THOUGHTS for step in row["steps"]]  # fmt: skip
    for steps in (drawn, bundled):
        assert {step.role for step in steps} == set(story.ROLES)
        for flag in ("is_backtrack", "is_hypothesis", "has_error", "on_path"):
            assert {getattr(step, flag) for step in steps} == {True, False}


def test_some_thoughts_check_again_after_the_answer_and_some_fail():
    again = 0
    for trace in TRACES:
        roles = [step.role for step in trace.steps]
        said = roles.index("final_answer_emission")
        again += "self_checking" in roles[said:]
    assert 0.05 < again / len(TRACES) < 0.15
    fails = Counter(trace.task for trace in TRACES if not trace.correct)
    assert {"countdown", "products"} == set(fails)
    assert 0.01 < fails.total() / len(TRACES) < 0.1


def test_slips_are_caught_and_mended():
    caught = 0
    for trace in TRACES:
        slips = [i for i, step in enumerate(trace.steps)
                 if step.has_error and step.role == "active_computation"]  # fmt: skip
        if trace.task != "products" or not slips or not trace.correct:
            continue
        caught += 1
        later = trace.steps[slips[0] + 1 :]
        assert any(step.is_backtrack for step in later)
        assert any(step.role == "self_checking" for step in later)
    assert caught > 10


@given(kinds, seeds)
def test_training_never_draws_a_heldout_problem(kind, seed):
    fields = mix.training_problem(random.Random(seed), kind)
    assert not kind.is_heldout(fields)


def test_training_traces_and_heldout_sets_share_no_problem():
    for kind in mix.KINDS:
        drawn = mix.distinct_problems(kind, heldout=True, seed="heldout")
        heldout = {kind.key(fields) for fields in islice(drawn, 100)}
        rng = random.Random(1)
        seen = {kind.key(mix.training_problem(rng, kind)) for _ in range(500)}
        assert heldout
        assert not heldout & seen


@given(seeds, st.randoms())
def test_order_does_not_change_the_split(seed, rng):
    edges = graphs.sample(random.Random(seed))
    mixed = [rng.sample(edge, 2) for edge in rng.sample(edges["edges"], len(edges["edges"]))]
    assert graphs.is_heldout(edges) == graphs.is_heldout({**edges, "edges": mixed})
    pair = products.sample(random.Random(seed))
    assert products.is_heldout(pair) == products.is_heldout({"factors": pair["factors"][::-1]})


@pytest.mark.parametrize("task", ["graphs", "congruences", "products"])
@pytest.mark.parametrize("split", sets.SPLITS)
def test_bundled_problems_are_what_the_generator_draws(task, split):
    kind = next(kind for kind in mix.KINDS if kind.task == task)
    bundled = problems(task, split=split)
    drawn = list(islice(sets.draw_kind(split, kind), 20))
    assert [problem.prompt for problem in bundled[:20]] == [row["prompt"] for row in drawn]
    for problem in bundled:
        assert kind.is_heldout(problem.fields) == (split == "heldout")
        assert grade(problem, f"<think>\nhm\n</think>\n{problem.answer}").correct is True
        assert grade(problem, "<think>\nhm\n</think>\nno").correct is False


def test_bundled_thoughts_are_what_the_generator_tells():
    assert [json.loads(json.dumps(row)) for row in sets.thoughts()] == THOUGHTS
    for row in THOUGHTS:
        kind = next(kind for kind in mix.KINDS if row["id"].startswith(kind.name.replace(" ", "-")))
        assert kind.is_heldout(row["fields"])


@pytest.mark.parametrize(
    ("task", "prompt", "answer", "right"),
    [
        ("products", "What is 47 * 36?", "1,692", True),
        ("products", "What is 47 * 36?", "47 * 36 = 1692.", True),
        ("products", "What is 47 * 36?", "1,693", False),
        ("products", "What is 47 * 36?", "16,92", False),
        ("congruences", "Find the smallest x with x mod 5 = 2 and x mod 7 = 3.", "x = 17", True),
        ("congruences", "Find the smallest x with x mod 5 = 2 and x mod 7 = 3.", "52", False),
        ("congruences", "Find the smallest x with x mod 5 = 2 and x mod 7 = 3.", "", False),
        ("congruences", "Find the smallest x with x mod 999999999 = 2.", "2", True),
        ("graphs", "Find a path from A to C. Edges: A-B, C-B, D-A.", "A-B-C", True),
        ("graphs", "Find a path from A to C. Edges: A-B, C-B, D-A.", "A -> B -> C.", True),
        ("graphs", "Find a path from A to C. Edges: A-B, C-B, D-A.", "A-C", False),
        ("graphs", "Find a path from A to C. Edges: A-B, C-B, D-A.", "A-D-A-B-C", False),
    ],
)
def test_verifiers_without_fields(task, prompt, answer, right):
    assert grade(Problem("a", task, prompt), answer).correct is right


@pytest.mark.parametrize("task", ["graphs", "congruences", "products"])
def test_prompts_of_no_such_problem_are_refused(task, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"prompt": "How are you?", "task": task}) + "\n")
    with pytest.raises(ProblemError, match=f"none of the task {task}"):
        problems(file)


@given(st.sampled_from(["graphs", "congruences", "products"]), st.text(max_size=60), seeds)
def test_verifiers_never_fail_on_any_answer(task, answer, seed):
    kind = next(kind for kind in mix.KINDS if kind.task == task)
    assert kind.verify(kind.sample(random.Random(seed)), answer) in (True, False)
