"""Analyses of tokens that a stranger selects: the same numbers, and nothing else for anyone."""

import inspect
from dataclasses import replace

import pandas as pd
import pytest
from attacks import BOMBS, READS, SETTINGS, WRITES
from hypothesis import given, settings
from hypothesis import strategies as st
from records import random_run, random_trace

from ringlens import analysis
from ringlens.errors import ConfigError, RinglensError, StoreError
from ringlens.sandbox import confine, confined_store
from ringlens.sandbox.confined_store import LIMITS, ConfinedStore
from ringlens.sandbox.predicate import FUNCTIONS, MAX_LENGTH, check
from ringlens.sandbox.sandbox import Limits, Sandbox
from ringlens.store import StoreWriter

THINK, ANSWER = "phase = 'think'", "phase = 'answer'"
UNSURE = f"{THINK} and (entropy > 0.4 or text like '% %') and not coalesce(correct, false)"

here = pytest.mark.skipif(confine.missing() is not None, reason=f"no sandbox: {confine.missing()}")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "store"
    run = random_run(experts=16, groups=4, groups_kept=2, k=3, heads=1)
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for seed in range(4):
            changes = {"heads": None, "correct": seed == 0}
            writer.commit(run_id, [random_trace(run, 60, seed=seed, **changes)])
    return path


@pytest.fixture(scope="module")
def confined(store):
    """With time for a busy machine."""
    with (
        Sandbox(store, replace(LIMITS, seconds=300)) as box,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(confined_store, "SECONDS", 300.0)
        yield ConfinedStore(store, box)


ASKED = [
    (analysis.expert_load, {"where": THINK, "baseline": ANSWER, "draws": 5}, "sums"),
    (analysis.expert_load, {"where": UNSURE, "by": "role"}, "scan"),
    (analysis.selection_causes, {"where": THINK}, "scan"),
    (analysis.group_displacements, {"where": THINK}, "scan"),
    (analysis.token_experts, {"where": THINK}, "scan"),
    (analysis.transitions, {"where": UNSURE}, "scan"),
    (analysis.contrast, {"a": THINK, "b": ANSWER, "draws": 5}, "sums"),
    (
        analysis.contrast,
        {"a": "pos % 2 = 0", "b": "pos % 2 = 1", "by": "phase", "within": "token"},
        "scan",
    ),
    (analysis.association, {"event": "text like '%a%'", "where": THINK}, "scan"),
    (analysis.routing_shift, {"a": THINK, "b": ANSWER}, "sums"),
    (analysis.predictability, {"where": UNSURE, "draws": 5}, "scan"),
]


@here
@pytest.mark.parametrize(("function", "arguments", "source"), ASKED)
def test_the_same_numbers_as_in_this_process(confined, store, function, arguments, source):
    found = confined.ask(function, **arguments)
    pd.testing.assert_frame_equal(found, function(store, **arguments))
    assert found.attrs["source"] == source


def asked(confined, predicate):
    """What a predicate gives: "frame", or the sentence that refuses it."""
    try:
        confined.ask(analysis.layer_balance, where=predicate)
    except RinglensError as error:
        return str(error)
    return "frame"


REFUSED = {
    "phaze = 'think'": "Did you mean 'phase'",
    "pos": "is INTEGER; it must be true or false",
    "'think'": "is no predicate over the columns",
    "": "'' is no predicate; write one",
    "true) or (true": "is no predicate",
    "true; drop view traces": "is no predicate",
    "true order by 1": "is no predicate",
    "true union select 1": "is no predicate",
    "pos > (select 1)": "holds a subquery",
    "exists (from runs)": "holds a subquery",
    "trace_id in (select trace_id from traces)": "holds a subquery",
    "phase = any(['think'])": "holds a subquery",
    "count(*) > 1": "may not use count_star",
    "count(*) over () > 1": "holds a window",
    "columns(*) is not null": "may not use|holds a",
    "pos > $1": "holds a parameter",
    "#1": "holds a positional reference",
    "list_filter([1], lambda x: x > 0) is not null": "may not use",
    "getenv('HOME') = 'x'": "may not use getenv",
    "current_setting('threads') = 1": "may not use current_setting",
    "pg_sleep(600) is null": "may not use pg_sleep",
    "error('x')": "may not use error",
    "repeat(text, 1000000000) = 'x'": "may not use repeat",
    "random() < 0.5": "may not use random",
    "nextval('x') = 1": "may not use nextval",
    "query('select 1') = 1": "may not use query",
    "tokens.pos = 1": "is no column of token_context",
    "main.token_context.pos = 1": "is no column of token_context",
    "text[1] = 'a'": "holds a array extract",
    "phase collate nocase = 'think'": "holds a collate",
    "text = '\ud83d'": "half a character at place 9",
    "text = '\0'": "holds a null character",
    "text::int = 1": "Could not convert string",
    "pos::secret is null": "may not convert to secret",
    "load '/etc/passwd'": "may not convert to load",
    "true or " * 300 + "true": "2,000 are the most",
    "phase = 'nothing'": "no token is selected",
}


@here
@pytest.mark.parametrize("predicate", REFUSED, ids=lambda each: ascii(each)[:30])
def test_refused_in_a_sentence(confined, predicate):
    with pytest.raises((ConfigError, StoreError), match=REFUSED[predicate]) as caught:
        confined.ask(analysis.layer_balance, where=predicate)
    assert len(str(caught.value)) < 1_500


@here
@pytest.mark.parametrize("name", confined_store.PREDICATES)
def test_every_predicate_of_an_analysis_is_checked(confined, name):
    with pytest.raises(ConfigError, match="holds a subquery"):
        confined.ask(lambda *args, **more: None, **{name: "pos = (select 1)"})


def test_no_analysis_has_a_predicate_of_another_name():
    """What is a text of SQL says so in its annotation, and what it stands for."""
    plain = {
        *("by", "over", "within", "draws", "seed", "engine", "layer", "expert", "least", "store"),
        "point",
    }
    for name in analysis.__all__:
        function = getattr(analysis, name)
        if inspect.isfunction(function):
            for parameter, of in inspect.signature(function).parameters.items():
                if "str" in str(of.annotation) and parameter not in plain:
                    assert parameter in confined_store.PREDICATES, f"{name}: is {parameter} SQL?"


WRAPPED = (
    "{}",
    "exists ({})",
    "text in ({})",
    "({}) is not null",
    "true) or exists ({}",
)


def test_attacks_on_the_console_are_no_predicates(store):
    """Each as it is, and in all places where a predicate has room for a query."""
    places = dict.fromkeys(
        ("secret", "folder", "table", "store", "file", "link", "out", "inside"), "/etc/passwd"
    )
    tried = 0
    for attack in (*READS, *WRITES, *SETTINGS, *BOMBS):
        for wrapped in WRAPPED:
            with pytest.raises(ConfigError):
                check(store, wrapped.format(attack.format(**places)))
            tried += 1
    print(f"{tried} predicates refused")
    assert tried > 1_000


def test_functions_are_those_that_only_compute(store):
    """All functions of DuckDB but the listed ones are refused; the listed ones have no effects."""
    known = store.sql(
        """select distinct function_name, has_side_effects, stability, function_type
        from duckdb_functions() where regexp_full_match(function_name, '[a-z_0-9]+')"""
    ).fetchall()
    names = {name for name, *_ in known}
    assert {name for name in FUNCTIONS if name[0].isalpha()} - names <= {"ifnull", "nullif"}
    for name, effects, stability, kind in known:
        if name in FUNCTIONS:
            assert not effects and stability in (None, "CONSISTENT") and kind in ("scalar", "macro")
        else:
            with pytest.raises(ConfigError):
                check(store, f'"{name}"(text) is not null')
    print(f"{len(names)} functions of DuckDB, {len(FUNCTIONS)} names allowed")


@here
def test_the_second_wall_stands_without_the_first(confined, tmp_path, monkeypatch):
    secret = tmp_path / "secret.txt"
    secret.write_text("c7d1-the-secret-outside")
    monkeypatch.setattr(confined_store, "check", lambda *anything: None)
    for query in (
        f"text = (select content from read_text('{secret}'))",
        f"exists (from read_csv('{secret}'))",
        f"error((select content from read_text('{secret}')))",
        "exists (from '/etc/passwd')",
        "error(getenv('HOME'))",
    ):
        found = asked(confined, query)
        assert found != "frame" and "c7d1" not in found and "root:" not in found, query


@here
def test_time_and_rows_are_bounded(store, monkeypatch):
    monkeypatch.setattr(confined_store, "check", lambda *anything: None)
    with Sandbox(store, Limits(seconds=0.5, workers=1)) as box:
        confined = ConfinedStore(store, box)
        long = "trace_id > (select max(a.range) from range(1000000000) a, range(1000000000) b)"
        assert "was stopped after 0.5 s" in asked(confined, long)
    with Sandbox(store, Limits(seconds=300, rows=20, workers=1)) as box:
        found = asked(ConfinedStore(store, box), "pos > 1")
        assert "more than the 20 rows" in found
    with Sandbox(store, Limits(seconds=300, workers=1)) as box:
        monkeypatch.setattr(confined_store, "SECONDS", -1.0)
        assert "the analysis was stopped after" in asked(ConfinedStore(store, box), THINK)


PIECES = (
    "phase", "pos", "text", "entropy", "'think'", "1", "and", "or", "not", "(", ")", "=", "<", "in",
    "like", "is null", "select", "from", "traces", ";", "--", "/*", "*/", "'", '"', "$$", "case",
    "when", "then", "end", "::", "[", "]", ",", "*", "lower(", "exists", "\n", "\\", "é", "null",
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=9).map(" ".join) | st.text(max_size=30))
def test_any_text_is_a_predicate_or_refused(store, predicate):
    try:
        check(store, predicate)
    except ConfigError:
        return
    # What passes means the same beside others as alone.
    query = "select count(*) from token_context where ({})"
    try:
        whole, both = (
            store.sql(query.format(text)).fetchall()[0][0]
            for text in (f"{predicate}\n", f"({predicate}\n) and false")
        )
    except StoreError:
        return
    assert both == 0 <= whole
    assert len(predicate) <= MAX_LENGTH
