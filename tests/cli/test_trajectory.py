"""``ringlens trajectory`` prints the tables of the functions, in every form."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from thoughts import Thought, write_thoughts

from ringlens.analysis import trajectory
from ringlens.cli.main import main
from ringlens.store import Store

TEXTS = ["Let me begin here. ", *["Go round to 3. ", "Come back to 4. "] * 3, "The answer is 24. "]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    thoughts = [
        Thought([0, 1, 2, 1, 2, 1, 2, 3], TEXTS, backtracks=frozenset({2, 4, 6})),
        *(Thought([0, 1, 2, 3][: 3 + n % 2], correct=n % 2 == 0) for n in range(5)),
    ]
    return str(write_thoughts(tmp_path_factory.mktemp("s") / "s", thoughts, tokens=4))


def run(*args):
    result = CliRunner().invoke(main, ["trajectory", *args])
    assert result.exit_code == 0, result.output
    return result


SHOWN = {
    "paths": lambda store: trajectory.path_geometry(store),
    "steps": lambda store: trajectory.step_geometry(store),
    "reflections": lambda store: trajectory.reflections(store),
    "forks": lambda store: trajectory.fork_tokens(store, "phase = 'think'"),
    "confidence": lambda store: trajectory.confidence_windows(store, window=8),
    "loops": lambda store: trajectory.loops(store),
    "backtracks": lambda store: trajectory.backtrack_bursts(store),
    "outcomes": lambda store: trajectory.correct_against_wrong(trajectory.trace_measures(store)),
    "alignment": lambda store: trajectory.alignment(store, 1, 3),
}


@pytest.mark.parametrize("show", SHOWN)
def test_each_table_is_that_of_its_function(path, show):
    more = ("--trace", "1", "--trace", "3") if show == "alignment" else ()
    said = run(path, "--show", show, "--window", "8", *more, "--format", "json")
    with Store(path) as store:
        frame = SHOWN[show](store)
    rows = json.loads(said.stdout)
    assert len(rows) == len(frame) > 0
    for name in frame.select_dtypes("number").columns:
        found = pd.Series([row[name] for row in rows], dtype=float).to_numpy()
        wanted = frame[name].astype(float).to_numpy()
        assert found == pytest.approx(wanted, nan_ok=True), name
    assert said.stderr.strip()


def test_traces_and_tokens_are_chosen_and_files_written(path, tmp_path):
    file = tmp_path / "loops.parquet"
    said = run(path, "--show", "loops", "--trace", "1", "-o", str(file))
    (loop,) = pd.read_parquet(file).to_dict("records")
    assert (loop["period"], loop["length"], loop["turns"]) == (2, 4, 2)
    assert "1 loop in 1 trace, 4 steps" in said.stderr
    rows = run(
        path, "--trace", "2", "--trace", "3", "--where", "step < 2", "--format", "csv"
    ).stdout
    assert [line.split(",")[0].strip('"') for line in rows.splitlines()] == ["trace_id", "2", "3"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--show", "alignment", "--trace", "1"), "takes two traces"),
        (("--where", "phaze = 'think'"), "Did you mean 'phase'"),
        (("--trace", "99"), "select"),
        (("--show", "roads"), "is not one of"),
    ],
)
def test_wrong_questions_are_refused_in_a_sentence(path, args, message):
    result = CliRunner().invoke(main, ["trajectory", path, *args])
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output
