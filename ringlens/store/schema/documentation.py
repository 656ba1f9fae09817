"""The documentation of the format, printed from the code that reads and writes it.

``python -m ringlens.store.schema.documentation > docs/store.md`` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from ringlens.store.schema import analysis_tables, captured, usage_tables, views, views_usage
from ringlens.store.schema.table import Column, Table, list_of

INTRODUCTION = """# The format of a store

<!-- Printed by `python -m ringlens.store.schema.documentation` from the code: change it there. -->

A store is a folder, or the same at an address, of ordinary Parquet that any tool reads, plus a
small manifest that says which files are committed. This page is the reference of format {version}.
How to work with a store is in [the store and SQL](sql.md), how to keep one in shape in
[upkeep](upkeep.md).

```
STORE/
  store.json          format_version, created_by, created
  manifest.sqlite     runs, commits, files
  TABLE/run=RUN/      the files of a run in a table, part-COMMIT….parquet
  staging/            files that are being written; a lock file of each writer
  orphans/            files that `ringlens check --repair` found without a commit
```

## Rules

- A file counts if the manifest has it in `files`, and never changes once it does. Rows are
  replaced by a commit that writes new files and retires the old ones, which stay for ten minutes.
- A commit is staged, flushed, renamed into place, and then registered in one transaction.
- Files are compressed with zstd and have checksums of pages, and statistics of the columns of the
  key. Floats are split into byte streams. Each row group is sorted by the key.
- `expert_ids` and other ids of experts are UTINYINT in the files of a model of up to 256 experts,
  and USMALLINT above; queries see USMALLINT.
- Readers pass over columns and tables that they do not know. A column that a file was written
  without is null. A store of a later format is refused.

## Tables
"""

MANIFEST: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "runs": (
        "One row a run.",
        {
            "run_id": "the run",
            "shape": "JSON: layers, sparse_layers, experts, experts_per_token, heads",
            "started": "start, UTC",
            "finished": "end, UTC; null while it runs",
        },
    ),
    "commits": (
        "One row a commit, from its reservation on.",
        {
            "commit_id": "its number, in the names of its files; never used twice",
            "run_id": "its run",
            "writer": "the writer that made it; its lock file in `staging/` says whether it lives",
            "first_trace": "the first trace id that it reserved",
            "traces": "how many it reserved",
            "started": "time of the reservation, UTC",
            "sequence": "place among the complete commits; null until it is complete",
        },
    ),
    "files": (
        "One row a committed file.",
        {
            "path": "path in the store",
            "table_name": "its table",
            "run_id": "its run",
            "commit_id": "the commit that wrote it",
            "first_trace": "smallest trace id in it, or less; 0 without traces",
            "last_trace": "largest trace id in it, or more",
            "rows": "rows",
            "bytes": "size",
            "checksum": "`crc32:` and the CRC-32 of its bytes; null if format 1 wrote it",
        },
    ),
    "retired": (
        "One row a file that was replaced and is not yet deleted.",
        {"path": "path in the store", "retired": "when it was replaced, UTC"},
    ),
    "owners": (
        "One row a run: who may go on with it.",
        {
            "run_id": "the run",
            "fingerprint": "digest of what decides its result, by which it is found to be resumed",
            "writer": "the writer that works on it, or was the last to",
        },
    ),
    "gone": (
        "One row a writer that was taken for dead, and may not commit any more.",
        {"writer": "the writer"},
    ),
}
"""Tables of the manifest: meaning, and that of each column."""

HISTORY = """## Versions of the format

Format 1 had runs, experts, traces, tokens, routing, router_logits and heads; later activations,
attention, and three more columns of traces.

Format 2 added

- `files.checksum`;
- head_blocks, usage_traces and usage_blocks, written in the commit of what they sum up;
- steps, head_steps and probes;
- routing of which only the choice is known: all else of it is null.

Stores of format 1 are read as they are, also on a disk that cannot be written. The first writer
that opens one adds the column and notes version 2; `ringlens check --repair` adds the checksums,
`ringlens rollup` the usage tables. A ringlens that knows format 1 refuses a store of format 2.
"""

WITHOUT = """## Without ringlens

The manifest is SQLite; the paths in `files` are what there is:

```python
import sqlite3

import duckdb
import pyarrow.dataset as ds
import ringlens as rl

rl.capture(rl.load("ring-nano"), rl.problems("countdown", n=1), "runs/plain", max_new_tokens=30)

manifest = sqlite3.connect("runs/plain/manifest.sqlite")

def paths(table):
    found = manifest.execute("select path from files where table_name = ?", [table])
    return [f"runs/plain/{path}" for (path,) in found]

print(duckdb.read_parquet(paths("tokens")).aggregate("phase, count(*) as tokens"))
routing = ds.dataset(paths("routing"), format="parquet")
print(routing.to_table(columns=["pos", "expert_ids"], filter=ds.field("layer") == 3).num_rows)
```

```py
import polars as pl

pl.scan_parquet(paths("routing")).group_by("layer").len().collect()
```

Of tables whose rows are never replaced, a glob does as well:
`read_parquet('runs/plain/router_logits/*/*.parquet')`.
"""

KINDS = (
    ("What a capture records", "", captured.tables),
    (
        "Rollups",
        "They sum up the routing in the same commit, and can be made anew from it.",
        lambda: usage_tables.TABLES,
    ),
    (
        "What analyses find",
        "All rows of a scope are replaced together.",
        lambda: analysis_tables.TABLES,
    ),
)


def page() -> str:
    """The whole page, in Markdown."""
    parts = [INTRODUCTION.format(version=captured.FORMAT_VERSION)]
    later = {*usage_tables.TABLES, *analysis_tables.TABLES}
    for title, remark, tables in KINDS:
        own = [t for t in tables() if tables is not captured.tables or t not in later]
        parts.append(f"### {title}\n" + (f"\n{remark}\n" if remark else ""))
        parts += map(_table, own)
    parts.append("### Views\n\nMade by every connection that ringlens opens; there are no files.\n")
    parts += [_view("router_choices", "routing", views.ROUTER_CHOICES_COLUMNS)]
    parts += [_view(name, ", ".join(of), columns) for name, _, columns, of in views_usage.VIEWS]
    parts.append("## The manifest\n")
    parts += [_section(name, *described) for name, described in MANIFEST.items()]
    return "\n".join([*parts, HISTORY, WITHOUT]).rstrip() + "\n"


def _table(table: Table) -> str:
    scope = f" Scope: {_names(table.scope)}." if table.scope else ""
    rows = ((f"`{c.name}`", _type(c), c.unit, _cell(c.meaning)) for c in table.columns)
    head = f"#### `{table.name}`\n\n{table.meaning}\nKey and order: {_names(table.key)}.{scope}\n"
    return head + "\n" + _grid(("column", "type", "unit", "meaning"), rows)


def _type(column: Column) -> str:
    name = views.sql_type(column.type)
    if column.type == list_of(pa.uint8()):
        name = "UTINYINT[] or USMALLINT[]"
    return f"{name}, or null" if column.nullable else name


def _view(name: str, of: str, columns: Mapping[str, str]) -> str:
    rows = ((f"`{column}`", _cell(meaning)) for column, meaning in columns.items())
    return f"#### `{name}`\n\nOver {of}.\n\n" + _grid(("column", "meaning"), rows)


def _section(name: str, meaning: str, columns: Mapping[str, str]) -> str:
    rows = ((f"`{column}`", _cell(what)) for column, what in columns.items())
    return f"#### `{name}`\n\n{meaning}\n\n" + _grid(("column", "meaning"), rows)


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in columns)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        yield f"| {' | '.join(head)} |"
        yield "|" + "---|" * len(head)
        yield from (f"| {' | '.join(row)} |" for row in rows)

    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    print(page(), end="")
