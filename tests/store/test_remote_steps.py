"""A commit at an address, stopped at each of its requests in turn."""

import os
import secrets
from contextlib import contextmanager
from itertools import count

import pytest
from records import part
from same_rows import assert_same
from workers import RUN, kinds
from writers import assert_nothing_left, assert_whole

from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.manifest import object_log

STEP = 1 if os.environ.get("RINGLENS_EXTRA") else 5

FIRST, SECOND = kinds()[:2]


class Death(BaseException):
    """The process is gone: nothing after it is done."""


def stop(folder, requests, how):
    """Let a folder make some more requests; then die before one, die after it, or fail it once."""
    calls, left = folder._calls, [requests]

    @contextmanager
    def stopping():
        left[0] -= 1
        if left[0] < 0 and how != "fails":
            raise Death
        if left[0] == 0 and how != "dies after":
            raise OSError("the server hung up") if how == "fails" else Death
        with calls():
            yield
        if left[0] == 0:
            raise Death

    folder._calls = stopping


def end(writer):
    """What the kernel does with a process that was killed."""
    lock = writer._lock._lock
    writer._lock._released.set()
    os.close(lock._handle)
    # Python finds this object again when it is collected: another file may have the number by then.
    lock.release = lambda: None


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr(object_log.time, "sleep", lambda seconds: None)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("how", ["dies before", "dies after", "fails"])
def test_a_commit_stopped_at_each_request(how):
    """The commit goes on with one trace and adds another: files are replaced, too."""
    stopped = 0
    for requests in count(1, STEP):
        address = f"memory://{secrets.token_hex(4)}/store"
        writer = StoreWriter(address)
        run_id = writer.start_run(RUN)
        (trace_id,) = writer.commit(run_id, [part(FIRST, 0, 10, None)])
        stop(writer.folder, requests, how)
        ids = None
        try:
            ids = writer.commit(run_id, [part(FIRST, 10, 20, trace_id), SECOND])
        except (Death, StoreError):
            stopped = requests
        with Store(address) as store:
            found = assert_whole(address)
            assert len(store.trace(trace_id)) == (10 if len(found) == 1 else 20)
            assert ids is None or found == ids
            assert found in ([1], [1, 2])
        del writer.folder._calls
        if how == "fails" and ids is None:
            records = [part(FIRST, 10, 20, trace_id), SECOND]
            ids = writer.commit(run_id, records) if len(found) == 1 else found
        end(writer)
        assert_nothing_left(address)
        with StoreWriter(address) as other, Store(address) as store:
            new = other.commit(other.start_run(RUN), [SECOND])
            assert new[0] > max(found)
            assert_same(store.trace(new[0]), SECOND, RUN)
        if requests > stopped + STEP:  # also those whose failure is passed over are behind
            break
    assert stopped > 12  # files, the reservation and the completion, and looks for newer entries
