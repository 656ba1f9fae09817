"""The layout of math-rollouts, in and out again; hostile folders are refused in a sentence."""

import json
import os
import random
import shutil

import narrow_lens
import pytest
from click.testing import CliRunner
from paths import ROOT

from ringlens.cli.main import main
from ringlens.errors import RinglensError
from ringlens.observe.session import replay
from ringlens.rollouts import layout
from ringlens.rollouts.importing import import_rollouts
from ringlens.serving.served_model import ServedModel
from ringlens.store import Store

PUBLISHED = ROOT.parent / "shared" / "oracles" / "thought-anchors" / "problem_330_llama8b_incorrect"

PROMPT = "Solve this. Problem: What is 2 + 2? Solution: \n<think>\n"
CHUNKS = ["We add two and two.", "That is 2 + 2 = 4.", "So the answer is 4."]
THOUGHT = "We add two and two. That is 2 + 2 = 4.\n\nSo the answer is 4."
BASE = {
    "prompt": PROMPT,
    "solution": f"{THOUGHT}\n</think>\n\n\\boxed{{4}}",
    "full_cot": f"{PROMPT}{THOUGHT}\n</think>\n\n\\boxed{{4}}",
    "answer": "4",
    "is_correct": True,
}
LABELED = [
    {"chunk": chunk, "chunk_idx": i, "function_tags": [tag], "depends_on": parents}
    for i, (chunk, tag, parents) in enumerate(
        zip(
            CHUNKS,
            ["plan_generation", "active_computation", "final_answer_emission"],
            [[], ["0"], ["1"]],
            strict=True,
        )
    )
]
SOLUTIONS = [
    {
        "chunk_removed": CHUNKS[1],
        "prefix_without_chunk": CHUNKS[0],
        "chunk_resampled": resampled,
        "rollout": rollout,
        "full_cot": f"{PROMPT}{CHUNKS[0]}{rollout}",
        "answer": answer,
        "is_correct": answer == "4",
    }
    for resampled, rollout, answer in (
        ("I get 5.", " I get 5.\n</think>\n\\boxed{5}", "5"),
        ("It is 4.", " It is 4.\n</think>\n\\boxed{4}", "4"),
        ("Hm.", " Hm.", ""),
    )
]
FILES = {
    "problem.json": {"problem": "What is 2 + 2?", "gt_answer": "4", "nickname": "problem_7"},
    "base_solution.json": BASE,
    "chunks.json": {"source_text": BASE["full_cot"], "solution_text": THOUGHT, "chunks": CHUNKS},
    "chunks_labeled.json": LABELED,
    "chunk_1/solutions.json": SOLUTIONS,
}


def write(folder, files=FILES):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def contents(folder):
    return {
        str(file.relative_to(folder)): json.loads(file.read_text())
        for file in sorted(folder.rglob("*.json"))
    }


def run(*args, code=0):
    result = CliRunner().invoke(main, list(map(str, args)))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def served():
    return ServedModel.read("ring-nano")


@pytest.fixture(scope="module")
def imported(served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rollouts")
    write(folder / "set" / "problem_7")
    bare = {name: FILES[name] for name in ("base_solution.json",)}
    write(folder / "set" / "problem_12", bare)
    return import_rollouts(folder / "set", folder / "store", model=served, resampled=True)


def test_texts_grades_and_labels_come_in(imported):
    query = (
        "select problem_id, sample, answer, expected, correct, n_think > 0, n_answer > 0 "
        "from traces order by trace_id"
    )
    assert imported.sql(query).fetchall() == [
        ("problem_7", 0, "4", "4", True, True, True),
        ("problem_7/chunk_1", 0, "5", "4", False, True, True),
        ("problem_7/chunk_1", 1, "4", "4", True, True, True),
        ("problem_7/chunk_1", 2, None, "4", False, True, False),
        ("problem_12", 0, "4", None, True, True, True),
    ]
    steps = imported.sql("select text, role, parent, label_source from steps where trace_id = 1")
    source = "chunks_labeled.json"
    tags = [(each["function_tags"][0], each["depends_on"]) for each in LABELED]
    assert [(text.strip(), *rest) for text, *rest in steps.fetchall()] == [
        (chunk, tag, int(parents[0]) if parents else None, source)
        for chunk, (tag, parents) in zip(CHUNKS, tags, strict=True)
    ]
    others = "select distinct trace_id from steps where label_source <> ? order by 1"
    assert [i for (i,) in imported.sql(others, [source]).fetchall()] == [2, 3, 4, 5]


def test_what_was_imported_goes_out_as_it_was(imported, tmp_path):
    out = tmp_path / "out"
    said = run("export", imported.address, "--out", out, "--format", "math-rollouts")
    assert "5 traces" in said
    assert contents(out / "problem_7") == FILES
    assert sorted(each.name for each in out.iterdir()) == ["problem_12", "problem_7"]
    again = contents(out / "problem_12")
    assert again["base_solution.json"] == BASE
    assert "".join(again["chunks.json"]["chunks"]).replace(" ", "") in BASE["full_cot"].replace(
        " ", ""
    ).replace("\n", "")


def test_a_replay_keeps_the_grades_that_were_given(imported, tmp_path):
    again = replay(narrow_lens.lens(), imported, tmp_path / "again", record=["routing"])
    query = "select problem_id, answer, correct, text from traces order by trace_id"
    assert again.sql(query).fetchall() == imported.sql(query).fetchall()
    assert again.sql("select count(*) > 100 from routing").fetchall() == [(True,)]
    phases = "select n_prompt, n_think, n_answer from traces order by trace_id"
    assert again.sql(phases).fetchall() == imported.sql(phases).fetchall()


def test_the_command_and_the_same_call_again(tmp_path):
    folder, store = write(tmp_path / "problem_7"), tmp_path / "store"
    args = ["import", "math-rollouts", folder, "--model", "ring-nano", "--store", store]
    assert "1 trace" in run(*args)
    with Store(store) as opened:
        assert opened.sql("select count(*) from steps").fetchall() == [(3,)]
    assert "ringlens steps" not in run("check", store)


@pytest.mark.skipif(not PUBLISHED.exists(), reason="published rollouts are not here")
def test_the_published_problem_goes_through(served, tmp_path):
    store = import_rollouts(PUBLISHED, tmp_path / "store", model=served)
    row = store.trace(1).summary
    assert (row["answer"], row["expected"], row["correct"]) == ("188743314", "88572", False)
    run("export", store.address, "--out", tmp_path / "out", "--format", "math-rollouts")
    (folder,) = (tmp_path / "out").iterdir()
    out, given = contents(folder), contents(PUBLISHED)
    assert out["base_solution.json"] == given["base_solution.json"]
    for ours, theirs in zip(out["chunks_labeled.json"], given["chunks_labeled.json"], strict=True):
        assert ours["chunk"] == theirs["chunk"].strip()
        assert ours["function_tags"] == theirs["function_tags"][:1]


# --- what is refused -----------------------------------------------------------------------------


def test_exports_that_would_lose_something_are_refused(imported, tmp_path):
    out = tmp_path / "out"
    args = ["export", imported.address, "--out", out, "--format", "math-rollouts"]
    assert "chosen without its trace" in run(*args, "--where", "sample = 1", code=1)
    assert "--tables cannot be combined" in run(*args, "--tables", "tokens", code=2)
    assert not out.exists()
    assert [each.name for each in tmp_path.iterdir()] == []


def changed(name, key, value):
    """The files with one value changed."""
    found = json.loads(json.dumps(FILES))
    target = found[name][0] if isinstance(found[name], list) else found[name]
    target[key] = value
    return found


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"problem.json": {}}, "holds no base_solution.json"),
        ({**FILES, "base_solution.json": []}, "expected an object, found list"),
        (changed("base_solution.json", "full_cot", 3), "'full_cot' must be a text"),
        (changed("base_solution.json", "full_cot", "else"), "does not go on where the prompt"),
        (changed("base_solution.json", "full_cot", "a\0"), "holds what is no text"),
        (changed("base_solution.json", "prompt", ""), "'prompt' is missing or empty"),
        (changed("base_solution.json", "is_correct", "yes"), "must be true, false or null"),
        (changed("base_solution.json", "answer", 4), "'answer' must be a text"),
        (changed("problem.json", "gt_answer", 4), "'gt_answer' must be a text"),
        (changed("chunks_labeled.json", "chunk", "nowhere"), "are not in full_cot"),
        (changed("chunks_labeled.json", "function_tags", ["doubt"]), "unknown role"),
        ({**FILES, "chunks_labeled.json": {"0": {}}}, "no list of objects"),
        ({**FILES, "chunk_1/solutions.json": {}}, "expected a list, found dict"),
        ({**FILES, "chunk_1/solutions.json": [1]}, "entry 0: expected an object, found int"),
        (changed("chunk_1/solutions.json", "rollout", "x"), "is not the prompt, a prefix and"),
        (changed("chunk_1/solutions.json", "full_cot", None), "'full_cot' is missing"),
    ],
)
def test_folders_that_are_none_are_refused_and_nothing_is_stored(served, tmp_path, files, message):
    write(tmp_path / "problem_7", files)
    with pytest.raises(RinglensError, match=message):
        import_rollouts(tmp_path, tmp_path / "store", model=served, resampled=True)
    assert not (tmp_path / "store").exists()


def test_links_pipes_and_huge_files_are_refused(served, tmp_path, monkeypatch):
    outside = write(tmp_path / "outside" / "problem_7")

    def refused(message):
        with pytest.raises(RinglensError, match=message):
            import_rollouts(folder, tmp_path / "store", model=served, resampled=True)
        assert not (tmp_path / "store").exists()

    for name in FILES:
        if name == "chunks.json":
            continue
        folder = write(tmp_path / "set" / "problem_7")
        (folder / name).unlink()
        (folder / name).symlink_to(outside / name)
        refused("a link that leads out of its folder")
        (folder / name).unlink()
        (folder / name).symlink_to(folder / name)
        refused("cannot read")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refused("is no file but a pipe")
        shutil.rmtree(folder)
    folder = write(tmp_path / "set" / "problem_7")
    (folder / "base_solution.json").write_text("[" * 100_000)
    refused("not JSON")
    (folder / "base_solution.json").write_bytes(b"\xff{}")
    refused("cannot read")
    write(folder)
    monkeypatch.setattr(layout, "LARGEST", 10)
    refused("at most 10 are read")
    folder = tmp_path / ("x" * 300)
    refused("is no folder")


def test_mutated_folders_are_read_or_refused(tmp_path):
    draw, outcomes = random.Random(7), []
    strange = [None, True, 3, 1.5, "", "x", "\0", [], {}, [[]], {"a": 1}, "1" * 5000, -1, ["0"]]
    for number in range(250):
        files = json.loads(json.dumps(FILES))
        name = draw.choice([*files])
        target = draw.choice(files[name]) if isinstance(files[name], list) else files[name]
        target[draw.choice([*target])] = draw.choice(strange)
        folder = write(tmp_path / str(number) / "problem_7", files)
        try:
            outcomes.append(len(list(layout.rollouts(folder, True))))
        except RinglensError as error:
            outcomes.append("refused" if len(str(error)) < 600 else "a long sentence")
    assert "a long sentence" not in outcomes
    print({each: outcomes.count(each) for each in outcomes})
    assert 20 < outcomes.count("refused") < 230
