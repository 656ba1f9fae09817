"""Told thoughts: their steps are those that were told, and AUCs are those of pairs."""

import numpy as np
import pandas as pd
import probed
import pytest

import ringlens as rl
from ringlens.analysis.importance.importance import importance
from ringlens.probes import planted


def test_an_auc_compares_steps_of_the_same_thought():
    steps = [{"on_path": on} for on in (True, False, True, False)]
    frame = pd.DataFrame(
        {
            "trace_id": [1, 1, 1, 1, 2, 2, 2, 2],
            "step": [0, 1, 2, 3] * 2,
            "measure": [4.0, 3.0, 2.0, 2.0, 9.0, np.nan, 1.0, 5.0],
        }
    )
    found = planted.path_auc(frame, [{"steps": steps}] * 2, "measure")
    # 4 > 3, 4 > 2, 2 < 3, 2 = 2 of the first; 9 > 5 and 1 < 5 of the second.
    assert (found.auc, found.pairs, found.thoughts) == ((2.5 + 1) / 6, 6, 2)
    assert found.low <= found.auc <= found.high
    line = frame.assign(measure=frame["step"] * 2.0)
    assert np.allclose(planted.beyond_place(line, "measure"), 0)


def test_steps_that_the_answer_hangs_on_count_for_more(tmp_path):
    thoughts, lens = planted.told(["countdown"], 5), rl.load(probed.MODEL)
    with planted.store_of(lens, thoughts, tmp_path / "s") as store:
        texts = store.sql("select trace_id, step, trim(text) from steps order by all").fetchall()
        told = [
            (number, place, step["text"].strip())
            for number, each in enumerate(thoughts, 1)
            for place, step in enumerate(each["steps"])
        ]
        assert [(t, s, " ".join(x.split())) for t, s, x in texts] == told
        rl.probe("suppression", lens, store)
        frame = importance(store)
    found = planted.path_auc(frame, thoughts, "reach")
    print(found)
    assert found.thoughts == 5 and found.auc > 0.55


def test_without_thoughts_of_a_task_there_is_nothing_to_tell():
    assert planted.told(["nothing"]) == []
    with pytest.raises(SystemExit):
        planted.main(["--tasks", "nothing"])
