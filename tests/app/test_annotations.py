"""The door through which pages write: who may, what may come in, and where it is seen."""

import json
import shutil

import pytest
from records import random_run, random_trace

from ringlens.app.listing.conditions import condition
from ringlens.app.listing.rows import traces_page
from ringlens.app.shell import build
from ringlens.app.web.writing import Writing
from ringlens.store import Store, StoreWriter

RUN = random_run()
LAYER = RUN.sparse_layers[0]
HOSTILE = "<img src=x onerror=alert(1)>"
ALLOWED = Writing(author="Ada", refused="")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("annotated") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, 12, seed=i) for i in range(2)])
        span = {"start": 0, "end": 9, "token_start": 2, "token_end": 8, "text": "abcdefghi"}
        writer.replace_rows(run_id, "steps", [{"trace_id": 1, "step": 0, **span}])
        writer.finish_run(run_id)
    return path


@pytest.fixture
def store(made, tmp_path):
    with Store(shutil.copytree(made, tmp_path / "store")) as opened:
        yield opened


def client(store, writing=ALLOWED):
    return build(store, writing=writing).server.test_client()


def post(client, body, path="", **headers):
    headers = {"Sec-Fetch-Site": "same-origin", **headers}
    answer = client.post(f"/data/annotations{path}", json=body, headers=headers)
    return answer.status_code, answer.json


def test_a_page_annotates_corrects_and_retracts(store):
    pages = client(store)
    status, said = post(pages, {"trace_id": 1, "step": 0, "label": HOSTILE, "note": "a\nb"})
    assert status == 200
    corrected = {"supersedes": said["annotation_id"], "label": "aha", "author": "Bob"}
    status, said = post(pages, corrected)
    found = pages.get("/data/annotations/trace/1").json
    assert (found["author"], found["refused"]) == ("Ada", "")
    assert found["steps"] == [[0, 2, 8]]
    (row,) = found["rows"]
    assert (row["label"], row["author"], row["step"], row["pos"]) == ("aha", "Bob", 0, 2)
    assert post(pages, {"annotation_id": said["annotation_id"]}, "/retract")[0] == 200
    assert pages.get("/data/annotations/trace/1").json["rows"] == []
    authors = [
        row[0] for row in store.sql("select author from annotations order by created").fetchall()
    ]
    assert authors == ["Ada", "Bob", "Ada"]


def test_an_expert_is_annotated_and_its_label_comes_first(store):
    pages = client(store)
    run_id = store.trace(1).run["run_id"]
    about = {"layer": LAYER, "expert": 2, "run_id": run_id}
    assert post(pages, {**about, "label": "commas"})[0] == 200
    (row,) = pages.get(f"/data/annotations/expert/{LAYER}/2?run={run_id}").json["rows"]
    assert row["label"] == "commas"
    for asked in (run_id, ""):
        (row,) = pages.get(f"/data/annotations/experts?run={asked}").json["rows"]
        assert row == {"layer": LAYER, "expert": 2, "label": "commas", "author": "Ada"}
    card = pages.get(f"/data/expert/{LAYER}/2/card/label?run={run_id}").json
    assert [each["label"] for each in card["said"]] == ["commas"]
    assert card["said"][0]["by"].startswith("said by Ada, 20")
    assert card["text"]  # the automatic one is beside it


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"trace_id": 1}, 400, "says something"),
        ({"trace_id": 9, "label": "x"}, 404, "no trace 9"),
        ({"trace_id": "1", "label": "x"}, 400, "whole number"),
        ({"trace_id": True, "label": "x"}, 400, "whole number"),
        ({"trace_id": 1, "label": 5}, 400, "label must be a text"),
        ({"trace_id": 1, "label": "x" * 201}, 400, "201 characters"),
        ({"trace_id": 1, "label": "x", "created": "1999"}, 400, "created"),
        ({"layer": LAYER, "label": "x"}, 400, "one of them is missing"),
        ([], 400, "must be an object"),
    ],
)
def test_what_does_not_fit_is_refused(store, body, status, message):
    found, said = post(client(store), body)
    assert (found, message in said["error"]) == (status, True), said
    assert len(store.annotations(history=True)) == 0


def test_only_our_own_pages_may_write(store):
    pages = client(store)
    body = {"trace_id": 1, "label": "x"}
    for site in ("cross-site", "same-site", "none"):
        status, said = post(pages, body, **{"Sec-Fetch-Site": site})
        assert (status, "another site" in said["error"]) == (400, True)
    form = pages.post(
        "/data/annotations", data=json.dumps(body), headers={"Content-Type": "text/plain"}
    )
    assert form.status_code == 400
    big = pages.post(
        "/data/annotations", data=b"x" * (2**20 + 1), headers={"Content-Type": "application/json"}
    )
    assert big.status_code == 413
    assert len(store.annotations(history=True)) == 0


@pytest.mark.parametrize("reason", ["", "this dashboard is read-only"])
def test_a_dashboard_that_may_not_write_says_why(store, monkeypatch, reason):
    """By its option, or as the store's folder cannot be written."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    pages = client(store, Writing(refused=reason))
    said = pages.get("/data/annotations/trace/1").json["refused"]
    assert said == reason or "no permission" in said
    status, answer = post(pages, {"trace_id": 1, "label": "x"})
    assert (status, answer["error"]) == (400, f"nothing was written: {said}")


def test_the_list_of_traces_shows_and_finds_labels(store):
    sources = build(store, writing=ALLOWED).server.extensions["ringlens.sources"]
    store.annotate(2, label="guess")
    old = store.annotate(1, label="wrong")
    store.annotate(supersedes=old, label="right")

    def listed(asked):
        page = traces_page(sources.catalogue, asked.sql, "trace_id", asked.params, 0, 9)[0]
        return [(row["trace_id"], row["labels"]) for row in page]

    assert listed(condition(None, "all", "")) == [(1, "right"), (2, "guess")]
    assert listed(condition(None, "all", "GUESS")) == [(2, "guess")]
    text = {"filterType": "text", "type": "contains", "filter": "righ"}
    assert listed(condition({"labels": text}, "all", "")) == [(1, "right")]
    store.retract(store.annotate(2, label="more"))
    assert listed(condition(None, "all", "more")) == []
