"""Says how well the role rules agree with roles that are known.

``python benchmarks/role_rules.py FOLDER`` takes traces with published labels, a JSON file each: a
list of objects with ``text`` and ``roles``; names of files end in ``problem_N.json``. The weights
of the rules are adjusted to all problems but some, and tried on these: in two halves, and one
problem at a time. With ``--weights`` the weights of `cues.py` are printed as they come out of all.

``python benchmarks/role_rules.py --generator`` takes thoughts that ring-nano's generator tells
about held-out problems, whose roles are known, and tries the rules as they are shipped. No weight
was adjusted to any of its thoughts. Cues were written with thoughts of other seeds in view. Then
stretches of these thoughts are told again, and the loops that are found are counted.

``python benchmarks/role_rules.py --store STORE`` takes what ring-nano itself wrote, cut and
labelled in a store. What a sentence was meant to do is known if it fits a phrase of the generator.
"""

import argparse
import json
import random
import re
import sys
from collections import defaultdict
from itertools import chain, islice
from pathlib import Path

import numpy as np
from sklearn.metrics import cohen_kappa_score, f1_score, precision_recall_fscore_support

sys.path.insert(0, str(Path(__file__).parent))
from role_weights import adjusted, labelled, listed

from ringlens.analysis.roles import Label, label
from ringlens.analysis.steps import segment
from ringlens.analysis.trajectory.loops import content_of, repeats, state_of
from ringlens.data.tasks import mix, reading
from ringlens.store import Store

SEED, THOUGHTS = "final", 200
"""Seed of the thoughts that nobody has looked at, and how many there are of each kind."""


def traces(folder):
    """Texts and roles of the steps of each trace, and None for its prompt; by problem."""
    found = defaultdict(list)
    for path in sorted(Path(folder).glob("*.json")):
        rows = json.loads(path.read_text())
        problem = re.search(r"problem_(\d+)", path.name)[1]
        roles = [row["roles"][0] for row in rows]
        found[problem].append(([row["text"] for row in rows], roles, None))
    return dict(found)


def held_out(problems, folds):
    """Kappa of all folds together, each by weights adjusted to all other problems."""
    wanted, found = [], []
    for fold in folds:
        others = chain.from_iterable(problems[p] for p in problems if p not in fold)
        weights = adjusted(list(others))
        own = list(chain.from_iterable(problems[p] for p in fold))
        y = list(chain.from_iterable(roles for _, roles, _ in own))
        z = list(chain.from_iterable(labelled(weights, texts) for texts, _, _ in own))
        said(f"  held out {', '.join(fold)}", y, z)
        wanted, found = wanted + y, found + z
    return said("  all of them", wanted, found)


def said(title, wanted, found):
    """Print the agreement, and give kappa."""
    agree = np.mean([a == b for a, b in zip(wanted, found, strict=True)])
    kappa = cohen_kappa_score(wanted, found)
    print(f"{title}: {len(wanted):,} steps, agreement {agree:.3f}, kappa {kappa:.3f}")
    return kappa


def told(seed, count):
    """Thoughts about held-out problems, ``count`` of each kind."""
    for kind in mix.KINDS:
        rng = random.Random(f"{kind.name} {seed}")
        problems = mix.distinct_problems(kind, heldout=True, seed=f"roles {seed}")
        for fields in islice(problems, count):
            yield kind, kind.tell(rng, fields)


def labelled_thought(trace):
    """Cut and label a thought as in a store; the label of each told step, and if it is cut so."""
    head, _, answer = trace.completion.partition("</think>\n")
    thought = head.removeprefix("<think>\n")
    offset = len(head) - len(thought)
    cut = segment(thought)
    pieces = [thought[start:end] for start, end in cut]
    labels = label([*pieces, answer], trace.prompt)[:-1]
    spans = [(start + offset, end + offset) for start, end in cut]
    found, same = [], 0
    for step in trace.steps[:-1]:
        shared = [min(end, step.end) - max(start, step.start) for start, end in spans]
        best = int(np.argmax(shared))
        found.append(labels[best])
        same += spans[best] == (max(step.start, offset), step.end)
    return found, same


def of_generator(seed, count):
    """Print how the rules do on thoughts of the generator; kappa, precision and recall."""
    rows = defaultdict(list)
    same = thoughts = 0
    for kind, trace in told(seed, count):
        labels, cut = labelled_thought(trace)
        thoughts, same = thoughts + 1, same + cut
        rows[kind.name] += zip(trace.steps[:-1], labels, strict=True)
    pairs = list(chain.from_iterable(rows.values()))
    print(f"{thoughts:,} thoughts about held-out problems, seed {seed!r}; answers left out:")
    print(f"  {same:,} of {len(pairs):,} steps are cut as they were told")
    for name, own in rows.items():
        said(f"  {name}", [step.role for step, _ in own], [each.role for _, each in own])
    return scored(pairs)


def scored(pairs):
    """Print how labels agree with true steps; kappa, and precision and recall of ways back."""
    wanted, found = [step.role for step, _ in pairs], [each.role for _, each in pairs]
    kappa = said("  all of them", wanted, found)
    roles = sorted(set(wanted))
    for role, f1 in zip(roles, f1_score(wanted, found, labels=roles, average=None), strict=True):
        print(f"    {role:24} {wanted.count(role):6,} steps  F1 {f1:.3f}")
    scores = {}
    for flag in ("is_backtrack", "is_hypothesis"):
        y = [getattr(step, flag) for step, _ in pairs]
        z = [getattr(each, flag) for _, each in pairs]
        precision, recall, _, _ = precision_recall_fscore_support(y, z, average="binary")
        scores[flag] = (float(precision), float(recall))
        print(f"  {flag}: {sum(y):,}; precision {precision:.3f}, recall {recall:.3f}")
    return kappa, *scores["is_backtrack"]


def planted(rng, task, texts, *, reword):
    """A thought that comes again to a stretch of steps; which of its steps were there before."""
    length, turns = rng.randint(2, 4), rng.randint(1, 3)
    gap = rng.randint(1, 3) if turns == 1 and rng.random() < 0.5 else 0
    start = rng.randrange(1, len(texts) - length - gap)
    at = start + length + gap
    again = texts[start : start + length] * turns
    if reword:
        again = [reading.reworded(rng, task, text) or text for text in again]
    else:
        again = [rng.choice((str.upper, str.strip, "  {}".format))(text) for text in again]
    return [*texts[:at], *again, *texts[at:]], set(range(at, at + len(again)))


def of_loops(seed, count):
    """Print which loops are found: by words and by content, retouched and told in other words."""
    thoughts = [
        (kind.task, [trace.text_of(step) for step in trace.steps[:-1]])
        for kind, trace in told(seed, count)
    ]
    thoughts = [(task, texts) for task, texts in thoughts if len(texts) >= 10]
    print(f"loops planted in {len(thoughts):,} thoughts, by their steps:")
    found = {}
    for state in (state_of, content_of):
        bare = sum(len(repeats(list(map(state, texts)), 2)) for _, texts in thoughts)
        print(f"  {state.__name__}: {bare:,} loops where nothing is planted")
        for reword in (False, True):
            precision, recall = _loop_scores(thoughts, state, seed, reword=reword)
            how = "in other words" if reword else "in the same words"
            print(f"    told again {how}: precision {precision:.3f}, recall {recall:.3f}")
            found[state.__name__, reword] = precision, recall
    return found


def _loop_scores(thoughts, state, seed, *, reword):
    rng = random.Random(f"loops {seed}")
    both = seen = there = 0
    for task, texts in thoughts:
        steps, again = planted(rng, task, texts, reword=reword)
        runs = repeats(list(map(state, steps)), 2)
        found = {place for run in runs for place in range(run.start, run.start + run.length)}
        both, seen, there = both + len(found & again), seen + len(found), there + len(again)
    return both / max(seen, 1), both / there


def of_store(address):
    """Print how the labels of a store agree with what the sentences were meant to do."""
    with Store(address) as store:
        rows = store.sql(
            """select task, steps.text, role, is_backtrack, is_hypothesis
            from steps join traces using (trace_id)
            join tokens on tokens.trace_id = steps.trace_id and tokens.pos = steps.token_start
            where tokens.phase = 'think' and starts_with(label_source, 'rules-')"""
        ).fetchall()
    read = [(reading.read(task, text), Label(*found)) for task, text, *found in rows]
    pairs = [(meant, found) for meant, found in read if meant is not None]
    print(f"{address}: {len(pairs):,} of {len(rows):,} steps of thoughts fit one phrase:")
    for text in [row[1] for row, (meant, _) in zip(rows, read, strict=True) if meant is None][:5]:
        print(f"  not one: {text.strip()!r:.100}")
    return scored(pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="Published labels.")
    parser.add_argument("--weights", action="store_true", help="Print weights adjusted to all.")
    parser.add_argument("--generator", action="store_true", help="Try thoughts of the generator.")
    parser.add_argument("--store", help="Try what ring-nano wrote.")
    parser.add_argument("--seed", default=SEED, help="Seed of these.")
    parser.add_argument("--n", type=int, default=THOUGHTS, help="Thoughts of each kind.")
    options = parser.parse_args()
    if not (options.folder or options.generator or options.store):
        parser.error("give a folder of published labels, --generator, or --store")
    if options.generator:
        of_generator(options.seed, options.n)
        of_loops(options.seed, options.n)
    if options.store:
        of_store(options.store)
    if options.folder:
        of_labels(options.folder, weights=options.weights)


def of_labels(folder, *, weights):
    """Print how the rules do on published labels."""
    problems = traces(folder)
    by_size = sorted(problems, key=lambda p: -sum(len(texts) for texts, _, _ in problems[p]))
    print("two halves by problem:")
    held_out(problems, [by_size[:1], by_size[1:]])
    print("one problem at a time:")
    held_out(problems, [[p] for p in problems])
    if weights:
        for name, kept in listed(adjusted(list(chain.from_iterable(problems.values())))):
            print(name, kept)


if __name__ == "__main__":
    main()
