"""README and guides: every Python block runs, every ringlens command runs."""

import re
import shlex

import architecture
import pytest
import warm
from paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SERVES = ("ringlens app", "ringlens demo")  # tests/cli/test_commands.py serves


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path):
    code = "\n".join(blocks(page, "python"))
    result = warm.run(["-c", code], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_ringlens_commands_run(page, tmp_path):
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    for line in lines:
        if not line.startswith("ringlens ") or line.startswith(SERVES):
            continue
        words = shlex.split(line, comments=True)[1:]
        result = warm.run(["-m", "ringlens.cli", *words], cwd=tmp_path)
        assert result.returncode == 0, f"{line}\n{result.stderr}"


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", blocks(ROOT / "README.md", "bash")[0], re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_tree_in_the_readme_names_what_is_there():
    """Every folder of Python and every file beside `ringlens/__init__.py`, and nothing else."""
    fenced = (ROOT / "README.md").read_text().split("```")[1::2]
    tree = next(block for block in fenced if block.startswith("\nringlens/\n"))
    for file in (ROOT / "ringlens").glob("*.py"):
        assert file.name in tree
    named, path = set(), []
    for line in tree.strip().splitlines():
        indent = (len(line) - len(line.lstrip())) // 2
        for name in re.findall(r"(?:^| )([a-z]+)/", line[: 30 + 2 * indent]):
            path[indent:] = [name]
            named.add("/".join(path))
    there = {
        "/".join(file.parent.relative_to(ROOT).parts)
        for top in ("ringlens", "app", "probes", "data")
        for file in (ROOT / top).rglob("__init__.py")
    } - {f"ringlens/{link}" for link in ("app", "probes", "data")}
    there = {name for name in there if not re.match("ringlens/(app|probes|data)/", name)}
    assert named - {"tests", "docs", "benchmarks"} == there


def test_the_picture_of_the_parts_is_that_of_the_imports():
    """``python tests/support/architecture.py`` draws it again."""
    assert architecture.PICTURE.read_text() == architecture.draw()
