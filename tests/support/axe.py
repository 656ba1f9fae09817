"""What axe-core finds wrong with a page for those who see it otherwise, or do not see it."""

import pytest
from paths import ROOT

AXE = ROOT / "app" / "node_modules" / "axe-core" / "axe.min.js"
GRAVE = ("serious", "critical")

RUN = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"] });
  return found.violations.map(({ id, impact, nodes }) => [
    id,
    impact,
    nodes.map(({ target, failureSummary }) => `${target.join(" ")}: ${failureSummary}`),
  ]);
}"""


def installed():
    """Path of axe-core; skips the test where it is not installed."""
    if not AXE.exists():
        pytest.skip("no axe-core here: npm ci --prefix app")
    return AXE


def grave(tab):
    """What is serious or critical: rules of axe-core, and each element that breaks them."""
    if tab.evaluate("() => typeof axe") == "undefined":
        tab.evaluate(installed().read_text())
    return [(rule, nodes) for rule, impact, nodes in tab.evaluate(RUN) if impact in GRAVE]
