"""Shared by all tests: quiet libraries, one thread; and a served store in a browser."""

import os
import signal
import sys

import pytest
from browser import browser, served
from hypothesis import settings
from paths import TESTS
from slow_files import EVERYTHING, EXTRA, SLOW, extra_tests, in_part

# Tiny models gain nothing from threads, and parallel tests lose much by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# Hundreds of processes import the same files, which are compiled once, whatever is set outside.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A shell that starts a job in the background has it, and all it starts, ignore Ctrl-C; what some
# tests send to programs is just that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example has a deadline: how long one takes says more of the machine than of the code. Every run
# draws the same examples, so that a newcomer's run passes if ours did; RINGLENS_FUZZ draws others.
settings.register_profile(
    "ringlens",
    deadline=None,
    derandomize="RINGLENS_FUZZ" not in os.environ,
    max_examples=100 if EVERYTHING else 40,
)
settings.load_profile("ringlens")

FAST = bool(os.environ.get("RINGLENS_FAST"))
collect_ignore = [*(SLOW if FAST else ()), *(() if EVERYTHING else EXTRA)]


def pytest_ignore_collect(collection_path):
    """Fuzzes are left out too, whatever their door."""
    return (FAST and collection_path.name.startswith("test_fuzz_")) or None


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Leave out extra tests; the files that take long come first, so that no worker is left alone.

    A file is one worker's (`--dist loadfile`), which makes what its tests share once.
    """
    extra = {TESTS / file: names for file, names in extra_tests().items()}
    files = {TESTS / file for file in EXTRA}
    for item in items:
        if item.path in files or item.name in extra.get(item.path, ()):
            item.add_marker(pytest.mark.extra)
        if item.get_closest_marker("extra") and not EVERYTHING:
            item.add_marker(pytest.mark.skip(reason="RINGLENS_EXTRA=1 runs it"))
    items[:] = [
        item for item in items if not item.get_closest_marker("extra") or in_part(item.nodeid)
    ]
    place = {TESTS / name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path, len(SLOW)))


@pytest.fixture(scope="module")
def address(store):
    """Where the dashboard of the module's ``store`` is served."""
    with served(store.path) as url:
        yield url


@pytest.fixture(scope="module")
def chrome():
    """A headless browser."""
    with browser() as found:
        yield found
