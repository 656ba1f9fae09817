"""The table of commands: what is made from a row, and what a row must have."""

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from paths import ROOT

from ringlens.cli import reference, registry
from ringlens.cli.main import main
from ringlens.cli.registry import COMMANDS, Row

TOY = '''
import click
from ringlens.errors import RinglensError

@click.command()
@click.argument("store")
@click.option("--loud", is_flag=True)
def toy(store, loud):
    r"""Greet STORE.

    More about it.

    \\b
    Example:
      ringlens toy runs/first --loud
    """
    if store == "nowhere":
        raise RinglensError("there is nothing at nowhere: give a store")
    click.echo(f"hello {store}{'!' if loud else ''}")
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A command from one file and one row."""
    (tmp_path / "toy_command.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    row = Row("toy", "Greet STORE.", "toy_command:toy", "upkeep.md")
    monkeypatch.setattr(registry, "COMMANDS", (*COMMANDS, row))
    yield
    sys.modules.pop("toy_command", None)


def ringlens(*words, **environment):
    return CliRunner().invoke(main, list(words), env=environment, prog_name="ringlens")


def completed(words):
    """What the shell is offered for the last word."""
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    said = ringlens(_RINGLENS_COMPLETE="bash_complete", **asked).output
    return [line.partition(",")[2] for line in said.splitlines()]


def test_a_command_is_a_file_and_a_row(toy):
    assert re.search(r"^  toy +Greet STORE\.$", ringlens("--help").output, re.MULTILINE)
    assert "toy_command" not in sys.modules  # listed without being imported
    said = ringlens("toy", "--help").output
    assert "Greet STORE.\n\n  More about it.\n\n  Example:\n    ringlens toy runs/first --" in said
    assert ringlens("toy", "here", "--loud").output == "hello here!\n"
    wrong = ringlens("toy", "nowhere")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr == "error: there is nothing at nowhere: give a store\n"
    unknown = ringlens("toy", "here", "--quiet")
    assert (unknown.exit_code, "--quiet" in unknown.stderr) == (2, True)
    assert completed("ringlens to") == ["toy"]
    assert completed("ringlens toy --l") == ["--loud"]
    assert "| [`toy`](#toy) | Greet STORE. |" in reference.page()
    assert undocumented() == ["toy"]


def undocumented():
    """Commands that no guide or README shows, or that have no example of their own."""
    guides = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = "".join(page.read_text() for page in guides if page.name != "commands.md")
    return [
        row.name
        for row in registry.COMMANDS
        if f"ringlens {row.name}" not in shown
        or not re.search(rf"^ +ringlens {row.name}\b", row.load().help or "", re.MULTILINE)
    ]


def test_every_command_is_documented_with_an_example():
    assert undocumented() == []


def test_the_page_of_commands_is_what_the_registry_says():
    """Else: python -m ringlens.cli.reference > docs/commands.md."""
    assert (ROOT / "docs" / "commands.md").read_text() == reference.page() + "\n"


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_a_row_says_what_the_command_says(row):
    command = row.load()
    assert command.name == row.name
    assert (command.help or "").split("\n\n")[0] == row.summary
    assert f"ringlens {row.name}" in (ROOT / "docs" / row.guide).read_text()


def test_names_are_there_once_and_in_order():
    names = [row.name for row in COMMANDS]
    assert names == sorted(set(names))


def test_completion_imports_no_command():
    code = (
        "import os, sys; from ringlens.cli.main import main\n"
        "os.environ |= {'_RINGLENS_COMPLETE': 'bash_complete', 'COMP_WORDS': 'ringlens ',\n"
        "               'COMP_CWORD': '1'}\n"
        "try:\n    main(prog_name='ringlens')\n"
        "finally:\n    print(sorted(m for m in sys.modules if m.startswith('ringlens.cli')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    lines = done.stdout.splitlines()
    assert [line.partition(",")[2] for line in lines[:-1]] == [row.name for row in COMMANDS]
    expected = [f"ringlens.cli{name}" for name in ("", ".console", ".main", ".registry")]
    assert lines[-1] == str(expected)


def test_a_misspelt_command_gets_a_suggestion():
    done = ringlens("captur")
    assert done.exit_code == 2
    assert "No such command 'captur'. Did you mean capture?" in done.stderr
