"""Problem sets through `datasets`, and answers from columns of tables."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from ringlens.errors import ProblemError
from ringlens.prompts import hub
from ringlens.prompts.problems import problems

ROWS = [
    {"question": "2 + 3?", "answer": "We add.\n#### 5", "level": 1, "solution": None},
    {"question": "2 * 3?", "answer": "#### no\n#### 6", "level": 2, "solution": "x"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A set with two splits, as the library lays them out."""
    folder = tmp_path_factory.mktemp("hub") / "sums"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        table = pa.Table.from_pylist(ROWS).slice(0, 2 if split == "test" else 1)
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def read(folder, **options):
    given = {"split": "test", "column": "question", **options}
    return problems(f"{hub.PREFIX}{folder}", **given)


def test_a_set_is_read_like_a_file(folder):
    found = read(folder, answer="answer", answer_after="####", task="sum")
    assert [(p.prompt, p.answer, p.task) for p in found] == [
        ("2 + 3?", "5", "sum"),
        ("2 * 3?", "6", "sum"),
    ]
    assert [p.id for p in found] == [p.id for p in read(folder)]
    assert [p.answer for p in read(folder)] == [None, None]
    assert [p.answer for p in read(folder, answer="level")] == ["1", "2"]
    assert len(read(folder, n=1)) == 1
    assert len(read(folder, split="train")) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": None}, "has the splits t.*; name one"),
        ({"split": "dev"}, "cannot be read"),
        ({"column": None}, "no column 'prompt'.*Columns: 'question', 'answer'"),
        ({"column": "questoin"}, "no column 'questoin'. Did you mean 'question'"),
        ({"answer": "anser"}, "no column 'anser'. Did you mean 'answer'"),
        ({"column": "level"}, "row 1: 'level' is int, and no text"),
        ({"answer": "solution"}, "row 1: 'solution' is null"),
        ({"answer": "answer", "answer_after": "@@"}, "row 1: there is no '@@'"),
        ({"answer_after": "@@"}, "give answer= too"),
        ({"answer": 3}, "must be the name of a column"),
        ({"whole": True}, "whole= belongs to text"),
        ({"n": 3}, "3 problems asked of"),
        ({"task": "multiple-choice", "answer": "answer"}, "none of the letters A to J"),
    ],
)
def test_what_does_not_fit_is_refused(folder, options, message):
    with pytest.raises(ProblemError, match=message):
        read(folder, **options)


def test_sets_that_are_not_there_are_refused(tmp_path, monkeypatch):
    for name in (f"hub:{tmp_path}/gone", "hub:", "hub:a b/c"):
        with pytest.raises(ProblemError, match=r"cannot be read|names no set"):
            problems(name, split="test")
    (tmp_path / "test.parquet").write_bytes(b"PAR1" + b"x" * 50)
    with pytest.raises(ProblemError, match="cannot be read"):
        problems(f"hub:{tmp_path}", split="test")
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(ProblemError, match=r"pip install 'ringlens\[hub\]'"):
        problems("hub:openai/gsm8k:main", split="test")


def test_tables_give_answers_too(tmp_path):
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "set.parquet")
    (tmp_path / "set.csv").write_text(
        "question,answer\n" + "".join(f"{r['question']},{json.dumps(r['answer'])}\n" for r in ROWS)
    )
    options = {"column": "question", "answer": "answer", "answer_after": "####"}
    for name in ("set.parquet", "set.csv"):
        found = problems(tmp_path / name, **options)
        assert [(p.prompt, p.answer) for p in found] == [("2 + 3?", "5"), ("2 * 3?", "6")]
    (tmp_path / "set.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(ProblemError, match="answer= belongs to tables"):
        problems(tmp_path / "set.jsonl", answer="answer")
    with pytest.raises(ProblemError, match="is a bundled task"):
        problems("countdown", task="sum")
