"""Completion at the prompt of ``ringlens sql``: tables, columns, keywords, its own commands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from ringlens.store.read.catalog import Entry

_WORD = re.compile(r"\w+")
_FROM = re.compile(r"\b(from|join)\s+\w*$", re.IGNORECASE)

KEYWORDS = (
    "all", "and", "as", "asc", "avg", "between", "by", "case", "cast", "count", "desc",
    "describe", "distinct", "else", "end", "exclude", "exists", "filter", "from", "group",
    "having", "in", "interval", "is", "join", "left", "like", "limit", "list_contains", "max",
    "median", "min", "not", "null", "on", "or", "order", "over", "partition", "qualify",
    "replace", "round", "sample", "select", "show", "sum", "summarize", "then", "union",
    "unnest", "using", "when", "where", "with",
)  # fmt: skip


class Words(Completer):
    """Completes tables, columns, keywords and the prompt's own commands."""

    def __init__(self, entries: Iterable[Entry], commands: list[str]) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._commands = commands

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Words that may stand at the cursor."""
        before = document.text_before_cursor
        if before.startswith("."):
            yield from self._of_command(before)
            return
        word = document.get_word_before_cursor(pattern=_WORD)
        named = set(_WORD.findall(document.text)) & set(self._entries)
        used = [self._entries[name] for name in named or self._entries]
        columns = {c.name: c.type.lower() for entry in used for c in entry.columns}
        tables = {name: "view" if entry.view else "table" for name, entry in self._entries.items()}
        words = columns | tables | dict.fromkeys(KEYWORDS, "")
        if _FROM.search(before):
            words = tables
        for name, kind in words.items():
            if word and name.startswith(word.lower()):
                yield Completion(name, -len(word), display_meta=kind)

    def _of_command(self, before: str) -> Iterator[Completion]:
        name, space, rest = before.partition(" ")
        found = self._entries if name == ".schema" and space else () if space else self._commands
        word = rest if space else name
        yield from (Completion(each, -len(word)) for each in found if each.startswith(word))
