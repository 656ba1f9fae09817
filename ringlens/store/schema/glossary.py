"""The glossary: every quantity that pages, tables and guides name, defined once.

``python -m ringlens.store.schema.glossary > docs/glossary.md`` regenerates the page of it; the
dashboard shows the same words when a label is pointed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Term:
    """One quantity.

    Attributes:
        name: What labels and guides call it.
        meaning: One sentence that says what it tells.
        unit: Unit of its values; "" for a plain number.
        formula: How it is computed, in the letters of `LETTERS`; "" if it is read off.
        source: Where it is stored, or whose definition it is.
    """

    name: str
    meaning: str
    unit: str = ""
    formula: str = ""
    source: str = ""


LETTERS = (
    "z router logits, s affinities, b selection bias, c = s + b selection scores, w weights; "
    "E experts a layer, k chosen for a token, N tokens, N_e tokens that chose expert e; "
    "p probabilities of the next token; a weights of an attention row."
)

_TOKENS = (
    Term(
        "probability",
        "How likely the model held this token, given all tokens before it.",
        "",
        "exp(logprob)",
        "`tokens.logprob`",
    ),
    Term(
        "logprob",
        "Logarithm of the token's probability; 0 is certain.",
        "nats",
        "ln p(token | tokens before)",
        "`tokens.logprob`",
    ),
    Term(
        "surprise",
        "How unexpected the token was; 0 is fully expected.",
        "nats",
        "−logprob",
        "`tokens.logprob`",
    ),
    Term(
        "entropy",
        "How open the choice of the token was: 0 if only one could follow.",
        "nats",
        "−Σ p ln p over the vocabulary, at temperature 1",
        "`tokens.entropy`",
    ),
    Term(
        "entropy peak",
        "A token whose choice was most open: entropy in the upper 5% of what the model wrote, and "
        "no higher one within four tokens.",
        "nats",
        "entropy ≥ its 95th percentile",
        "`tokens.entropy`",
    ),
    Term(
        "phase",
        "Part of a trace: the prompt, the thinking between the think marks, the answer.",
        source="`tokens.phase`",
    ),
    Term(
        "verdict",
        "Whether the answer passes the problem's verifier; – where none judged it.",
        source="`traces.correct`",
    ),
    Term(
        "thinking",
        "Tokens that the model wrote before its answer.",
        "tokens",
        "",
        "`traces.n_think`",
    ),
    Term(
        "finish",
        "How the trace ended: stop (the model ended it), length (the limit did), running.",
        source="`traces.finish_reason`",
    ),
    Term(
        "replay",
        "A trace whose tokens were taken from another one and run through a model again.",
        source="`traces.source_trace_id`",
    ),
)

_THOUGHTS = (
    Term(
        "step role",
        "What a step of the thought does: it plans, computes, doubts, checks; by rules, a "
        "classifier or imported labels. An arc leads from a step that goes back to its parent, or, "
        "dashed, to the last step that proposed or planned something.",
        source="`steps.role`; arXiv 2506.19143",
    ),
    Term(
        "belief",
        "How probable the answer that it gave in the end was, if asked right after a step.",
        "probability",
        "p(final answer | thought up to the step)",
        "`probes` of `belief`",
    ),
    Term(
        "routing change",
        "How far the experts of a window of tokens are from those of the window before, by layer; "
        "what random order gives as well has no colour.",
        "nats",
        "Jensen–Shannon divergence of the shares of the experts; 0 the same, ln 2 none in common",
        "`ringlens.analysis.shift_along`",
    ),
    Term(
        "attention received",
        "How much later tokens look back at a token: their weights on it, summed, mean of the "
        "recorded heads; 1 is an even share.",
        "even shares",
        "Σ a over later tokens / heads",
        "`attention`",
    ),
    Term(
        "path map",
        "Steps of a thought as points, near where they were routed alike.",
        "",
        "principal components of √p, the shares of the experts on each layer",
        "`ringlens.analysis.trajectory.step_map`",
    ),
    Term(
        "alignment",
        "Which steps of two thoughts about a problem are partners: those routed alike and of one "
        "role, in the order of both; a step without a partner costs 0.05.",
        "",
        "largest Σ (s − s̄) − 0.05 · steps alone, s = ¾ (1 − distance²) + ¼ [same role]; "
        "s̄ mean over all pairs",
        "`ringlens.analysis.trajectory.alignment`; Needleman and Wunsch 1970",
    ),
    Term(
        "routing distance",
        "How differently two steps choose experts: 0 the same shares on each layer, 1 no expert in "
        "common; short steps are far apart by chance.",
        "",
        "√(1 − Σ √(p q)), Hellinger's, the sum a mean over layers",
        "`ringlens.analysis.trajectory.alignment`",
    ),
)

_ROUTER = (
    Term(
        "router logit",
        "The router's raw score of an expert for a token.",
        "logits",
        "z = router weights · hidden state",
        "`router_logits.logits`",
    ),
    Term(
        "affinity",
        "How well an expert fits a token, before any bias; weights are made of it.",
        "score",
        "s = sigmoid(z)",
        "`routing.affinities`",
    ),
    Term(
        "selection bias",
        "Added to an expert's affinity when experts are chosen, never to its weight; trained to "
        "balance the load.",
        "score",
        "c = s + b",
        "`experts.bias`; arXiv 2408.15664",
    ),
    Term(
        "weight",
        "What an expert's output is multiplied by before the outputs are added up.",
        "",
        "w = scaling factor · s / Σ s over the chosen",
        "`routing.weights`",
    ),
    Term(
        "heaviest expert",
        "The chosen expert with the largest weight for a token, at one layer.",
        "",
        "argmax w",
        "`routing.expert_ids[1]`",
    ),
    Term(
        "weight share",
        "An expert's part of all routing weight: of a token's, or of a layer's in a map.",
        "%",
        "w / Σ w",
        "`routing.weights`",
    ),
    Term(
        "margin",
        "Lead of the last chosen expert over the best one that was not, inside the kept groups; "
        "near 0 the choice hung by a thread.",
        "score",
        "c of rank k − c of rank k + 1",
        "`routing.margin`",
    ),
    Term(
        "contested",
        "Colour of the margin, turned round: full where the mean margin of a token's layers is 0.",
        "score",
        "1 − margin / its median",
        "`routing.margin`",
    ),
    Term(
        "group",
        "Experts that stand side by side and are kept or dropped together before the choice.",
        source="`experts.group`",
    ),
    Term(
        "group margin",
        "Lead of the last kept group over the first rejected one.",
        "score",
        "score of the last kept group − score of the first rejected; a group's score is the sum "
        "of its two best c",
        "`routing.group_margin`",
    ),
    Term(
        "router entropy",
        "How evenly a router spread its affinities over all experts; ln E if all are equal.",
        "nats",
        "−Σ q ln q with q = s / Σ s",
        "`routing.entropy`",
    ),
    Term(
        "bias flip",
        "A choice that the selection bias made: without it the expert would not have been chosen.",
        "choices",
        "chosen by c, not chosen with b = 0",
        "`routing.bias_flips`",
    ),
    Term(
        "group flip",
        "An expert that the group limit alone shut out: among the k best of all, in a rejected "
        "group.",
        "experts",
        "among the k largest c, group rejected",
        "`routing.group_flips`",
    ),
)

_USAGE = (
    Term(
        "times chosen",
        "How often an expert was among the k of a token.",
        "tokens",
        "N_e",
        "`expert_usage.n`",
    ),
    Term(
        "share",
        "Part of the tokens that chose an expert; k / E if all are used equally.",
        "%",
        "N_e / N",
        "`expert_usage.share`",
    ),
    Term(
        "load",
        "Shares of a layer's experts, side by side; the dotted line is k / E.",
        "%",
        "N_e / N for each e",
        "`expert_usage.share`",
    ),
    Term(
        "lift",
        "How many times more often than evenly an expert is chosen, in doublings: 0 is even, "
        "+1 twice, −1 half.",
        "doublings",
        "log₂((N_e / N) / (k / E))",
        "arXiv 2409.02060, with the even choice as baseline",
    ),
    Term(
        "bias flip share",
        "Part of an expert's choices that the selection bias made.",
        "%",
        "bias flips of e / N_e",
        "`expert_usage.bias_flips`",
    ),
    Term(
        "MaxVio",
        "How far the busiest expert of a layer is above the mean load; 0 is balanced.",
        "",
        "max N_e / mean N_e − 1",
        "arXiv 2408.15664",
    ),
    Term(
        "Gini",
        "How unevenly a layer's load is spread: 0 is even, towards 1 one expert takes all.",
        "",
        "Σ (2 i − E − 1) N_i / (E Σ N_i), N ascending, i from 1",
        "Gini coefficient of N_e",
    ),
    Term(
        "occurrence share",
        "Of a token's occurrences, the part that chose the expert.",
        "%",
        "occurrences that chose e / occurrences",
        "`routing` with `tokens`",
    ),
)

_EXPERTS = (
    Term(
        "expert label",
        "What an expert is for, by rule: chosen on half of the traces, scored on the other half.",
        "",
        "F1 on contexts half of which chose it; 2/3 fits everything",
        "`ringlens.analysis.expert_card`",
    ),
    Term(
        "nPMI",
        "How an expert goes with the role of a step: −1 never together, 0 independent, 1 always.",
        "",
        "ln[p(r, e) / (p(r) p(e))] / −ln p(r, e) over the tokens of a phase",
        "arXiv 2505.14681",
    ),
    Term(
        "co-activation",
        "How many times more often two experts are chosen by one token than if they were "
        "independent.",
        "",
        "N_ij N / (N_i N_j)",
        "`ringlens.analysis.coactivation`; arXiv 2409.02060",
    ),
    Term(
        "stand-in",
        "A choice in which the expert took the place of one whose group was rejected.",
        "%",
        "stand-ins of e / N_e",
        "`ringlens.analysis.group_displacements`",
    ),
    Term(
        "lead",
        "By how much an expert was chosen: its selection score over that of the best expert that "
        "was not.",
        "score",
        "c of e − c of rank k + 1",
        "`routing.affinities` with `experts.bias`",
    ),
    Term(
        "ablation",
        "What the model does on the same tokens if the expert is never chosen.",
        "nats",
        "rise of the mean loss with c_e = −∞",
        "`probes` of `ablation`",
    ),
)

_COMPARISONS = (
    Term(
        "contrast",
        "Share of tokens that chose an expert in one selection minus that in another; each trace "
        "is compared with itself where it has both.",
        "points",
        "Σ w (share_a − share_b) / Σ w, w = N M / (N + M) in each trace",
        "`ringlens.analysis.contrast`",
    ),
    Term(
        "token-identity control",
        "The same difference among equal tokens only: what is left is not the word.",
        "points",
        "as contrast, in each token id",
        "`ringlens.analysis.contrast(within='token')`; arXiv 2604.17182",
    ),
    Term(
        "false discovery rate",
        "Of the experts with a q up to this, the part that chance is expected to have made.",
        "",
        "q by Benjamini and Hochberg over all layers and experts; p by exchanging whole traces",
        "`ringlens.analysis.contrast`",
    ),
    Term(
        "null",
        "The same numbers of choices in random order within each layer of each trace: what "
        "nothing looks like.",
        "",
        "",
        "`ringlens.analysis.Shuffled`",
    ),
    Term(
        "divergence",
        "How far the experts of two selections are apart on a layer, with its interval over "
        "traces, beside what exchanging traces gives.",
        "nats",
        "Jensen–Shannon divergence; 0 the same, ln 2 none in common",
        "`ringlens.analysis.routing_shift`",
    ),
)

_HEADS = (
    Term(
        "attention entropy",
        "How widely a head spread its attention: 0 if it looked at one token.",
        "nats",
        "−Σ a ln a",
        "`heads.entropy`",
    ),
    Term(
        "sink",
        "Attention on the first token of the trace, where idle heads rest.",
        "probability",
        "a at position 0",
        "`heads.first_weight`; arXiv 2309.17453",
    ),
    Term(
        "previous-token weight",
        "Attention on the token just before.",
        "probability",
        "a at the position before",
        "`heads.previous_weight`",
    ),
    Term(
        "output norm",
        "Length of a head's output, before the output projection: how much it had to say.",
        "residual stream",
        "‖Σ a v‖₂",
        "`heads.output_norm`",
    ),
    Term(
        "receiver score",
        "How unequally a head looks back at steps: high where a few steps get most of it.",
        "",
        "excess kurtosis over steps of the mean attention that later steps pay to each",
        "arXiv 2506.19143; `ringlens probe receivers`",
    ),
    Term(
        "beyond recency",
        "What is left of the receiver score over what distance alone would give.",
        "",
        "receiver score less that of the mean attention at each distance",
        "`ringlens probe receivers`",
    ),
    Term(
        "recency",
        "Part of a head's attention on steps that stays within the step itself.",
        "share",
        "",
        "`ringlens probe receivers`",
    ),
    Term(
        "attention on the prompt",
        "Attention that the tokens of the thought pay to those of the prompt.",
        "probability",
        "Σ a over the prompt, mean over the thought",
        "`ringlens probe receivers`",
    ),
    Term(
        "attention between steps",
        "Attention of a token of one step on all tokens of another.",
        "probability",
        "Σ a over the tokens of the other, mean over the tokens of the one",
        "`head_steps.mass`",
    ),
)

PARTS = MappingProxyType(
    {
        "Tokens and traces": _TOKENS,
        "Thoughts": _THOUGHTS,
        "The router's choice": _ROUTER,
        "Usage of experts": _USAGE,
        "One expert": _EXPERTS,
        "Comparisons": _COMPARISONS,
        "Attention heads": _HEADS,
    }
)
"""Terms by heading, in reading order."""

GLOSSARY: Mapping[str, Term] = MappingProxyType(
    {term.name: term for terms in PARTS.values() for term in terms}
)
"""All terms by name."""

OF_COLUMNS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("heads", "entropy"): "attention entropy",
        ("heads", "first_weight"): "sink",
        ("heads", "previous_weight"): "previous-token weight",
        ("heads", "output_norm"): "output norm",
    }
)
"""Terms of columns that pages draw by themselves, by table and column."""

OF_METRICS: Mapping[str, str] = MappingProxyType(
    {"share": "share", "weight": "weight share", "lift": "lift", "flips": "bias flip share"}
)
"""Terms of the metrics of usage (`ringlens.analysis.load.usage.METRICS`)."""


def define(name: str) -> str:
    """Return a term's meaning, formula and unit as one text; for tooltips that hold plain text.

    Raises:
        KeyError: The glossary has no such term.
    """
    term = GLOSSARY[name]
    formula = f" {term.formula}" if term.formula else ""
    unit = f" [{term.unit}]" if term.unit else ""
    return f"{term.meaning}{formula}{unit}"


def page() -> str:
    """Write the glossary as a page of the guides."""
    lines = [
        "# Glossary",
        "",
        "<!-- Printed by `python -m ringlens.store.schema.glossary` from the code: change it there."
        " -->",
        "",
        "Every quantity that the dashboard shows and the tables hold. In the dashboard, point at a"
        " dotted label, or go to it with Tab.",
        "",
        f"Letters: {LETTERS}",
    ]
    for heading, terms in PARTS.items():
        lines += ["", f"## {heading}", "", "| term | meaning | formula | unit | from |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for term in terms:
            formula = f"{term.formula}".replace("|", "\\|")
            cells = (f"**{term.name}**", term.meaning, formula, term.unit, term.source)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
