"""Stores of one run, for tests that only read them."""

from records import random_run, random_trace

from ringlens.store import StoreWriter


def write_run(path, run, traces):
    """A store with these traces in one commit of one finished run; returns its path."""
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, traces)
        writer.finish_run(run_id)
    return path


def small_store(path, tokens=60):
    """A store of three random traces of so many tokens; returns its path."""
    run = random_run()
    return write_run(path, run, [random_trace(run, tokens, seed=i) for i in range(3)])
