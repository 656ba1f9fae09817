"""Problem sets and graders."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringlens.errors import ProblemError
from ringlens.problem import Grade, Problem, from_row, grade
from ringlens.prompts.problems import problems

ROW = {"id": "a", "task": "sum", "prompt": "1 + 1?", "answer": "2", "fields": {}}


def write(tmp_path, *lines):
    file = tmp_path / "set.jsonl"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def test_bundled_task():
    heldout, train = problems("countdown"), problems("countdown", split="train")
    assert len({problem.id for problem in heldout + train}) == len(heldout) + len(train)
    assert {len(problem.fields["numbers"]) for problem in problems("countdown", 2)} == {3, 4}
    assert problems("countdown", 5) == heldout[:5]


def test_seed_draws_without_repeats_and_reproducibly():
    drawn = problems("countdown", 50, seed=7)
    assert drawn == problems("countdown", 50, seed=7)
    assert drawn != problems("countdown", 50, seed=8)
    assert len({problem.id for problem in drawn}) == 50


@given(
    st.lists(
        st.builds(
            Problem,
            id=st.text(min_size=1),
            task=st.text().filter(lambda task: task != "countdown"),
            prompt=st.text().filter(lambda prompt: prompt.strip() and "\0" not in prompt),
            answer=st.none() | st.text(),
            fields=st.dictionaries(st.text(), st.integers() | st.text()),
        ),
        min_size=1,
        unique_by=lambda problem: problem.id,
    )
)
def test_files_round_trip(tmp_path_factory, written):
    file = tmp_path_factory.mktemp("sets") / "set.jsonl"
    rows = [json.dumps(vars(problem), ensure_ascii=False) for problem in written]
    file.write_text("\n".join(rows) + "\n\n", encoding="utf-8", errors="surrogatepass")
    assert problems(file) == written


def test_answer_and_fields_may_be_left_out(tmp_path):
    file = write(tmp_path, '{"id": "a", "task": "t", "prompt": "p"}')
    assert problems(file) == [Problem("a", "t", "p", None, {})]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "holds no problems"),
        (["", "  "], "holds no problems"),
        ([json.dumps(ROW), "{"], "line 2: not JSON"),
        (["[1]"], "line 1: expected a JSON object, found list"),
        ([json.dumps(ROW), "", json.dumps(ROW)], "line 3: id 'a' occurs twice"),
        (['{"id": "a", "task": "t"}'], "'prompt' must be a string, found None"),
        ([json.dumps({**ROW, "answer": 2})], "'answer' must be a string or null, found 2"),
        ([json.dumps({**ROW, "fields": []})], "'fields' must be an object"),
        ([json.dumps({**ROW, "level": 3})], "unknown key 'level'"),
        ([json.dumps({**ROW, "task": "countdown", "answer": None})], "countdown needs fields"),
        (
            [json.dumps({**ROW, "task": "countdown", "fields": {"numbers": "3", "target": 1}})],
            "fields of countdown are numbers",
        ),
    ],
)
def test_malformed_files_are_refused(tmp_path, lines, said):
    with pytest.raises(ProblemError) as caught:
        problems(write(tmp_path, *lines))
    assert said in str(caught.value)
    assert "set.jsonl" in str(caught.value)


def test_other_refusals(tmp_path):
    with pytest.raises(ProblemError, match="neither a bundled task"):
        problems("countdwon")
    with pytest.raises(ProblemError, match="no split 'test'"):
        problems("countdown", split="test")
    with pytest.raises(ProblemError, match="it holds 400"):
        problems("countdown", 401)
    with pytest.raises(ProblemError, match="0 problems asked"):
        problems("countdown", 0)
    (tmp_path / "set.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ProblemError, match="not UTF-8"):
        problems(tmp_path / "set.jsonl")


COUNTDOWN = Problem(
    "c", "countdown", "Make 20 from 3, 7, 5, using each number once.", "5 * (7 - 3)",
    {"numbers": [3, 7, 5], "target": 20},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("<think>\nhm\n</think>\n(7 - 3) * 5<|role_end|>", Grade("(7 - 3) * 5", True)),
        ("hm</think>(7 - 3) * 5", Grade("(7 - 3) * 5", True)),
        ("</think>So:\n\n(7 - 3) * 5 = 20\n<|endoftext|>", Grade("(7 - 3) * 5 = 20", True)),
        ("</think>It is \\boxed{(7-3)*5}, I am sure.", Grade("(7-3)*5", True)),
        ("a</think>b</think>\n3 + 7 + 5", Grade("3 + 7 + 5", False)),
        ("</think>(7 - 3) * 5<|role_end|><role>HUMAN</role>Thanks", Grade("(7 - 3) * 5", True)),
        ("<think>\n(7 - 3) * 5", Grade(None, False)),
        ("</think>\n<|role_end|>", Grade(None, False)),
        ("", Grade(None, False)),
    ],
)  # fmt: skip
def test_grades_of_countdown(text, found):
    assert grade(COUNTDOWN, text) == found


def test_other_tasks_compare_text():
    problem = Problem("a", "capital", "Capital of France?", "Paris")
    assert grade(problem, "</think>\n paris. ") == Grade("paris.", True)
    assert grade(problem, "</think>\n$Paris$") == Grade("$Paris$", True)
    assert grade(problem, "</think>\nLyon") == Grade("Lyon", False)
    assert grade(problem, "<think>never stops") == Grade(None, False)
    assert grade(problem, "Paris") == Grade("Paris", True)  # a model that never thinks
    unknown = Problem("a", "essay", "Write.", None)
    assert grade(unknown, "</think>\nText") == Grade("Text", None)
    assert grade(unknown, "<think>never stops") == Grade(None, None)


def test_problems_read_back_from_the_store_are_gradable():
    for problem in problems("countdown", 40):
        row = {
            "problem_id": problem.id,
            "task": problem.task,
            "prompt": problem.prompt,
            "expected": problem.answer,
        }
        again = from_row(row)
        assert grade(again, f"</think>{problem.answer}") == Grade(problem.answer, True)
        assert grade(again, "</think>1 + 1") == Grade("1 + 1", False)
        reworded = from_row({**row, "prompt": "Please."})  # numbers and target from the answer
        assert grade(reworded, f"</think>{problem.answer}") == Grade(problem.answer, True)
    lost = Problem("c", "countdown", "Please.")
    with pytest.raises(ProblemError, match="Give fields"):
        grade(lost, "</think>1")
    nobody = from_row({"problem_id": None, "task": None, "prompt": "Hi", "expected": None})
    assert grade(nobody, "</think>Hello") == Grade("Hello", None)
