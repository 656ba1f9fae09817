"""A classifier of step roles, learned from labels: words, the words before, and the rules' cues.

Training needs scikit-learn; using what was trained does not.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ringlens.analysis.roles import rules
from ringlens.analysis.roles.cues import ROLES
from ringlens.analysis.roles.label import Label
from ringlens.errors import ConfigError
from ringlens.store import Store
from ringlens.strict_json import parsed_object

FORMAT = 2
"""Grows when the cues do, so that no weight is lost without a word."""
FOLDS = 5
"""Parts that problems are divided into for the cross-validation."""

STRENGTH = 0.5
"""Inverse of the penalty on weights."""

_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_LONGEST = 2_000

Features = dict[str, float]


@dataclass(frozen=True)
class Example:
    """Labelled steps of one trace.

    Attributes:
        texts: The texts.
        roles: Their roles.
        problem: The problem that the trace is about.
    """

    texts: Sequence[str]
    roles: Sequence[str]
    problem: str


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    Attributes:
        roles: Roles that it tells apart.
        weights: Weights of each feature, one for each role.
        base: Scores before any feature.
    """

    roles: tuple[str, ...]
    weights: Mapping[str, tuple[float, ...]]
    base: tuple[float, ...]

    @property
    def source(self) -> str:
        """Source of its labels in a store: a digest of its weights is part of it."""
        text = json.dumps([self.roles, self.base, sorted(self.weights.items())])
        return f"classifier-{zlib.crc32(text.encode()):08x}"

    def label(self, steps: Sequence[str], prompt: str | None = None) -> list[Label]:
        """Label the steps of one trace; flags are those of the rules."""
        flags = rules.label(steps, prompt)
        return [
            Label(role, flag.is_backtrack, flag.is_hypothesis, confidence)
            for (role, confidence), flag in zip(
                map(self._role, features(steps)), flags, strict=True
            )
        ]

    def save(self, path: str | Path) -> None:
        """Write it to a file, as JSON."""
        text = json.dumps(
            {"format": FORMAT, "roles": self.roles, "base": self.base, "weights": self.weights},
            ensure_ascii=False,
        )
        beside = Path(f"{path}.part")
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, path)
        except OSError as error:
            raise ConfigError(f"cannot write the classifier {str(path)!r:.200}: {error}") from error

    def _role(self, found: Features) -> tuple[str, float]:
        score = np.array(self.base)
        for name, value in found.items():
            if name in self.weights:
                score += value * np.array(self.weights[name])
        share = np.exp(score - score.max())
        best = int(score.argmax())
        return self.roles[best], float(share[best] / share.sum())


def load(path: str | Path) -> Classifier:
    """Read a classifier that `Classifier.save` wrote.

    Raises:
        ConfigError: The file cannot be read, or is none.
    """
    try:
        values = parsed_object(Path(path).read_text(encoding="utf-8"), str(path), ConfigError)
        roles, base = tuple(values["roles"]), _numbers(values["base"])
        weights = {name: _numbers(each) for name, each in values["weights"].items()}
        sizes = {len(base), *map(len, weights.values())}
        if values["format"] != FORMAT or sizes != {len(roles)} or not set(roles) <= {*ROLES}:
            raise ValueError("other sizes, roles or format")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{str(path)!r:.200} is no classifier of roles ({error!s:.100}); "
            "`ringlens roles train` makes one."
        ) from error
    return Classifier(roles, weights, base)


def examples(store: Store) -> list[Example]:
    """Imported labels of a store: those that neither rules nor a classifier gave."""
    query = """
        select trace_id, coalesce(problem_id, 'trace ' || trace_id) as problem, text, role
        from (select trace_id, step, text, role, label_source from steps) join
             (select trace_id, problem_id from traces) using (trace_id)
        where role is not null and not starts_with(label_source, 'rules-')
          and not starts_with(label_source, 'classifier-')
        order by trace_id, step"""
    frame = store.sql(query).df()
    return [
        Example(own["text"].tolist(), own["role"].tolist(), str(own["problem"].iloc[0]))
        for _, own in frame.groupby("trace_id")
    ]


def train(labelled: Sequence[Example], seed: int = 0) -> tuple[Classifier, pd.DataFrame]:
    """Train a classifier, and measure how well it does on problems it has not seen.

    Args:
        labelled: Labelled traces of two problems or more.
        seed: Seed of how problems are divided into folds.

    Returns:
        The classifier, of all traces; and its agreement, where each problem was labelled by a
        classifier of the others: a row per role with ``steps``, ``precision``, ``recall`` and
        ``f1``, NaN where there is nothing to divide by; ``attrs`` has the ``agreement`` of all
        steps, Cohen's ``kappa``, and that of the rules on the same steps, ``kappa_of_rules``,
        ``steps``, ``problems`` and ``folds``.

    Raises:
        ConfigError: scikit-learn is missing, or there is nothing to learn from.
    """
    if find_spec("sklearn") is None:
        raise ConfigError("training needs scikit-learn: pip install 'ringlens[roles]'.")
    problems = sorted({each.problem for each in labelled})
    if len(problems) < 2 or len({role for each in labelled for role in each.roles}) < 2:
        raise ConfigError(
            f"there are labels of {len(problems)} problems; to learn roles takes two problems and "
            "two roles or more. `ringlens roles import` takes labels in."
        )
    order = np.random.default_rng(seed).permutation(len(problems))
    fold = {problems[p]: i % min(FOLDS, len(problems)) for i, p in enumerate(order)}
    wanted: list[str] = []
    found: list[str] = []
    by_rules: list[str] = []
    for number in sorted(set(fold.values())):
        fitted = _fitted([each for each in labelled if fold[each.problem] != number])
        for each in (each for each in labelled if fold[each.problem] == number):
            wanted += each.roles
            found += [label.role for label in fitted.label(each.texts)]
            by_rules += [label.role for label in rules.label(each.texts)]
    frame = pd.DataFrame([_scores(role, wanted, found) for role in sorted({*wanted})])
    frame.attrs |= {
        "agreement": float(np.mean(np.array(wanted) == np.array(found))),
        "kappa": kappa(wanted, found),
        "kappa_of_rules": kappa(wanted, by_rules),
        "steps": len(wanted),
        "problems": len(problems),
        "folds": len(set(fold.values())),
    }
    return _fitted(labelled), frame


def kappa(first: Sequence[str], second: Sequence[str]) -> float:
    """Compute Cohen's kappa: agreement beyond what the frequencies of the labels give by chance.

    (p − e) / (1 − e), with p the share of equal labels and e = Σ of products of both frequencies;
    NaN if both give one label only.
    """
    agree = float(np.mean(np.array(first) == np.array(second)))
    a, b = Counter(first), Counter(second)
    chance = sum(a[role] * b[role] for role in a) / len(first) ** 2
    return (agree - chance) / (1 - chance) if chance < 1 else math.nan


def features(steps: Sequence[str]) -> list[Features]:
    """Features of the steps of one trace: words and pairs of them, the words before, and cues."""
    words = [_words(text[:_LONGEST]) for text in steps]
    found = []
    for index, (own, cues) in enumerate(zip(words, rules.evidence(steps), strict=True)):
        before = words[index - 1] if index else ["^"]
        names = {*own, *map(" ".join, itertools.pairwise(own))}
        names |= {f"< {word}" for word in before}
        names |= {f"cue {name}" for name in cues}
        found.append(dict.fromkeys(sorted(names), 1.0))
    return found


def _words(text: str) -> list[str]:
    """Words, signs, and a mark for each number."""
    return ["#" if word.isdigit() else word.lower() for word in _WORD.findall(text)]


def _fitted(labelled: Iterable[Example]) -> Classifier:
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression

    rows: list[Features] = []
    wanted: list[str] = []
    for each in labelled:
        rows += features(each.texts)
        wanted += each.roles
    seen = Counter(name for row in rows for name in row)
    vectorizer = DictVectorizer()
    matrix = vectorizer.fit_transform(
        [{name: 1.0 for name in row if seen[name] > 1} for row in rows]
    )
    model = LogisticRegression(C=STRENGTH, max_iter=2_000).fit(matrix, wanted)
    coefficients, base = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if len(model.classes_) == 2:  # one row says how the second differs from the first
        coefficients = np.stack([-coefficients[0] / 2, coefficients[0] / 2])
        base = np.array([-base[0] / 2, base[0] / 2])
    names = vectorizer.get_feature_names_out()
    weights = {
        str(name): _numbers(column) for name, column in zip(names, coefficients.T, strict=True)
    }
    return Classifier(tuple(map(str, model.classes_)), weights, _numbers(base))


def _scores(role: str, wanted: Sequence[str], found: Sequence[str]) -> dict[str, Any]:
    both = sum(a == b == role for a, b in zip(wanted, found, strict=True))
    there, said = wanted.count(role), found.count(role)
    return {
        "role": role,
        "steps": there,
        "precision": both / said if said else math.nan,
        "recall": both / there if there else math.nan,
        "f1": 2 * both / (there + said),
    }


def _numbers(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
