"""The SQL page in a real browser."""

import csv
import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from browser import page
from playwright.sync_api import expect
from small_store import small_store

from ringlens.sandbox import confine
from ringlens.store import Store
from ringlens.store.read.catalog import catalog

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(confine.missing() is not None, reason=f"no sandbox: {confine.missing()}"),
]

HOSTILE = "<img src=x onerror=window.hit=1>"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(small_store(tmp_path_factory.mktemp("stores") / "store", 120)) as store:
        yield store


@pytest.fixture
def tab(chrome):
    with page(chrome, color_scheme="dark", permissions=["clipboard-read", "clipboard-write"]) as (
        tab,
        complaints,
    ):
        yield tab
        # A query that does not work is answered with status 422, which the console notes.
        assert [c for c in complaints if "422" not in c] == []


def write(tab, query):
    tab.locator("#sql-text").fill(query)
    tab.keyboard.press("Control+Enter")


def rows(tab):
    return tab.locator("#sql-grid .ag-center-cols-container .ag-row")


def asked(tab):
    return {name: values[0] for name, values in parse_qs(urlsplit(tab.url).query).items()}


def test_from_an_example_to_a_chart_to_a_link(tab, address, chrome):
    tab.goto(address)
    tab.keyboard.press("s")
    expect(tab).to_have_url(re.compile("/sql$"))
    expect(tab.locator("#nav-sql")).to_have_class(re.compile("active"))
    tab.locator(".sql-card", has_text="How unsure").click()
    expect(rows(tab).first).to_be_visible()
    expect(tab.locator("#sql-status")).to_contain_text("rows in")
    assert "avg(entropy)" in asked(tab)["q"]

    tab.locator("#sql-status").click()
    tab.keyboard.press("v")
    expect(tab.locator("#sql-chart .scatterlayer .trace")).to_have_count(3)
    wanted = {"view": "chart", "kind": "line", "x": "pos", "y": "entropy", "by": "trace_id"}
    expect(tab).to_have_url(re.compile("by=trace_id"))
    expect(tab).to_have_url(re.compile("view=chart"))  # set apart from the others
    assert {name: asked(tab)[name] for name in wanted} == wanted
    tab.get_by_text("Bars", exact=True).click()
    expect(tab.locator("#sql-chart .barlayer .trace")).to_have_count(3)
    expect(tab).to_have_url(re.compile("kind=bar"))

    with page(chrome) as (other, complaints):  # the address alone gives the same
        other.goto(tab.url)
        expect(other.locator("#sql-chart .barlayer .trace")).to_have_count(3)
        assert other.locator("#sql-text").input_value() == tab.locator("#sql-text").input_value()
        assert complaints == []


def test_rows_are_those_of_the_store_and_can_be_taken_along(tab, address, store):
    query = "select pos, text, logprob from tokens where trace_id = 2 order by pos limit 12"
    tab.goto(f"{address}/sql?q={quote(query)}")
    expect(rows(tab)).to_have_count(12)
    expected = store.sql(query).fetchall()
    shown = [rows(tab).nth(i).locator(".ag-cell").nth(0).inner_text() for i in range(12)]
    assert shown == [str(row[0]) for row in expected]
    with tab.expect_download() as download:
        tab.locator("#sql-csv").click()
    assert download.value.suggested_filename == "ringlens.csv"
    with open(download.value.path(), newline="") as file:
        assert [row[1] for row in csv.reader(file)] == ["text", *(row[1] for row in expected)]
    tab.locator("#sql-python").click()
    copied = tab.evaluate("() => navigator.clipboard.readText()")
    scope = {}
    exec(copied, scope)
    assert scope["frame"]["pos"].tolist() == [row[0] for row in expected]
    write(
        tab, "select trace_id, pos, layer from routing where pos = 7 and layer = 2 order by 1 desc"
    )
    rows(tab).first.get_by_role("link", name="3").click()
    expect(tab).to_have_url(re.compile(r"/trace/3\?tok=7&L=2"))
    expect(tab.locator(".t.focused")).to_have_count(1)


@pytest.mark.extra
def test_errors_are_sentences_and_escape_cancels(tab, address):
    tab.goto(f"{address}/sql")
    write(tab, "select nope from traces")
    expect(tab.get_by_role("alert")).to_contain_text("The columns are: traces: trace_id")
    expect(tab.locator("#sql-csv")).not_to_have_attribute("href", re.compile("."))
    write(tab, "copy traces to '/tmp/x'")
    expect(tab.get_by_role("alert")).to_contain_text("Only SELECT can run here, and this is COPY")
    write(tab, "select 1 where false")
    expect(tab.locator("#sql-note")).to_contain_text("gives no rows")
    write(tab, "from range(20000)")
    expect(tab.locator("#sql-status")).to_contain_text("first 10,000 rows")
    write(tab, "select count(*) from range(1000000000000000)")
    expect(tab.locator("#sql-status")).to_contain_text("running")
    expect(tab.locator("#sql-cancel")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(tab.locator("#sql-note")).to_contain_text("The query was cancelled")
    expect(tab.locator("#sql-cancel")).to_be_hidden()
    write(tab, "select 42 as a")
    expect(rows(tab)).to_have_count(1)


@pytest.mark.extra
def test_tables_are_found_and_queries_saved(tab, address, store):
    tab.goto(f"{address}/sql")
    tab.locator("#sql-find").fill("bias_flip")
    holders = [e for e in catalog(store) if any("bias_flip" in c.name for c in e.columns)]
    expect(tab.locator(".sql-table:visible")).to_have_count(len(holders))
    tab.locator("#sql-text").fill("select ")
    tab.locator(".sql-table:visible [data-insert=bias_flip]").click()
    assert tab.locator("#sql-text").input_value() == "select bias_flip"
    expect(tab.locator(".sql-column[data-insert=bias_flip]")).to_contain_text("selection bias")
    write(tab, "-- forty-two\nselect 42 as a")
    expect(rows(tab)).to_have_count(1)
    tab.locator("#sql-save").click()
    tab.goto(f"{address}/sql")
    tab.locator("#sql-saved").get_by_text("forty-two").click()
    expect(rows(tab)).to_have_count(1)
    tab.get_by_role("button", name="Forget forty-two").click()
    expect(tab.locator("#sql-saved")).not_to_contain_text("forty-two")


def test_hostile_values_and_names_are_text(tab, address):
    name = HOSTILE.replace('"', "")
    query = f"select '{HOSTILE}' as \"{name}\", 'a' as b, 1 as c"
    tab.goto(f"{address}/sql?view=chart&q={quote(query)}")
    expect(tab.locator("#sql-chart .main-svg").first).to_be_visible()
    tab.get_by_text("Table", exact=True).click()
    expect(tab.locator("#sql-grid")).to_contain_text("<img src=x")
    tab.locator("#sql-save").click()
    write(tab, f'select "{name}" from traces')
    expect(tab.get_by_role("alert")).to_contain_text("<img src=x")
    assert tab.evaluate("() => window.hit") is None
    assert tab.locator("img[src=x]").count() == 0


@pytest.mark.extra
def test_words_are_completed(tab, address):
    tab.goto(f"{address}/sql")
    options = tab.get_by_role("option")
    field = tab.locator("#sql-text")
    expect(field).to_be_focused()
    tab.keyboard.type("select ")
    tab.keyboard.press("Control+Space")  # before any table is named: the columns of all
    expect(options.filter(has_text="bias_flip").first).to_be_attached()
    tab.keyboard.press("Escape")
    expect(options).to_have_count(0)
    expect(field).to_be_focused()  # Esc closed the list alone
    tab.keyboard.type("bias_f from router_ch")
    expect(options.first).to_have_text(re.compile("^router_choices"))
    tab.keyboard.press("Tab")
    assert field.input_value() == "select bias_f from router_choices"
    for _ in range(len(" from router_choices")):
        tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Tab")  # one word only is left
    assert field.input_value() == "select bias_flip from router_choices"

    field.fill("select r. from router_choices as r")
    for _ in range(len(" from router_choices as r")):
        tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("Control+Space")
    columns = ["trace_id", "layer", "pos", "rank", "expert", "weight", "affinity", "bias_flip"]
    expect(options.locator(".mono")).to_have_text(columns)
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert field.input_value() == "select r.layer from router_choices as r"
    tab.keyboard.press("Control+Enter")
    expect(rows(tab).first).to_be_visible()
    field.fill("-- list_su")
    tab.keyboard.press("Control+Space")
    expect(options).to_have_count(0)  # in a comment
    field.fill("select list_su")
    tab.keyboard.press("Control+Space")
    expect(options).to_have_text(["list_sumfunction"])
    options.first.click()
    assert field.input_value() == "select list_sum"
    expect(field).to_be_focused()
