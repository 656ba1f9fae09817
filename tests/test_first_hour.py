"""The first hour of a newcomer: benchmarks/first_hour.py, with programs that start warm."""

import sys

import pytest
import warm
from paths import ROOT

pytestmark = pytest.mark.browser


def test_every_wish_of_the_first_hour_works(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import first_hour

    rows = first_hour.hour(tmp_path, run=warmly)
    assert len(rows) == 19
    assert all(0 < lines <= 12 for _, lines, _, _ in rows)
    failures = [f"{name}\n{wrong}" for name, _, _, wrong in rows if wrong]
    assert not failures, "\n".join(failures)
    sys.modules.pop("first_hour")


RUN = """
import os, runpy, sys
os.dup2(os.open("given", os.O_RDONLY), 0)
sys.stdout = open(1, "w", closefd=False)  # a new pipe needs a new file object
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    sys.stdout.flush()
"""


def warmly(arguments, folder, given=None):
    """Run a module; what it is given comes through a file, as by a shell's ``<``."""
    (folder / "given").write_text(given or "")
    return warm.run(["-c", RUN, *arguments[1:]], cwd=folder)
