"""Roles of steps: the rules against published labels, and the labels of a store."""

import itertools
import runpy
import time

import numpy as np
import pytest
from click.testing import CliRunner
from paths import ROOT
from records import part, random_run, random_trace

import ringlens as rl
from ringlens import analysis
from ringlens.analysis.roles import ROLES, Label, label, labelling, rules
from ringlens.analysis.roles.labelling import label_store, step_rows
from ringlens.cli.main import main
from ringlens.errors import ConfigError
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.maintain import rollup

SCRIPT = ROOT / "benchmarks" / "role_rules.py"
ORACLE = ROOT.parent / "shared" / "oracles" / "steps"


@pytest.mark.parametrize(
    ("step", "role"),
    [
        ("Let me try a different approach, step by step.", "plan_generation"),
        ("I remember that the formula for compound interest is known.", "fact_retrieval"),
        ("That is a dead end, so back to 17, 14, 6.", "uncertainty_management"),
        ("29524 * 3 = 60000 + 27000 + 1572 = 88572", "active_computation"),
        ("Wait, maybe I made a mistake somewhere?", "uncertainty_management"),
        ("Therefore, the total is 42 in all.", "result_consolidation"),
        ("Check: 2 / 1 = 2, 9 * 2 = 18.", "self_checking"),
        ("Let me double-check that this is correct.", "self_checking"),
        ("**Final Answer** \\boxed{88572}", "final_answer_emission"),
        ("----- \n***", "unknown"),
        ("Alright, here we go again then.", "unknown"),
        ("My strategy is to look at the corners and return when they are full.", "plan_generation"),
        ("Next I will write 5 in the empty cell and see what is left.", "plan_generation"),
        ("Move the disc to the peg: B-C.", "active_computation"),
        ("Suppose n = 9: 9 mod 4 = 1, not 3.", "active_computation"),
        ("I am not certain that this sum is what I want.", "uncertainty_management"),
        ("That gives the entire route A-D-E.", "result_consolidation"),
        ("Node D is connected to E and F.", "fact_retrieval"),
    ],
)
def test_plain_cases(step, role):
    (found,) = label(["Some other step."] * 20 + [step] + ["Some other step."] * 5)[20:21]
    assert found.role == role
    assert 0 < found.confidence <= 1


def test_the_first_steps_repeat_the_prompt():
    steps = ["Make 24 from the numbers 4, 6 and 1.", *["6 * 4 = 24, and 24 * 1 = 24"] * 15]
    assert label(steps, "Make 24 from the numbers 4, 6 and 1")[0].role == "problem_setup"
    mine = ["I need 24 out of 4, 6, 1, two at a time.", *steps[1:]]
    assert label(mine, "Make 24 from the numbers 4, 6 and 1")[0].role == "problem_setup"
    assert {found.role for found in label(steps)[12:14]} == {"active_computation"}


@pytest.mark.parametrize(
    ("step", "backtrack", "hypothesis"),
    [
        ("Wait, that is not what was asked.", True, False),
        ("This doesn't work, so I go back to the sum.", True, False),
        ("Let me try another way.", True, True),
        ("Suppose that x is odd.", False, True),
        ("Maybe it is a prime.", False, True),
        ("So 3 times 4 is 12.", False, False),
        ("I will walk on and go back when a road ends.", False, False),
        ("I plan to go back from blocked cells.", False, False),
        ("So I go back from this to 4 and 5.", True, False),
        ("Hmm, I am not quite sure about it.", False, False),
        ("I see no other move, so I give up.", True, False),
        ("No, I take that back.", True, False),
        ("Check: 3 * 4 = 12, which does not fit.", False, False),
        ("Say x = 4, then 4 + 2 = 6.", False, True),
        ("I will try one number after another.", False, False),
    ],
)
def test_flags(step, backtrack, hypothesis):
    assert label([step])[0][1:3] == (backtrack, hypothesis)


def test_what_is_no_list_of_texts_is_refused():
    for wrong in ("one text", [1, 2], [None]):
        with pytest.raises(ConfigError, match="must be a list of texts"):
            label(wrong)
    assert label([]) == []


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "1,",
            "so ",
            "(",
            "a=",
            "wait not ",
            "the total ",
            "is 1 ",
            ": ",
            "12-3=",
            "3 + ",
            "go back from ",
        ),
        *("let me check ", "not ", "the a is ", "try ", "say "),
    ],
)
def test_hostile_steps_take_no_longer(unit):
    """A step is read up to some length, so one of a million signs takes what a short one does."""
    before = time.process_time()
    label([unit * 100_000] * 3)
    assert time.process_time() - before < 5


@pytest.mark.skipif(not ORACLE.exists(), reason="published labels are not here")
def test_rules_agree_with_published_labels_on_problems_they_were_not_adjusted_to():
    """Published rules reach 0.36. What is shipped was adjusted to all, and agrees better."""
    from sklearn.metrics import cohen_kappa_score

    script = runpy.run_path(str(SCRIPT))
    problems = script["traces"](ORACLE)
    assert script["held_out"](problems, [["6596"], ["330", "1591"]]) >= 0.51
    own = [trace for traces in problems.values() for trace in traces]
    found = [each.role for texts, _, _ in own for each in label(texts)]
    assert cohen_kappa_score([role for _, roles, _ in own for role in roles], found) >= 0.59


def test_rules_agree_with_the_roles_that_the_generator_meant():
    kappa, precision, recall = runpy.run_path(str(SCRIPT))["of_generator"]("tests", 12)
    assert kappa >= 0.95
    assert min(precision, recall) >= 0.98


def test_loops_that_are_planted_are_found():
    found = runpy.run_path(str(SCRIPT))["of_loops"]("tests", 12)
    assert min(found["state_of", False]) >= 0.98
    assert min(found["content_of", True]) >= 0.9
    assert found["state_of", True][1] < found["content_of", True][1]


def test_what_a_step_says_again_is_told_from_what_it_finds():
    thought = ["47 * 30 = 1,410.", "47 * 6 = 282.", "1,410 + 282 = 1,692."] * 2
    steps = [
        "We want 47 times 36.",
        *thought,
        "So 47 * 36 = 1,692.",
        "That is a number.",
        "Done it.",
    ]
    assert label(steps, "What is 47 * 36?")[7].role == "result_consolidation"
    steps[7] = "So 47 * 31 = 1,457."
    assert label(steps, "What is 47 * 36?")[7].role == "active_computation"


# --- in a store ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    path = tmp_path_factory.mktemp("labelled") / "store"
    lens = rl.load("ring-nano")
    rl.capture(lens, rl.problems("countdown", n=2), path, max_new_tokens=100, record=["routing"])
    return path


def phase_of(trace, row):
    return trace.tokens()["phase"][row["token_start"]]


def test_what_ring_nano_wrote_is_labelled(captured):
    said = CliRunner().invoke(main, ["steps", str(captured)])
    assert said.exit_code == 0, said.output
    with Store(captured) as store:
        rows = store.sql("from steps order by trace_id, step").to_arrow_table().to_pylist()
        assert f"{len(rows)} steps of 2 traces" in said.output
        for trace in store:
            own = [row for row in rows if row["trace_id"] == trace.trace_id]
            assert [row["step"] for row in own] == list(range(len(own)))
            assert all(row["text"] == trace.text[row["start"] : row["end"]] for row in own)
            assert not any("<" in row["text"] for row in own)
            answers = [row["role"] for row in own if phase_of(trace, row) == "answer"]
            assert answers in ([], ["final_answer_emission"])
            starts = np.asarray(trace.tokens()["start"])
            for row, after in itertools.pairwise(own):
                assert row["end"] <= after["start"]
                inside = (starts >= row["start"]) & (starts < row["end"])
                first, last = np.flatnonzero(inside)[[0, -1]]
                assert (first, last + 1) == (row["token_start"], row["token_end"])
        assert {row["role"] for row in rows} <= set(ROLES)
        assert {row["label_source"] for row in rows} == {rules.SOURCE}
        phases = """select count(distinct phase) from token_context where step is not null
            group by trace_id, step"""
        assert set(store.sql(phases).fetchall()) == {(1,)}
        loads = analysis.expert_load(store, "phase = 'think'", "role")
        assert loads.attrs["source"] == "sums"
        assert rollup.missing_roles(store) == []
        assert check(store).findings == []
    again = CliRunner().invoke(main, ["steps", str(captured)])
    assert "all traces that have ended have steps" in again.output


def test_a_capture_labels_traces_as_they_end(tmp_path):
    path = str(tmp_path / "store")
    given = ("--n", "2", "--batch-size", "1", "--max-new-tokens", "60", "--record", "routing")
    said = CliRunner().invoke(main, ["capture", "ring-nano", *given, "--store", path])
    assert said.exit_code == 0, said.output
    with Store(path) as store:
        rows = store.sql("from steps order by trace_id, step").to_arrow_table().to_pylist()
        wanted = [
            {"parent": None} | row for trace in store for row in step_rows(store, trace.trace_id)
        ]
        for row in (*rows, *wanted):
            row["confidence"] = round(row["confidence"] or -1, 5)
        assert [dict(sorted(row.items())) for row in rows] == [
            dict(sorted(row.items())) for row in wanted
        ]
        assert len(store.files("steps")) == 2
        assert rollup.missing_roles(store) == []
    assert "have steps" in CliRunner().invoke(main, ["steps", path]).output


def test_a_run_that_another_process_writes_is_left_to_it(captured, monkeypatch):
    with StoreWriter(captured) as writer:
        monkeypatch.setattr(writer, "owns", lambda run_id: False)
        assert label_store(writer, again=True) == (0, 0, 2)


def test_only_what_is_new_is_labelled_and_what_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "GROUP_TOKENS", 30)
    run = random_run(heads=1, record=("routing",))
    options = {"router_logits": None, "heads": None}
    with StoreWriter(tmp_path) as writer, Store(tmp_path) as store:
        run_id = writer.start_run(run)
        whole = random_trace(run, 60, seed=9, **options)
        traces = [random_trace(run, 30, seed=i, **options) for i in range(3)]
        *ended, running = writer.commit(run_id, [*traces, part(whole, 0, 30, None)])
        imported = [row | {"label_source": "file"} for row in step_rows(store, ended[0])]
        writer.replace_rows(run_id, "steps", imported)

        def dies(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            label_store(writer, on_progress=dies)
        counts = "select trace_id, any_value(label_source) from steps group by all order by all"
        assert store.sql(counts).fetchall() == [(1, "file"), (2, rules.SOURCE)]
        seen = []
        done = label_store(writer, on_progress=lambda *each: seen.append(each))
        assert (done.traces, seen) == (1, [(1, 1)])
        assert label_store(writer) == (0, 0, 0)
        mine = label_store(
            writer,
            again=True,
            labeller=lambda steps, prompt: [Label("unknown", False, True)] * len(steps),
            source="rules-mine",
        )
        assert mine.traces == 2
        assert store.sql(counts).fetchall() == [(1, "file"), (2, "rules-mine"), (3, "rules-mine")]
        assert running not in [i for i, _ in store.sql(counts).fetchall()]
        assert rollup.missing_roles(store) == []
