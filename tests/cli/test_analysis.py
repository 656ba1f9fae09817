"""The commands about experts: the same numbers as in Python, in every form."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from planted import planted
from thoughts import Thought, write_thoughts

from ringlens import analysis
from ringlens.cli.main import main
from ringlens.store import Store

THINK, ANSWER = "phase = 'think'", "phase = 'answer'"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(planted(tmp_path_factory.mktemp("s") / "store", traces=6, tokens=40))


def run(*args, code=0):
    result = CliRunner().invoke(main, list(args))
    assert result.exit_code == code, result.output
    return result


def test_experts_are_those_of_the_function(path):
    said = run("experts", path, "--where", THINK, "--top", "5", "--format", "json")
    rows = json.loads(said.stdout)
    with Store(path) as store:
        frame = analysis.expert_load(store, THINK)
    best = frame.sort_values(["lift", "n"], ascending=False, kind="stable").head(5)
    assert [row["expert"] for row in rows] == best["expert"].tolist()
    assert [row["share"] for row in rows] == pytest.approx(best["share"].tolist())
    assert "6 traces, answered by sums" in said.stderr


def test_a_contrast_in_every_form(path, tmp_path):
    args = ("contrast", path, "--a", THINK, "--b", ANSWER, "--draws", "50", "--top", "0")
    with Store(path) as store:
        frame = analysis.contrast(store, THINK, ANSWER, draws=50)
    for form in ("csv", "parquet", "jsonl"):
        file = tmp_path / f"rows.{form}"
        said = run(*args, "-o", str(file))
        read = {
            "csv": pd.read_csv,
            "parquet": pd.read_parquet,
            "jsonl": lambda f: pd.read_json(f, lines=True),
        }[form](file)
        assert read.columns.tolist() == frame.columns.tolist()
        for name in ("layer", "expert", "difference", "p", "q"):
            assert read[name].tolist() == pytest.approx(frame[name].tolist()), (form, name)
    assert "of 48 differ at q ≤ 0.05; 6 traces (0 left out)" in said.stderr
    assert "difference" in run(*args[:-2], "--top", "3").stdout


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Stores of two checkpoints, the second of which checks once more, by another expert."""
    folder = tmp_path_factory.mktemp("c")
    for name, more in (("before", 0), ("after", 1)):
        thoughts = [
            Thought(
                [0] * 3 + [1] * more,
                roles=["active_computation"] * 3 + ["self_checking"] * more,
                problem=f"p{n}",
            )
            for n in range(6)
        ]
        write_thoughts(folder / name, thoughts, tokens=8)
    return [str(folder / name) for name in ("before", "after")]


def test_changes_of_experts_and_of_thoughts(checkpoints, tmp_path):
    stores = [Store(path) for path in checkpoints]
    named = [analysis.Checkpoint(*each) for each in zip(checkpoints, stores, strict=True)]
    frame = analysis.changed_experts(*named, draws=20)
    said = run("changes", *checkpoints, "--draws", "20", "--format", "json")
    rows = json.loads(said.stdout)
    assert [(row["layer"], row["expert"]) for row in rows] == [
        (row.layer, row.expert) for row in frame.head(10).itertuples()
    ]
    assert [row["q_words"] for row in rows] == pytest.approx(frame["q_words"].head(10).tolist())
    assert "6 problems (0 left out); the use of" in said.stderr and "is left" in said.stderr
    shown = run("changes", *checkpoints, "--draws", "20", "--top", "3").stdout
    assert "difference_words" in shown and "low_words" not in shown
    told = run("changes", *checkpoints, "--of", "thoughts", "--top", "0", "--format", "json")
    rows = {row["measure"]: row for row in json.loads(told.stdout)}
    assert (rows["steps"]["before"], rows["steps"]["after"]) == (3, 4)
    assert "steps 3 → 4" in told.stderr
    for args in (("--of", "thoughts", "--replay", checkpoints[0]), ("--replay", checkpoints[0])):
        assert "replay" in run("changes", *checkpoints, *args, code=1).output
    for store in stores:
        store.close()


def test_verify_compares_two_stores(path):
    said = run("verify", path, path, code=1)
    assert "no traces of the same tokens" in said.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("experts", "{}", "--where", "phaze = 'think'"), "Did you mean 'phase'"),
        (("experts", "{}", "--by", "fase"), "unknown column to group by 'fase'"),
        (("contrast", "{}", "--a", THINK, "--b", THINK), "are in both selections"),
        (("experts", "{}", "--format", "parquet"), "--format parquet needs a file"),
    ],
)
def test_wrong_questions_are_refused_in_a_sentence(path, args, message):
    result = CliRunner().invoke(main, [arg.format(path) for arg in args])
    assert result.exit_code != 0
    assert message in result.output
    assert "Traceback" not in result.output


def test_a_card_for_the_eye_and_in_every_form(path, tmp_path):
    with Store(path) as store:
        card = analysis.expert_card(store, 2, 5, THINK)
    args = ("experts", path, "--where", THINK, "--card", "2/5")
    assert run(*args).stdout == f"{card}\n"
    rows = json.loads(run(*args, "--format", "json").stdout)
    assert [row["value"] for row in rows if row["part"] == "load"] == pytest.approx(
        card.load[["n", "tokens", "share", "weight", "baseline", "lift"]].iloc[0].tolist()
    )
    run(*args, "-o", str(tmp_path / "card.parquet"))
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "card.parquet"), card.frame, check_dtype=False
    )
    for cell, said in (("5", "a layer and an expert"), ("9/1", "layer 9 has no routing")):
        assert said in run("experts", path, "--card", cell, code=2 if cell == "5" else 1).output
    assert "takes no --by" in run("experts", path, "--card", "2/5", "--by", "task", code=2).output
