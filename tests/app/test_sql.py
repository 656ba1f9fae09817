"""The SQL page's server side: addresses, cells, charts, examples; the page without a sandbox."""

import csv
import io
import json
import math
import re

import duckdb
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from pyarrow import parquet
from small_store import small_store

from ringlens.app.shared.sources import Sources
from ringlens.app.sql import cells as sql_cells
from ringlens.app.sql import chart as sql_chart
from ringlens.app.sql import page as page_sql
from ringlens.app.sql.console import KEPT, Console
from ringlens.app.sql.examples import EXAMPLES
from ringlens.errors import NotInStoreError
from ringlens.sandbox import confine, landlock
from ringlens.sandbox.excerpt import KIND
from ringlens.store.read.catalog import catalog

HOST = {"Host": "127.0.0.1:8050"}
here = pytest.mark.skipif(confine.missing() is not None, reason=f"no sandbox: {confine.missing()}")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("stores") / "store", 80)


def run(client, query, **more):
    body = {"query": query, "name": "a", **more}
    return client.post("/data/sql/run", json=body, headers=HOST)


@here
def test_a_query_is_run_and_taken_along(client, store):
    query = """select trace_id, n_think, resumed_at, [1, 2.5]::double[] as l, correct
        from traces order by 1"""
    found = run(client, query).json
    assert [column["name"] for column in found["columns"]] == [
        "trace_id", "n_think", "resumed_at", "l", "correct",
    ]  # fmt: skip
    assert [column["number"] for column in found["columns"]] == [True, True, False, False, False]
    expected = store.sql(query).fetchall()
    assert [row[:2] for row in found["rows"]] == [list(row[:2]) for row in expected]
    assert found["rows"][0][3] == "[1.0, 2.5]"
    assert found["cut"] is None

    text = client.get(f"/data/sql/result/{found['id']}.csv", headers=HOST)
    assert "attachment" in text.headers["Content-Disposition"]
    rows = list(csv.reader(io.StringIO(text.text)))
    assert len(rows) == 4
    assert rows[1][3] == "[1.0, 2.5]"
    file = client.get(f"/data/sql/result/{found['id']}.parquet", headers=HOST)
    table = parquet.read_table(io.BytesIO(file.data))
    assert table.equals(store.sql(query).to_arrow_table())


@here
@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("select nope from traces", "The columns are"),
        ("copy (select 1) to '/tmp/x'", "only SELECT"),
        ("from read_text('/etc/passwd')", "not for use here"),
        ("", "empty"),
    ],
)
def test_what_does_not_work_is_a_sentence(client, query, says):
    response = run(client, query)
    assert response.status_code == 422
    assert says in response.json["error"]


@here
def test_only_json_from_here_is_answered(client):
    """A page elsewhere can send forms to this address, but neither JSON nor another Host."""
    body = json.dumps({"query": "select 1", "name": "a"})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = client.post("/data/sql/run", data=body, content_type=kind, headers=HOST)
        assert response.status_code == 415
    elsewhere = {"Host": "example.org"}
    assert client.post("/data/sql/run", json={}, headers=elsewhere).status_code == 400
    for broken in ([], {"query": 1, "name": "a"}, {"query": "select 1"}):
        response = client.post("/data/sql/run", json=broken, headers=HOST)
        assert response.status_code == 422


@here
def test_answers_are_kept_for_a_while(store):
    console = Console(store)
    keys = [console.run(f"select {i} as a", "x")[0] for i in range(KEPT + 1)]
    assert console.answer(keys[1]).table.equals(console.table(keys[1]))
    assert console.table(keys[1]).to_pylist() == [{"a": 1}]
    with pytest.raises(NotInStoreError, match="run the query again"):
        console.table(keys[0])
    console.close()
    assert console.run("select 1 as a", "x")[1].table.to_pylist() == [{"a": 1}]  # it starts again
    console.close()


@here
def test_downloads_that_are_gone_say_so(client):
    assert client.get("/data/sql/result/nothing.csv", headers=HOST).status_code == 404
    found = run(client, "select 1").json
    response = client.get(f"/data/sql/result/{found['id']}.exe", headers=HOST)
    assert response.status_code == 404
    assert "csv and parquet" in response.json["error"]


@here
def test_cancelling_what_does_not_run(client):
    response = client.post("/data/sql/cancel", json={"name": "nobody"}, headers=HOST)
    assert response.json == {"cancelled": False}


@here
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.question[:20])
def test_examples_give_rows_and_their_charts(client, app, example):
    found = run(client, example.query).json
    assert found["rows"], found
    if example.chart is not None:
        kind, x, y, by = example.chart
        answer = app.server.extensions["ringlens.sources"].one(Console).answer(found["id"])
        table = sql_cells.drawable(answer)
        go.Figure(sql_chart.figure(table, kind, x, y or x, by, "dark"))


FROM_ROUTING = {
    "Which experts does it lean": """
        select layer, expert, count(*) as n, avg(weight) as mean_weight
        from router_choices join tokens using (trace_id, pos)
        where phase = 'think' group by layer, expert order by n desc""",
    "How often did the bias": """
        select layer, 100 * avg(bias_flip::int) as percent_by_bias
        from router_choices group by layer order by layer""",
    "Which experts work for the": """
        select layer, expert,
               avg((phase = 'answer')::int) - avg(avg((phase = 'answer')::int)) over () as leaning,
               count(*) as n
        from router_choices join tokens using (trace_id, pos)
        where phase <> 'prompt' group by layer, expert having count(*) > 20""",
    "How much do heads look": """
        with each as (select layer, unnest(range(len(first_weight))) as head,
                             unnest(first_weight) as attention from heads)
        select layer, head, avg(attention) as mean_attention from each group by all""",
}


@here
@pytest.mark.parametrize("question", FROM_ROUTING)
def test_examples_say_of_sums_what_the_routing_says(client, store, question):
    example = next(each for each in EXAMPLES if each.question.startswith(question))
    assert not {"routing", "router_choices", "heads"} & set(re.findall(r"\w+", example.query))
    found = run(client, example.query).json
    names = [column["name"] for column in found["columns"]]
    expected = store.sql(FROM_ROUTING[question]).fetchall()
    keys = 1 if names[1].startswith("percent") else 2
    known = {row[:keys]: row[keys:] for row in expected}
    most = re.search(r"limit (\d+)", example.query)
    assert len(found["rows"]) == min(len(expected), int(most[1]) if most else len(expected))
    for row in found["rows"]:
        assert row[keys:] == pytest.approx(known[tuple(row[:keys])], abs=0.006)


VALUES = (
    (None, pa.int64(), "bigint", None),
    (True, pa.bool_(), "boolean", True),
    (2**53 - 1, pa.int64(), "bigint", 2**53 - 1),
    (2**53, pa.int64(), "bigint", "9007199254740992"),
    ("9007199254740991", pa.string(), "hugeint", 2**53 - 1),
    ("9007199254740992", pa.string(), "hugeint", "9007199254740992"),
    ("12", pa.string(), "varchar", "12"),
    ("1.50", pa.string(), "decimal", "1.50"),
    (0.1, pa.float64(), "double", 0.1),
    (0.30000000000000004, pa.float64(), "double", 0.30000000000000004),
    (0.10000000149011612, pa.float32(), "float", 0.1),
    (math.inf, pa.float64(), "double", "inf"),
    (math.nan, pa.float32(), "float", "nan"),
    ("<b>", pa.string(), "varchar", "<b>"),
    ("x" * 3000, pa.string(), "varchar", "x" * 2000 + "… (3,000 characters)"),
)


@pytest.mark.parametrize(
    ("value", "kind", "name", "shown"), VALUES, ids=lambda each: str(each)[:20]
)
def test_cells(value, kind, name, shown):
    assert sql_cells.cell(value, pa.field("x", kind, metadata={KIND: name.encode()})) == shown
    json.dumps(shown, allow_nan=False)


@here
@pytest.mark.parametrize(
    ("value", "shown", "kind", "frame"),
    [
        ("2::hugeint", 2, "hugeint", "df()"),
        ("170141183460469231731687303715884105727", str(2**127 - 1), "hugeint", "exact().df()"),
        ("340282366920938463463374607431768211455", str(2**128 - 1), "uhugeint", "exact().df()"),
        ("1.50::decimal(9, 2)", "1.50", "decimal", "df()"),
        ("1.50::decimal(38, 20)", "1.50000000000000000000", "decimal", "exact().df()"),
        ("date '2026-01-02'", "2026-01-02", "date32", "df()"),
        ("date 'infinity'", "infinity", "date32", "exact().df()"),
        ("date '0044-03-15 (BC)'", "0044-03-15 (BC)", "date32", "exact().df()"),
        ("timestamp '12345-01-02'", "12345-01-02 00:00:00", "timestamp", "exact().df()"),
        ("time '24:00:00'", "24:00:00", "time", "df()"),
        ("interval '1 month'", "1 month", "interval", "exact().df()"),
        ("'101'::bit", "101", "bit", "exact().df()"),
        ("'\\xFF'::blob", "\\xFF", "binary", "df()"),
        ("[1, null]::float[]", "[1.0, null]", "list of float", "df()"),
        ("{'a': 'nan'::float, 'b': 'é'}", '{"a": "nan", "b": "é"}', "struct", "df()"),
        ("[date 'infinity']", '["infinity"]', "list of date32", "exact().df()"),
        ("map {time '24:00:00': 0.1}", '[["24:00:00", "0.1"]]', "map", "exact().df()"),
        ("null", None, "null", "df()"),
    ],
)
def test_values_that_arrow_json_or_python_hold_only_in_part(client, value, shown, kind, frame):
    found = run(client, f"select {value} as v, {value} as v").json
    assert found["rows"] == [[shown, shown]]
    assert [column["name"] for column in found["columns"]] == ["v", "v_1"]
    assert found["columns"][0]["type"] == kind
    assert found["frame"] == frame
    text = client.get(f"/data/sql/result/{found['id']}.csv", headers=HOST).text
    ((cell, _),) = list(csv.reader(io.StringIO(text)))[1:]
    assert cell == ("" if shown is None else str(shown))
    file = client.get(f"/data/sql/result/{found['id']}.parquet", headers=HOST)
    with duckdb.connect() as connection:
        kept = pa.BufferReader(file.data)
        connection.register("kept", parquet.read_table(kept))
        (row,) = connection.sql("select v::varchar from kept").fetchall()
    assert row[0] is None or row[0] == str(shown) or kind[:4] in ("list", "stru", "map", "bina")


@here
def test_a_large_answer_is_sent_piece_by_piece(client):
    query = "select range, range::hugeint as h, [range] as l from range(10000)"
    pieces = list(run(client, query).response)
    assert len(pieces) == 4  # head, 6,666 rows of three cells, the others, end
    rows = json.loads(b"".join(pieces))["rows"]
    assert [row[0] for row in rows] == list(range(10_000))
    assert rows[-1] == [9999, 9999, "[9999]"]


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("kind", sql_chart.KINDS)
def test_charts_are_figures(kind, theme):
    table = pa.table(
        {
            "x": [3, 1, 2, 4],
            "y": [0.5, math.nan, None, math.inf],
            "name": ["a", "b", None, "a"],
            "day": [f"2026-01-0{day}" for day in range(1, 5)],
        }
    )
    for x, by in (("x", ""), ("x", "name"), ("day", "x"), ("name", "")):
        figure = go.Figure(sql_chart.figure(table, kind, x, "y", by, theme))
        assert sum(len(line.x) for line in figure.data) == 4
        json.dumps(figure.to_plotly_json()["data"], allow_nan=False, default=str)
    figure = sql_chart.figure(table, kind, "x", "y", "name", theme)
    assert [line["name"] for line in figure["data"]] == ["a", "b", "null"]


def test_a_chart_of_many_lines_counts_what_it_leaves_out():
    table = pa.table({"x": range(40), "y": range(40), "by": [f"{i % 20:02}" for i in range(40)]})
    figure = sql_chart.figure(table, "line", "x", "y", "by", "dark")
    assert len(figure["data"]) == sql_chart.SERIES
    assert figure["layout"]["legend"]["title"]["text"] == "by, 8 more left out"


def test_without_a_sandbox_the_page_says_why(store, monkeypatch):
    def failing(*call):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(landlock, "_call", failing)
    sources = Sources(store)
    shown = json.dumps(
        page_sql.layout(sources, {}).to_plotly_json(), default=lambda c: c.to_plotly_json()
    )
    assert "SQL is switched off here" in shown
    assert "has no Landlock" in shown
    assert f"ringlens sql {store.path}" in shown
    assert "sql-grid" not in shown


def test_the_catalog_explains_every_column(store):
    entries = catalog(store)
    names = {name for (name,) in store.sql("show tables").fetchall()}
    assert {entry.name for entry in entries} == names
    for entry in entries:
        assert entry.meaning, entry.name
        assert entry.columns, entry.name
        for column in entry.columns:
            assert column.meaning, (entry.name, column.name)
        found = store.sql(f"from {entry.name} limit 0").columns
        assert [column.name for column in entry.columns] == found
