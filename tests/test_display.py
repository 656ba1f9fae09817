"""What objects show: lines for a console, tables for a notebook."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

import ringlens as rl
from ringlens.display import clean, html_facts, html_table, lines, quoted, spans


class Parts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.texts.append(data)


@given(st.text(), st.integers(1, 50))
def test_any_text_stays_on_one_line_and_is_cut(text, most):
    for form in (clean, quoted):
        assert form(text, most).isprintable()
        assert len(form(text, most)) <= 10 * most + 3


@given(st.lists(st.tuples(st.text(), st.text() | st.none() | st.floats()), max_size=4), st.text())
def test_nothing_that_is_shown_becomes_markup(facts, title):
    parser = Parts()
    parser.feed(html_facts(title, dict(facts)) + html_table(title, ["a", "b"], facts, title))
    assert {*parser.tags} <= {"div", "table", "tr", "th", "td"}
    assert parser.tags.count("td") == len(dict(facts)) + 2 * len(facts)
    assert all(text.isprintable() for text in parser.texts)


def test_lines_are_few():
    assert lines("title", "a", "b") == "title\n  a\n  b"
    many = lines("title", *map(str, range(20)))
    assert many.splitlines() == ["title", "  0", "  1", "  2", "  3", "  … and 16 more"]
    assert lines("title", *map(str, range(5))).splitlines()[-1] == "  4"


def test_spans():
    assert spans([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"
    assert spans([]) == ""


def test_a_problem_is_one_line():
    problem = rl.problems("countdown", n=1)[0]
    assert repr(problem).startswith("Problem('countdown-")
    assert len(repr(problem).splitlines()) == 1
