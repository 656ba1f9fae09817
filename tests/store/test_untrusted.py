"""Paths, links, pipes and notes that others made: refused in a sentence, followed nowhere."""

import json
import multiprocessing
import os
import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from small_store import small_store
from upkeep_workers import export_until_killed
from workers import outcome, processes

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain.export import to_lines, to_safetensors, to_store, whole
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.storage.remote import RemoteFolder
from ringlens.store.storage.shared_disk import SharedDisk


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("made") / "store", tokens=12)


@pytest.fixture
def path(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "store"))


@pytest.mark.parametrize("place", ["a\0b", "file:///tmp/a\0b", "s3://a\0b/c", "\0", "a\ud800b"])
@pytest.mark.parametrize("opens", [Store, StoreWriter])
def test_a_path_that_no_file_can_have_is_refused(place, opens):
    with pytest.raises(StoreError, match="not at"):
        opens(place)


@pytest.mark.parametrize("name", ["store.json", "manifest.sqlite", "manifest.sqlite-wal"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "zeros"])
def test_nobody_waits_for_a_pipe_in_the_place_of_a_file(path, name, kind):
    (path / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path / name)
    elif kind == "folder":
        (path / name).mkdir()
    else:
        (path / name).symlink_to("/dev/zero")
    with pytest.raises(StoreError, match=name.split("-")[0]):
        Store(path)
    said = outcome(lambda: StoreWriter(path).close())  # it may make the marker anew
    assert name in str(said) or (name == "store.json" and kind != "folder")


@pytest.mark.parametrize(
    "content",
    [
        *("[" * 200_000, '{"format_version": ' * 50_000, "nan", "null", " " * 2**20 + "{}"),
        *(f'{{"format_version": {value}}}' for value in ("true", -1, "9" * 9_999)),
    ],
)
def test_a_marker_that_no_writer_wrote_is_damaged(path, content):
    (path / "store.json").write_text(content)
    for opens in (Store, StoreWriter):
        with pytest.raises(StoreError, match=r"store.json is damaged"):
            opens(path)


SHAPE = {"layers": 2, "sparse_layers": [1], "experts": 8, "experts_per_token": 2, "heads": 2}


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 100_000, "null", "[]", "{}", "x", json.dumps(SHAPE | {"more": 1})),
        *(json.dumps(SHAPE | {"experts": v}) for v in (True, "8", 8.0, -1, 10**9, None)),
        *(json.dumps(SHAPE | {"sparse_layers": v}) for v in (1, ["a"], [[1]], None)),
    ],
)
def test_a_shape_that_no_writer_noted_is_refused(path, text):
    with pytest.raises(StoreError, match="the manifest is damaged"):
        RunShape.from_json(text)
    with sqlite3.connect(path / "manifest.sqlite") as manifest:
        manifest.execute("update runs set shape = ?", (text,))
    with StoreWriter(path) as writer:
        (run_id,) = writer._manifest.runs()
        with pytest.raises(StoreError, match="is damaged"):
            writer.commit(run_id, [])


@pytest.mark.parametrize("statement", [
    "update files set path = '../../kept' where table_name = 'routing'",
    "update files set path = '/etc/passwd' where table_name = 'routing'",
    "update files set rows = 'many'",
    "update files set run_id = x'00ff'",
    "insert into retired values ('../kept', '2000')",
    "update commits set writer = '../../kept', sequence = null",
])  # fmt: skip
def test_notes_that_lead_out_of_the_store_are_followed_nowhere(path, statement):
    kept = path.parent / "kept"
    kept.write_text("not of the store")
    shutil.copy(kept, f"{kept}.lock")
    with sqlite3.connect(path / "manifest.sqlite") as manifest:
        manifest.execute(statement)
    said = outcome(lambda: StoreWriter(path).close()), outcome(lambda: Store(path).close())
    assert any("manifest.sqlite is damaged (malformed" in str(each) for each in said)
    assert kept.read_text() == Path(f"{kept}.lock").read_text() == "not of the store"


def _staging(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir(exist_ok=True)
    return tmp_path / "shared" / f"ringlens-{os.getuid()}"


@pytest.mark.parametrize("depth", [0, 1])
def test_staging_follows_no_link_and_trusts_no_open_folder(tmp_path, monkeypatch, depth):
    own = _staging(monkeypatch, tmp_path)
    folder = SharedDisk(tmp_path / "store")
    assert isinstance(folder, RemoteFolder)
    target = tmp_path / "mine"
    target.mkdir()
    place = own
    if depth:
        place = SharedDisk(tmp_path / "store").staging
        place.rmdir()
    place.symlink_to(target)
    with pytest.raises(StoreError, match="is a link"):
        _ = folder.staging
    assert list(target.iterdir()) == []
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(StoreError, match="can be written by others"):
        _ = folder.staging
    place.rmdir()
    assert stat.S_IMODE(folder.staging.lstat().st_mode) == 0o700


@pytest.mark.parametrize("form", [to_store, to_lines, to_safetensors])
def test_a_killed_export_leaves_nothing_that_the_next_does_not_remove(path, tmp_path, form):
    out = tmp_path / "out[1]*"
    reports, sends = multiprocessing.Pipe(False)
    process = processes().Process(target=export_until_killed, args=(path, out, form, sends))
    process.start()
    process.join()
    left = [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    assert len(left) == 1 and not out.exists() and reports.poll()
    with whole(out) as place:  # which another export may not take for left behind
        place.write_text("in the works")
        with Store(path) as store:
            form(store, [1, 2, 3], tmp_path / "other", None, lambda *_: None)
        with pytest.raises(StoreError, match="no trace"), Store(path) as store:
            store.trace(9)
        with whole(out) as second:
            second.write_text("second")
        assert place.read_text() == "in the works"
        out.unlink()
    assert out.read_text() == "in the works"
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_looks_like_a_leftover_and_leads_elsewhere_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    (tmp_path / ".out.ringlens-abc").symlink_to(tmp_path / "mine")
    with whole(tmp_path / "out") as place:
        place.write_text("done")
    assert (tmp_path / "mine" / "file").exists() and (tmp_path / "out").read_text() == "done"
