"""Shared by all tests: quiet libraries, one thread; and a served store in a browser."""

import os

import pytest
from browser import browser, served
from hypothesis import settings

# Tiny models gain nothing from threads, and parallel tests lose much by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# No example has a deadline: how long one takes says more of the machine than of the code.
settings.register_profile("ringlens", deadline=None)
settings.load_profile("ringlens")


def pytest_collection_modifyitems(items):
    """Leave out what takes four processes or repeats a point: RINGLENS_EXTRA=1 runs it."""
    if os.environ.get("RINGLENS_EXTRA"):
        return
    for item in items:
        if item.get_closest_marker("extra"):
            item.add_marker(pytest.mark.skip(reason="RINGLENS_EXTRA=1 runs it"))


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
