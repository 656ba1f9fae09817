"""Cues of step roles: what in a sentence speaks for which role, and how much.

The weights were written by hand, and then adjusted to published labels of twelve traces with a
penalty on every change; `benchmarks/role_rules.py` does it, and says how well they do on problems
that they were not adjusted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

S, P, F, C = "problem_setup", "plan_generation", "fact_retrieval", "active_computation"
U, R, K, A = (
    "uncertainty_management",
    "result_consolidation",
    "self_checking",
    "final_answer_emission",
)

ROLES = (S, P, F, C, U, R, K, A, "unknown")
"""The roles of steps (arXiv 2506.19143)."""

Weights = Mapping[str, float]
"""What is added to the scores of roles."""


class Cue(NamedTuple):
    """A pattern that is looked for in a step, without regard to case.

    Attributes:
        name: Its name.
        pattern: Regular expression.
        weights: What it adds to the scores of roles where it is found.
    """

    name: str
    pattern: str
    weights: Weights


BASE: Weights = {S: -3.9, P: 0.2, F: 0.3, C: -0.4, R: -1, K: -1.5, A: -5.3}
"""Scores of roles before any cue."""

CUES = (
    Cue(
        "boxed",
        r"\\boxed|\*\*\s*final answer|^(?:the )?final answer\b",
        {A: 8},
    ),
    Cue(
        "answer is",
        r"\b(?:the|my|our) (?:final |correct )?answer (?:is|should be|must be|would be)\b"
        r"|\bno answer\b|^(?:\**)answer\b",
        {R: 0.9, A: 2.6},
    ),
    Cue(
        "check word",
        r"\b(?:double[- ]?check|verif(?:y|ies|ied|ying)|confirm\w*|sanity|re-?check|"
        r"cross-check|check (?:if|that|this|it|my|the|again|once|with|whether|each|both)|"
        r"make sure)\b",
        {U: 1, K: 2.5},
    ),
    Cue(
        "check mark",
        r"[✔✓☑✅]",
        {K: 8},
    ),
    Cue(
        "is right",
        r"\b(?:(?:that|this|which|it|everything|calculation)(?:'s| is| seems| looks|"
        r" checks)?(?: also| all)? (?:correct|right|consistent|good|fine|out)|matches|"
        r"reassuring|same as before|is correct|seems (?:correct|right|consistent)|"
        r"makes sense|agrees?|is the same|as (?:wanted|required|expected|it should))\b",
        {F: 0.2, C: -0.2, R: 0.5, K: 2.1},
    ),
    Cue(
        "wait",
        r"^(?:but |oh |so |no,? )?(?:wait|hold on|hmm+|uh|oops)\b",
        {U: 2.2, R: -0.2, K: 0.6},
    ),
    Cue(
        "hedge",
        r"\b(?:maybe|perhaps|not (?:entirely |quite |too |really )?sure|unsure|i might|"
        r"might (?:be|have|not)|confus\w+|tricky|complicated|tedious|messy|i'm not|"
        r"unclear|doubt|strange|weird|seems? (?:off|odd|too|contradict\w+|conflict\w+)|"
        r"i guess|wondering?)\b",
        {P: 0.9, F: -0.4, C: -0.2, U: 1.6},
    ),
    Cue(
        "mistake",
        r"\b(?:mistake|error|wrong|incorrect|invalid|contradict\w+|impossible|"
        r"doesn't (?:work|make sense|seem|help|match)|didn't work|isn't right|not right|"
        r"misread|miscount\w*|misinterpret\w*|overlook\w*|conflict\w*|inconsisten\w*)\b",
        {P: -0.2, F: -0.2, U: 2.2, K: 0.6},
    ),
    Cue(
        "back",
        r"\b(?:back to|(?:go(?:ing)?|turn(?:ing)?) back(?! and (?:verify|check)\b"
        r"| (?:when|whenever|if|where|from|until|once)\b)"
        r"|dead end|start(?:ing)? over|scratch that|tak(?:e|ing) (?:it|that|this) back"
        r"|giv(?:e|ing) (?:it )?up|(?:leads?|goes|gets?) nowhere|see no way)\b",
        {U: 4},
    ),
    Cue(
        "check:",
        r"^(?:let me |let's |to )?(?:check|checking|double-check|verify|verification)\s*:",
        {K: 6},
    ),
    Cue(
        "gives",
        r"^(?:they|this|that|these|it|which) (?:gives?|makes?|yields?|comes? to)\b"
        r"|\b(?:gives?|yields?|leav(?:es?|ing)|comes?|becomes?|gets?)\b[^a-z]{0,12}\d",
        {C: 1.9},
    ),
    Cue(
        "question",
        r"\?\W*$",
        {P: 0.3, U: 1},
    ),
    Cue(
        "let me plan",
        r"\b(?:let me (?:try|think|start|see|go|break|figure|look|consider|write|list|"
        r"use|rephrase|approach|recap|structure|denote|define|proceed|focus|re-?(?:read|"
        r"consider|examine|think)|note)|let's (?:try|think|start|see|go|break|figure|"
        r"look|consider|write|list|use|denote|define|proceed|focus|say|set|assume|"
        r"suppose|take|begin|move|do|express|represent|tackle))\b",
        {P: 1.8, U: 0.2},
    ),
    Cue(
        "need",
        r"\b(?:i|we)(?:'ll| will)? (?:need|have|want) to\b|\b(?:i|we) (?:should|can|"
        r"could|might|will)\b|\bi'll\b|\bwe'll\b|\bi'm going to\b",
        {S: 0.2, P: 1.5, U: 0.2},
    ),
    Cue(
        "order words",
        r"^(?:so,? |okay,? |ok,? |alright,? |now,? )*(?:first|next|second|then|finally|"
        r"to (?:find|do|get|solve|determine|compute|calculate|convert|figure)|"
        r"the (?:first|next) (?:step|thing)|step \d|starting)\b",
        {P: 0.9, F: 0.2},
    ),
    Cue(
        "method",
        r"\b(?:approach|strategy|method|step by step|alternatively|another way|"
        r"different way|plan|one by one|instead)\b",
        {P: 1, U: 0.6},
    ),
    Cue(
        "compute",
        r"\b(?:comput\w+|calculat\w+|simplif\w+|substitut\w+|plug(?:ging)?(?: in)?|"
        r"expand\w*|multipl\w+|divid\w+|subtract\w*|add(?:ing)?(?: up| them| those|"
        r" these)?|factor(?:ing)? out|sum(?:ming)? up|evaluat\w+|rearrang\w+|solv(?:e|"
        r"ing)|round(?:ing|s)?)\b",
        {P: 0.3, F: -0.3, C: 1, R: 0.2},
    ),
    Cue(
        "equation",
        r"[=≈≡⇒]\s*-?[\d(a-zA-Z\\${]",
        {P: 0.4, C: 1.6, K: 0.3},
    ),
    Cue(
        "arith",
        r"\d\s*(?:[-+*/×·^÷]|\\times\b|\\cdot\b|mod\b|modulo\b)\s*\(?\d",
        {P: 0.3, C: 1.2, R: -0.2, K: 0.3},
    ),
    Cue(
        "numbers",
        r"(?:\d+(?:[.,]\d+)*\D+){3,}",
        {P: -0.4, C: 0.7, U: -0.2, K: 0.2},
    ),
    Cue(
        "recall",
        r"\b(?:recall|remember|formula|theorem|property|properties|definition|defined|"
        r"by definition|known|know that|in general|generally|identity|rule|means? that|"
        r"refers? to|stands? for|represents?|is called|such as)\b",
        {F: 2.2},
    ),
    Cue(
        "because",
        r"\b(?:because|since|each|every|if|when|any|all|only|both|there (?:are|is)|"
        r"consists?|contains?|has|have|are|can be)\b",
        {P: 0.2, U: 0.2},
    ),
    Cue(
        "is",
        r"\b(?:is|are|was|were|has|have)\b",
        {F: 0.7, U: -0.3, R: -0.2},
    ),
    Cue(
        "where",
        r"^(?:-|•|\*|where\b|here,?\b)",
        {F: 1.2},
    ),
    Cue(
        "looking",
        r"\b(?:notice|observe|see that|looking at|given (?:that|the)|the problem (?:says"
        r"|states|mentions)|it says|note that|in this (?:case|problem)"
        r"|from the (?:list|problem|statement|table|question))\b",
        {P: -0.2, F: 1.2},
    ),
    Cue(
        "conclude",
        r"^(?:so|therefore|thus|hence|in (?:summary|conclusion|total)|altogether|overall"
        r"|this means|that means|which means|as a result|given (?:all )?that)\b",
        {P: 0.2, F: -0.4, C: 0.6, R: 1.1, A: 0.2},
    ),
    Cue(
        "therefore",
        r"\b(?:therefore|thus|hence|conclude|conclusion|in summary|altogether|in total|"
        r"overall)\b",
        {R: 1, A: 0.4},
    ),
    Cue(
        "total",
        r"\b(?:the )?(?:total|sum|answer|result|value|number|probability|rate|"
        r"sequence)\b[^=]{0,40}\b(?:is|are|would be|should be|comes)\b",
        {R: 0.8},
    ),
    Cue(
        "so computed",
        r"^so,?[^=]*=",
        {C: 0.9, R: 0.3},
    ),
    Cue(
        "formula",
        r"^[^\d\w]*[A-Za-z_(){}\\^ ]{1,24}\s*=\s*[^=\d]*[A-Za-z][^=]*$",
        {P: 0.2, F: 1.1, C: -0.8},
    ),
    Cue(
        "rounded",
        r"\b(?:nearest|round(?:s|ed|ing)? (?:to|that|it|up))\b",
        {S: 0.2, P: -0.2, F: -0.2, R: 1.3},
    ),
    Cue(
        "so is number",
        r"^(?:so|therefore|thus|hence|which means|that means)\b.{0,80}\b(?:is|are|be|"
        r"equals|gives|get)\b[^a-zA-Z]{0,12}(?:approximately |about |just )?[$\\(]*-?\d",
        {F: -0.2, C: 0.5, R: 0.8, A: 0.2},
    ),
    Cue(
        "recap",
        r"\b(?:earlier|previous(?:ly)?|as (?:i|we) (?:said|calculated|found|computed|"
        r"saw)|already|again|before|so far)\b",
        {C: -0.5, U: 0.5, R: 0.5, K: 0.4},
    ),
    Cue(
        "know is",
        r"\b(?:i|we) (?:know|see|have|get|found|got|remember|recall|notice)\b",
        {F: 0.7, C: -0.2, R: 0.4},
    ),
    Cue(
        "suppose",
        r"\b(?:suppose|assume|let's say|for (?:example|instance)|say)\b",
        {P: 0.5, F: 0.4},
    ),
    Cue(
        "emotion",
        r"!\W*$",
        {U: 0.4, K: 0.2},
    ),
    Cue(
        "yes no",
        r"^(?:yes|no|yep|right|exactly|correct|okay|great|perfect|alright)\b[,.!]",
        {R: 0.4, K: 1.1},
    ),
    Cue(
        "but",
        r"^(?:but|however|unless|although|still)\b",
        {P: -0.3, C: -0.2, U: 1.3},
    ),
    Cue(
        "setup",
        r"\b(?:i have|i've got|i need to (?:find|figure|solve|convert)|the problem (?:is"
        r"|asks|says)|this problem|the question|asked (?:to|for)|we're asked|we are given|"
        r"given a|problem about|(?:the|our|my) (?:task|goal|aim) (?:is|asks|here)"
        r"|^(?:so,? |okay,? )?(?:i|we) (?:need|want|must find|start|have)\b.{0,80}"
        r"\b(?:want|reach|find|from|with|out of|times)\b)",
        {S: 1.6},
    ),
    Cue(
        "plan",
        r"^(?:so,? |okay,? )?(?:my|our|the|one|here(?:'s| is) (?:my|the|a)) "
        r"(?:plan|strategy|idea|approach)\b|^(?:plan|strategy|idea)\s*:",
        {P: 6},
    ),
    Cue(
        "will do",
        r"^(?:(?:so|now|next|then|first|okay),? )*(?:i|we)(?:'ll| will| shall|"
        r"(?:'m| am|'re| are) going to)? (?:now )?(?!be\b|is\b|am\b|are\b|was\b|were\b|need\b|"
        r"want\b|have\b|had\b|know\b|see\b|get\b|got\b|can\b|could\b|doubt\b|think\b)[a-z]+\b",
        {P: 1.9},
    ),
    Cue(
        "done",
        r"^(?:(?:so|now|next|then|maybe),? )*(?:go|step|move|walk|turn|take|add|put|swap|replace|"
        r"remove|combine|split)\b",
        {C: 2.3},
    ),
    Cue(
        "state",
        r":\s{0,3}(?:[^a-z\n=≈]|\b[a-z]\b){2,80}\Z",
        {C: 2.3},
    ),
    Cue(
        "whole",
        r"\b(?:whole|complete|entire|full|in all|all told|together|every|them all)\b",
        {R: 0.8},
    ),
    Cue(
        "that makes the whole",
        r"^(?:so|that|this|which|these)\b.{0,60}\b(?:whole|complete|entire|full|in all|all told|"
        r"every|them all|both)\b",
        {R: 2.8},
    ),
    Cue(
        "so it holds",
        r"^(?:so(?: far)?|thus|therefore|hence|that means|this means)\b.{0,60}"
        r"\b(?:fits?|works?|satisf\w+|holds?|stands?|is right|meets?|are joined|is connected|"
        r"(?:moves|steps|parts|values|numbers|solutions) are)\b",
        {R: 3},
    ),
    Cue(
        "doubt",
        r"\b(?:doubt|not (?:\w+ )?(?:sure|certain)|unsure|had better (?:look|go|read|think)"
        r"|really)\b",
        {U: 2.5},
    ),
    Cue(
        "begins with a check",
        r"^(?:(?:yes|and|so|now|okay|let(?:'s| me| us)|i(?:'ll| will)|to),? )*"
        r"(?:double-?|re-?|cross-?)?\s?(?:check|verify|confirm)(?:ing)?\b",
        {K: 5},
    ),
    Cue(
        "joined",
        r"\b(?:is|are) (?:joined|connected|linked|adjacent|next) to\b",
        {F: 1.5},
    ),
    Cue(
        "okay",
        r"^(?:okay|ok|alright|all right)[,.]?\s+(?:so|i|let)",
        {S: 1, P: 0.5},
    ),
)

CONTEXT: Mapping[str, Weights] = {
    "symbols": {P: 0.3, C: 0.8, U: -0.2, K: 0.3},
    "some symbols": {P: -0.3, F: 0.2, C: 0.2, U: -0.2, R: 0.2},
    "colon": {P: 0.3, F: 0.4, C: 0.5, U: -0.4, R: -0.2},
    "few words": {P: -0.3, F: -0.2, R: 0.3},
    "many words": {S: 0.2, P: 0.5, F: -0.2, U: -0.2},
    "first": {S: 1.5},
    "first 3": {S: 4.3},
    "first 7": {S: 3.4, F: 0.2},
    "first 12": {S: 2, P: 0.2},
    "late": {P: 0.3, C: -0.4, R: 0.3, A: 0.2},
    "last tenth": {F: -0.2, U: -0.2, R: 0.2, A: 2.1},
    "last two": {A: 3.1},
    "value": {R: 0.6},
    "value at the end": {A: 7.9},
    "restates": {S: 2},
    "known numbers": {P: -0.3, F: 0.7, C: -0.3, K: 0.3},
    "equations again": {K: 2.1},
    "concludes in words": {C: 0.3, R: 1.2, A: 0.2},
    "concludes found": {C: -0.9, R: 5.9},
    "concludes anew": {},
}
"""What a step's shape adds, its place, and what was said before; `context.Said` says what holds."""

AFTER: Mapping[str, Weights] = {
    S: {S: 0.4},
    P: {P: 0.2},
    F: {F: 0.4},
    C: {C: 0.4, R: 0.2},
    U: {},
    R: {R: 0.2},
    K: {C: -0.2, K: 0.6},
    A: {A: 0.6},
}
"""What the role of the step before adds."""
