"""Values made of files: grown by new files, made anew when one has gone, bounded in bytes."""

import threading

import pytest

from ringlens.app.shared.file_cache import FileCache
from ringlens.store.manifest.manifest import File


def files(*names):
    return [File(name, "routing", "run", 1, 1, 1, 1) for name in names]


@pytest.fixture
def reads():
    return []


@pytest.fixture
def kept(reads):
    def read(key, files):
        reads.append((key, [file.path for file in files]))
        return [file.path for file in files]

    return FileCache(read, size=lambda value: 10 * len(value), limit=50, join=lambda a, b: a + b)


def test_only_new_files_are_read(kept, reads):
    assert kept.get("a", files("1", "2")) == ["1", "2"]
    assert kept.get("a", files("1", "2")) == ["1", "2"]
    assert kept.get("a", files("1", "2", "3")) == ["1", "2", "3"]
    assert reads == [("a", ["1", "2"]), ("a", ["3"])]


def test_a_file_that_has_gone_makes_it_anew(kept, reads):
    kept.get("a", files("1", "2"))
    assert kept.get("a", files("1", "3")) == ["1", "3"]
    assert reads[-1] == ("a", ["1", "3"])


def test_without_a_join_it_is_made_anew(reads):
    kept = FileCache(lambda key, files: reads.append(len(files)) or len(files), lambda value: 1, 10)
    assert [kept.get("a", files("1")), kept.get("a", files("1", "2"))] == [1, 2]
    assert reads == [1, 2]


def test_bytes_are_bounded_and_the_oldest_goes(kept, reads):
    kept.get("a", files("1", "2"))
    kept.get("b", files("1", "2"))
    kept.get("a", files("1", "2"))
    kept.get("c", files("1", "2"))  # 60 bytes: b was asked for longest ago
    assert kept.bytes == 40
    kept.get("a", files("1", "2"))
    assert len(reads) == 3
    kept.get("b", files("1", "2"))
    assert len(reads) == 4
    kept.get("d", files(*map(str, range(9))))  # larger than the bound: kept, but alone
    assert kept.bytes == 90


def test_a_read_that_fails_leaves_the_value(kept, reads):
    kept.get("a", files("1"))
    broken = FileCache(lambda key, files: 1 / 0, size=len, limit=9)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            broken.get("a", files("1"))
    assert kept.get("a", files("1")) == ["1"]


def test_one_thread_reads_while_others_wait():
    started, reads = threading.Event(), []

    def read(key, files):
        started.set()
        reads.append(key)
        threading.Event().wait(0.05)
        return key

    kept = FileCache(read, size=len, limit=100)
    threads = [threading.Thread(target=kept.get, args=("a", files("1"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == ["a"]
