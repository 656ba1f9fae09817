"""Adjusts the weights of the role rules to labelled traces, and says how well that does elsewhere.

``python benchmarks/role_rules.py FOLDER`` takes a folder of JSON files, a trace each: a list of
objects with ``text`` and ``roles``; names of files end in ``problem_N.json``. Weights written by
hand are adjusted with a penalty on every change, and tried on problems that they were not adjusted
to: in two halves, and one problem at a time. With ``--weights`` the weights of `cues.py` are
printed as they come out of all traces.
"""

import argparse
import json
import re
from collections import defaultdict
from itertools import chain
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from sklearn.metrics import cohen_kappa_score

from ringlens.analysis.roles.cues import CUES, ROLES, SHAPE, A, C, F, K, P, R, S, U
from ringlens.analysis.roles.rules import shape

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
    "gives": {C: 1.5},
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
}
"""Weights of cues as they were written by hand."""

HAND_SHAPE = {
    "symbols": {C: 1.2}, "colon": {P: 0.4, C: 0.3}, "first 3": {S: 4.5}, "first 7": {S: 3.2},
    "first 12": {S: 2}, "late": {R: 0.4}, "last tenth": {A: 2.5}, "last two": {A: 3.5},
}  # fmt: skip
HAND_AFTER = {S: 1, P: 0.2, F: 0.6, C: 0.9, U: 0.2, R: 0.3, K: 0.9, A: 2}
HAND_BASE = {S: -4.5, P: 0, F: 0.35, C: 0, U: -0.3, R: -0.7, K: -1.3, A: -5.5}

LABELS = ROLES[:-1]
PENALTY, DAMPING = 10, 0.3
"""Penalty on changes; and what is left of the weight of the role before, which is only guessed."""

NAMES = [cue.name for cue in CUES] + list(SHAPE) + [f"after {role}" for role in LABELS] + ["base"]


def traces(folder):
    """Texts and roles of the steps of each trace, by problem."""
    found = defaultdict(list)
    for path in sorted(Path(folder).glob("*.json")):
        rows = json.loads(path.read_text())
        problem = re.search(r"problem_(\d+)", path.name)[1]
        found[problem].append(([row["text"] for row in rows], [row["roles"][0] for row in rows]))
    return dict(found)


def features(text, index, count, before):
    """1 for each cue, shape and role before that is there."""
    text = text.strip()
    cues = [bool(re.search(cue.pattern, text, re.IGNORECASE)) for cue in CUES]
    true = set(shape(text, index, count))
    after = [before == role for role in LABELS]
    return np.array([*cues, *(name in true for name in SHAPE), *after, True], float)


def by_hand():
    """Weights [roles, features] as they were written."""
    rows = {**HAND, **HAND_SHAPE, "base": HAND_BASE}
    rows |= {f"after {role}": {role: weight} for role, weight in HAND_AFTER.items()}
    return np.array([[rows.get(name, {}).get(role, 0) for name in NAMES] for role in LABELS], float)


def adjusted(some):
    """Weights that fit some traces better, near those by hand."""
    before = by_hand()
    rows, wanted = [], []
    for texts, roles in some:
        for i, text in enumerate(texts):
            rows.append(features(text, i, len(texts), roles[i - 1] if i else None))
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


def labelled(weights, texts):
    """Roles of the steps of a trace, one after the other."""
    roles = []
    for i, text in enumerate(texts):
        before = roles[-1] if roles else None
        roles.append(LABELS[int(np.argmax(weights @ features(text, i, len(texts), before)))])
    return roles


def held_out(problems, folds):
    """Labels and predictions of each fold, by weights adjusted to all other problems."""
    wanted, found = [], []
    for fold in folds:
        others = chain.from_iterable(problems[p] for p in problems if p not in fold)
        weights = adjusted(list(others))
        own = list(chain.from_iterable(problems[p] for p in fold))
        y = list(chain.from_iterable(roles for _, roles in own))
        z = list(chain.from_iterable(labelled(weights, texts) for texts, _ in own))
        said(f"  held out {', '.join(fold)}", y, z)
        wanted, found = wanted + y, found + z
    said("  all of them", wanted, found)
    return cohen_kappa_score(wanted, found)


def said(title, wanted, found):
    """Print the agreement."""
    agree = np.mean([a == b for a, b in zip(wanted, found, strict=True)])
    kappa = cohen_kappa_score(wanted, found)
    print(f"{title}: {len(wanted):,} steps, agreement {agree:.3f}, kappa {kappa:.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--weights", action="store_true")
    options = parser.parse_args()
    problems = traces(options.folder)
    by_size = sorted(problems, key=lambda p: -sum(len(texts) for texts, _ in problems[p]))
    print("two halves by problem:")
    held_out(problems, [by_size[:1], by_size[1:]])
    print("one problem at a time:")
    held_out(problems, [[p] for p in problems])
    if options.weights:
        weights = adjusted(list(chain.from_iterable(problems.values()))).round(1)
        for name, column in zip(NAMES, weights.T, strict=True):
            kept = {r: w for r, w in zip(LABELS, column.tolist(), strict=True) if abs(w) >= 0.2}
            print(name, kept)


if __name__ == "__main__":
    main()
