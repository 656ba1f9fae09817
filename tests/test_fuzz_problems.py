"""Mutated problem files, prompts and settings: each gives what it should, or a sentence.

``RINGLENS_FUZZ=10`` makes ten times as many.
"""

import json
import os
import random

import pytest

from ringlens.errors import ProblemError, RinglensError
from ringlens.problem import HUGE, check_problem, grade
from ringlens.prompts.problems import problems
from ringlens.prompts.stream import LARGEST

MANY = int(os.environ.get("RINGLENS_FUZZ", "1"))

ROWS = [
    {"id": "a", "task": "sum", "prompt": "1 + 1?", "answer": "2", "fields": {"level": 1}},
    {"id": "b", "task": "countdown", "prompt": "Make 20 from 3, 7, 5, using each number once.",
     "answer": "5 * (7 - 3)", "fields": {"numbers": [3, 7, 5], "target": 20}},
    {"id": "ü", "task": "countdown", "prompt": "Make 8 from 3, 5, using each number once."},
    {"id": "d", "task": "essay", "prompt": "Schreibe über 😀", "answer": None},
]  # fmt: skip
STRANGE = [
    None, True, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", " ", "\0", "\ud800", "a\udfffb",
    "x" * 5000, [], [[]], [1], {}, {"numbers": []}, {"numbers": [1], "target": True},
    {"numbers": [3, 5], "target": 8}, {"numbers": [10**30], "target": 1}, "countdown", "b",
    "Make 8 from 3, 5, using each number once.", f"Make {10**40} from 1, using each number once.",
    "(" * 150, "1" * 190, "1/0 = 1", "9**9**9**9",
]  # fmt: skip
SPLICES = [
    b"", b"\0", b"\xff", b"\n", b"\r", b"{", b"}", b"[", b'"', b"\\", b"\\ud800", b"\\u0000", b",",
    b":", b"null", b"1e999", b"NaN", b"\xef\xbb\xbf", b"[" * 100_000, b'{"a":' * 50_000,
    b"9" * 10_000, "\u2028".encode(), b'"id": "b", ', "\U0001f600".encode()[:2],
]  # fmt: skip


def mutated(draw):
    """The bytes of a problem file with one to three things changed."""
    rows = [dict(row) for row in ROWS]
    for _ in range(draw.randint(0, 2)):
        row = draw.choice(rows)
        row[draw.choice([*row, "answer", "fields", "level"])] = draw.choice(STRANGE)
    content = b"\n".join(json.dumps(row).encode() for row in rows)
    for _ in range(draw.randint(0, 2)):
        at = draw.randrange(len(content))
        content = content[:at] + draw.choice(SPLICES) + content[at + draw.randint(0, 3) :]
    return content


def check(file):
    """Read a file: problems that can be graded and stored, or a sentence."""
    try:
        found = problems(file)
    except ProblemError as error:
        sentence = str(error)
    else:
        return _usable(found)
    assert len(sentence) < 600 and "\n" not in sentence
    return 0


def _usable(found):
    for problem in found:
        check_problem(problem, "again")
        for text in ("", "</think>", f"</think>{problem.answer}", "</think>" + "(" * 300):
            grade(problem, text)
        json.dumps(vars(problem), ensure_ascii=False).encode()
    return 1


@pytest.mark.parametrize("seed", range(10))
def test_mutated_files_are_read_or_refused_in_a_sentence(seed, tmp_path):
    draw, good, file = random.Random(seed), 0, tmp_path / "set.jsonl"
    for _ in range(30 * MANY):
        file.write_bytes(mutated(draw))
        good += check(file)
    assert 0 < good < 30 * MANY  # both outcomes are seen


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"id": "a", "task": "t", "prompt": "a\\ud800b"}', "'prompt' holds half of a surrogate"),
        ('{"id": "\\udfff", "task": "t", "prompt": "p"}', r"'id' holds .*U\+DFFF at character 0"),
        ('{"id": "a", "task": "t", "prompt": "p", "prompt": "q"}', "'prompt' stands twice"),
        ('{"id": "a", "task": "t", "prompt": ' + "9" * 5000 + "}", "not JSON"),
        ('{"id": "a", "task": "countdown", "prompt": "Make ' + "9" * 5000 + ' from 1."}', "needs"),
        ('{"id": "a", "task": "countdown", "prompt": "p", "fields": {"numbers": [1], "target": '
         f"{HUGE + 1}}}}}", "fields of countdown"),
    ],
    ids=range(7),
)  # fmt: skip
def test_lines_that_no_store_could_keep(line, said, tmp_path):
    (tmp_path / "set.jsonl").write_text(line + "\n")
    with pytest.raises(ProblemError, match=said) as caught:
        problems(tmp_path / "set.jsonl")
    assert "line 1" in str(caught.value) and len(str(caught.value)) < 600


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as sparse:
        sparse.truncate(LARGEST + 1)
    for name, said in (("pipe", "but a pipe"), ("link", "but a pipe"), (".", "a folder"),
                       ("large", "at most 1 GiB"), ("a\0b", "no problems"),
                       ("x" * 300, "no problems")):  # fmt: skip
        with pytest.raises(ProblemError, match=said):
            problems(tmp_path / name)
    for other in ("/dev/zero", "", "\0", 5, None, b"countdown", ["countdown"]):
        with pytest.raises(ProblemError):
            problems(other)


@pytest.mark.parametrize("name", ["n", "seed"])
def test_how_many_is_a_whole_number(name):
    import numpy as np

    assert problems("countdown", **{"n": 3, name: np.int64(2)})
    for value in (True, 2.0, "2", [2], np.bool_(True), 10**30, float("nan")):
        with pytest.raises(RinglensError, match=f"{name} = "):
            problems("countdown", **{"n": 3, name: value})


@pytest.fixture(scope="module")
def lens():
    import tiny_lens

    return tiny_lens.lens()


PROMPTS = [
    "t5. t6.", "t7.", " ", "", "\0", "\ud800", "x" * 300, "<think>", "</think>", "😀", "\u202e",
    None, 5, b"t5.", [], [5, 6], [384], [-1], [True], [1.5], ["t5."], {}, {"a": 1},
    {"input_ids": [5]}, [{"role": "user", "content": "t5."}],
    {"input_ids": [5, 6], "attention_mask": [0, 1]},
    {"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1]},
]  # fmt: skip
SETTINGS = {
    "max_new_tokens": [1, 2, 0, -1, True, 1.0, "1", None, float("nan"), 2**40],
    "temperature": [0, 0.7, -1, float("nan"), float("inf"), 1e-40, "0", True, 10**400],
    "top_k": [0, 3, 10**6, 2**40, -1, 1.5, None],
    "top_p": [1, 0.5, 0, 1.1, float("nan"), "1", 1e-300],
    "seed": [0, 2**31 - 1, 2**31, -1, True, 0.0, None],
    "batch_size": [1, 7, 0, True, 2.0, None, "2"],
    "commit_every": [0, 5, float("inf"), float("nan"), -1, None, "1"],
    "record": [
        (),
        ["routing"],
        "routing",
        None,
        5,
        ["routing", "routing"],
        ["resid_post@9"],
        [b""],
    ],
    "seeed": [1],
}


def fields(draw):
    """A problem's fields, of which some may be strange."""
    given = {"id": "a", "task": draw.choice(["", "sum", "countdown"]), "prompt": "t5.",
             "answer": draw.choice([None, "8", "3 + 5"]),
             "fields": draw.choice([{}, {"numbers": [3, 5], "target": 8}])}  # fmt: skip
    if draw.random() < 0.5:
        given[draw.choice(list(given))] = draw.choice(STRANGE)
    return given


@pytest.mark.parametrize("seed", range(4))
def test_mutated_prompts_and_settings_are_captured_or_leave_nothing(seed, lens, tmp_path):
    import ringlens as rl
    from ringlens.problem import Problem

    draw, done = random.Random(seed), 0
    for number in range(10 * MANY):
        prompts = [draw.choice([draw.choice(PROMPTS[:2]), draw.choice(PROMPTS),
                                Problem(**fields(draw))]) for _ in range(2)]  # fmt: skip
        settings = {"max_new_tokens": 1, "record": []}
        if draw.random() < 0.4:
            name = draw.choice(list(SETTINGS))
            settings[name] = draw.choice(SETTINGS[name])
        folder = tmp_path / str(number)
        try:
            store = rl.capture(lens, prompts, folder, **settings)
        except RinglensError as error:
            sentence = str(error)
        else:
            with store:
                assert store.sql("select count(*) from traces").fetchall() == [(2,)]
                assert store.sql("select count(*) from runs where finished is null").fetchall() == [
                    (0,)
                ]
            done += 1
            continue
        assert len(sentence) < 600 and not folder.exists()
    assert 0 < done < 10 * MANY


def test_a_problem_that_only_its_fields_explain_is_replayed_with_its_grade(lens, tmp_path):
    import ringlens as rl
    from ringlens.problem import Problem

    problem = Problem("a", "countdown", "t5. t6.", None, {"numbers": [3, 5], "target": 8})
    store = rl.capture(lens, [problem], tmp_path / "s", max_new_tokens=2, record=[])
    row = rl.replay(lens, store, tmp_path / "again", record=[]).trace(1).summary
    first = store.trace(1).summary
    assert first["correct"] is False
    for name in ("problem_id", "task", "answer", "expected", "correct"):
        assert row[name] == first[name]


def test_problems_of_saved_answers_are_checked_before_they_are_read(tmp_path):
    from ringlens.problem import Problem
    from ringlens.serving.importing import import_responses

    lost = Problem("a", "countdown", "Please.")
    with pytest.raises(ProblemError, match="problem 0: countdown needs fields"):
        import_responses("vllm", [], tmp_path / "s", model="ring-nano", problems=[lost])
    with pytest.raises(ProblemError, match="problem 0 is a str"):
        import_responses("vllm", [], tmp_path / "s", model="ring-nano", problems=["Hi"])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("place", ["a\0b", 5, None, "x" * 300, b"abc", "\ud800x"])
def test_places_that_no_store_can_have_are_refused(place):
    from ringlens.errors import StoreError
    from ringlens.store import Store, StoreWriter

    for opens in (Store, StoreWriter):
        with pytest.raises(StoreError, match="not at"):
            opens(place)
