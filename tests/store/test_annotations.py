"""What people say of traces, steps and experts: kept, found again, never lost."""

import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from annotators import annotate_for_ever, assert_all_said
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from records import random_run, random_trace
from workers import annotate_without_rights
from writers import assert_no_orphans, drain, start

from ringlens.analysis.roles.annotating import annotate_roles
from ringlens.cli.main import main
from ringlens.cli.sql.format import write_jsonl
from ringlens.errors import ConfigError, NotInStoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.annotations import adding
from ringlens.store.annotations.annotation import Annotation, Target
from ringlens.store.annotations.exchange import import_annotations
from ringlens.store.annotations.heirs import Inheritance
from ringlens.store.check.check import check
from ringlens.store.check.rescue import rebuild_manifest
from ringlens.store.maintain import compact
from ringlens.store.maintain.delete import delete_run, delete_traces
from ringlens.store.maintain.merge import merge
from ringlens.store.manifest.manifest import Manifest

RUN = random_run()
TOKENS = 20


def steps(width=4):
    """Steps of trace 1 that cut its tokens into pieces of some width."""
    starts = range(0, TOKENS, width)
    return [
        {
            "trace_id": 1,
            "step": number,
            "start": 2 * start,
            "end": 2 * start + 2,
            "token_start": start,
            "token_end": start + width,
            "text": "ab",
        }
        for number, start in enumerate(starts)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of one run with traces 1 to 3, of which the first is cut into steps."""
    path = tmp_path_factory.mktemp("annotated") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, TOKENS, seed=i) for i in range(3)])
        writer.replace_rows(run_id, "steps", steps())
        writer.finish_run(run_id)
    return path


@pytest.fixture
def path(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "store")


@pytest.fixture
def store(path):
    with Store(path) as opened:
        yield opened


def current(store):
    return {row["annotation_id"]: row for row in rows_of(store.annotations())}


def rows_of(relation):
    return relation.to_arrow_table().to_pylist()


LAYER = RUN.sparse_layers[0]


def test_a_trace_a_step_and_an_expert_are_annotated(store):
    trace = store.annotate(2, label="odd", note="look\nhere", author="Ada")
    step = store.annotate(1, step=3, label="self_checking")
    expert = store.annotate(expert=(LAYER, 5), label="commas", author="Bob")
    found = current(store)
    assert [found[each]["kind"] for each in (trace, step, expert)] == ["trace", "step", "expert"]
    assert found[trace]["note"] == "look\nhere"
    assert (found[trace]["author"], found[trace]["source"]) == ("Ada", "person")
    assert (found[step]["step"], found[step]["token_start"], found[step]["moved"]) == (3, 12, False)
    assert (found[expert]["layer"], found[expert]["expert"]) == (LAYER, 5)
    assert found[expert]["trace_id"] is None
    assert check(store).findings == []


def test_what_was_corrected_stays_in_the_history(store):
    first = store.annotate(1, label="odd", author="Ada")
    second = store.annotate(supersedes=first, label="even", author="Bob")
    assert list(current(store)) == [second]
    assert len(store.annotations(history=True)) == 2
    store.retract(second, author="Cleo")
    assert current(store) == {}
    history = rows_of(store.annotations(history=True))
    assert [row["author"] for row in history] == ["Ada", "Bob", "Cleo"]
    assert [row["label"] for row in history] == ["odd", "even", None]


def test_two_corrections_of_one_annotation_both_stand(store):
    """Each was made without knowledge of the other: neither is lost."""
    first = store.annotate(1, label="odd")
    target = Target(store.trace(1).run["run_id"], 1)
    both = [Annotation(target, name, name, supersedes=first) for name in ("Ada", "Bob")]
    for each in both:
        adding.add(store.folder, [each])
    assert {row["label"] for row in current(store).values()} == {"Ada", "Bob"}


def test_a_correction_of_what_was_corrected_is_refused(store):
    first = store.annotate(1, label="odd", author="Ada")
    second = store.annotate(supersedes=first, label="even", author="Bob")
    with pytest.raises(NotInStoreError, match=f"corrected, as {second}, by Bob"):
        store.annotate(supersedes=first, label="third")
    with pytest.raises(NotInStoreError, match="corrected"):
        store.retract(first)
    store.retract(second)
    with pytest.raises(NotInStoreError, match="retracted"):
        store.retract(second)


def test_an_annotation_is_found_after_its_step_was_cut_anew(path, store):
    said = store.annotate(1, step=3, label="odd")
    run_id = store.trace(1).run["run_id"]
    with StoreWriter(path) as writer:
        writer.replace_rows(run_id, "steps", steps(width=10))
    row = current(store)[said]
    assert (row["step"], row["moved"], row["token_start"], row["token_end"]) == (1, True, 12, 16)
    with StoreWriter(path) as writer:
        writer.replace_rows(run_id, "steps", [], clear=[{"trace_id": 1}])
    row = current(store)[said]
    assert (row["step"], row["moved"]) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "x"}, "about one thing"),
        ({"trace_id": 1, "expert": (LAYER, 1), "label": "x"}, "about one thing"),
        ({"step": 1, "label": "x"}, "about one thing"),
        ({"expert": (LAYER, 1), "step": 1, "label": "x"}, "of no trace"),
        ({"trace_id": 1}, "says something"),
        ({"trace_id": 1, "label": "  "}, "says something"),
        ({"trace_id": 1, "label": "x", "author": ""}, "author"),
        ({"trace_id": 1, "label": "x" * 201}, "201 characters"),
        ({"trace_id": 1, "note": "x" * 10_001}, "10,001 characters"),
        ({"trace_id": 1, "label": "a\nb"}, "control character"),
        ({"trace_id": 1, "note": "a\x1b[31m"}, "control character"),
        ({"trace_id": 1, "note": "\ud800"}, "surrogate"),
        ({"trace_id": 1, "label": 7}, "is a text"),
        ({"trace_id": 99, "label": "x"}, "no trace 99"),
        ({"trace_id": "1", "label": "x"}, "trace_id"),
        ({"trace_id": 1, "step": 99, "label": "x"}, "no step 99"),
        ({"trace_id": 2, "step": 0, "label": "x"}, "no step 0"),
        ({"expert": (LAYER, 999), "label": "x"}, "no expert 999"),
        ({"expert": 5, "label": "x"}, "layer, expert"),
        ({"expert": (LAYER, 1), "run_id": "other", "label": "x"}, "run 'other'"),
        ({"supersedes": "other", "label": "x"}, "no annotation 'other'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(store, arguments, message):
    with pytest.raises((ConfigError, NotInStoreError), match=message):
        store.annotate(**arguments)
    assert len(store.annotations(history=True)) == 0


@settings(max_examples=25)
@given(label=st.none() | st.text(max_size=9), note=st.none() | st.text(max_size=9))
def test_a_text_comes_back_as_it_was_or_is_refused(label, note):
    """Without a commit for each: `add` writes what the object holds."""
    try:
        said = Annotation(Target("run", 1), "Ada", label, note)
    except ConfigError:
        return
    for given_text, kept in ((label, said.label), (note, said.note)):
        assert kept == ((given_text or "").replace("\r\n", "\n").strip() or None)
    assert said.row()["created"].tzinfo is not None


def test_selections_know_the_labels(store):
    for label in ("odd", "aha"):
        store.annotate(1, step=3, label=label)
    store.annotate(1, step=4, label="odd")
    store.annotate(2, label="guess")
    store.annotate(3, note="no label")
    store.annotate(expert=(LAYER, 1), label="commas")
    rows = store.tokens("label is not null", context=["label", "step"])
    assert rows.pos.tolist() == list(range(12, 20))
    assert rows["label"].tolist() == ["aha, odd"] * 4 + ["odd"] * 4
    assert set(store.tokens("trace_label = 'guess'").trace_id) == {2}
    assert len(store.tokens()) == 3 * TOKENS


def test_a_copy_takes_in_what_was_said_in_the_other_once(path, store, tmp_path):
    """Two people, a copy each: after an exchange both hold all, and a second one adds nothing."""
    said = [store.annotate(1, step=2, label="aha", note="a\nb", author="Ada")]
    other_path = shutil.copytree(path, tmp_path / "other")
    with Store(other_path) as other:
        said += [other.annotate(expert=(LAYER, 1), label="commas", author="Bob")]
        said += [other.annotate(supersedes=said[0], label="oho", author="Bob")]
        file = tmp_path / "notes.jsonl"
        with file.open("wb") as out:
            write_jsonl(other.annotations(history=True), out)
        assert import_annotations(store, file) == (2, 1)
        assert import_annotations(store, file) == (0, 3)
        mine, theirs = (rows_of(each.annotations(history=True)) for each in (store, other))
        assert mine == theirs
    assert check(store).findings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_id": "other"}, "no trace 1"),
        ({"trace_id": 99}, "no trace 99"),
        ({"trace_id": None}, "about a trace or an expert"),
        ({"step": 1, "token_start": 5, "token_end": 99}, "token_end = 99"),
        ({"step": 1, "token_start": 5}, "token_end = None"),
        ({"annotation_id": "x"}, "16 hex digits"),
        ({"created": "yesterday"}, "isoformat"),
        ({"author": None}, "author"),
        ({"label": 5}, "is a text"),
        ({"is_retraction": True}, "supersedes nothing"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_line_that_does_not_fit_is_named_and_nothing_is_added(store, tmp_path, change, message):
    run_id = store.trace(1).run["run_id"]
    row = {"annotation_id": "0" * 16, "run_id": run_id, "trace_id": 1, "label": "x"}
    row |= {"author": "Ada", "source": "person", "created": "2026-11-28 07:00:00"}
    file = tmp_path / "notes.jsonl"
    lines = [row | {"annotation_id": "1" * 16}, row | change]
    file.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises((ConfigError, NotInStoreError), match=f"line 2.*{message}"):
        import_annotations(store, file)
    assert len(store.annotations()) == 0


def test_imported_roles_are_annotations_of_their_source(path, store):
    """Said once however often they are imported; a role that the source changed is corrected."""
    run_id = store.trace(1).run["run_id"]

    def label(role):
        labelled = [each | {"role": role, "label_source": "labels.jsonl"} for each in steps()]
        with StoreWriter(path) as writer:
            writer.replace_rows(run_id, "steps", labelled)
        return annotate_roles(store, [1], "labels.jsonl", "Ada")

    assert [label("plan_generation"), label("plan_generation")] == [5, 0]
    assert label("self_checking") == 5
    rows = rows_of(store.annotations())
    assert [(row["label"], row["source"], row["step"]) for row in rows] == [
        ("self_checking", "labels.jsonl", step) for step in range(5)
    ]
    assert len(store.annotations(history=True)) == 10


def add_run(path, traces=1):
    """Another run of the same model."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, TOKENS, seed=9 + i) for i in range(traces)])
        writer.finish_run(run_id)
    return run_id


def test_what_was_said_of_an_expert_outlives_the_run_that_it_was_said_at(path, store, monkeypatch):
    """It is about the model: the latest other run has it, history and all, and none doubled."""
    first = store.trace(1).run["run_id"]
    store.annotate(2, label="goes", author="Ada")
    wrong = store.annotate(expert=(LAYER, 5), label="wrong", author="Ada")
    store.annotate(supersedes=wrong, label="commas", author="Bob")
    heir = add_run(path)
    store.annotate(expert=(LAYER, 6), label="digits", author="Bob")  # at the latest run
    asked = CliRunner().invoke(main, ["delete", str(path), "--run", first], input="n\n")
    assert "deleted with them: 1 annotation of traces" in asked.output
    assert f"kept, at run {heir}: 1 annotation of experts" in asked.output
    with StoreWriter(path) as writer:
        complete = Manifest.complete

        def killed(self, commit, files, retire, started, finished, dropped):
            if dropped:
                raise KeyboardInterrupt
            return complete(self, commit, files, retire, started, finished, dropped)

        monkeypatch.setattr(Manifest, "complete", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_run(writer.rewriter(), first)
        monkeypatch.undo()
        assert {row["label"] for row in current(store).values()} == {"goes", "commas", "digits"}
        assert len(store.annotations()) == 3
        found = delete_run(writer.rewriter(), first)
    assert found == Inheritance(1, heir)
    assert {(row["label"], row["run_id"]) for row in current(store).values()} == {
        ("commas", heir),
        ("digits", heir),
    }
    assert len(store.annotations(history=True)) == 3
    assert check(store).findings == []
    asked = CliRunner().invoke(main, ["delete", str(path), "--run", heir], input="n\n")
    assert "as no other run of its model is left: 2 annotations of experts" in asked.output


def test_a_merge_brings_what_was_said_of_runs_that_are_there(path, store, tmp_path):
    """Union by annotation: nothing lost, nothing doubled, under the ids of the target."""
    first = store.trace(1).run["run_id"]
    said = store.annotate(1, step=2, label="aha", author="Ada")
    second = add_run(path, 2)
    shared = store.annotate(expert=(LAYER, 1), label="commas", author="Ada")
    target_path = tmp_path / "target"
    add_run(target_path, 2)
    with StoreWriter(target_path) as writer, Store(target_path) as target:
        assert f"{first}: 3 traces, 1 annotation" in merge(store, writer.rewriter())
        store.annotate(supersedes=said, label="oho", author="Bob")
        store.annotate(5, label="guess", author="Bob")
        mine = target.annotate(3, label="here", author="Cleo")
        for added in ((", 1 annotation", ", 1 annotation"), ("", "")):
            names = zip((first, second), added, strict=True)
            expected = [f"{name}: already there, skipped{more}" for name, more in names]
            assert merge(store, writer.rewriter()) == expected
        rows = current(target)
        assert {(row["trace_id"], row["step"], row["label"]) for row in rows.values()} == {
            (3, 2, "oho"),
            (7, None, "guess"),
            (3, None, "here"),
            (None, None, "commas"),
        }
        # Traces that were deleted there take nothing; those beside them are found by their facts.
        store.annotate(1, label="gone")
        store.annotate(2, label="kept")
        delete_traces(writer.rewriter(), first, [3], target.tables())
        # The expert's annotation stays where the merge put it, though its run is merged anew.
        delete_run(writer.rewriter(), second)
        one, two = merge(store, writer.rewriter())
        assert one.endswith(
            "skipped, 1 annotation; 3 annotations of traces that are not there left out"
        )
        assert two == f"{second}: 2 traces, 1 annotation"
        labels = sorted(row["label"] for row in current(target).values())
        assert labels == ["commas", "guess", "kept"]
        assert mine not in current(target) and shared in current(target)
        assert len(target.sql("from annotations where annotation_id = $id", {"id": shared})) == 1
        assert check(target).findings == []


def test_many_files_are_gathered(store, monkeypatch):
    monkeypatch.setattr(adding, "MANY", 3)
    said = [store.annotate(1, label=f"{i}") for i in range(9)]
    assert len(store.files("annotations")) <= 4
    assert set(current(store)) == set(said)
    assert check(store).findings == []


def test_a_damaged_file_stays_as_it_is(path, store, monkeypatch):
    """What is gathered would otherwise be written again under a valid checksum."""
    monkeypatch.setattr(adding, "MANY", 1)
    store.annotate(1, label="first")
    (file,) = store.files("annotations")
    whole = (path / file.path).read_bytes()
    (path / file.path).write_bytes(whole[:-9] + b"x" * 9)
    for _ in range(3):
        store.annotate(1, label="more")
    (found,) = check(store).findings
    assert (found.path, found.traces) == (file.path, ())
    assert "gives up the notes" in found.advice
    (path / file.path).write_bytes(whole)
    assert check(store).findings == []
    assert len(store.annotations()) == 4


def test_a_store_without_permission_says_so(made):
    with tempfile.TemporaryDirectory() as folder:  # outside pytest's own, which is closed to others
        Path(folder).chmod(0o755)
        path = Path(shutil.copytree(made, Path(folder) / "store"))
        subprocess.run(["chmod", "-R", "a+rX,a-w", path], check=True)
        process, reports = start(annotate_without_rights, path)
        said = reports.recv()
        process.join()
    assert "the annotation was not stored" in said
    assert "permission denied" in said or "read-only" in said


def test_upkeep_keeps_what_was_said(path, store, tmp_path):
    """Compaction, a manifest made anew, and a merge keep every row, the last with its new ids."""
    said = [store.annotate(i, label=f"{i}") for i in (1, 2, 3)]
    said.append(store.annotate(expert=(LAYER, 2), note="heavy"))
    with StoreWriter(path) as writer:
        compact.compact(writer.rewriter(), compact.plan(store), lambda *_: None)
    assert len(store.files("annotations")) == 1
    assert list(current(store)) == said
    with StoreWriter(tmp_path / "other") as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, TOKENS, seed=9)])
        merge(store, writer.rewriter())
    with Store(tmp_path / "other") as merged:
        rows = current(merged)
        assert [rows[each]["trace_id"] for each in said] == [2, 3, 4, None]
    store.close()
    (path / "manifest.sqlite").unlink()
    rebuild_manifest(path, lambda _: None)
    with Store(path) as again:
        assert list(current(again)) == said


def test_two_who_annotate_and_are_killed_lose_nothing(path):
    """SIGKILL at random moments: what was acknowledged is there, and no row is half there."""
    rng = random.Random(0)
    acknowledged: set[str] = set()
    for round_ in range(3):
        both = [start(annotate_for_ever, path, f"{who}{round_}") for who in ("ada", "bob")]
        for _, reports in both:
            reports.recv()  # its name
            acknowledged |= {reports.recv()}
        for process, _ in both:
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            process.join()
        acknowledged |= {said for _, reports in both for said in drain(reports)}
        assert_all_said(path, acknowledged)
    with Store(path) as store:
        acknowledged.add(store.annotate(1, label="ada 0", note="ada 0 " * 40, author="ada"))
        assert check(store).findings == []
    found = assert_all_said(path, acknowledged)
    assert len(found) - len(acknowledged) <= 6  # one each that was not acknowledged any more
    assert_no_orphans(path)
