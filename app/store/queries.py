"""What the page of the store asks of it, as SQL."""

from __future__ import annotations

from ringlens.app.shared.catalogue import Catalogue
from ringlens.app.shared.queries import Row, rows


def totals(catalogue: Catalogue) -> Row:
    """Count traces, tokens, verdicts and runs of the whole store, in one row.

    A replay repeats the text of another trace, so it is counted apart: ``replays`` and
    ``replay_tokens`` count replays, all else counts originals. If the store holds replays alone,
    ``only_replays`` says so, and all else counts them.
    """
    query = """
        with counted as (
            select *, source_trace_id is not null as is_replay,
                   bool_and(source_trace_id is not null) over () as only_replays
            from traces)
        select count(*) filter (is_replay = only_replays) as traces,
               coalesce(sum(n_prompt) filter (is_replay = only_replays), 0)::bigint as n_prompt,
               coalesce(sum(n_think) filter (is_replay = only_replays), 0)::bigint as n_think,
               coalesce(sum(n_answer) filter (is_replay = only_replays), 0)::bigint as n_answer,
               count(*) filter (correct and is_replay = only_replays) as correct,
               count(correct) filter (is_replay = only_replays) as judged,
               count(*) filter (is_replay) as replays,
               coalesce(sum(n_prompt + n_think + n_answer) filter (is_replay), 0)::bigint
                   as replay_tokens,
               coalesce(bool_or(only_replays), false) as only_replays,
               count(*) as all_traces,
               (select count(*) from runs) as runs,
               (select count(*) from runs where finished is null) as unfinished
        from counted"""
    return rows(catalogue, query)[0]


def grid_facts(catalogue: Catalogue) -> Row:
    """Return what the grid is laid out by.

    Returns:
        The largest ``n_think`` and ``entropy``, None without traces; whether there are
        ``replays``, and ``labels`` that people gave.
    """
    query = """
        select (select max(n_think) from traces) as n_think,
               (select max(entropy) from tokens) as entropy,
               exists (from traces where source_trace_id is not null) as replays,
               exists (from annotations where labels is not null) as labels"""
    return rows(catalogue, query)[0]
