"""File systems that machines share: a local store there is refused, and what to give is said."""

import sqlite3

import pytest
from workers import RUN, kinds

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.manifest import manifest, mounts

LINE = "{} 1 8:1 / {} rw,relatime shared:1 - {} server:/export rw,vers=4.2\n"


@pytest.fixture
def mount(tmp_path, monkeypatch):
    """Adds a place and its type to the kernel's list of mounts."""
    lines = [LINE.format(1, "/", "ext4")]
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")

    def add(place, kind):
        escaped = str(place).replace("\\", "\\134").replace(" ", "\\040")
        lines.append(LINE.format(len(lines) + 1, escaped, kind))
        (tmp_path / "mountinfo").write_text("".join(lines))

    return add


def test_the_innermost_and_last_mount_counts(tmp_path, mount):
    mount(tmp_path / "a folder", "nfs4")
    mount(tmp_path / "a folder" / "scratch", "xfs")
    mount(tmp_path / "hidden", "lustre")
    mount(tmp_path / "hidden", "ext4")
    (tmp_path / "link").symlink_to(tmp_path / "a folder")
    kinds = {
        "a folder/store": "nfs4",
        "a folder/scratch/store": "xfs",
        "a folderful": "ext4",
        "hidden": "ext4",
        "link/store": "nfs4",
    }
    for name, kind in kinds.items():
        assert mounts.file_system(tmp_path / name) == kind


def test_this_machines_list_is_understood(tmp_path):
    assert mounts.file_system(tmp_path) not in (None, "")
    assert mounts.file_system(tmp_path) not in mounts.SHARED


def test_without_a_list_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    StoreWriter(tmp_path / "store").close()


@pytest.mark.parametrize("kind", ["nfs", "lustre", "gpfs", "fuse.glusterfs", "fuse.sshfs", "cifs"])
def test_a_new_store_on_a_shared_file_system_is_refused(tmp_path, mount, kind):
    mount(tmp_path, kind)
    with pytest.raises(StoreError, match=rf"machines share \({kind}\).*give file://{tmp_path}/s,"):
        StoreWriter(tmp_path / "s")
    assert not (tmp_path / "s" / "manifest.sqlite").exists()


def test_a_store_that_came_to_a_shared_file_system_is_read_and_not_written(tmp_path, mount):
    with StoreWriter(tmp_path / "s") as writer:
        writer.commit(writer.start_run(RUN), kinds()[:1])
    mount(tmp_path, "nfs4")
    with pytest.raises(StoreError, match="copy it to a disk of this machine to add to it"):
        StoreWriter(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        assert len(store.traces()) == 1


def test_a_disk_without_shared_memory_is_refused(tmp_path, monkeypatch):
    """SQLite says so by staying in another mode."""

    class Connection(sqlite3.Connection):
        def execute(self, query, *args):
            return super().execute(query.replace("= wal", "= delete"), *args)

    def connect(address):
        return sqlite3.connect(address, uri=True, factory=Connection)

    monkeypatch.setattr(manifest, "_connect", connect)
    with pytest.raises(StoreError, match=rf"shared memory .* give file://{tmp_path}/s"):
        StoreWriter(tmp_path / "s")


def test_what_the_refusal_says_to_give_works_and_is_found_by_its_path(tmp_path, mount):
    mount(tmp_path, "nfs4")
    with StoreWriter(f"file://{tmp_path}/s") as writer:
        writer.commit(writer.start_run(RUN), kinds()[:1])
    with StoreWriter(tmp_path / "s") as writer:
        writer.commit(writer.start_run(RUN), kinds()[:1])
    with Store(tmp_path / "s") as store:
        assert len(store.traces()) == 2
    assert not (tmp_path / "s" / "manifest.sqlite").exists()


def test_a_refused_folder_may_be_given_as_the_refusal_says(tmp_path, mount):
    """The refusal leaves nothing in it that would keep a store from being made there."""
    mount(tmp_path, "nfs4")
    with pytest.raises(StoreError, match="give file://"):
        StoreWriter(tmp_path / "s")
    with StoreWriter(f"file://{tmp_path}/s") as writer:
        writer.start_run(RUN)
