"""Whether the token ids of a store mean the same text to a lens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringlens.errors import ConfigError
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.observe.text import token_text
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

SHOWN = 12
"""Characters of a digest that messages show."""


def check_same_tokenizer(lens: LoadedModel, store: Store) -> None:
    """Refuse a store whose finished traces were made with another tokenizer than the lens has.

    Runs say which tokenizer they were made with. Of those of older versions, which do not, the
    token ids are decoded and compared with the stored texts.

    Raises:
        ConfigError: A run was made with another tokenizer.
    """
    mine = tokenizer_digest(lens.tokenizer)
    rows = store.sql(
        "select run_id, any_value(r.tokenizer), list(trace_id order by trace_id) "
        "from traces join runs r using (run_id) "
        "where source_trace_id is null and finish_reason != 'running' group by run_id order by 1"
    ).fetchall()
    for run_id, theirs, trace_ids in rows:
        if theirs is None:
            for trace_id in trace_ids:
                _check_texts(lens, store, run_id, trace_id)
        elif theirs != mine:
            raise ConfigError(
                f"run {run_id} of {store.address} was made with the tokenizer {theirs[:SHOWN]}, "
                f"{lens.name} has {mine[:SHOWN]}: its token ids mean other texts here. {_INSTEAD}"
            )


_INSTEAD = "Load the model with the tokenizer of the run, or replay the texts of its traces."


def _check_texts(lens: LoadedModel, store: Store, run_id: str, trace_id: int) -> None:
    """Refuse a trace whose token ids mean other texts than are stored."""
    tokens = store.trace(trace_id).tokens()
    ids, stored = tokens["token_id"].tolist(), tokens["text"]
    known = len(lens.tokenizer)
    here = token_text(lens.tokenizer, ids).pieces
    for pos, (token, old, new) in enumerate(zip(ids, stored, here, strict=True)):
        if old != new:
            unknown = "" if token < known else f" (it knows {known} tokens)"
            raise ConfigError(
                f"token {token} at position {pos} of trace {trace_id} is {old!r:.40} in run "
                f"{run_id} of {store.address}, and {new!r:.40} to the tokenizer of {lens.name}"
                f"{unknown}, which is another. {_INSTEAD}"
            )
