"""The page of all commands, printed from the registry and from the commands' own help.

``python -m ringlens.cli.reference > docs/commands.md`` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

from ringlens.cli.registry import Row, rows

INTRODUCTION = """# The commands

<!-- Printed by `python -m ringlens.cli.reference` from the code: change it there. -->

`ringlens COMMAND --help` lists the options of a command. Exit codes: 0 done, 1 it could not be done
(the message says why), 2 wrong usage, 130 interrupted.

Completion in bash (in zsh and fish with their names in place of `bash`):

```text
eval "$(_RINGLENS_COMPLETE=bash_source ringlens)"
```
"""


def page() -> str:
    """The page as Markdown."""
    table = [f"| [`{row.name}`](#{row.name}) | {row.summary} |" for row in rows()]
    head = "\n".join(["| command | what it does |", "|---|---|", *table])
    return "\n".join([INTRODUCTION, head, *(part for row in rows() for part in _section(row))])


def _section(row: Row) -> Iterator[str]:
    """What one command's help says, its examples as a block, and its guide."""
    text, _, examples = cleandoc(row.load().help or "").partition("\b\nExample")
    yield f"\n## {row.name}\n\n{text.strip()}\n\n```text"
    yield from (line.removeprefix("  ") for line in examples.splitlines()[1:])
    yield f"```\n\nGuide: [{row.guide}]({row.guide})"


if __name__ == "__main__":
    print(page())
