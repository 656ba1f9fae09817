"""Mutated files of every kind: problems that can be asked, or a sentence.

``RINGLENS_FUZZ=10`` makes ten times as many.
"""

import io
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ringlens as rl
from ringlens.errors import ProblemError
from ringlens.problem import check_problem, check_prompt

MANY = int(os.environ.get("RINGLENS_FUZZ", "1"))
PROMPTS = ["Why?", "Schreibe über 😀, bitte", 'Say "no"', "one\ntwo", "x" * 300]


def parquet():
    file = io.BytesIO()
    pq.write_table(pa.table({"n": range(5), "q": PROMPTS}), file)
    return file.getvalue()


FILES = {
    "a.txt": ("\n".join(PROMPTS).encode(), {}),
    "a.json": (b'["Why?", {"prompt": "a", "answer": "b"}, {"messages": [{"role": "user", '
               b'"content": "c"}]}]', {}),
    "chat.json": (b'[{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]', {}),
    "a.jsonl": (b'{"prompt": "a"}\n{"messages": [{"role": "user", "content": "c"}]}\n', {}),
    "a.csv": ('n,q\n1,"Say ""no"", and\nmore"\n2,über\n'.encode(), {"column": "q"}),
    "a.parquet": (parquet(), {"column": "q"}),
    "": (b'{"prompt": "a"}\nWhy?\n', {}),
}  # fmt: skip
SPLICES = [
    b"", b"\0", b"\xff", b"\n", b"\r", b"{", b"[", b'"', b"\\", b",", b"\xef\xbb\xbf", b"PAR1",
    b'\\ud800', b"\xff\xfe", b"\x80" * 9, b"[" * 10**5, b"q" * 10**5, b'","', "\u2028".encode(),
]  # fmt: skip


def mutated(draw, content):
    for _ in range(draw.randint(0, 2)):
        at = draw.randrange(len(content))
        content = content[:at] + draw.choice(SPLICES) + content[at + draw.randint(0, 3) :]
    return content if draw.random() < 0.9 else content[: draw.randrange(len(content))]


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_are_read_or_refused_in_a_sentence(name, tmp_path):
    content, options = FILES[name]
    draw, outcomes = random.Random(name), set()
    for _ in range(100 * MANY):
        changed = mutated(draw, content)
        (tmp_path / (name or "x")).write_bytes(changed)
        source = tmp_path / name if name else io.BytesIO(changed)
        said = None
        try:
            found = rl.problems(source, **options)
        except ProblemError as error:
            said, found = str(error), []
        outcomes.add("read" if said is None else "refused")
        assert said is None or (len(said) < 700 and "\n" not in said), changed
        assert len({problem.id for problem in found}) == len(found)
        for problem in found:
            check_problem(problem, "again")
            check_prompt(problem.prompt, "again")
    assert outcomes == {"read", "refused"}
