"""Processes that write a store, and what must be true of it whatever became of them."""

import time
from contextlib import closing

from records import part
from same_rows import assert_same
from workers import (
    PARTS,
    RUN,
    processes,
    whole,
    write_parts,
)

from ringlens.store import Store, StoreWriter
from ringlens.store.manifest.manifest import Manifest
from ringlens.store.storage.folder import folder_at
from ringlens.store.storage.layout import table_names

SPARSE = len(RUN.sparse_layers)


COUNTS = """
select trace_id, n_prompt + n_think + n_answer, tokens.n, tokens.different, tokens.last,
       routing.n, router_logits.n, heads.n
from traces
left join (select trace_id, count(*) as n, count(distinct pos) as different, max(pos) as last
           from tokens group by all) tokens using (trace_id)
left join (select trace_id, count(*) as n from routing group by all) routing using (trace_id)
left join (select trace_id, count(*) as n from router_logits group by all) router_logits
using (trace_id)
left join (select trace_id, count(*) as n from heads group by all) heads using (trace_id)
order by trace_id
"""


def start(target, *args):
    """Start a worker; return it and the end of the pipe that it reports to."""
    ours, theirs = processes().Pipe(duplex=False)
    path, *rest = args
    process = processes().Process(target=target, args=(path, theirs, *rest), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def drain(reports):
    """Everything a worker reported, also when it was killed while it wrote."""
    found = []
    try:
        while True:
            found.append(reports.recv())
    except (EOFError, OSError):
        return found


def assert_whole(path):
    """Every trace has all its rows in all tables; return the ids."""
    with Store(path) as store:
        rows = store.sql(COUNTS).fetchall()
        for trace_id, n, *found in rows:
            assert found == [n, n, n - 1, n * SPARSE, n * SPARSE, n * RUN.layers], trace_id
        for table in ("tokens", "routing", "router_logits", "heads"):
            strangers = f"select count(*) from {table} anti join traces using (trace_id)"
            assert store.sql(strangers).fetchall() == [(0,)]
    ids = [row[0] for row in rows]
    assert ids == sorted(set(ids))  # one row a trace
    return ids


def assert_no_orphans(path):
    """What lies in the table folders is what the manifest has, and nothing is staged."""
    with Store(path) as store:
        known = {path / file.path for name in table_names() for file in store.files(name)}
    with closing(Manifest.read(path)) as manifest:
        known |= {path / name for name in manifest.retired(before="9999")}
    assert {file for name in table_names() for file in path.glob(f"{name}/**/*.*")} == known
    assert list((path / "staging").iterdir()) == []


def assert_nothing_left(address):
    """After a writer has swept, nothing lies there that the manifest does not know."""
    StoreWriter(address).close()
    folder = folder_at(address)
    with Store(address) as store:
        known = {file.path for files in store.snapshot().values() for file in files}
        known |= set(store._manifest.retired("9999"))
    found = {
        f"{table}/{run}/{name}"
        for table in folder.names()
        if table not in ("manifest", "writers", "store.json")
        for run in folder.names(table)
        for name in folder.names(f"{table}/{run}")
    }
    assert found == known
    assert list(folder.staging.iterdir()) == []


PIECES = """
select coalesce((select sum(n_prompt + n_think + n_answer) from traces), 0),
       (select count(*) from tokens), (select count(*) from routing), (select count(*) from heads),
       (select count(*) from traces), (select count(distinct trace_id) from traces),
       (select count(*) from (select trace_id from tokens group by trace_id
                              having max(pos) + 1 <> count(distinct pos)))
"""


def assert_whole_blocks(store):
    """At one moment: rows of traces and of their blocks agree; return the tokens there are."""
    ((sizes, tokens, routing, heads, rows, traces, gaps),) = store.sql(PIECES).fetchall()
    assert (tokens, routing, heads) == (sizes, sizes * SPARSE, sizes * RUN.layers)
    assert (rows, gaps) == (traces, 0)
    return tokens


def kill_writers_of_parts(address, moments, check_whole):
    """Kill one writer after the other, each so many seconds after it took up the run.

    ``check_whole(address)`` is called after each kill. Returns the runs that were taken up.
    """
    acknowledged: dict[int, int] = {}
    runs = set()
    for seconds in moments:
        process, reports = start(write_parts, address, None)
        runs.add(reports.recv())
        time.sleep(seconds)
        process.kill()
        process.join()
        for commit in drain(reports):
            acknowledged |= dict(commit)
        check_whole(address)
        with Store(address) as store:
            assert_whole_blocks(store)
            query = "select trace_id, n_prompt + n_think + n_answer from traces"
            found = dict(store.sql(query).fetchall())
        assert all(found[trace_id] >= n for trace_id, n in acknowledged.items())
    return runs


def assert_each_item_once(address):
    """Items from 0, none twice, none missed; of each what its trace says is stored."""
    with Store(address) as store:
        query = "select trace_id, item, n_prompt + n_think + n_answer from traces order by item"
        rows = store.sql(query).fetchall()
        assert [item for _, item, _ in rows] == list(range(len(rows)))
        for trace_id, item, n in rows:
            assert_same(store.trace(trace_id), part(whole(item), 0, n, None), PARTS)
