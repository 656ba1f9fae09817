"""Values of every type of DuckDB, written in every form: each is what DuckDB's own text says."""

import csv
import io
import json
import math
import os
import random
import re

import duckdb
import pytest
from pyarrow import parquet
from sql_values import leaf, nested

from ringlens.app.sql import cells as sql_cells
from ringlens.cli.sql.format import WRITERS
from ringlens.errors import RinglensError, StoreError
from ringlens.sandbox import confine
from ringlens.sandbox.sandbox import Limits, Sandbox
from ringlens.store import Store, StoreWriter
from ringlens.store.read.relation import Relation

COUNT = int(300 * float(os.environ.get("RINGLENS_FUZZ", "1")))
SEEDS = range(8)


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        yield connection


def truths(connection, expressions):
    """DuckDB's own text of each expression; None for those that it refuses."""
    try:
        texts = ", ".join(f"({each})::varchar" for each in expressions)
        return list(connection.cursor().execute(f"select {texts}").fetchall()[0])
    except duckdb.Error:
        if len(expressions) == 1:
            return [duckdb.Error]
        return [truths(connection, [each])[0] for each in expressions]


def drawn(connection, make, seed):
    """Expressions that DuckDB takes, with what else ``make`` says of them."""
    rng = random.Random(seed)
    found = [make(rng) for _ in range(COUNT // len(SEEDS))]
    known = truths(connection, [sql for sql, _ in found])
    return [
        (sql, more)
        for (sql, more), text in zip(found, known, strict=True)
        if text is not duckdb.Error
    ]


def written(connection, query, form):
    """What a form makes of a query."""
    out = io.BytesIO()
    WRITERS[form](related(connection, query), out)
    return out.getvalue()


def related(connection, query):
    """A query as `Store.sql` gives it."""
    cursor = connection.cursor()
    return Relation(cursor.sql(query), lambda error: StoreError(str(error)), cursor, lambda: False)


def same(value, truth):
    """Whether a value of a form that has numbers and texts says what DuckDB's text says."""
    if value is None or truth is None:
        return value is None and truth is None
    if isinstance(value, bool):
        return str(value).lower() == truth
    if isinstance(value, int):
        return str(value) == truth and abs(value) < 2**53
    if isinstance(value, float):
        exact = float(truth)
        return value == exact and math.copysign(1, value) == math.copysign(1, exact)
    return value == truth


@pytest.mark.parametrize("seed", SEEDS)
def test_every_form_says_what_duckdb_says(connection, seed):
    found = drawn(connection, leaf, seed)
    assert len(found) > 0.8 * COUNT / len(SEEDS)
    texts = truths(connection, [sql for sql, _ in found])
    query = "select " + ", ".join(f"{sql} as v" for sql, _ in found)
    (row,) = json.loads(written(connection, query, "json"))
    assert json.loads(written(connection, query, "jsonl")) == row
    assert len(row) == len(found)  # all are called v, and none is lost
    for value, truth, (sql, _) in zip(row.values(), texts, found, strict=True):
        assert same(value, truth), (sql, value, truth)
    frame = related(connection, query).exact().df()
    for value, truth, (sql, kind) in zip(frame.iloc[0], texts, found, strict=True):
        if kind not in ("double", "float") and truth is not None:
            assert str(value).lower() == truth if kind == "boolean" else str(value) == truth, sql
    header, cells = csv.reader(io.StringIO(written(connection, query, "csv").decode(), newline=""))
    assert header == list(row)
    for cell, truth, (sql, kind) in zip(cells, texts, found, strict=True):
        number = kind in ("double", "float") and truth is not None
        assert same(float(cell) if number else cell, truth or "") or (
            number and truth == cell == "nan"
        ), (sql, cell, truth)


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_tables_for_people_keep_every_column_and_obey_no_value(connection, seed):
    found = drawn(connection, nested, seed)
    query = "select " + ", ".join(f"{sql} as v" for sql, _ in found)
    (row,) = json.loads(written(connection, query, "json"))
    lines = written(connection, query, "markdown").decode().split("\n")
    assert len(lines) == 4  # no value makes a line of its own
    cells = [re.sub(r"\\(.)", r"\1", cell) for cell in re.split(r" (?<!\\)\| ", lines[2][2:-2])]
    for cell, value in zip(cells, row.values(), strict=True):
        text = (
            value
            if isinstance(value, str)
            else ""
            if value is None
            else json.dumps(value, ensure_ascii=False)
        )
        assert cell == re.sub("\r\n|\r|\n", "<br>", text)
    drawing = written(connection, query, "table").decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", drawing)


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_of_lists_maps_and_structs_say_what_duckdb_says(connection, seed):
    found = drawn(connection, nested, seed)
    query = "select " + ", ".join(f"{sql} as v" for sql, _ in found)
    (row,) = json.loads(written(connection, query, "json"))
    pairs = [
        pair
        for value, (_, shape) in zip(row.values(), found, strict=True)
        for pair in matched(value, shape)
    ]
    known = truths(connection, [part for _, part in pairs])
    for (value, part), truth in zip(pairs, known, strict=True):
        assert same(value, truth), (part, value, truth)
    _, cells = csv.reader(io.StringIO(written(connection, query, "csv").decode(), newline=""))
    for cell, value, (sql, shape) in zip(cells, row.values(), found, strict=True):
        if isinstance(shape, (list, dict)):
            assert json.loads(cell) == value, sql


def matched(value, shape):
    """Each part of a value of JSON, and the SQL that makes it."""
    if isinstance(shape, dict):
        assert list(value) == list(shape)
        value, shape = list(value.values()), list(shape.values())
    if not isinstance(shape, list):
        return [(value, shape)]
    return [pair for each, part in zip(value, shape, strict=True) for pair in matched(each, part)]


@pytest.mark.parametrize("seed", SEEDS)
def test_parquet_files_read_back_as_what_was_asked(connection, seed, tmp_path):
    """A file gives DuckDB the same values again, or the sentence says what it cannot hold."""
    refusals = []
    found = drawn(connection, nested, seed)
    for i in range(0, len(found), 4):
        path = tmp_path / f"{i}.parquet"
        sql = ", ".join(f"{sql} as v" for sql, _ in found[i : i + 4])
        try:
            path.write_bytes(written(connection, f"select {sql}", "parquet"))
        except RinglensError as error:
            refusals.append(str(error))
            continue
        parquet.read_table(path)
        kept = json.loads(written(connection, f"from read_parquet('{path}')", "json"))
        assert texts_of(kept) == texts_of(
            json.loads(written(connection, f"select {sql}", "json"))
        ), sql
    assert all("cast" in refusal for refusal in refusals)
    assert len(refusals) < len(found) / 2


@pytest.mark.skipif(confine.missing() is not None, reason=f"no sandbox: {confine.missing()}")
def test_the_page_says_what_the_command_line_says(connection, tmp_path):
    with StoreWriter(tmp_path / "store"):
        pass
    limits = Limits(workers=1, seconds=60)
    with Store(tmp_path / "store") as store, Sandbox(store, limits) as box:
        for seed in SEEDS:
            found = drawn(connection, nested if seed % 2 else leaf, seed)
            query = "select " + ", ".join(f"{sql} as v" for sql, _ in found)
            answer = box.sql(query)
            (shown,) = next(sql_cells.rows(answer.readable))
            (row,) = json.loads(written(connection, query, "json"))
            assert answer.table.schema.names == list(row)
            for cell, value, (sql, _) in zip(shown, row.values(), found, strict=True):
                inside = isinstance(value, (list, dict))
                assert cell == (json.dumps(value, ensure_ascii=False) if inside else value), sql
            (_, cells) = csv.reader(io.StringIO(sql_cells.to_csv(answer).decode(), newline=""))
            (_, same) = csv.reader(
                io.StringIO(written(connection, query, "csv").decode(), newline="")
            )
            assert cells == same
            sql_cells.to_parquet(answer)


def texts_of(value):
    """A value of JSON with its numbers as text: Parquet holds some integers as decimals or text."""
    if isinstance(value, list):
        return [texts_of(each) for each in value]
    if isinstance(value, dict):
        return {key: texts_of(each) for key, each in value.items()}
    return None if value is None else str(value)
