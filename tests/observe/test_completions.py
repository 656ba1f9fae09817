"""Text that another engine wrote, replayed: its problem, phases, grade, steps, roles and paths."""

import json

import narrow_lens
import pytest
from click.testing import CliRunner

from ringlens.analysis import trajectory
from ringlens.analysis.roles.labelling import label_stored
from ringlens.cli.main import main
from ringlens.errors import ConfigError, ProblemError
from ringlens.observe import batch
from ringlens.observe.session import capture, replay
from ringlens.problem import Problem
from ringlens.prompts.completions import Completion, completions

HALF = Problem("half", "", "What is 2 / 4?", "1/2")
FISH = Problem("fish", "multiple-choice", "Which is a fish?\nA) Cat\nB) Trout", "B")
THOUGHT = "2 / 4 is less than one.\n\nWait, that is wrong, so I go back. It is a half."
WRITTEN = [
    Completion(HALF, f"{THOUGHT}\n</think>\n\nThe answer is \\boxed{{1/2}}."),
    Completion(HALF, f"<think>\n{THOUGHT}\n</think>\n\n\\boxed{{2}}"),
    Completion(HALF, f"<think>\n{THOUGHT}"),
    Completion(HALF, "We divide both by 2.\n\n1/2"),
    Completion(FISH, "<think>\nHm.\n</think>\nThe answer is A or B."),
    Completion(FISH, "<think>\nHm.\n</think>\n`<role>HUMAN</role>` says (B), so:\n\\boxed{B}"),
]


@pytest.fixture(scope="module")
def lens():
    return narrow_lens.lens()


@pytest.fixture(scope="module")
def store(lens, tmp_path_factory):
    return replay(lens, WRITTEN, tmp_path_factory.mktemp("c") / "store", on_stored=label_stored)


def test_problem_sample_answer_and_grade_are_stored(store):
    rows = store.sql(
        "select problem_id, sample, prompt, expected, answer, correct, flags from traces "
        "order by trace_id"
    ).fetchall()
    assert rows == [
        ("half", 0, HALF.prompt, "1/2", "1/2", True, None),
        ("half", 1, HALF.prompt, "1/2", "2", False, None),
        ("half", 2, HALF.prompt, "1/2", None, False, None),
        ("half", 3, HALF.prompt, "1/2", "1/2", True, None),
        ("fish", 0, FISH.prompt, "B", "The answer is A or B.", None, ["ungraded", "ambiguous"]),
        ("fish", 1, FISH.prompt, "B", "B", True, None),
    ]


def test_phases_are_those_of_a_capture(store):
    thinks = [store.trace(i).summary["n_think"] > 0 for i in range(1, 7)]
    assert thinks == [True, True, True, False, True, True]
    assert store.trace(3).summary["n_answer"] == 0
    for trace_id, given in enumerate(WRITTEN, start=1):
        trace = store.trace(trace_id)
        assert trace.text.count("<think>") == (trace_id != 4)
        assert trace.text.endswith(given.text.removeprefix("<think>\n"))
        assert trace.text.startswith("<role>HUMAN</role>" + given.problem.prompt)
        begin = len(trace.text) - len(given.text.removeprefix("<think>\n"))
        tokens = trace.tokens()
        own = {p for p, at in zip(tokens["phase"], tokens["start"], strict=True) if at >= begin}
        assert "prompt" not in own


def test_steps_roles_and_paths_follow(store):
    roles = dict(
        store.sql(
            "select trace_id, list(is_backtrack order by step) from steps group by all"
        ).fetchall()
    )
    assert len(roles) == 6
    assert any(roles[1])
    assert roles[1][: len(roles[3])] == roles[3]
    measured = trajectory.trace_measures(store)
    assert set(measured.trace_id) == {1, 2, 3, 5, 6}  # those that hold a thought


def test_a_replay_of_the_replay_is_graded_alike(lens, store, tmp_path):
    again = replay(lens, store, tmp_path / "again")
    columns = "select problem_id, answer, correct, flags, text from traces order by trace_id"
    assert again.sql(columns).fetchall() == store.sql(columns).fetchall()


def test_long_rows_of_different_lengths_need_no_mask(lens, store, tmp_path, monkeypatch):
    seen = []
    forward = lens.model.forward

    def watched(*args, **kwargs):
        seen.append((tuple(kwargs["input_ids"].shape), kwargs["attention_mask"] is None))
        return forward(*args, **kwargs)

    monkeypatch.setattr(batch, "LARGEST_MASK", 10)
    monkeypatch.setattr(lens.model, "forward", watched)
    alone = replay(lens, WRITTEN, tmp_path / "alone")
    assert len(seen) == 6
    assert all(shape[0] == 1 and unmasked for shape, unmasked in seen)
    for table in ("tokens", "routing"):
        order = "trace_id, pos" if table == "tokens" else "trace_id, layer, pos"
        ids = "token_id, phase" if table == "tokens" else "expert_ids"
        query = f"select {ids} from {table} order by {order}"
        assert alone.sql(query).fetchall() == store.sql(query).fetchall()


def test_one_command_does_it(tmp_path):
    rows = [
        {"prompt": HALF.prompt, "answer": "1/2", "completion": each.text} for each in WRITTEN[:2]
    ]
    file = tmp_path / "written.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    args = ["replay", "ring-nano", str(file), "--store", str(tmp_path / "s"), "--record", "routing"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    query = "select sample, answer, correct, count(*) > 1 from traces join steps using (trace_id) group by all order by 1"  # noqa: E501
    shown = CliRunner().invoke(main, ["sql", str(tmp_path / "s"), query, "--format", "csv"])
    assert shown.output.splitlines()[1:] == ['0,"1/2",true,true', '1,"2",false,true']


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a"}], "'completion' must be a text, found NoneType"),
        ([{"prompt": "a", "completion": 3}], "'completion' must be a text, found int 3"),
        ([{"prompt": "a", "completion": " \n"}], "'completion' is empty"),
        ([{"prompt": "a", "completion": "x\0"}], "'completion' holds a NUL"),
        ([{"completion": "x"}], "'prompt' must be a string"),
        ([{"prompt": "a", "completion": "x", "level": 1}], "unknown key 'level'"),
        (
            [{"id": "1", "prompt": p, "completion": "x"} for p in "ab"],
            "line 2: the problem '1' differs",
        ),
        ([], "holds no completions"),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path, rows, message):
    file = tmp_path / "set.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ProblemError, match=message):
        completions(file)


def test_what_is_finished_is_not_captured_and_halves_of_characters_are_refused(lens, tmp_path):
    with pytest.raises(ConfigError, match="a Completion is finished"):
        capture(lens, [WRITTEN[0]], tmp_path / "s")
    with pytest.raises(ProblemError, match="item 0: 'completion' holds half of a surrogate pair"):
        replay(lens, [Completion(HALF, "\ud800")], tmp_path / "s")
    assert not (tmp_path / "s").exists()
