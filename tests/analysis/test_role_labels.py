"""Labels from elsewhere: imported where they belong, refused where not, learned from."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from paths import ROOT
from records import random_run, random_trace
from sklearn.metrics import cohen_kappa_score

from ringlens.analysis.roles import classifier, importing
from ringlens.analysis.steps import segment
from ringlens.cli.main import main
from ringlens.errors import ConfigError, NotInStoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain import rollup

RUN = random_run(heads=1, record=("routing",))
ROLLOUT = ROOT.parent / "shared" / "oracles" / "thought-anchors" / "problem_330_llama8b_incorrect"


def run(*args, code=0):
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == code, result.output
    return result.output


def pieces(trace):
    """Steps of a trace with roles that follow from the words."""
    found = []
    for start, end in segment(trace.text):
        text = trace.text[start:end].rstrip()
        role = "uncertainty_management" if " Wait" in text else "active_computation"
        found.append({"text": text, "role": role, "is_backtrack": " Wait" in text})
    return found


@pytest.fixture
def path(tmp_path):
    """Six traces of three problems."""
    path = tmp_path / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        traces = [random_trace(RUN, 120, seed=i, router_logits=None, heads=None) for i in range(6)]
        writer.commit(run_id, [replace(t, problem_id=f"p{i % 3}") for i, t in enumerate(traces)])
        writer.finish_run(run_id)
    return path


def write_lines(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


def test_json_lines_are_imported_where_they_belong(path, tmp_path):
    with Store(path) as store:
        rows = [{"trace_id": i} | row for i in (1, 4) for row in pieces(store.trace(i))]
        rows[0]["confidence"] = 0.75
        rows[1]["parent"] = 0
        run("steps", path)
        said = run("roles", "import", path, write_lines(tmp_path / "mine.jsonl", rows))
        assert f"{len(rows)} steps of 2 traces imported" in said
        found = (
            store.sql("from steps where label_source = 'mine.jsonl' order by trace_id, step")
            .to_arrow_table()
            .to_pylist()
        )
        assert [(r["trace_id"], r["text"].rstrip(), r["role"]) for r in found] == [
            (r["trace_id"], r["text"], r["role"]) for r in rows
        ]
        for row in found:
            trace = store.trace(row["trace_id"])
            assert trace.text[row["start"] : row["end"]] == row["text"]
            assert row["is_hypothesis"] is None
        assert (found[0]["confidence"], found[1]["parent"]) == (0.75, 0)
        assert rollup.missing_roles(store) == []
        assert "have steps" in run("steps", path)  # imported labels stay
        assert "4 traces labelled" in run("steps", path, "--again")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"trace_id": 1, "text": "not there", "role": "unknown"}, "is not in the trace's text"),
        ({"trace_id": 1, "text": "Let", "role": "doubt"}, "unknown role"),
        ({"trace_id": 1, "text": "Let", "role": "self_cheking"}, "Did you mean 'self_checking'"),
        ({"trace_id": 1, "text": "Let"}, "give one of problem_setup"),
        ({"trace_id": "1", "text": "Let", "role": "unknown"}, "give its number"),
        ({"trace_id": 1, "text": "", "role": "unknown"}, "give the text"),
        ({"trace_id": 1, "text": "Let", "role": "unknown", "is_backtrack": 1}, "must be bool"),
        ({"trace_id": 1, "text": "Let", "role": "unknown", "flag": 1}, "unknown key"),
        ({"trace_id": 99, "text": "Let", "role": "unknown"}, "trace 99"),
    ],
)
def test_lines_that_do_not_fit_are_refused_and_nothing_is_stored(path, tmp_path, row, message):
    with Store(path) as store:
        good = [{"trace_id": 2} | each for each in pieces(store.trace(2))]
        file = write_lines(tmp_path / "mine.jsonl", [*good, row])
        assert message in run("roles", "import", path, file, code=1)
        assert store.sql("from steps").fetchall() == []


def test_files_that_are_none_are_refused(path, tmp_path):
    for text, message in (("", "holds no labels"), ("[1]", "expected a JSON object")):
        (tmp_path / "x.jsonl").write_text(text)
        assert message in run("roles", "import", path, tmp_path / "x.jsonl", code=1)
    assert "cannot read" in run("roles", "import", path, tmp_path / "gone.jsonl", code=1)
    (tmp_path / "chunks_labeled.json").write_text('[{"chunk": 1}]')
    assert "no list of objects" in run("roles", "import", path, tmp_path, code=1)


@pytest.mark.skipif(not ROLLOUT.exists(), reason="published rollouts are not here")
def test_a_rollout_finds_its_trace_by_its_text(tmp_path):
    text = json.loads((ROLLOUT / "base_solution.json").read_text())["full_cot"]
    ends = [*range(4, len(text), 4), len(text)]
    starts = [0, *ends[:-1]]
    plain = random_trace(RUN, len(ends), router_logits=None, heads=None)
    words = [text[a:b] for a, b in zip(starts, ends, strict=True)]
    tokens = replace(
        plain.tokens,
        text=words,
        start=importing.np.array(starts, "int32"),
        end=importing.np.array(ends, "int32"),
    )
    other = random_trace(RUN, 30, router_logits=None, heads=None)
    path = tmp_path / "store"
    with StoreWriter(path) as writer:
        writer.commit(writer.start_run(RUN), [other, replace(plain, text=text, tokens=tokens)])
    assert "26 steps of 1 traces imported" in run("roles", "import", path, ROLLOUT)
    with Store(path) as store:
        rows = store.sql("from steps order by step").to_arrow_table().to_pylist()
        assert {row["trace_id"] for row in rows} == {2}
        wanted = json.loads((ROLLOUT / "chunks_labeled.json").read_text())
        assert [row["role"] for row in rows] == [each["function_tags"][0] for each in wanted]
        assert [row["text"].strip() for row in rows] == [each["chunk"].strip() for each in wanted]
        assert any(row["parent"] is not None for row in rows)
        with pytest.raises(NotInStoreError, match="0 traces of"):
            importing.trace_of(store, [{"text": "nowhere"}])


# --- the classifier ------------------------------------------------------------------------------


def test_what_was_learned_is_said_of_problems_not_seen_and_labels_a_store(path, tmp_path):
    with Store(path) as store:
        rows = [{"trace_id": i} | row for i in range(1, 6) for row in pieces(store.trace(i))]
        run("roles", "import", path, write_lines(tmp_path / "mine.jsonl", rows))
        said = run("roles", "train", path, "--out", tmp_path / "roles.json")
        assert "of 3 problems in 3 folds: agreement" in said
        assert "uncertainty_management" in said
        run("steps", path, "--classifier", tmp_path / "roles.json")
        found = (
            store.sql("from steps where trace_id = 6 order by step").to_arrow_table().to_pylist()
        )
    learned = classifier.load(tmp_path / "roles.json")
    assert {row["label_source"] for row in found} == {learned.source}
    wanted = [" Wait" in row["text"] for row in found]
    assert [row["role"] == "uncertainty_management" for row in found] == wanted
    assert len(set(wanted)) == 2


def test_the_scores_are_those_of_folds_by_problem():
    """A problem's own words give it away in a fold of its own traces, and not of others."""
    labelled = [
        classifier.Example([f"word{chr(97 + p)} here"] * 6, [role] * 6, f"p{p}")
        for p, role in enumerate(["self_checking", "unknown"] * 2)
        for _ in range(2)
    ]
    found, scores = classifier.train(labelled)
    assert scores.attrs["problems"] == scores.attrs["folds"] == 4
    seen = [label.role for each in labelled for label in found.label(each.texts)]
    wanted = [role for each in labelled for role in each.roles]
    assert classifier.kappa(wanted, seen) > 0.9 > 0.4 > scores.attrs["kappa"]
    assert classifier.kappa(wanted, seen) == pytest.approx(cohen_kappa_score(wanted, seen))
    assert scores["steps"].sum() == len(wanted)


def test_nothing_to_learn_from_and_files_that_are_no_classifier(path, tmp_path):
    assert "labels of 0 problems" in run("roles", "train", path, "--out", tmp_path / "r", code=1)
    for text in ("{}", "[]", '{"format": 2, "roles": ["x"], "base": [0], "weights": {}}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ConfigError, match="no classifier of roles"):
            classifier.load(tmp_path / "r.json")
