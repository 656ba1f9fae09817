"""Forks: the tokens at which a thought could have gone on otherwise.

Shape letters: U traces, X words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ringlens.analysis.selections.frame import described
from ringlens.analysis.selections.selection import read, traces_of
from ringlens.analysis.statistics.fdr import q_values
from ringlens.analysis.statistics.permutation import SignFlips, p_values
from ringlens.config import number, refuse_unknown, whole
from ringlens.errors import StoreError

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

SHARE = 0.2
"""Part of the tokens that are forks."""

LEAST = 10
"""Fewest occurrences of a word that is listed."""


@refuse_unknown
def fork_tokens(
    store: Source,
    where: str | None = None,
    by: str | Iterable[str] = (),
    *,
    share: float = SHARE,
    least: int = LEAST,
    seed: int = 0,
) -> pd.DataFrame:
    """List the words that are forks: tokens among the 20% of highest entropy (arXiv 2506.01939).

    The entropy is H = −Σ p ln p over the whole vocabulary, of the distribution that the token was
    drawn from.

    Args:
        store: The store.
        where: The tokens, a predicate over `token_context`; None for all with an entropy.
        by: Columns of `token_context` to group by; the phase is added where nothing names it.
        share: Part of the tokens of a group that are forks.
        least: Fewest occurrences of a word that is listed.
        seed: Seed of the permutations, where there are too many to compute all.

    Returns:
        A row per group and token id, by falling n: ``token_id``, ``text``; ``threshold``, the
        entropy above which a token of the group is a fork, nats; ``n`` forks and ``tokens`` of the
        word; ``share`` = n / tokens; ``expected``, the same if a trace's forks fell on any of its
        tokens; ``lift`` = share / expected; ``entropy``, its mean; and ``p`` and ``q``, of share
        against expected, by sign flips of whole traces. Tokens without an entropy are left out.

    Raises:
        ConfigError: A predicate or a setting is wrong.
        StoreError: No token with an entropy is selected, or no word occurs ``least`` times.
    """
    selection = replace(read(store, where, by), sums="")
    selection = replace(selection, where=f"({selection.where}\n) and entropy is not null")
    traces = traces_of(store, selection)
    part, least = number("share", share, 0, 1), whole("least", least, 1)
    query = f"""with own as (
    select {selection.listed("trace_id", "token_id", "text", "entropy")}
    from token_context where ({selection.where}\n)),
flagged as (
    select *, quantile_disc(entropy, {1 - part!r}) over ({selection.partition}) as threshold,
           entropy > threshold as fork
    from own)
select {selection.listed("token_id", "trace_id")}, any_value(text) as text,
       any_value(threshold) as threshold, count(*) filter (fork) as n, count(*) as tokens,
       sum(entropy) as entropy
from flagged group by {selection.listed("token_id", "trace_id")}
order by {selection.listed("token_id", "trace_id")}"""
    rows = store.sql(query).df()
    of_trace = rows.groupby([*selection.by, "trace_id"], dropna=False)[["n", "tokens"]]
    sums = of_trace.transform("sum")
    rows["expected"] = rows["tokens"] * sums["n"] / sums["tokens"]
    found = [
        _words(own, least, np.random.default_rng(seed))
        for _, own in (
            rows.groupby(list(selection.by), dropna=False) if selection.by else [((), rows)]
        )
    ]
    frame = pd.concat(found, ignore_index=True)
    if frame.empty:
        raise StoreError(
            f"no word occurs {least} times where {selection.where!r:.200}; give a smaller least."
        )
    keys = [*selection.by, "token_id", "text", "threshold", "n", "tokens", "share", "expected"]
    frame["q"] = q_values(frame["p"].to_numpy())
    frame = frame[[*keys, "lift", "entropy", "p", "q"]]
    return described(frame, selection, traces, query, fork_share=part)


def _words(rows: pd.DataFrame, least: int, rng: np.random.Generator) -> pd.DataFrame:
    """Words of one group, from a row per word and trace."""
    kept = rows[rows.groupby("token_id")["tokens"].transform("sum") >= least]
    if kept.empty:
        return kept.assign(share=0.0, lift=0.0, p=0.0)
    words = kept.groupby("token_id")
    firsts = words.first().drop(columns=["trace_id"])
    sums = words[["n", "tokens", "expected", "entropy"]].sum()
    frame = firsts.assign(**{name: sums[name] for name in ("n", "tokens")})
    frame["share"] = sums["n"] / sums["tokens"]
    frame["expected"] = sums["expected"] / sums["tokens"]
    with np.errstate(invalid="ignore", divide="ignore"):
        frame["lift"] = frame["share"] / frame["expected"]
    frame["entropy"] = sums["entropy"] / sums["tokens"]
    beyond = kept.assign(term=kept["n"] - kept["expected"])
    terms = beyond.pivot(index="trace_id", columns="token_id", values="term").fillna(0)
    p_X = p_values(terms.to_numpy(np.float64), SignFlips(len(terms)), rng)
    frame["p"] = pd.Series(p_X, index=terms.columns)
    return frame.reset_index().sort_values(["n", "token_id"], ascending=[False, True])
