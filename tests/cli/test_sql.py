"""``ringlens sql``: forms, files, standard input, exit codes; and the prompt in a terminal."""

import csv
import json
import signal
from contextlib import contextmanager

import pytest
import warm
from click.testing import CliRunner
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from pyarrow import parquet
from small_store import small_store
from terminal import terminal

from ringlens.cli.main import main
from ringlens.cli.sql.completion import Words
from ringlens.store import Store
from ringlens.store.read.catalog import catalog

PROMPT = "ringlens>"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(small_store(tmp_path_factory.mktemp("stores") / "store")) as store:
        yield store


def sql(store, *words, stdin=""):
    """The command in this process, which is a second faster than in one of its own."""
    return CliRunner().invoke(main, ["sql", str(store.path), *map(str, words)], input=stdin)


QUERY = "select trace_id, pos, text, phase from tokens where pos < 3 order by all"


def test_forms_hold_the_same_rows(store, tmp_path):
    expected = store.sql(QUERY).fetchall()
    read = {
        "csv": lambda text: [tuple(row) for row in csv.reader(text.splitlines(True))][1:],
        "json": lambda text: [tuple(row.values()) for row in json.loads(text)],
        "jsonl": lambda text: [tuple(json.loads(line).values()) for line in text.splitlines()],
    }
    for form, rows in read.items():
        done = sql(store, QUERY, "--format", form)
        assert done.exit_code == 0, done.stderr
        assert [tuple(map(str, row)) for row in rows(done.stdout)] == [
            tuple(map(str, row)) for row in expected
        ]
        path = tmp_path / f"rows.{form}"
        assert sql(store, QUERY, "-o", path).stdout == ""
        assert path.read_text() == done.stdout
    assert sql(store, QUERY, "-o", tmp_path / "rows.parquet").exit_code == 0
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table.equals(store.sql(QUERY).to_arrow_table())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "rows.csv", "rows.json", "rows.jsonl", "rows.parquet",
    ]  # fmt: skip


def test_markdown_and_values_that_json_has_no_number_for(store):
    query = "select 'a|b' as \"x|y\", null as n, 'inf'::float as i, ['nan'::double] as l, 1.5 as f"
    done = sql(store, query, "--format", "markdown")
    assert (
        done.stdout
        == '| x\\|y | n | i | l | f |\n|---|---|---|---|---|\n| a\\|b |  | inf | ["nan"] | 1.5 |\n'
    )
    (row,) = json.loads(sql(store, query, "--format", "json").stdout)
    assert row == {"x|y": "a|b", "n": None, "i": "inf", "l": ["nan"], "f": "1.5"}


def test_columns_of_one_name_are_all_kept(store, tmp_path):
    query = "select 1 as n, 2 as n, 3 as N, 4 as n_1"
    names = ["n", "n_1", "N_2", "n_1_1"]
    (row,) = json.loads(sql(store, query, "--format", "json").stdout)
    assert list(row.items()) == list(zip(names, (1, 2, 3, 4), strict=True))
    assert json.loads(sql(store, query, "--format", "jsonl").stdout) == row
    assert sql(store, query, "--format", "csv").stdout == '"n","n_1","N_2","n_1_1"\n1,2,3,4\n'
    assert sql(store, query, "--format", "markdown").stdout.startswith(f"| {' | '.join(names)} |\n")
    assert sql(store, query, "-o", tmp_path / "x.parquet").exit_code == 0
    assert parquet.read_table(tmp_path / "x.parquet").to_pylist() == [row]


def test_values_beyond_what_json_and_parquet_hold(store, tmp_path):
    query = """select 2::hugeint as small, 9007199254740993 as big, 
        '170141183460469231731687303715884105727'::hugeint as h, date 'infinity' as f,
        '340282366920938463463374607431768211455'::uhugeint as u, interval '1 month 1 day' as i,
        date '12345-01-02' as y, time '24:00:00' as t, timetz '12:00:00-05' as z, '101'::bit as b,
        1.50::decimal(9, 2) as m, 0.1::float as r, 'nan'::double as n, '\\xFF'::blob as x,
        [interval '1 day'] as l, {'a': date '-infinity'} as s, map {time '24:00:00': 1} as k"""
    (row,) = json.loads(sql(store, query, "--format", "json").stdout)
    assert row == {
        "small": 2, "big": "9007199254740993",
        "h": "170141183460469231731687303715884105727", "f": "infinity",
        "u": "340282366920938463463374607431768211455", "i": "1 month 1 day", "y": "12345-01-02",
        "t": "24:00:00", "z": "12:00:00-05", "b": "101", "m": "1.50", "r": 0.1, "n": "nan",
        "x": "\\xFF", "l": ["1 day"], "s": {"a": "-infinity"}, "k": [["24:00:00", 1]],
    }  # fmt: skip
    done = sql(store, query, "-o", tmp_path / "x.parquet")
    assert (done.exit_code, list(tmp_path.iterdir())) == (1, [])
    assert "h holds an integer of 39 digits or a time of 24:00:00" in done.stderr
    deep = "select " + "[" * 90 + "1" + "]" * 90 + " as a"
    assert "nested 90 levels deep, the limit is 60" in sql(store, deep, "--format", "json").stderr


def test_several_queries_and_standard_input(store):
    done = sql(
        store, "select 1 as a", "-c", "select 2 as b", "-c", "select 3 as c", "--format", "jsonl"
    )
    assert done.stdout == '{"a": 1}\n{"b": 2}\n{"c": 3}\n'
    done = sql(store, "--format", "jsonl", stdin="-- one\nselect 1 as a;\nselect ';' as b")
    assert done.stdout == '{"a": 1}\n{"b": ";"}\n'
    done = sql(
        store,
        "-c",
        "select 1 as a",
        "-c",
        "select nope",
        "-c",
        "select 3 as c",
        "--format",
        "jsonl",
    )
    assert (done.exit_code, done.stdout) == (1, '{"a": 1}\n')
    assert "nope" in done.stderr


@pytest.mark.parametrize(
    ("words", "stdin", "code", "says"),
    [
        (["select nope from traces"], "", 1, "The columns are: traces"),
        (["from traces", "--format", "parquet"], "", 2, "needs a file: -o FILE"),
        (["select 1", "-c", "select 2", "-o", "x.csv"], "", 2, "-o takes the rows of one query"),
        (["from traces", "-o", "nowhere/x.csv"], "", 1, "nowhere/x.csv cannot be written"),
        ([], "", 1, "no query on standard input"),
        ([], "selec 1", 1, "syntax error"),
        (["-c", ""], "", 1, "the query is empty"),
        (["select 1", "--format", "xml"], "", 2, "is not one of"),
    ],
)
def test_what_fails_says_why_and_leaves_nothing(
    store, tmp_path, monkeypatch, words, stdin, code, says
):
    monkeypatch.chdir(tmp_path)
    done = sql(store, *words, stdin=stdin)
    assert done.exit_code == code
    assert says in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_by_a_whole_one(store, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")
    late = (
        "select case when range > 3000000 then error('late') else 'x' end as a from range(4000000)"
    )
    assert sql(store, late, "-o", path).exit_code == 1
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.csv"]


def test_ctrl_c_stops_a_query(store):
    query = "select count(*) from range(1000000000000000)"
    code = (
        "import sys; from ringlens.cli.main import main; from ringlens.store import Store\n"
        "def sql(*given, sql=Store.sql):\n"
        "    found = sql(*given)\n"
        "    print('began', flush=True)\n"
        "    return found\n"
        "Store.sql = sql\n"
        "main(sys.argv[1:])"
    )
    process = warm.Process(["-c", code, "sql", store.path, query])
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in said


def ask(opened, text, *wanted):
    """Type a line and read to the next prompt."""
    opened.type(f"{text}\r")
    return opened.read(*wanted, end=PROMPT)


@contextmanager
def prompt(store, home):
    with terminal(["sql", store.path], XDG_STATE_HOME=str(home)) as opened:
        opened.read("Tab completes", PROMPT)
        yield opened
        opened.type("\x04")
        assert opened.ended() == 0


def test_the_prompt(store, tmp_path):
    with prompt(store, tmp_path) as opened:
        ask(
            opened, "select phase, count(*) as how_many\rfrom tokens group by all;", "how_many", "│"
        )
        ask(opened, "select nope from traces;", "error: ", "The columns are: traces")
        ask(opened, ".tables", "router_choices", "view", "One row per token.")
        ask(opened, ".schema runs", "VARCHAR".lower(), "run that wrote the row")
        ask(opened, ".schema nowhere", "there is no table nowhere")
        ask(opened, ".timer on", "timer: on")
        ask(opened, "select 6 * 7 as answer;", "42", " s\n")
        ask(opened, ".format jsonl", "format: jsonl")
        ask(opened, "select 6 * 7 as answer;", '{"answer": 42}')
        ask(opened, ".format xml", "there is no format xml")
        ask(opened, ".format table", "format: table")
        ask(opened, ".rows 3", "rows shown: 3")
        ask(opened, "from range(50);", "50 rows", "3 shown")
        ask(opened, ".nothing", "there is no .nothing: .tables")
        ask(opened, ".help", "Ctrl-C stops a query")
        opened.type("from router_c\t")
        opened.read("router_choices")
        ask(opened, " limit 1;", "affinity")
    assert "+select 6 * 7 as answer;" in (tmp_path / "ringlens" / "sql_history").read_text()


def test_ctrl_c_at_the_prompt_stops_the_query_and_goes_on(store, tmp_path):
    with prompt(store, tmp_path) as opened:
        said = ""
        while "stopped" not in said:  # Ctrl-C may come before the query has begun, or be lost
            opened.type("select count(*) from range(1000000000000000);")
            opened.read("range(1000000000000000);")  # else an old prompt is taken for a new one
            opened.type("\r")
            opened.wait_for_signals()
            said = opened.read(end=PROMPT, press="\x03")
        ask(opened, "select 6 * 7 as answer;", "42")
        opened.type("select 'never sent")
        opened.read("never sent")
        opened.type("\x03")
        opened.read(end=PROMPT)
        ask(opened, "select 'again' as word;", "again")


def test_completion(store):
    words = Words(catalog(store), [".tables", ".timer", ".schema"])

    def completed(text):
        found = words.get_completions(Document(text), CompleteEvent())
        return [completion.text for completion in found]

    assert sorted(completed("select * from trac")) == ["trace_summary", "traces"]
    assert "trace_id" in completed("from traces where trac")
    assert completed("from routing where marg") == ["margin"]
    assert completed("select marg") == ["margin"]
    assert completed("from tokens where marg") == []  # tokens has none
    assert completed("SEL") == ["select"]
    assert completed("select ") == []
    assert completed(".t") == [".tables", ".timer"]
    assert "traces" in completed(".schema tra")
    assert completed(".timer o") == []
