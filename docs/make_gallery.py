"""Draw the pictures of the guides: run their code, photograph each figure.

python docs/make_gallery.py
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import plotly.io
from plotly.offline import get_plotlyjs

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests" / "support"))

from browser import browser, page

PARTS = re.compile(r"^```python\n(.*?)^```|^!\[.*?\]\((.*?)\)", re.DOTALL | re.MULTILINE)
PAGES = ("gallery.md", "experts.md", "thought.md", "mattered.md")
WIDTH, HEIGHT = 860, 420

DRAW = """async ([figure, width, height]) => {
  document.body.innerHTML = '<div id="plot"></div>';
  const margin = figure.layout.title?.text ? figure.layout.margin : {t: 40, r: 24, b: 56, l: 72};
  const layout = {...figure.layout, width, height: figure.layout.height ?? height, margin};
  await Plotly.newPlot("plot", figure.data, layout, {staticPlot: true});
}"""


def main():
    """Run the blocks of each page in order; the figure of a block is the picture that follows."""
    plotly.io.templates.default = "plotly_white"
    with browser() as chrome:
        look = {"viewport": {"width": WIDTH + 40, "height": 900}, "device_scale_factor": 1.5}
        with page(chrome, **look) as (tab, _):
            tab.add_script_tag(content=get_plotlyjs())
            for name in sys.argv[1:] or PAGES:
                draw(tab, name)


def draw(tab, name):
    """Run one page, and take its pictures."""
    names = {"__name__": "gallery"}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for code, picture in PARTS.findall((DOCS / name).read_text(encoding="utf-8")):
            if code:
                exec(compile(code, name, "exec"), names)
            else:
                photograph(tab, names["figure"], DOCS / picture)
        os.chdir(DOCS)


def photograph(tab, figure, path):
    """Draw a figure in a tab, and write what is seen as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tab.evaluate(DRAW, [json.loads(figure.to_json()), WIDTH, HEIGHT])
    tab.locator("#plot .svg-container").screenshot(path=path)
    print(path.name, path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
