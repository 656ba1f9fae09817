"""Long solutions, and 60,000 tokens, replayed with a narrow model: nothing breaks, memory stays."""

import tracemalloc
from itertools import pairwise

import narrow_lens
import numpy as np
import pytest
from paths import ROOT

from ringlens.analysis import trajectory
from ringlens.analysis.roles.labelling import label_stored
from ringlens.observe.session import replay
from ringlens.problem import Problem
from ringlens.prompts.completions import Completion

TEXTS = ROOT.parent / "shared" / "oracles" / "texts"
ASKED = Problem("olympiad", "", "Solve it.", "3")
RECORD = ("logprobs", "routing")

pytestmark = pytest.mark.skipif(not TEXTS.exists(), reason="the long solutions are not here")


def replayed(texts, folder):
    given = [Completion(ASKED, text) for text in texts]
    return replay(
        narrow_lens.lens(), given, folder, prefill=2048, record=RECORD, on_stored=label_stored
    )


def check_tiles(store, trace_id, text):
    trace = store.trace(trace_id)
    assert trace.text.endswith(text)
    tokens = trace.tokens()
    assert tokens["end"][-1] == len(trace.text)
    np.testing.assert_array_equal(tokens["start"][1:], tokens["end"][:-1])
    steps = store.sql(
        'select start, "end", token_start, token_end from steps where trace_id = ? order by step',
        [trace_id],
    ).fetchall()
    assert len(steps) > 10
    assert all(a[1] <= b[0] and a[3] <= b[2] for a, b in pairwise(steps))


def test_long_solutions_are_answers_cut_into_steps(tmp_path):
    texts = [file.read_text() for file in sorted(TEXTS.glob("*.md"))]
    store = replayed(texts, tmp_path / "store")
    # A trace is numbered when it is first committed, which takes as long as the machine does.
    ids = store.sql("select trace_id from traces order by item").fetchall()
    assert len(ids) == len(texts)
    for (trace_id,), text in zip(ids, texts, strict=True):
        check_tiles(store, trace_id, text)
        assert store.trace(trace_id).summary["n_think"] == 0


def test_sixty_thousand_tokens(tmp_path):
    solutions = [file.read_text() for file in sorted(TEXTS.glob("*.md"))]
    thought = "\n\n".join(solutions)[:63_500]
    tracemalloc.start()
    store = replayed([f"{thought}\n</think>\n\\boxed{{3}}"], tmp_path / "store")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    check_tiles(store, 1, "</think>\n\\boxed{3}")
    row = store.trace(1).summary
    assert row["n_think"] > 60_000
    assert (row["answer"], row["correct"]) == ("3", True)
    assert peak < 500 * row["n_think"] * 10  # a square of these tokens is 7 times as large
    for analysis in (
        trajectory.path_geometry,
        trajectory.loops,
        trajectory.backtrack_bursts,
        trajectory.reflections,
        trajectory.fork_tokens,
        trajectory.trace_measures,
    ):
        analysis(store)
