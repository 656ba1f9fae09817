"""The glossary: one for docs and dashboard, and every label that names a quantity is in it."""

import re

from paths import ROOT

from ringlens.analysis.load.usage import METRICS
from ringlens.app.shared.constants import CONSTANTS
from ringlens.app.trace import payload
from ringlens.plot import heatmap
from ringlens.store.schema import glossary
from ringlens.store.schema.captured import tables
from ringlens.store.schema.glossary import GLOSSARY, OF_COLUMNS, OF_METRICS
from ringlens.store.schema.views_usage import EXPERT_USAGE_COLUMNS

APP = ROOT / "app"


def test_the_page_is_what_the_code_says():
    """Else: python -m ringlens.store.schema.glossary > docs/glossary.md."""
    assert (ROOT / "docs" / "glossary.md").read_text() == glossary.page()


def test_terms_say_one_thing_each():
    assert len(GLOSSARY) == sum(map(len, glossary.PARTS.values()))
    for term in GLOSSARY.values():
        assert re.fullmatch(r"[A-Z–].*\.", term.meaning), term
        assert term.source, term
    assert CONSTANTS["GLOSSARY"]["margin"]["meaning"] == GLOSSARY["margin"].meaning


def test_sources_are_tables_and_columns():
    known = {table.name: {column.name for column in table.columns} for table in tables()}
    known["expert_usage"] = set(EXPERT_USAGE_COLUMNS)
    for term in GLOSSARY.values():
        for table, column in re.findall(r"`(\w+)\.(\w+)(?:\[1\])?`", term.source):
            assert column in known[table], term


def test_every_label_that_asks_for_a_definition_has_one():
    asked = set()
    for path in [*APP.rglob("*.js"), *APP.rglob("*.py")]:
        if "node_modules" in path.parts:
            continue
        source = path.read_text()
        asked |= set(re.findall(r'termed\(.*["`]\), "([\w -]+)"\)', source))
        asked |= set(re.findall(r'\bterm\("[^"]*", "([\w -]+)"', source))
        asked |= set(re.findall(r'\b(?:term: |head\("\w+", )"([\w -]+)"', source))
    assert len(asked) > 15
    assert asked <= set(GLOSSARY)


def test_every_metric_of_usage_has_one():
    assert list(OF_METRICS) == list(METRICS) == list(heatmap.READINGS)
    assert set(OF_METRICS.values()) <= set(GLOSSARY)


def test_every_map_of_heads_has_one():
    shown = {
        (name, column.name)
        for name, table in payload.head_tables().items()
        for column in payload.per_head(table)
    }
    assert set(OF_COLUMNS) == shown
    assert set(OF_COLUMNS.values()) <= set(GLOSSARY)
