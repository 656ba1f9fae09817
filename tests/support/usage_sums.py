"""Sums of expert usage, counted anew from routing."""

import numpy as np

from ringlens.store.maintain import rollup
from ringlens.store.schema.usage_tables import USAGE_BLOCK

CHOSEN = """
select run_id, trace_id, layer, {key}, unnest(expert_ids) as expert, unnest(weights) as weight
from routing join tokens using (trace_id, pos) join traces using (trace_id)
"""


FLIPPED = """
select run_id, trace_id, layer, {key}, unnest({column}) as expert
from routing join tokens using (trace_id, pos) join traces using (trace_id)
"""


KEYS = {"usage_traces": "phase", "usage_blocks": f"(pos // {USAGE_BLOCK})::integer as block"}


def told(store, table, column):
    """What a rollup says: the value of each expert that has one, by key."""
    key = KEYS[table].split()[-1]
    query = f"""
        select run_id, trace_id, layer, {key}, expert, sum(value) as value
        from (select *, unnest(range(len({column}))) as expert, unnest({column}) as value
              from {table})
        group by all having sum(value) <> 0 order by all"""
    return store.sql(query).fetchall()


def counts(store, table, column):
    """The same counted from the routing."""
    source = {"n": CHOSEN, "weight": CHOSEN}.get(column, FLIPPED)
    source = source.format(key=KEYS[table], column=column)
    key = KEYS[table].split()[-1]
    value = "sum(weight)" if column == "weight" else "count(*)"
    query = f"""
        select run_id, trace_id, layer, {key}, expert, {value} as value
        from ({source}) group by all order by all"""
    return store.sql(query).fetchall()


def assert_sums(store):
    """Every sum of both tables is what SQL counts; integers exactly, weights to float32."""
    for table in KEYS:
        columns = ["n", "weight", "bias_flips"] + ["group_flips"] * (table == "usage_traces")
        for column in columns:
            said, found = told(store, table, column), counts(store, table, column)
            if column == "weight":
                assert [row[:-1] for row in said] == [row[:-1] for row in found]
                np.testing.assert_allclose(
                    [row[-1] for row in said], [row[-1] for row in found], rtol=1e-6
                )
            else:
                assert said == found, (table, column)
    assert rollup.missing(store) == []
    tokens = """
        select trace_id, layer, {key}, count(*) as tokens from routing
        join tokens using (trace_id, pos) group by all order by all"""
    for table, key in KEYS.items():
        said = f"""
            select trace_id, layer, {key.split()[-1]}, sum(tokens)::bigint as tokens
            from {table} group by all order by all"""
        assert store.sql(said).fetchall() == store.sql(tokens.format(key=key)).fetchall()
