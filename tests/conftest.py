"""Shared by all tests: quiet libraries, one thread; and a served store in a browser."""

import os

import pytest
from browser import browser, served
from hypothesis import settings

# Tiny models gain nothing from threads, and parallel tests lose much by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# No example has a deadline: how long one takes says more of the machine than of the code. Every run
# draws the same examples, so that a newcomer's run passes if ours did; RINGLENS_FUZZ draws others.
settings.register_profile("ringlens", deadline=None, derandomize="RINGLENS_FUZZ" not in os.environ)
settings.load_profile("ringlens")

SLOW = [
    f"test_{name}.py"
    for name in (
        # programs and processes
        "cli", "cli_plan", "cli_sql", "docs", "packaging", "parallel_model", "points_parallel",
        "session_interrupted", "session_killed", "session_s3", "session_sharded",
        "store_processes", "store_remote", "store_remote_processes", "store_remote_steps",
        "store_upkeep_kills", "store_peers", "store_disks", "recording", "tracing",
        "sandbox", "sandbox_attacks", "sandbox_refusal", "import_live",
        "import_saved",
        # the served app
        "app_browser", "app_browser_sql", "app_bundle", "app_pages", "app_sql", "app_imported",
        "app_access", "app_following",
        # histories, models and plans in many sizes
        "store_accidents", "store_check", "store_compact", "store_delete", "store_head_blocks",
        "store_parts", "store_reading", "store_usage", "loading", "nano", "quantization",
        "family", "placement", "session",
        "session_nonfinite", "store_intact",
    )
]  # fmt: skip
"""Files that RINGLENS_FAST=1 leaves out, with tests marked slow or browser (`make test-fast`)."""

FAST = bool(os.environ.get("RINGLENS_FAST"))
collect_ignore = SLOW if FAST else []


def pytest_ignore_collect(collection_path):
    """Fuzzes are left out too, whatever their door."""
    return (FAST and collection_path.name.startswith("test_fuzz_")) or None


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
