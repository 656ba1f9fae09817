"""A store with rows in every table that a capture records, and a trace that is still running."""

from records import part, random_trace
from workers import RUN, rich_trace

from ringlens.store import StoreWriter

STEP = {
    **{"trace_id": 1, "step": 0, "start": 0, "end": 2, "token_start": 0, "token_end": 1},
    "text": "ab",
    "role": "plan_generation",
}


def write_rich_store(path, ended, running, steps=()):
    """Three traces in two commits: two have ended, the third has a part so far.

    Args:
        path: The store.
        ended: Tokens of the two traces that have ended.
        running: Tokens of the third trace's part, and of the whole trace.
        steps: Rows of ``steps``.
    """
    so_far, whole = running
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [rich_trace(tokens, i) for i, tokens in enumerate(ended)])
        writer.commit(run_id, [part(random_trace(RUN, whole, seed=2), 0, so_far, None)])
        if steps:
            writer.replace_rows(run_id, "steps", steps)
