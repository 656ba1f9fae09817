"""Hostile requests to the dashboard: each is answered rightly, or refused with a sentence.

RINGLENS_FUZZ multiplies the number of inputs.
"""

import copy
import json
import os
import random

import pytest
from small_store import small_store

from ringlens.app import make_app
from ringlens.app.web import untrusted
from ringlens.errors import RequestError

HOST = {"Host": "127.0.0.1:8050"}
TIMES = int(os.environ.get("RINGLENS_FUZZ", "1"))
CALLBACKS = "/_dash-update-component"

NUMBERS = (
    "-1", "1.5", "1e3", "0x1", "9" * 19, "9" * 20, "9" * 5000, str(2**63), str(2**64), "abc", "+1",
    " 1", "1 ", "1_0", "٣", "²", "nan", "inf", "null", "'", "1;2", "%00", "1%00", "%ff",
    "%F0%9F%A6", "..", "%2e%2e", "1'or'1'='1", "4", "0",
)  # fmt: skip
PLACES = (
    "/data/trace/{}/tokens", "/data/trace/{}/margin", "/data/trace/{}/layer/2",
    "/data/trace/{}/experts", "/data/trace/{}/routing/5", "/data/trace/{}/statistics/heads/5",
    "/data/trace/{}/attention/1.0/5", "/data/trace/1/attention/{}/5",
    "/data/trace/1/attention/1.0/{}",
    "/data/trace/1/layer/{}", "/data/trace/1/routing/{}", "/data/trace/1/statistics/heads/{}",
    *(f"/data/trace/{{}}/{name}" for name in ("steps", "change", "received", "map", "belief")),
    "/data/expert/{}/1/card/load", "/data/expert/{}/1/ablation", "/data/expert/1/1/card/{}",
    "/data/annotations/trace/{}", "/data/annotations/expert/{}/1",
    "/data/compare/{}", "/data/beside/{}/1/alignment", "/data/beside/1/{}/chance",
    "/data/heads/{}/steps", "/data/heads/{}/map/entropy",
    "/data/heads/1/map/{}",
    "/data/{}", "/data/trace/{}", "/data/live/{}",
    "/data/sql/result/{}.csv", "/data/sql/result/x.{}",
)  # fmt: skip
DEEP = b"[" * 100_000 + b"]" * 100_000
VALUES = (
    None, True, -1, 0, 1.5, 2**31, 2**63 - 1, 2**63, 10**30, "", "x", "x" * 5000, "\x00", "\ud800",
    "'; drop table traces; --", "../../etc/passwd", [], [1], ["all"], {}, {"a": {}}, "all", "share",
    {"L": 10**30, "E": 0}, {"L": 1, "E": -1}, {"run_id": "nope", "trace_id": None},
    {"L": [1], "E": {}}, [[[[[[[[]]]]]]]], {"id": "x", "property": "y"},
)  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    app = make_app(small_store(tmp_path_factory.mktemp("stores") / "store"))
    yield app
    app.server.extensions["ringlens.sources"].close()


def refused(response):
    """Whether a response says in a sentence why it gives nothing."""
    assert response.status_code in (400, 404, 405, 413, 415), response.text[:200]
    assert len(response.json["error"]) < 600
    return True


@pytest.mark.parametrize("place", PLACES)
def test_numbers_in_addresses(client, place):
    for number in NUMBERS:
        response = client.get(place.format(number), headers=HOST)
        if number in ("0", "4") and place.endswith(("routing/{}", "heads/{}", "1.0/{}")):
            assert response.status_code == 200
        else:
            assert refused(response), number


@pytest.mark.parametrize(
    "path",
    [
        "/_dash-component-suites/os/x.js", "/_dash-component-suites/dash/../x", "/files/%00",
        "/_dash-component-suites/dash/deps/nothing.js", "/files/../server.py", "/files/x/y.js",
        "/_dash-component-suites/%00/%00",
    ],
)  # fmt: skip
def test_other_addresses_that_lead_nowhere(client, path):
    response = client.get(path, headers=HOST)
    assert response.status_code == 404 or b"_dash-config" in response.data  # Dash's page for any


# --- bodies -----------------------------------------------------------------------------------

BODIES = {
    "deep": DEEP,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "rather deep": b"[" * 900 + b"]" * 900,
    "deep in a value": b'{"output": "page.children", "inputs": ' + b"[" * 500 + b"]" * 500 + b"}",
    "no json": b"{",
    "nothing": b"",
    "null": b"null",
    "number": b"1",
    "list": b"[]",
    "empty": b"{}",
    "one name twice": b'{"query": "select 1", "query": "select 2", "name": "a"}',
    "nan": b'{"query": NaN, "name": "a"}',
    "infinity": b'{"query": "select 1", "name": Infinity}',
    "many digits": b'{"query": ' + b"9" * 10_000 + b', "name": "a"}',
    "beyond 64 bits": b'{"query": 99999999999999999999, "name": "a"}',
    "half a character": b'{"query": "select \'\\ud800\'", "name": "a"}',
    "half a key": b'{"\\udfff": "select 1", "query": "select 1", "name": "a"}',
    "no utf-8": b'{"query": "\xff\xfe", "name": "a"}',
    "utf-16": '{"query": "select 1"}'.encode("utf-16"),
    "large": b'{"query": "' + b"x" * 2**20 + b'", "name": "a"}',
}


@pytest.mark.parametrize(
    "path",
    [CALLBACKS, "/data/sql/run", "/data/sql/cancel", "/data/live/ask", "/data/live/stop"],
)
@pytest.mark.parametrize("name", BODIES)
def test_bodies(client, path, name):
    response = client.post(path, data=BODIES[name], content_type="application/json", headers=HOST)
    if response.status_code == 422:  # our own sentence on what a query's request must hold
        assert response.json["error"]
    else:
        assert refused(response)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "a/b", ""])
def test_other_kinds_of_body(client, kind):
    assert refused(client.post(CALLBACKS, data=b"{}", content_type=kind, headers=HOST))


def valid(app):
    """A body of every callback that the server answers, with values that its page sends."""
    run_id = app.server.extensions["ringlens.sources"].store.trace(1).summary["run_id"]
    values = {
        "url.pathname": "/routing",
        "url.search": "?trace=2",
        "traces.getRowsRequest": {
            "startRow": 0,
            "endRow": 100,
            "sortModel": [{"colId": "entropy", "sort": "desc"}],
            "filterModel": {
                "tokens": {"filterType": "number", "type": "inRange", "filter": 1, "filterTo": 99},
                "prompt": {
                    "filterType": "text",
                    "operator": "OR",
                    "conditions": [{"filterType": "text", "type": "contains", "filter": "make"}],
                },
            },
        },
        "verdict.value": "all",
        "search.value": "24",
        "kind.value": "originals",
        "heartbeat.data": "7",
        "theme.data": "dark",
        "probes-asked.data": {"probe": "ablation", "run": run_id},
        "sql-result.data": "none",
        "trace-growth.data": {"trace": 2, "version": "7"},
        "sql-kind.value": "bar",
        "sql-x.value": "a",
        "sql-y.value": "b",
        "sql-by.value": None,
    }
    bodies = []
    for output, callback in app.callback_map.items():
        if "callback" not in callback:
            continue
        outputs = [
            dict(zip(("id", "property"), each.rsplit(".", 1), strict=True))
            for each in output.strip(".").split("...")
        ]

        def given(items):
            return [
                {**each, "value": values.get(f"{each['id']}.{each['property']}")} for each in items
            ]

        first = callback["inputs"][0]
        body = {
            "output": output,
            "outputs": outputs if output.startswith("..") else outputs[0],
            "inputs": given(callback["inputs"]),
            "state": given(callback["state"]),
            "changedPropIds": [f"{first['id']}.{first['property']}"],
        }
        bodies.append(json.loads(json.dumps(body)))
    return bodies


def places(value, path=()):
    """Paths to all values inside a value."""
    yield path
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(each, (*path, key))


def mutated(body, rng):
    """A body with one value replaced, taken out, or doubled."""
    body = copy.deepcopy(body)
    *above, last = rng.choice([path for path in places(body) if path])
    inside = body
    for key in above:
        inside = inside[key]
    what = rng.random()
    if what < 0.75:
        inside[last] = copy.deepcopy(rng.choice(VALUES))
    elif what < 0.9 or isinstance(inside, dict):
        del inside[last]
    else:
        inside.insert(last, inside[last])
    return body


def test_callbacks_as_the_pages_call_them(app, client):
    bodies = valid(app)
    assert len(bodies) >= 6
    for body in bodies:
        response = client.post(CALLBACKS, json=body, headers=HOST)
        assert response.status_code in (200, 204), response.text[:300]


@pytest.mark.parametrize("seed", range(30 * TIMES))
def test_callbacks_with_something_wrong(app, client, seed):
    rng = random.Random(seed)
    for body in valid(app):
        wrong = json.dumps(mutated(body, rng)).encode()
        response = client.post(CALLBACKS, data=wrong, content_type="application/json", headers=HOST)
        if response.status_code not in (200, 204):
            assert refused(response), wrong


def test_pages_of_any_address(app, client):
    (body,) = [each for each in valid(app) if each["output"] == "page.children"]
    for path, search in [
        *[(f"/trace/{number}", "") for number in NUMBERS],
        *[("/routing", f"?trace={number}") for number in NUMBERS],
        *[("/routing", f"?L={number}&E={number}") for number in NUMBERS],
        ("/routing", "?run=" + "x" * 5000), ("/routing", "?metric=%00&phase=%ff"),
        ("/sql", "?q=%00"), ("//", ""), ("", ""), ("/trace/1/2", "?" + "a=1&" * 5000),
    ]:  # fmt: skip
        body["inputs"][0]["value"], body["inputs"][1]["value"] = path, search
        response = client.post(CALLBACKS, json=body, headers=HOST)
        assert response.status_code == 200, (path, search)


# --- the parser -------------------------------------------------------------------------------


def test_what_a_table_can_hold_is_a_whole_number():
    assert untrusted.whole("0") == 0
    assert untrusted.whole(str(2**63 - 1)) == 2**63 - 1
    for text in NUMBERS[:-2]:
        if text != "9" * 19 or int(text) > untrusted.LARGEST:
            assert untrusted.whole(text) is None


def test_json_that_pages_send_is_let_through():
    for value in ({"a": [1, 2.5, "é🦊", None, True]}, [], "x", 2**63 - 1, -(2**63)):
        assert untrusted.parsed(json.dumps(value).encode()) == value
    with pytest.raises(RequestError, match="nested more than 24 levels"):
        untrusted.parsed(b"[" * 30 + b"]" * 30)
