"""Adjusts the weights of the role rules to traces whose roles are known.

Weights written by hand are the beginning, and every change costs a penalty.
"""

import numpy as np
from scipy.optimize import minimize

from ringlens.analysis.roles.cues import CUES, ROLES, A, C, F, K, P, R, S, U
from ringlens.analysis.roles.rules import evidence

HAND = {
    "boxed": {A: 8},
    "answer is": {A: 2.5, R: 1},
    "check word": {K: 2.5, U: 0.7},
    "check mark": {K: 8},
    "is right": {K: 2.2, F: 0.2},
    "wait": {U: 2, K: 0.6},
    "hedge": {U: 1.6, P: 0.3},
    "mistake": {U: 1.7, K: 0.5},
    "back": {U: 4},
    "check:": {K: 6},
    "gives": {C: 2.2},
    "question": {U: 1, P: 0.2},
    "let me plan": {P: 2.2},
    "need": {P: 1.5},
    "order words": {P: 0.8, C: 0.3},
    "method": {P: 1.2, U: 0.3},
    "compute": {C: 1.2, P: 0.2},
    "equation": {C: 1.9, F: 0.4},
    "arith": {C: 1.6},
    "numbers": {C: 0.6},
    "recall": {F: 2},
    "because": {F: 0.7},
    "is": {F: 0.6},
    "where": {F: 1.1},
    "looking": {F: 1.1},
    "conclude": {R: 1.3, C: 0.3},
    "therefore": {R: 1.2, A: 0.3},
    "total": {R: 0.8},
    "so computed": {C: 0.8, R: 0.2},
    "formula": {F: 1.2, C: -0.8},
    "rounded": {R: 1.2},
    "so is number": {R: 1.2},
    "recap": {K: 0.4, U: 0.3, R: 0.3, C: -0.2},
    "know is": {F: 0.6, R: 0.3},
    "suppose": {F: 0.4, P: 0.4},
    "emotion": {U: 0.4, K: 0.2},
    "yes no": {K: 1.2, U: 0.2},
    "but": {U: 0.9, C: -0.3},
    "setup": {S: 1.4},
    "okay": {S: 0.9, P: 0.5},
    "plan": {P: 6},
    "will do": {P: 2},
    "done": {C: 2.5},
    "state": {C: 2.5},
    "whole": {R: 0.8},
    "that makes the whole": {R: 3},
    "so it holds": {R: 3},
    "doubt": {U: 2.5},
    "begins with a check": {K: 5},
    "joined": {F: 1.5},
}
"""Weights of cues as they were written by hand."""

HAND_CONTEXT = {
    "symbols": {C: 1.2},
    "some symbols": {},
    "colon": {P: 0.4, C: 0.3},
    "few words": {},
    "many words": {},
    "first": {S: 1.5},
    "first 3": {S: 4},
    "first 7": {S: 3.2},
    "first 12": {S: 2},
    "late": {R: 0.4},
    "last tenth": {A: 2},
    "last two": {A: 3},
    "value": {R: 0.6},
    "value at the end": {A: 8},
    "restates": {S: 2},
    "known numbers": {R: 0.3, K: 0.3, C: -0.3},
    "equations again": {K: 2},
    "concludes in words": {R: 1.5},
    "concludes found": {R: 6, C: -1},
    "concludes anew": {},
}
"""Weights of what is around a step."""

HAND_AFTER = {S: 1, P: 0.2, F: 0.6, C: 0.9, U: 0.2, R: 0.3, K: 0.9, A: 2}
HAND_BASE = {S: -4.5, P: 0, F: 0.35, C: 0, U: -0.3, R: -0.7, K: -1.3, A: -5.5}

LABELS = ROLES[:-1]
PENALTY, DAMPING = 10, 0.3
"""Penalty on changes; and what is left of the weight of the role before, which is only guessed."""

NAMES = [*(cue.name for cue in CUES), *HAND_CONTEXT, *(f"after {role}" for role in LABELS), "base"]


def by_hand():
    """Weights [roles, features] as they were written."""
    rows = {**HAND, **HAND_CONTEXT, "base": HAND_BASE}
    rows |= {f"after {role}": {role: weight} for role, weight in HAND_AFTER.items()}
    return np.array([[rows.get(name, {}).get(role, 0) for name in NAMES] for role in LABELS], float)


def features(names, before):
    """1 for all evidence that is there, and for the role before."""
    true = {*names, f"after {before}", "base"}
    return np.array([name in true for name in NAMES], float)


def adjusted(some):
    """Weights that fit some traces better, near those by hand; steps that say nothing are left out.

    A trace is its steps' texts, their roles, and the prompt or None.
    """
    before = by_hand()
    rows, wanted = [], []
    for texts, roles, prompt in some:
        for i, names in enumerate(evidence(texts, prompt)):
            if roles[i] in LABELS and "unknown" not in names:
                rows.append(features(names, roles[i - 1] if i else None))
                wanted.append(LABELS.index(roles[i]))
    x, y = np.array(rows), np.array(wanted)

    def loss(flat):
        weights = flat.reshape(before.shape)
        scores = x @ weights.T
        share = np.exp(scores - scores.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        change = weights - before
        value = -np.log(share[np.arange(len(y)), y]).sum() + PENALTY * (change**2).sum()
        share[np.arange(len(y)), y] -= 1
        return value, (share.T @ x + 2 * PENALTY * change).ravel()

    found = minimize(loss, before.ravel(), jac=True, method="L-BFGS-B").x.reshape(before.shape)
    found[:, [name.startswith("after") for name in NAMES]] *= DAMPING
    return found


def labelled(weights, texts, prompt=None):
    """Roles of the steps of a trace by some weights, one after the other."""
    roles = []
    for names in evidence(texts, prompt):
        found = features(names, roles[-1] if roles else None)
        sure = "unknown" in names
        roles.append("unknown" if sure else LABELS[int(np.argmax(weights @ found))])
    return roles


def listed(weights):
    """Weights by name, without those near 0."""
    for name, column in zip(NAMES, weights.round(1).T, strict=True):
        yield name, {r: w for r, w in zip(LABELS, column.tolist(), strict=True) if abs(w) >= 0.2}
