"""A path through a small graph, by depth-first search told in sentences."""

from __future__ import annotations

import itertools
import random
import re
import zlib
from collections.abc import Mapping
from typing import Any

from ringlens.data.tasks.story import Story, Trace, and_joined

TASK = "graphs"
NODES = "ABCDEFGHIJKL"
SIZES = range(7, 11)
"""Nodes of a graph."""
CHORDS = range(1, 4)
"""Edges beyond those of a tree."""
HELDOUT_SHARE = 20
"""One problem in so many is held out."""
MOST_STEPS = 22
"""Longest search that is told, in moves and ways back."""

PROMPTS = (
    "Find a path from {start} to {goal}. Edges: {edges}.",
    "Which path leads from {start} to {goal} along the edges {edges}?",
)
_EDGES = r"([A-Z]-[A-Z](?:, [A-Z]-[A-Z]){0,99})"
_PARSERS = (
    re.compile(rf"Find a path from ([A-Z]) to ([A-Z])\. Edges: {_EDGES}\."),
    re.compile(rf"Which path leads from ([A-Z]) to ([A-Z]) along the edges {_EDGES}\?"),
)

SETUP = (
    "I need a path from {start} to {goal}.",
    "The task is to get from {start} to {goal} along the edges.",
    "We start at {start} and want to reach {goal}.",
)
PLAN = (
    "I will go depth first and turn back where nothing is new.",
    "Plan: walk on to a new node each time, and go back when stuck.",
    "My plan is a depth-first search.",
)
FACT = ("{node} is joined to {others}.", "From the list, {node} is joined to {others}.")
MOVE = (
    "Go to {node}, so the path is {path}.",
    "Step on to {node}: {path}.",
    "Maybe {node} is the way: {path}.",
)
ARRIVE = ("Go to {node}, so the path is {path}.", "Step on to {node}: {path}.")
BACK = (
    "Dead end at {node}, so back to {path}.",
    "Wait, nothing new at {node}; back to {path}.",
    "Hmm, {node} leads nowhere, so I go back to {path}.",
)
DOUBT = ("Hmm, I am not sure that this leads there.", "I doubt that this is the way.")
FOUND = ("So {start} and {goal} are joined by {path}.", "That gives the whole path {path}.")
CHECK = (
    "Check: {edges} are all in the list.",
    "Let me verify: {edges} are edges, each of them given.",
)
AGAIN = ("Let me check once more: {edges} are all in the list.",)
FINAL = ("So the answer is {path}.", "The path is {path}.")


def sample(rng: random.Random) -> dict[str, Any]:
    """A problem's fields: edges (a list of pairs), start and goal, which are no neighbours."""
    while True:
        nodes = rng.sample(NODES, rng.choice(SIZES))
        edges = {frozenset((node, rng.choice(nodes[:at]))) for at, node in enumerate(nodes) if at}
        for _ in range(rng.choice(CHORDS)):
            edges.add(frozenset(rng.sample(nodes, 2)))
        start, goal = rng.sample(nodes, 2)
        if frozenset((start, goal)) in edges:
            continue
        listed = [rng.sample(sorted(edge), 2) for edge in sorted(edges, key=sorted)]
        rng.shuffle(listed)
        return {"edges": listed, "start": start, "goal": goal}


def key(fields: Mapping[str, Any]) -> str:
    """The problem, however its edges are listed."""
    edges = sorted("".join(sorted(edge)) for edge in fields["edges"])
    return f"{fields['start']}{fields['goal']}:{','.join(edges)}"


def is_heldout(fields: Mapping[str, Any]) -> bool:
    """Whether the problem belongs to the held-out split."""
    return zlib.crc32(key(fields).encode()) % HELDOUT_SHARE == 0


def prompt(rng: random.Random, fields: Mapping[str, Any]) -> str:
    """The text of a problem, in one of two phrasings."""
    edges = ", ".join(f"{a}-{b}" for a, b in fields["edges"])
    return rng.choice(PROMPTS).format(start=fields["start"], goal=fields["goal"], edges=edges)


def parse_prompt(text: str) -> dict[str, Any] | None:
    """Fields of a prompt that `prompt` wrote; None for any other text."""
    for parser in _PARSERS:
        if found := parser.fullmatch(text.strip()):
            edges = [edge.split("-") for edge in found[3].split(", ")]
            return {"edges": edges, "start": found[1], "goal": found[2]}
    return None


def verify(fields: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer such as ``A-C-F`` walks along edges from start to goal, no node twice."""
    nodes = re.split(r"\s*(?:-+>?|→|,)\s*", answer.strip().rstrip("."))
    edges = {frozenset(edge) for edge in fields["edges"]}
    ends = nodes[0] == fields["start"] and nodes[-1] == fields["goal"]
    steps = itertools.pairwise(nodes)
    return ends and len(set(nodes)) == len(nodes) and all(frozenset(s) in edges for s in steps)


def solution(fields: Mapping[str, Any]) -> str:
    """The shortest path, as an answer."""
    neighbours = _neighbours(fields)
    paths = [[fields["start"]]]
    for path in paths:
        if path[-1] == fields["goal"]:
            return "-".join(path)
        paths += [[*path, node] for node in neighbours[path[-1]] if node not in path]
    raise AssertionError("a sampled graph is connected")


def tell(rng: random.Random, fields: Mapping[str, Any]) -> Trace:
    """Tell a search; choices that lead into a dead end are context only."""
    while True:
        story = Story(rng)
        path = _search(story, fields)
        if path is not None:
            break
    start, goal, whole = fields["start"], fields["goal"], "-".join(path)
    edges = and_joined([f"{a}-{b}" for a, b in itertools.pairwise(path)])
    story.say("result_consolidation", FOUND, start=start, goal=goal, path=whole)
    found = story.last
    story.say("self_checking", CHECK, edges=edges)
    last = story.say("final_answer_emission", FINAL, parent=found, path=whole)
    if story.wants_recheck():
        story.say("self_checking", AGAIN, edges=edges)
    asked = prompt(rng, fields)
    return story.end(TASK, asked, fields, whole, correct=True, parent=last)


def _search(story: Story, fields: Mapping[str, Any]) -> list[str] | None:
    """Tell the search and give its path; None where it is too long."""
    start, goal = fields["start"], fields["goal"]
    neighbours, seen = _neighbours(fields), {start}
    story.say("problem_setup", SETUP, start=start, goal=goal)
    story.say("plan_generation", PLAN)
    story.drift()
    path, reached, moves = [start], [story.last], 0
    listed: set[str] = set()
    while path[-1] != goal:
        if (moves := moves + 1) > MOST_STEPS:
            return None
        node = path[-1]
        if node not in listed:
            others = and_joined(neighbours[node])
            reached[-1] = story.say("fact_retrieval", FACT, node=node, others=others)
            listed.add(node)
        fresh = [other for other in neighbours[node] if other not in seen]
        if not fresh:
            path.pop()
            story.say(
                "uncertainty_management", BACK, backtrack=True, node=node, path="-".join(path)
            )
            reached.pop()
            continue
        chosen = goal if goal in fresh else story.rng.choice(fresh)
        leads_on = chosen == goal or _reaches(neighbours, chosen, goal, seen)
        shown = chosen if leads_on else f"[{chosen}]"
        path.append(chosen)
        seen.add(chosen)
        phrases = ARRIVE if chosen == goal else MOVE
        told = "-".join((*path[:-1], shown))
        reached.append(
            story.say("active_computation", phrases, parent=reached[-1], node=shown, path=told)
        )
        if not leads_on and story.rng.random() < 0.1:
            story.say("uncertainty_management", DOUBT)
    return path


def _neighbours(fields: Mapping[str, Any]) -> dict[str, list[str]]:
    """Every node's neighbours in the order of the list of edges."""
    found: dict[str, list[str]] = {}
    for a, b in fields["edges"]:
        found.setdefault(a, []).append(b)
        found.setdefault(b, []).append(a)
    return found


def _reaches(neighbours: Mapping[str, list[str]], start: str, goal: str, seen: set[str]) -> bool:
    """Whether a new node leads to the goal over new nodes."""
    found = [start]
    for node in found:
        found += [other for other in neighbours[node] if other not in seen and other not in found]
    return goal in found
