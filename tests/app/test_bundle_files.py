"""What a bundle holds and what it leaves out, how large it is, and how its scripts are joined."""

import base64
import gzip
import json
import os
import re
import signal

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from records import random_run, random_trace
from small_store import write_run

from ringlens.app import bundle
from ringlens.app.bundle.aggregates import LEAST
from ringlens.app.bundle.scripts import joined
from ringlens.app.bundle.sizes import Bound, encoded
from ringlens.app.bundle.unplaced import unplaced
from ringlens.cli.main import main
from ringlens.errors import RinglensError, StoreError
from ringlens.store import Store

RUN = random_run(record=("routing",), model="/home/ada/models/ring")
TRACES = [
    random_trace(RUN, 400, seed=i, router_logits=None, heads=None, prompt=f"secret prompt {i}")
    for i in range(3)
]
BLOCK = re.compile(r'<script type="application/gzip" data-name="([^"]*)">([^<]*)</script>')


def silent(done, total):
    pass


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("bundles") / "kept", RUN, TRACES)


@pytest.fixture(scope="module")
def store(path):
    with Store(path) as store:
        yield store


def export(path, *args):
    return CliRunner().invoke(main, ["export", str(path), "--format", "bundle", *map(str, args)])


def blocks(file):
    """What a single file holds, by name."""
    return {
        name: json.loads(gzip.decompress(base64.b64decode(data)))
        for name, data in BLOCK.findall(file.read_text())
    }


def numbers(payload):
    """Lengths of all arrays in an answer: lists, and typed arrays by their bytes."""
    if isinstance(payload, dict):
        return [n for value in payload.values() for n in numbers(value)]
    if isinstance(payload, list):
        return [len(payload), *(n for value in payload for n in numbers(value))]
    if isinstance(payload, str) and re.fullmatch(r"[A-Za-z0-9+/]{40,}={0,2}", payload):
        return [len(base64.b64decode(payload)) // size for size in (1, 2, 4)]
    return []


@pytest.mark.parametrize("form", [[], ["--single-file"]], ids=["folder", "file"])
def test_sums_alone_hold_no_text_token_or_route(path, tmp_path, form):
    out = tmp_path / "sums"
    done = export(path, "--out", out, "--aggregate-only", *form)
    assert done.exit_code == 0, done.output
    if form:
        found = blocks(out)
        whole = re.sub(BLOCK, "", out.read_text()) + json.dumps(found, ensure_ascii=False)
    else:
        files = {each.relative_to(out): each.read_text() for each in out.rglob("*.*")}
        found = {
            str(name)[: -len(".json")]: json.loads(text)
            for name, text in files.items()
            if name.suffix == ".json"
        }
        whole = "".join(files.values())
    assert set(found) == {"data/index", "data/usage/run/0"}
    assert found["data/index"]["traces"] == []
    data = json.dumps(found, ensure_ascii=False)
    for trace in TRACES:
        assert trace.text not in whole and trace.prompt not in whole
        for token in {text for text in trace.tokens.text if len(text.strip()) > 1}:
            assert token not in data  # the scripts have words of their own
    assert "naïve" not in whole and "数" not in whole and "🙂" not in whole
    # Nothing is as long as a trace, or as its routes.
    layers, cells = len(RUN.sparse_layers), len(RUN.sparse_layers) * RUN.experts
    assert max(numbers(found["data/usage/run/0"])) == cells * 4 < 400 * layers
    usage = found["data/usage/run/0"]
    n = np.frombuffer(base64.b64decode(usage["phases"]["all"]["n"]), "<u4").reshape(layers, -1)
    ids = np.concatenate([trace.routing.expert_ids for trace in TRACES], axis=1)
    assert (n == [[(each == e).sum() for e in range(RUN.experts)] for each in ids]).all()


def test_sums_over_few_tokens_are_left_out(tmp_path):
    """A phase below the limit is neither there nor to be had by subtraction."""
    trace = random_trace(RUN, 200, seed=5, router_logits=None, heads=None)
    assert trace.n_prompt < LEAST < trace.n_think and trace.n_answer < LEAST
    with Store(write_run(tmp_path / "few", RUN, [trace])) as store:
        found = dict(bundle.aggregates(store, [1], silent))
    phases = found["data/usage/run/0"]["phases"]
    assert set(phases) == {"all", "think"}
    assert phases["all"]["n"] == phases["think"]["n"]
    small = random_trace(RUN, 60, seed=6, router_logits=None, heads=None)
    with (
        Store(write_run(tmp_path / "small", RUN, [small])) as store,
        pytest.raises(StoreError, match="choose more traces"),
    ):
        dict(bundle.aggregates(store, [1], silent))


def test_it_does_not_say_where_its_owner_keeps_things(path, store, tmp_path):
    bundle.to_file(store, bundle.traces(store, [1, 2], silent), tmp_path / "one.html")
    text = json.dumps(blocks(tmp_path / "one.html")) + (tmp_path / "one.html").read_text()
    assert str(path.parent) not in text and "/home/ada" not in text
    assert "rl.Store('kept')" in text


def test_texts_are_left_as_they_are(store):
    said = {"text": repr(store.address), "made": {"python": f"rl.Store({store.address!r})"}}
    assert unplaced(said, store) == {
        "text": repr(store.address),
        "made": {"python": "rl.Store('kept')"},
    }


def test_the_size_is_said_before_and_bounded(path, tmp_path):
    done = export(path, "--out", tmp_path / "a.html", "--single-file", "--traces", 2)
    assert done.exit_code == 0
    about = float(re.search(r"about ([\d.]+) MB", done.output)[1])
    size = (tmp_path / "a.html").stat().st_size / 1e6
    assert abs(about - size) < 0.3 * size + 0.1
    assert f"a.html: 2 traces, {size:.1f} MB" in done.output
    few = export(path, "--out", tmp_path / "b.html", "--single-file", "--max-size", 0.45)
    assert few.exit_code == 1 and re.search(r"about \d of the 3 traces fit", few.output)
    none = export(path, "--out", tmp_path / "b.html", "--single-file", "--max-size", 0.01)
    assert none.exit_code == 1 and "no trace fits" in none.output
    wrong = CliRunner().invoke(main, ["export", str(path), "--out", "x", "--single-file"])
    assert wrong.exit_code == 2 and "--format bundle" in wrong.output
    assert [each.name for each in tmp_path.iterdir()] == ["a.html"]


def test_a_bundle_that_grows_too_large_leaves_nothing(store, tmp_path):
    for write in (bundle.to_file, bundle.to_folder):
        with pytest.raises(StoreError, match=r"larger than 0\.3 MB"):
            write(store, bundle.traces(store, [1, 2, 3], silent), tmp_path / "out", 300_000)
    assert list(tmp_path.iterdir()) == []
    bound = Bound(10)
    bound.add(10)
    with pytest.raises(StoreError):
        bound.add(1)


@pytest.mark.parametrize("write", [bundle.to_file, bundle.to_folder])
def test_a_killed_export_leaves_no_half_bundle(store, tmp_path, write):
    entries = list(bundle.traces(store, [1], silent))

    def killed():
        yield from entries[:5]
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        write(store, killed(), tmp_path / "out")
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "out").exists()
    write(store, entries, tmp_path / "out")  # which removes what the first left
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


@given(st.dictionaries(st.text(), st.text(max_size=8)), st.integers(0xD800, 0xDFFF))
def test_any_text_comes_back(said, half):
    said["half"] = f"{chr(half)}</script>\u2028\u2029"
    assert json.loads(encoded(said)) == said


def test_modules_are_joined_in_their_order():
    script = joined(
        {
            "a/start.js": 'import * as all from "../b/two.js";\nimport {\n  one as first,\n} from '
            '"./one.js";\nout.push(first, all.two());\n',
            "a/one.js": "// import nothing\nconst one = 1;\nexport { one };\n",
            "b/two.js": 'import "../a/one.js";\nexport function two() {\n  return 2;\n}\n',
        },
        "a/start.js",
    )
    assert script.index("// a/one.js") < script.index("// b/two.js") < script.index("// a/start.js")
    assert "const { \n  one: first,\n} = m_a_one_js;" in script.replace("{\n", "{ \n")
    assert "import *" not in script and "export" not in script
    assert script.count("m_a_one_js = ") == 1


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        ({"a.js": 'import { b } from "./b.js";\n'}, "not there"),
        ({"a.js": 'import "./b.js";\n', "b.js": 'import "./a.js";\n'}, "circle"),
        ({"a.js": "export default 1;\n"}, "cannot be joined"),
        ({"a.js": "export let a = 1;\n"}, "cannot be joined"),
        ({"a.js": "const b = 1;\nexport { b as c };\n"}, "cannot be joined"),
        ({"a.js": 'export { b } from "./b.js";\n'}, "cannot be joined"),
        ({"a.js": 'const b = await import("./b.js");\n'}, "cannot be joined"),
        ({"a.js": 'import b from "./b.js";\n'}, "cannot be joined"),
    ],
)
def test_scripts_that_cannot_be_joined_are_refused(modules, why):
    with pytest.raises(RinglensError, match=why):
        joined(modules, "a.js")
