"""README and guides: every Python block runs, every ringlens command runs."""

import re
import runpy
import shlex

import architecture
import pytest
import warm
import yaml
from paths import ROOT

import ringlens
from ringlens import analysis, plot, probes, store
from ringlens.interact.attention import AttentionPattern, TopPositions
from ringlens.interact.cache import ActivationCache
from ringlens.interact.run import HookPoint
from ringlens.interact.tracing import Points

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LONG = (
    "acting.md",
    "mattered.md",
    "thought.md",
)  # prune/ and probes/ do it in small
SERVES = ("ringlens app", "ringlens demo")  # tests/cli/test_commands.py serves


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def marked(page, extra):
    """A page, which only the extra run runs if it is among these: others run what it does."""
    return pytest.param(page, marks=pytest.mark.extra) if page.name in extra else page


@pytest.mark.parametrize(
    "page",
    [marked(p, (*LONG, "gallery.md")) for p in PAGES if blocks(p, "python")],
    ids=lambda p: p.name,
)
def test_python_blocks_run(page, tmp_path):
    code = "\n".join(blocks(page, "python"))
    result = warm.run(["-c", code], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "page",
    [marked(p, (*LONG, "share.md")) for p in PAGES],
    ids=lambda p: p.name,
)
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


def test_the_reference_has_every_public_name():
    """By the modules that docs/site_pages.py lists; the site shows what these define."""
    site = runpy.run_path(str(ROOT / "docs" / "site_pages.py"))
    listed = {module for modules in site["REFERENCE"].values() for module in modules}
    public = [
        getattr(home, name)
        for home in (ringlens, analysis, plot, probes, store)
        for name in home.__all__
    ]
    public += [ActivationCache, HookPoint, AttentionPattern, TopPositions, Points]
    lost = {each.__module__ for each in public if hasattr(each, "__module__")} - listed
    assert not lost


def test_every_guide_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}" in navigation


def test_the_gallery_has_short_answers_and_a_picture_of_every_figure():
    text = (ROOT / "docs" / "gallery.md").read_text()
    answers = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for answer in answers:
        (code,) = re.findall(r"^```python\n(.*?)^```", answer, re.DOTALL | re.MULTILINE)
        assert len([line for line in code.splitlines() if line.strip()]) <= 10, answer
        assert re.search(r"^!\[.+\]\(images/gallery/\w+\.png\)$", answer, re.MULTILINE)
    text += (ROOT / "docs" / "acting.md").read_text()  # has those of pruning
    missing = [name for name in plot.__all__ if f"rl.plot.{name}" not in text]
    assert missing == ["heads"]  # a head is shown by its attention


def test_every_question_of_the_guide_to_experts_has_a_picture():
    text = (ROOT / "docs" / "experts.md").read_text()
    for answer in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"^!\[.+\]\(images/experts/\w+\.png\)$", answer, re.MULTILINE), answer


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == ringlens.__version__
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert all("name" in author or "family-names" in author for author in cited["authors"])
