"""A real capture to S3 on loopback: killed, taken up by the same command, queried in place."""

import subprocess
import sys
import time
from contextlib import suppress

import pytest
from s3_server import BUCKET, reached, serve

from ringlens.errors import StoreError
from ringlens.store import Store

ADDRESS = f"s3://{BUCKET}/runs/nano"
LENGTHS = ("--n=4", "--batch-size=2", "--max-new-tokens=120", "--commit-every=0.5")
CAPTURE = ("capture", "ring-nano", *LENGTHS, "--store")


def ringlens(*arguments):
    """A process of the command line."""
    command = [sys.executable, "-m", "ringlens.cli", *arguments, ADDRESS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def running():
    """How many traces are stored in part."""
    with suppress(StoreError), Store(ADDRESS) as store:
        query = "select count(*) from traces where finish_reason = 'running'"
        return store.sql(query).fetchall()[0][0]
    return 0  # there is no store yet


@pytest.mark.extra
@pytest.mark.slow
def test_a_killed_capture_goes_on():
    with serve() as server, reached(server):
        process = ringlens(*CAPTURE)
        while running() < 2:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.kill()
        process.communicate()
        assert running() == 2
        process = ringlens(*CAPTURE)
        said, error = process.communicate()
        assert process.returncode == 0, error
        assert "4 traces" in said
        with Store(ADDRESS) as store:
            rows = store.sql(
                "select run_id, count(*), count(distinct item), max(len(resumed_at)) from traces"
                " where finish_reason <> 'running' group by all"
            ).fetchall()
            assert [row[1:] for row in rows] == [(4, 4, 1)]  # one run, each problem once
            assert len(store.runs()) == 1
            assert store.trace(1).router_logits(1).shape[0] == len(store.trace(1))
        process = ringlens("check")
        said, error = process.communicate()
        assert process.returncode == 0, error
        assert "nothing is wrong" in said
