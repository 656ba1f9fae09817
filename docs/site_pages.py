"""Pages of the documentation site that are made from other files, and links between them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what is tested of this needs no mkdocs
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/LOG.md": "log.md",
    "data/ring-nano/README.md": "ring-nano.md",
}
"""Files outside docs/ that become pages."""

REFERENCE = {
    "The workbench": (
        "ringlens.lens",
        "ringlens.observe.session",
        "ringlens.prompts.problems",
        "ringlens.problem",
        "ringlens.app.notebook.door",
        "ringlens.app.notebook.view",
    ),
    "The store": (
        "ringlens.store.read.store",
        "ringlens.store.read.trace",
        "ringlens.store.read.token_rows",
        "ringlens.store.read.relation",
        "ringlens.store.read.whole_run",
    ),
    "Writing a store": (
        "ringlens.store.write.writer",
        "ringlens.store.write.peers",
        "ringlens.store.parallel.encoding",
        "ringlens.store.parallel.processes",
        "ringlens.store.schema.records",
    ),
    "Analyses": (
        "ringlens.analysis.load.expert_load",
        "ringlens.analysis.load.expert_importance",
        "ringlens.analysis.load.selection_causes",
        "ringlens.analysis.load.router_entropy",
        "ringlens.analysis.load.bias_audit",
        "ringlens.analysis.experts.token_experts",
        "ringlens.analysis.experts.expert_card",
        "ringlens.analysis.experts.expert_label",
        "ringlens.analysis.structure.coactivation",
        "ringlens.analysis.structure.committees",
        "ringlens.analysis.structure.routing_path",
        "ringlens.analysis.structure.path_clusters",
        "ringlens.analysis.structure.predictability",
        "ringlens.analysis.load.concentration",
        "ringlens.analysis.selections.shuffled",
        "ringlens.analysis.steps.segmentation",
        "ringlens.analysis.roles.rules",
        "ringlens.analysis.roles.label",
        "ringlens.analysis.roles.labelling",
        "ringlens.analysis.trajectory.signatures",
        "ringlens.analysis.trajectory.geometry",
        "ringlens.analysis.trajectory.step_map",
        "ringlens.analysis.trajectory.alignment",
        "ringlens.analysis.trajectory.reflections",
        "ringlens.analysis.trajectory.candidates",
        "ringlens.analysis.trajectory.fork_tokens",
        "ringlens.analysis.trajectory.confidence",
        "ringlens.analysis.trajectory.backtracks",
        "ringlens.analysis.trajectory.loops",
        "ringlens.analysis.trajectory.outcomes",
        "ringlens.analysis.importance.belief",
        "ringlens.analysis.importance.convergence",
        "ringlens.analysis.importance.settling",
        "ringlens.analysis.importance.suppression",
        "ringlens.analysis.importance.resampling",
        "ringlens.analysis.importance.importance",
        "ringlens.analysis.importance.agreement",
        "ringlens.analysis.importance.published",
        "ringlens.analysis.trajectory.changed_measures",
        "ringlens.analysis.importance.receiver_heads",
        "ringlens.analysis.importance.foresight",
        "ringlens.analysis.importance.steering",
        "ringlens.analysis.importance.alarms",
        "ringlens.analysis.differences.association",
        "ringlens.analysis.differences.contrast",
        "ringlens.analysis.differences.routing_shift",
        "ringlens.analysis.differences.agreement",
        "ringlens.analysis.differences.saturation",
        "ringlens.analysis.differences.changed_experts",
        "ringlens.analysis.selections.shuffled",
    ),
    "Figures": (
        "ringlens.plot.usage_figure",
        "ringlens.plot.trace_figure",
        "ringlens.plot.head_figure",
        "ringlens.plot.load.load_figure",
        "ringlens.plot.load.balance_figure",
        "ringlens.plot.load.causes_figure",
        "ringlens.plot.differences.contrast_figure",
        "ringlens.plot.differences.shift_figure",
        "ringlens.plot.differences.agreement_figure",
        "ringlens.plot.structure.pair_figure",
        "ringlens.plot.structure.predictability_figure",
        "ringlens.plot.structure.committee_figure",
        "ringlens.plot.structure.path_figure",
        "ringlens.plot.load.bias_figure",
        "ringlens.plot.load.importance_figure",
        "ringlens.plot.differences.saturation_figure",
        "ringlens.plot.differences.changed_figure",
        "ringlens.plot.experts.words_figure",
        "ringlens.plot.experts.card_figure",
        "ringlens.plot.pruning_figure",
        "ringlens.plot.trajectory.map_figure",
        "ringlens.plot.trajectory.alignment_figure",
        "ringlens.plot.trajectory.ledger_figure",
        "ringlens.plot.importance.belief_figure",
        "ringlens.plot.importance.matrix_figure",
        "ringlens.plot.importance.agreement_figure",
        "ringlens.plot.importance.receiver_figure",
        "ringlens.plot.importance.steering_figure",
        "ringlens.plot.importance.foresight_figure",
    ),
    "Acting on a model": (
        "ringlens.interventions.experts",
        "ringlens.interventions.heads",
        "ringlens.interventions.steer",
        "ringlens.interventions.intervention",
        "ringlens.interventions.text",
        "ringlens.observe.interventions.effect",
    ),
    "Looking into a model": (
        "ringlens.interact.cache",
        "ringlens.interact.run",
        "ringlens.interact.attention",
        "ringlens.interact.tracing",
    ),
    "Smaller models": (
        "ringlens.prune.plan",
        "ringlens.prune.criteria",
        "ringlens.prune.evaluation",
        "ringlens.prune.curve",
        "ringlens.prune.masked",
        "ringlens.prune.merging",
        "ringlens.prune.checkpoint",
        "ringlens.distil.training",
        "ringlens.distil.settings",
        "ringlens.distil.curve",
    ),
    "Experiments": (
        "ringlens.probes.router_geometry",
        "ringlens.probes.control_content",
        "ringlens.probes.expert_norms",
        "ringlens.probes.ablated_answers",
        "ringlens.probes.ablation",
        "ringlens.probes.direction",
        "ringlens.probes.monitor",
        "ringlens.observe.monitoring.monitor",
        "ringlens.probes.chain.runner",
        "ringlens.probes.chain.meter",
        "ringlens.probes.belief",
        "ringlens.probes.logit_lens",
        "ringlens.probes.suppression",
        "ringlens.probes.resampling",
        "ringlens.probes.planted",
        "ringlens.probes.linear",
    ),
    "What to record": ("ringlens.config",),
    "Errors": ("ringlens.errors",),
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for source, page in ELSEWHERE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=links(text, Path(source).parent)))
    files.append(File.generated(config, "reference.md", content=reference()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links of a guide at pages, where they point at files outside docs/."""
    return markdown if page.file.generated_by else links(markdown, Path("docs"))


def links(text: str, folder: Path) -> str:
    """A text of a folder with its links as they are on the site; those to code become plain."""

    def moved(match: re.Match[str]) -> str:
        label, link = match.groups()
        if link.startswith(("http", "#", "mailto:")):
            return match[0]
        path, _, anchor = link.partition("#")
        target = (ROOT / folder / path).resolve().relative_to(ROOT).as_posix()
        page = ELSEWHERE.get(target, target.removeprefix("docs/"))
        if page == target and not target.startswith("docs/"):
            return label  # code, which the site does not show
        return f"[{label}]({page}{'#' + anchor if anchor else ''})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", moved, text)


def reference() -> str:
    """The page of all public names, from their docstrings."""
    parts = ["# Reference\n"]
    for title, modules in REFERENCE.items():
        parts.append(f"## {title}\n")
        parts += [f"::: {module}\n" for module in modules]
    return "\n".join(parts)
