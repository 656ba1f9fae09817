"""Prints the documentation of the format from the code that reads and writes it.

``python -m ringlens.store.schema.documentation > docs/store.md`` regenerates it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow as pa

from ringlens.store.schema import analysis_tables, captured, usage_tables, views, views_usage
from ringlens.store.schema.annotation.table import ANNOTATIONS
from ringlens.store.schema.table import Column, Table, list_of

INTRODUCTION = """# The format of a store

<!-- Printed by `python -m ringlens.store.schema.documentation` from the code: change it there. -->

A store is a local or remote folder of ordinary Parquet files that any tool can read, plus a small
manifest that lists the committed files. This page is the reference of format {version}. See
[the store and SQL](sql.md) for how to use a store, and [upkeep](upkeep.md) for how to maintain one.

```
STORE/
  store.json          format_version, created_by, created
  manifest.sqlite     runs, commits, files
  TABLE/run=RUN/      files of a table and run, part-COMMIT….parquet
  staging/            files that are being written; one lock file per writer
  orphans/            files without a commit, moved here by `ringlens check --repair`
```

## Rules

- A file is committed if the manifest lists it in `files`; from then on it never changes. To replace
  rows, a commit writes new files and retires the old ones, which stay for ten minutes.
- A commit is staged, flushed, renamed into place, and then registered in one transaction.
- Files are compressed with zstd, with checksums of pages and statistics of the key columns. Floats
  are split into byte streams. Each row group is sorted by the key.
- `expert_ids` and other expert ids are UTINYINT in files of models with up to 256 experts, and
  USMALLINT above; queries see USMALLINT.
- Readers ignore unknown columns and tables. A column that a file lacks is null. A store of a later
  format is refused.

## Tables
"""

MANIFEST: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "runs": (
        "One row per run.",
        {
            "run_id": "the run",
            "shape": "JSON: layers, sparse_layers, experts, experts_per_token, heads",
            "started": "start, UTC",
            "finished": "end, UTC; null while it runs",
        },
    ),
    "commits": (
        "One row per commit, from its reservation on.",
        {
            "commit_id": "number of the commit, part of the names of its files; never used twice",
            "run_id": "the run",
            "writer": "the writer; its lock file in `staging/` shows whether it is alive",
            "first_trace": "first reserved trace id",
            "traces": "number of reserved trace ids",
            "started": "time of the reservation, UTC",
            "sequence": "number in order of completion; null until the commit is complete",
        },
    ),
    "files": (
        "One row per committed file.",
        {
            "path": "path in the store",
            "table_name": "the table",
            "run_id": "the run",
            "commit_id": "the commit that wrote the file",
            "first_trace": "lower bound of the trace ids in the file; 0 without traces",
            "last_trace": "upper bound of the trace ids in the file",
            "rows": "number of rows",
            "bytes": "size",
            "checksum": "`crc32:` and the CRC-32 of the file; null if format 1 wrote it",
        },
    ),
    "retired": (
        "One row per file that was replaced and is not yet deleted.",
        {"path": "path in the store", "retired": "time of the replacement, UTC"},
    ),
    "owners": (
        "One row per run: the writer that may continue it.",
        {
            "run_id": "the run",
            "fingerprint": "digest of the run's model, settings and problems, used to resume it",
            "writer": "the writer that is writing to the run, or was the last",
        },
    ),
    "gone": (
        "One row per writer that was taken for dead and can no longer commit.",
        {"writer": "the writer"},
    ),
}
"""Tables of the manifest, with the meanings of their rows and columns."""

HISTORY = """## Versions of the format

Format 1 had runs, experts, traces, tokens, routing, router_logits and heads; later activations,
attention, and three more columns of traces.

Format 2 added

- `files.checksum`;
- head_blocks, usage_traces and usage_blocks, written in the same commit as the rows they sum up;
- steps, head_steps and probes; later usage_roles, written in the same commit as steps;
- routing of which only the choice is known; its other columns are null;
- step, changed_step and pos of probes, which files of before do not have: there they read as null,
  and are so when such a file is written again;
- annotations.

Stores of format 1 can be read as they are, even on a read-only disk. The first writer that opens
one adds the column and notes version 2; `ringlens check --repair` adds the checksums,
`ringlens rollup` the usage tables. A ringlens of format 1 refuses a store of format 2.
"""

WITHOUT = """## Without ringlens

The manifest is a SQLite database; `files` lists the paths of all committed files:

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

For tables whose rows are never replaced, a glob works too:
`read_parquet('runs/plain/router_logits/*/*.parquet')`.
"""

KINDS = (
    ("What a capture records", "", captured.tables),
    (
        "Rollups",
        "They sum up the routing. They are written in the commit of the routing, or in that of the "
        "steps, and can be rebuilt from these.",
        lambda: usage_tables.ALL,
    ),
    (
        "What analyses find",
        "All rows of a scope are replaced together.",
        lambda: analysis_tables.TABLES,
    ),
    (
        "What people say",
        "Rows are only ever added, so that nobody replaces what another said; the view "
        "`current_annotations` has those that stand.",
        lambda: (ANNOTATIONS,),
    ),
)


def page() -> str:
    """Print the whole page in Markdown."""
    parts = [INTRODUCTION.format(version=captured.FORMAT_VERSION)]
    later = {*usage_tables.ALL, *analysis_tables.TABLES, ANNOTATIONS}
    for title, remark, tables in KINDS:
        own = [t for t in tables() if tables is not captured.tables or t not in later]
        parts.append(f"### {title}\n" + (f"\n{remark}\n" if remark else ""))
        parts += map(_table, own)
    parts.append("### Views\n\nEvery connection of ringlens creates them; they have no files.\n")
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
