"""Stores that something else has changed: what is read is right, refused in a sentence, or found.

RINGLENS_FUZZ sets how many.
"""

import os
import random
import resource
import shutil
import socket
import sqlite3
import time
from pathlib import Path

import pytest
from rich_store import write_rich_store

from ringlens.errors import RinglensError
from ringlens.store import Store
from ringlens.store.check.check import check

COUNT = int(os.environ.get("RINGLENS_FUZZ", "60"))
MEMORY = 500 * 2**20
SECONDS = 20.0
"""CPU of one store, with all reads and the check: a hundred times what it takes."""

TABLES = ("runs", "traces", "tokens", "routing", "router_logits", "heads", "usage_traces")
GARBAGE = (
    *(b"", b"\0", b"null", b"[]", b"{}", b"{", b"nan", b"\xff\xfe", b"1" * 5_000, b'"a"'),
    *(b'{"format_version": %s}' % v for v in (b"true", b"-1", b'"2"', b"1e400", b"[2]", b"99")),
    *(b"[" * 100_000, b'{"a":' * 100_000, b'{"format_version": ' + b"9" * 10_000 + b"}"),
)
VALUES = (
    *(None, "", "a", b"\xff\0", -1, 0, 2**62, 1.5, "../../outside", "/etc/passwd", "\0"),
    *("routing/run=x/part-1.parquet", "[" * 50_000, "nan", '{"experts": "many"}', "{}", "[]"),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Three traces in two commits, one of which still runs, and what they hold."""
    path = tmp_path_factory.mktemp("fuzzed") / "store"
    write_rich_store(path, ended=(20, 12), running=(9, 16))
    with Store(path) as store:
        return path, held(store)


def held(store):
    """All rows of some tables; the sentence where they are refused."""
    found = {}
    for table in TABLES:
        try:
            found[table] = store.sql(f"from {table} order by all").fetchall()
        except RinglensError as error:
            found[table] = str(error)
    for trace_id in (1, 3):
        try:
            trace = store.trace(trace_id)
            arrays = trace.routing(1)
            found[f"trace {trace_id}"] = (
                trace.text,
                arrays["weights"].tolist(),
                arrays["expert_ids"].tolist(),
            )
        except RinglensError as error:
            found[f"trace {trace_id}"] = str(error)
    return found


def a_file(path, draw):
    return draw.choice(sorted(path.rglob("*.parquet")))


def flip(path, draw):
    file = draw.choice([a_file(path, draw), path / "manifest.sqlite"])
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def cut(path, draw):
    file = draw.choice([a_file(path, draw), path / "manifest.sqlite", path / "store.json"])
    content = file.read_bytes()
    file.write_bytes(content[: draw.randrange(len(content))])


def grow(path, draw):
    with a_file(path, draw).open("ab") as file:
        file.write(draw.randbytes(draw.randrange(1, 99)))


def remove(path, draw):
    a_file(path, draw).unlink()


def swap(path, draw):
    first, second = a_file(path, draw), a_file(path, draw)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


def replace_by_other(path, draw):
    names = ("store.json", "manifest.sqlite", "manifest.sqlite-wal", "staging")
    place = draw.choice([a_file(path, draw), *(path / name for name in names)])
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    kind = draw.randrange(4)
    if kind == 0:
        os.mkfifo(place)
    elif kind == 1:
        place.mkdir()
    elif kind == 2:
        place.symlink_to(draw.choice(["/dev/zero", "/dev/null", "/nowhere", str(place)]))
    else:
        before = os.getcwd()
        os.chdir(place.parent)  # a socket's address is short
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(place.name)
        os.chdir(before)


def garbage(path, draw):
    draw.choice([path / "store.json", a_file(path, draw), path / "store.json"]).write_bytes(
        draw.choice(GARBAGE)
    )


def change_manifest(path, draw):
    manifest = sqlite3.connect(path / "manifest.sqlite")
    table = draw.choice(["runs", "files", "commits", "files", "retired"])
    names = [row[1] for row in manifest.execute(f"pragma table_info({table})")]
    column, value = draw.choice(names), draw.choice(VALUES)
    try:
        if table == "retired":
            manifest.execute("insert into retired values (?, '2000')", (value,))
        else:
            rows = [row for (row,) in manifest.execute(f"select rowid from {table}")]
            query = f"update {table} set {column} = ? where rowid = ?"
            manifest.execute(query, (value, draw.choice(rows)))
        manifest.commit()
    except sqlite3.Error:  # what the table itself refuses
        manifest.rollback()
    manifest.close()


def forget(path, draw):
    manifest = sqlite3.connect(path / "manifest.sqlite")
    table = draw.choice(["files", "runs", "commits", "owners"])
    rows = [row for (row,) in manifest.execute(f"select rowid from {table}")]
    manifest.execute(f"delete from {table} where rowid = ?", (draw.choice(rows),))
    manifest.commit()
    manifest.close()


CHANGES = (
    *(flip, cut, grow, remove, swap, replace_by_other, garbage),
    *(change_manifest, change_manifest, forget),
)


def looked_at(path):
    """What a reader sees, and whether a check finds anything; sentences where it is refused."""
    try:
        with Store(path) as store:
            seen = held(store)
            try:
                return seen, bool(check(store).findings)
            except RinglensError as error:
                return seen, str(error)
    except RinglensError as error:
        return str(error), True


@pytest.mark.parametrize("seed", range(COUNT))
def test_a_changed_store_is_right_or_refused_or_found(sound, tmp_path, seed):
    original, right = sound
    path = Path(shutil.copytree(original, tmp_path / "store"))
    outside = tmp_path / "outside"
    outside.write_text("not of the store")
    draw = random.Random(seed)
    change = CHANGES[seed % len(CHANGES)]
    change(path, draw)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen, found = looked_at(path)
    assert time.process_time() - start < SECONDS
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MEMORY
    assert outside.read_text() == "not of the store"
    if isinstance(seen, str):
        assert seen.strip() and "Traceback" not in seen
        return
    other = {name for name in right if seen[name] != right[name]}
    silent = {name for name in other if not isinstance(seen[name], str)}
    assert not silent or found, (
        f"{change.__name__}: other rows of {silent}, and check finds nothing"
    )
