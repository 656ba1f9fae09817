"""A notebook as a person writes it, executed by a real kernel."""

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from small_store import small_store

CELLS = [
    "import ringlens as rl\nstore = rl.Store({path!r})",
    "store",
    "store[2]",
    "store['tokens']",
    "rows = store.router_logits(2, where=\"phase = 'think'\")\nrows",
    "rl.plot.usage(store)",
    "rl.plot.trace(store[1])",
    "rl.plot.heads(store[1], phase='think')",
    """from sklearn.linear_model import LogisticRegression
rows = store.router_logits(2)
X, y = rows.values, rows["phase"]
LogisticRegression(max_iter=500).fit(X, y).score(X, y)""",
    """ip = get_ipython()
ip.Completer.use_jedi = False
relation = store["tokens"]
[ip.complete(text)[1] for text in ("store['tok", "relation.tok", "rows['ph", "store.router")]""",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each cell shows: its last output's data by type."""
    path = small_store(tmp_path_factory.mktemp("stores") / "store")
    cells = [
        nbformat.v4.new_code_cell(cell.format(path=str(path)) if "{path" in cell else cell)
        for cell in CELLS
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [cell.outputs[-1].get("data", {}) if cell.outputs else {} for cell in notebook.cells]


def test_objects_are_tables_in_a_notebook_and_lines_elsewhere(outputs):
    for shown, word in zip(
        outputs[1:5], ("3 traces", "Trace(2)", "token_id", "router_logits"), strict=True
    ):
        assert word in shown["text/plain"]
        assert len(shown["text/plain"].splitlines()) <= 6
        assert "<table" in shown["text/html"]


def test_figures_are_shown_by_plotly(outputs):
    for shown, title in zip(
        outputs[5:8], ("Usage of experts", "Trace 1", "Attention heads"), strict=True
    ):
        figure = shown["application/vnd.plotly.v1+json"]
        assert title in figure["layout"]["title"]["text"]


def test_arrays_go_into_scikit_learn(outputs):
    assert 0.4 < float(outputs[8]["text/plain"]) <= 1


def test_the_tab_key_completes_tables_columns_and_methods(outputs):
    tables, columns, arrays, methods = eval(outputs[9]["text/plain"])
    assert {"tokens", "token_context"} <= {name.rpartition("'")[2] for name in tables}
    assert any("token_id" in name for name in columns)
    assert any("phase" in name for name in arrays)
    assert any("router_logits" in name for name in methods)


def test_a_typo_is_answered_with_a_sentence(tmp_path):
    path = small_store(tmp_path / "store")
    cell = f"import ringlens as rl\nrl.Store({str(path)!r}).tokens(wher='true')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    with pytest.raises(CellExecutionError, match="Did you mean 'where'"):
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
