"""Which view a query over the routing could have asked, as said when it runs out of time."""

import pytest
from small_store import small_store

from ringlens.errors import StoreError
from ringlens.sandbox import confine
from ringlens.sandbox.cheaper import cheaper
from ringlens.sandbox.sandbox import Limits, Sandbox
from ringlens.store import Store

PHASES = "from router_choices join tokens using (trace_id, pos) where phase = 'think'"


@pytest.mark.parametrize(
    ("query", "view"),
    [
        (f"select layer, expert, count(*) {PHASES} group by all", "expert_usage"),
        ("select avg(bias_flip::int) from router_choices", "expert_usage"),
        ("SELECT layer, len(bias_flips), count(*) FROM routing GROUP BY ALL", "expert_usage"),
        ("select trace_id, expert, sum(weight) from router_choices group by all", "usage_traces"),
        # What no sum over tokens knows, and what is no sum.
        ("select pos, count(*) from routing group by pos", None),
        ("select layer, avg(margin) from routing group by layer", None),
        ("select text, count(*) from router_choices join tokens using (pos) group by 1", None),
        ("select * from router_choices", None),
        ("select count(*) from tokens -- not routing", None),
        ("select count(*) from tokens where text = 'routing'", None),
        ("select sum(n) from expert_usage", None),
    ],
)
def test_the_cheaper_view_is_named_where_it_could_answer(query, view):
    assert cheaper(query) == view


@pytest.mark.skipif(confine.missing() is not None, reason=f"no sandbox: {confine.missing()}")
def test_running_out_of_time_names_it(tmp_path):
    slow = "from router_choices, range(10000000000000)"
    with (
        Store(small_store(tmp_path / "store", 20)) as store,
        Sandbox(store, Limits(seconds=0.5, workers=1, spare=0)) as box,
    ):
        with pytest.raises(StoreError, match=r"stopped after 0\.5 s.*: ask `expert_usage` instead"):
            box.sql(f"select layer, count(*) {slow} group by layer")
        with pytest.raises(StoreError, match="narrow it down"):
            box.sql(f"select layer, max(affinity) {slow} group by layer")
