"""The manifest as an object log: who wins, who tries again, what a newcomer reads."""

import json
import sqlite3
import threading
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringlens.store.manifest import object_log
from ringlens.store.manifest.manifest import Completion, File, Manifest, Start
from ringlens.store.manifest.object_log import ObjectLog

TABLES = ("runs", "commits", "files", "retired", "owners", "gone")


class Objects:
    """Objects in a dict; creating one is atomic."""

    address = "test://objects"

    def __init__(self):
        self.content, self.lock, self.reads = {}, threading.Lock(), 0
        object_log._written.clear()

    def read_many(self, paths):
        self.reads += 1
        return [self.content.get(path) for path in paths]

    def create(self, path, content):
        with self.lock:
            if path in self.content:
                raise FileExistsError(path)
            self.content[path] = content

    def write(self, path, content):
        self.content[path] = content


def opened(objects, **options):
    return Manifest.in_memory(partial(ObjectLog, objects, **options))


def rows(manifest):
    """Everything that a manifest holds."""
    manifest.journal.catch_up()
    query = "select * from {} order by 1"
    return {name: manifest._connection.execute(query.format(name)).fetchall() for name in TABLES}


def file(path):
    return File(path, "tokens", "r", 1, 1, 10, 100, "sum")


def commit(manifest, name="a", path=None, **options):
    reserved = manifest.reserve("r", name, traces=1)
    outcome = manifest.complete(reserved, [file(path or f"f{reserved.commit_id}")], **options)
    return reserved, outcome


def test_every_process_sees_the_same():
    objects = Objects()
    one, two = opened(objects), opened(objects)
    commit(one, started=Start("{}", "print"))
    commit(two, retire=["f1"])
    two.forget(two.reserve("r", "b", traces=4))
    one.reserve("r", "c", traces=2)
    assert rows(one) == rows(two) == rows(opened(objects))
    assert [each.path for each in opened(objects).snapshot()[2]] == ["f2"]


def test_a_conflict_is_tried_again_on_what_there_is_then():
    objects = Objects()
    slow, fast = opened(objects), opened(objects)
    tries = []

    def work():
        tries.append(fast.reserve("r", "fast", 1) if not tries else None)
        return slow._connection.execute("select count(*) from commits").fetchone(), (
            slow._connection.execute("insert into gone values ('x')")
        )

    assert slow.journal.transact(work)[0] == (1,)
    assert len(tries) == 2
    assert rows(slow) == rows(fast)


def test_two_that_replace_the_same_file():
    objects = Objects()
    one, two = opened(objects), opened(objects)
    commit(one, path="old")
    first, second = one.reserve("r", "a", 0), two.reserve("r", "b", 0)
    assert one.complete(first, [file("x")], retire=["old"]) is Completion.DONE
    assert two.complete(second, [file("y")], retire=["old"]) is Completion.OUTDATED
    assert [each.path for each in two.snapshot()[2]] == ["x"]
    assert [commit.commit_id for commit in one.reservations()] == [second.commit_id]


def test_what_was_taken_over_cannot_be_completed():
    objects = Objects()
    one, two = opened(objects), opened(objects)
    reserved = one.reserve("r", "a", 1)
    assert two.take_over(reserved, "b")
    assert one.complete(reserved, [file("x")]) is Completion.CLEARED
    assert not two.take_over(reserved, "c")  # it is b's now
    two.forget(reserved)
    assert one.reserve("r", "a", 1).commit_id > reserved.commit_id  # numbers are not given twice


@pytest.mark.parametrize("threads", [4])
def test_many_writers(threads):
    objects = Objects()

    def write(name):
        manifest = opened(objects)
        for _ in range(15):
            assert commit(manifest, name)[1] is Completion.DONE

    workers = [threading.Thread(target=write, args=(f"w{i}",)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = rows(opened(objects))["commits"]
    numbers = [row[0] for row in found]
    firsts = sorted(row[3] for row in found)
    sequences = sorted(row[6] for row in found)
    assert numbers == firsts == sequences == list(range(1, 15 * threads + 1))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["commit", "retire", "forget", "own", "gone"]), max_size=60))
def test_a_checkpoint_stands_for_the_entries(steps):
    """However a log goes on: with a checkpoint or from the first entry, the same is read."""
    object_log_every, object_log.CHECKPOINT_EVERY = object_log.CHECKPOINT_EVERY, 5
    try:
        objects = Objects()
        manifest = opened(objects)
        for number, step in enumerate(steps):
            if step == "commit":
                commit(manifest, f"n{number}", f"p{number}")
            elif step == "retire":
                old = [each.path for each in manifest.snapshot()[2]]
                commit(manifest, f"n{number}", f"p{number}", retire=old)
            elif step == "forget":
                manifest.forget(manifest.reserve("r", "x", 2))
            elif step == "own":
                manifest.take("r", f"w{number}", set)
            else:
                manifest.forget_retired(manifest.retired("9")[:1])
        checkpoints = [path for path in objects.content if "checkpoint" in path]
        assert len(checkpoints) == manifest.journal._newest // 5
        new = opened(objects)
        assert rows(new) == rows(manifest)
        next_one = new.reserve("r", "n", 1)
        for path in [*checkpoints, object_log.LATEST]:
            objects.content.pop(path, None)
        old = opened(objects)
        assert rows(old) == rows(new)
        assert old.reserve("r", "n", 1).commit_id == next_one.commit_id + 1
    finally:
        object_log.CHECKPOINT_EVERY = object_log_every


def test_a_newcomer_reads_a_checkpoint_and_what_follows():
    objects = Objects()
    manifest = opened(objects)
    for _ in range(150):
        commit(manifest)
    objects.reads = 0
    assert len(opened(objects).snapshot()[2]) == 150
    assert objects.reads <= 5  # the pointer, the checkpoint, entries in three batches


def test_a_reader_looks_seldom_but_sees_its_own_process():
    objects = Objects()
    writer, reader = opened(objects), opened(objects, fresh=1000)
    assert reader.sequence() == 0
    objects.reads = 0
    for _ in range(5):
        assert reader.sequence() == 0
    assert objects.reads == 0
    commit(writer)
    assert reader.sequence() == 1
    object_log._written.clear()  # as if another process had written
    commit(writer)
    object_log._written.clear()
    assert reader.sequence() == 1
    reader.journal._read_at -= 2000
    assert reader.sequence() == 2


@pytest.mark.parametrize("arrives", [True, False])
def test_an_answer_that_was_lost(monkeypatch, arrives):
    objects = Objects()
    manifest = opened(objects)
    create, failures = objects.create, [OSError("gone")] * (1 if arrives else 3)

    def failing(path, content):
        if arrives:
            create(path, content)
        if failures:
            raise failures.pop()
        create(path, content)

    monkeypatch.setattr(objects, "create", failing)
    monkeypatch.setattr(object_log.time, "sleep", lambda _: None)
    if arrives:
        assert manifest.reserve("r", "a", 1).commit_id == 1
    else:
        with pytest.raises(OSError, match="gone"):
            manifest.reserve("r", "a", 1)
        assert rows(manifest)["commits"] == []
        assert manifest.reserve("r", "a", 1).commit_id == 1
    assert len(rows(opened(objects))["commits"]) == 1


@pytest.mark.parametrize(
    "entry",
    [
        "no json",
        '{"changes": [{"table": "sqlite_master", "put": {"sql": "x"}}]}',
        '{"changes": [{"table": "files", "put": {"path) values (1); --": 1}}]}',
        '{"changes": [{"table": "files; drop table files", "drop": {"path": "x"}}]}',
    ],
)
def test_a_strange_entry_runs_nothing(entry):
    objects = Objects()
    commit(opened(objects))
    objects.create(object_log._path(3), entry.encode())
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        opened(objects).sequence()


def test_entries_say_what_changed():
    objects = Objects()
    manifest = opened(objects)
    manifest.forget(manifest.reserve("r", "a", 1))
    dropped = json.loads(objects.content["manifest/00000002.json"])["changes"]
    assert dropped == [{"table": "commits", "drop": {"commit_id": 1}}]
