"""A manifest that several processes create at the same time."""

import multiprocessing

from ringlens.store.manifest.manifest import Manifest

WRITERS, FOLDERS = 4, 60


def create_all(folders, ready):
    for folder in folders:
        ready.wait()
        Manifest.create(folder).close()


def test_whoever_comes_first_the_others_wait(tmp_path):
    """SQLite waits for locks, but not for another's switch to a write-ahead log."""
    folders = [tmp_path / str(number) for number in range(FOLDERS)]
    for folder in folders:
        folder.mkdir()
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(WRITERS)
    writers = [context.Process(target=create_all, args=(folders, ready)) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        if writer.exitcode:
            ready.abort()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
