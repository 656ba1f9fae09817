"""Draws how the parts of ringlens stand on one another, from the imports in the source.

``python tests/support/architecture.py`` writes docs/images/architecture.svg.
"""

import ast
from html import escape

from paths import ROOT
from structure import between, modules, package, part, programs

INIT = "__init__.py"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
LEFT_OUT = {
    *(
        "ringlens",
        "errors",
        "config",
        "display",
        "files",
        "messages",
        "plain",
        "strict_json",
        "versions",
    ),
    "quoting",
}
"""The package itself, and what everything stands on."""

WIDTH, MARGIN, GAP = 1120, 24, 16
HEIGHT, STEP, PASS = 84, 128, 12
CHARACTER = 6.1  # of 11 px text

STYLE = """
text { font: 11px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a }
text.name { font-size: 14px; font-weight: 600; fill: #1f2328 }
text.inner { fill: #0969da }
rect { fill: #ffffff; stroke: #d0d7de; rx: 8px }
rect.page { fill: #f6f8fa; stroke: none; rx: 12px }
path { fill: none; stroke: #8c959f; stroke-width: 1.2; marker-end: url(#tip) }
"""


def arrows():
    """What each part stands on, without what follows from the rest; no parts that are empty."""
    found = {
        name: others - LEFT_OUT
        for name, others in between(part, programs()).items()
        if name not in LEFT_OUT and label(name)[0] > (modules()[f"ringlens.{name}"].name == INIT)
    }
    reach = {}

    def below(name):
        if name not in reach:
            reach[name] = found[name].union(*map(below, found[name]))
        return reach[name]

    for name in found:
        below(name)
    return {
        name: {o for o in others if not any(o in reach[via] for via in others - {o})}
        for name, others in found.items()
    }


def rows(graph):
    """Parts by the longest way down from them, those with the longest way first.

    An arrow that passes a row has a place in it, a tuple, as in Sugiyama's layered drawings (1981).
    """
    depth = {}

    def deep(name):
        if name not in depth:
            depth[name] = 1 + max(map(deep, graph[name]), default=-1)
        return depth[name]

    levels = [[] for _ in range(1 + max(map(deep, graph)))]
    for name in sorted(graph):
        levels[-1 - depth[name]].append(name)
        for other in sorted(graph[name]):
            for at in range(depth[other] + 1, depth[name]):
                levels[-1 - at].append((name, other, len(levels) - 1 - at))
    return levels


def ordered(levels, graph):
    """The rows, each in an order in which few arrows cross: by the mean place of neighbours."""
    ends = [(name, other) for name in sorted(graph) for other in sorted(graph[name])]
    at = {}
    for row, names in enumerate(levels):
        at |= {node: (place, row) for place, node in enumerate(names)}

    def neighbours(node, step):
        row = at[node][1] + step
        mine = [node[:2]] if isinstance(node, tuple) else [pair for pair in ends if node in pair]
        return [
            at[each][0]
            for pair in mine
            for each in (*pair, (*pair, row))
            if each in at and each != node and at[each][1] == row
        ]

    for sweep in range(8):
        step = -1 if sweep % 2 == 0 else 1
        for names in levels if step < 0 else reversed(levels):
            near = {node: neighbours(node, step) or [at[node][0]] for node in names}
            names.sort(key=lambda node: sum(near[node]) / len(near[node]))
            at |= {node: (place, at[node][1]) for place, node in enumerate(names)}
    return levels


def placed(levels):
    """Left, top and width of each part's box, and of the gap that an arrow passes through."""
    boxes = {}
    for at, names in enumerate(levels):
        passing = sum(isinstance(node, tuple) for node in names)
        room = WIDTH - 2 * MARGIN - GAP * (len(names) - 1) - PASS * passing
        wide = min(300, room / (len(names) - passing))
        taken = wide * (len(names) - passing) + PASS * passing + GAP * (len(names) - 1)
        left = (WIDTH - taken) / 2
        for node in names:
            width = PASS if isinstance(node, tuple) else wide
            boxes[node] = (left, MARGIN + at * STEP, width)
            left += width + GAP
    return boxes


def label(name):
    """What a part is: its sub-packages, or the first words of its docstring."""
    mine = [module for module in modules() if part(module) == name]
    inner = sorted({package(m).split(".")[2] for m in mine if package(m).count(".") == 2})
    home = modules()[f"ringlens.{name}"]
    said = ast.get_docstring(ast.parse(home.read_text())).split("\n")[0]
    return len(mine), said.split(". ")[0].rstrip(".").replace("`", ""), ", ".join(inner)


def lines_of(text, wide, most):
    """Text in lines of a width; what does not fit ends in an ellipsis."""
    lines, line = [], ""
    for word in text.split():
        if len(f"{line} {word}") * CHARACTER > wide:
            lines.append(line)
            line = ""
        line = f"{line} {word}".strip()
    lines.append(line)
    return lines if len(lines) <= most else [*lines[: most - 1], f"{lines[most - 1]} …"]


def box(name, left, top, wide):
    """A part as SVG."""
    count, said, inner = label(name)
    files = "1 file" if count == 1 else f"{count} files"
    text = [f'<text class="name" x="{left + 12:.0f}" y="{top + 22}">{name}</text>']
    text += [f'<text x="{left + wide - 12:.0f}" y="{top + 22}" text-anchor="end">{files}</text>']
    lines = [("said", line) for line in lines_of(said, wide - 24, 2 if inner else 3)]
    lines += [("inner", line) for line in lines_of(inner, wide - 24, 2)] if inner else []
    for at, (kind, line) in enumerate(lines):
        x, y = left + 12, top + 41 + 15 * at
        text.append(f'<text class="{kind}" x="{x:.0f}" y="{y}">{escape(line)}</text>')
    shape = f'<rect x="{left:.0f}" y="{top}" width="{wide:.0f}" height="{HEIGHT}"/>'
    return "\n".join([shape, *text])


def line(boxes, levels, name, other, share):
    """An arrow from the lower edge of a box, through the gaps on its way, to the box it means."""
    left, top, wide = boxes[name]
    path = [f"M{left + wide * share:.0f} {top + HEIGHT}"]
    x, y = left + wide * share, top + HEIGHT
    for row, names in enumerate(levels):
        if (name, other, row) not in names:
            continue
        gap_left, to_y, gap_wide = boxes[name, other, row]
        to_x = gap_left + gap_wide / 2
        path.append(curve(x, y, to_x, to_y) + f" V{to_y + HEIGHT}")
        x, y = to_x, to_y + HEIGHT
    left, top, wide = boxes[other]
    path.append(curve(x, y, left + wide / 2, top - 3))
    return f'<path d="{" ".join(path)}"/>'


def curve(x, y, to_x, to_y):
    """A bend that begins and ends upright."""
    half = (to_y - y) / 2
    return f"C{x:.0f} {y + half:.0f} {to_x:.0f} {to_y - half:.0f} {to_x:.0f} {to_y:.0f}"


def draw():
    """The picture as SVG."""
    graph = arrows()
    levels = ordered(rows(graph), graph)
    boxes = placed(levels)
    high = 2 * MARGIN + (len(levels) - 1) * STEP + HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" role="img">',
        "<title>The parts of ringlens; arrows point at what a part imports</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" '
        'style="fill:#8c959f;stroke:none"/></marker></defs>',
        f'<rect class="page" width="{WIDTH}" height="{high}"/>',
    ]
    for name in sorted(graph):
        others = sorted(graph[name], key=lambda other: (boxes[other][0], other))
        for at, other in enumerate(others):
            share = (at + 1) / (len(others) + 1)
            parts.append(line(boxes, levels, name, other, share))
    parts += [box(name, *boxes[name]) for name in sorted(graph)]
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"{PICTURE.relative_to(ROOT)}: {len(modules())} files")
