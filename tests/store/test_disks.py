"""A writer on a real file system of its own that is full, turns read-only, or is slow."""

import os
import subprocess
import sys

import pytest
from paths import SUPPORT

NO_DISK = 77

FULL = """
import shutil, sys
from pathlib import Path
from accidents import assert_story, step
from workers import PARTS, outcome
from ringlens.store import Store, StoreWriter

disk = Path(sys.argv[1])
refused = 0
with StoreWriter(disk / "store") as writer, Store(disk / "store") as store:
    run_id = writer.start_run(PARTS)
    writer.commit(run_id, [step(0, 0, 5, None), step(1, 0, 20, None)])
    length, trace_id = 20, 2
    for free in [*range(0, 250_000, int(sys.argv[2])), None]:
        ballast = disk / "ballast"
        if free is not None:
            with ballast.open("wb") as file:
                file.truncate(0)
                room = shutil.disk_usage(disk).free - free
                file.write(bytes(max(room, 0)))
        before = {str(file) for file in disk.rglob("*.p*")}
        record = step(1, length, length + 1, trace_id)
        said = outcome(lambda: writer.commit(run_id, [record, step(2, 0, 50, None)]))
        if isinstance(said, str):
            assert "the disk is full: free some space" in said, said
            assert "nothing of this commit was stored" in said
            assert {str(file) for file in disk.rglob("*.p*")} == before
            assert len(store.trace(trace_id)) == length
            refused += 1
        else:
            length += 1
            assert len(store.trace(trace_id)) == length
        for trace_id in (1, 2):
            assert_story(store.trace(trace_id))
        ballast.unlink(missing_ok=True)
    assert not isinstance(said, str), said
print(refused)
"""

READ_ONLY = """
import subprocess, sys
from pathlib import Path
from accidents import assert_story, step
from workers import PARTS, outcome
from ringlens.store import Store, StoreWriter

disk = Path(sys.argv[1])
def remount(how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

with StoreWriter(disk / "store") as writer:
    run_id = writer.start_run(PARTS)
    writer.commit(run_id, [step(0, 0, 5, None)])
remount("ro")
print(outcome(lambda: StoreWriter(disk / "store")))
with Store(disk / "store") as store:
    assert_story(store.trace(1))
remount("rw")
with StoreWriter(disk / "store") as writer:
    writer.commit(run_id, [step(0, 5, 9, 1)])
with Store(disk / "store") as store:
    assert len(store.trace(1)) == 9
    assert_story(store.trace(1))
"""


def on_a_disk(tmp_path, size, script, *args):
    """Run a script with a new file system, mounted for it alone; return the lines it printed."""
    disk, file = tmp_path / "disk", tmp_path / "script.py"
    disk.mkdir()
    file.write_text(script)
    mount = f"mount -t tmpfs -o size={size} tmpfs {disk} || exit {NO_DISK}"
    command = f"{mount}; exec {sys.executable} {file} {disk}"
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", " ".join([command, *args])],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{SUPPORT}:{SUPPORT.parent}"},
    )
    if done.returncode == NO_DISK or done.stderr.startswith("unshare"):
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_disk_with_too_little_room_refuses_until_there_is_enough(tmp_path):
    """From no byte to room for a commit: wherever it ends, nothing is left, then all goes on."""
    (refused,) = on_a_disk(tmp_path, "4m", FULL, "25_000")
    assert int(refused) >= 2


def test_a_disk_that_turns_read_only_is_read_and_written_again_later(tmp_path):
    (opening,) = on_a_disk(tmp_path, "4m", READ_ONLY)
    assert "the disk is read-only: give a store on a disk that can be written" in opening
    assert "the store was not opened for writing" in opening
