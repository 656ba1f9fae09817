"""JSON from outside: three doors, one reader, the same refusals, each a sentence with its place."""

import json

import pytest

from ringlens.errors import CheckpointError, ConfigError, ProblemError, ServingError
from ringlens.model.gate.json_files import read_object
from ringlens.prompts.problems import problems
from ringlens.serving.saved import exchanges
from ringlens.strict_json import DEEPEST, parsed, parsed_object


def saved(path):
    (found,) = exchanges([path])
    if isinstance(found, ServingError):
        raise found


DOORS = {
    "checkpoint": (lambda path: read_object(path, 10**6), CheckpointError),
    "problems": (problems, ProblemError),
    "saved responses": (saved, ServingError),
}
REFUSED = {
    "nothing": ('"', "not JSON"),
    "two": ("{} {}", "not JSON"),
    "NaN": ('{"a": NaN}', "NaN is no number"),
    "infinity": ('{"a": [-Infinity]}', "-Infinity is no number"),
    "beyond float64": ('{"a": 1e999}', "1e999 is beyond float64"),
    "digits": ('{"a": %s}' % ("9" * 5000), "not JSON"),
    "one name twice": ('{"a": 1, "a": 2}', "'a' stands twice in one object"),
    "one name twice, inside": ('{"b": [{"a": "x", "a": null}]}', "'a' stands twice"),
    "deep": ('{"a": %s}' % ("[" * DEEPEST + "]" * DEEPEST), f"more than {DEEPEST} levels"),
    "deep and cut": ("[" * 100_000, "levels deep"),
    "half a pair": ('{"a": ["x\\ud800"]}', r"'a' holds half of a surrogate pair \(U\+D800 at"),
    "half a pair, capitals": ('{"a": "\\uDFFF"}', r"'a' holds half .*U\+DFFF"),
    "half a pair in a name": ('{"\\udfff": 1}', "it holds half of a surrogate pair"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("case", REFUSED)
def test_all_doors_refuse_the_same(door, case, tmp_path):
    read_from, error = DOORS[door]
    text, said = REFUSED[case]
    path = tmp_path / "x.jsonl"
    path.write_text(text + "\n")
    with pytest.raises(error, match=said) as caught:
        read_from(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500


def test_what_is_json_is_read_as_it_stands():
    value = {"a": [1, -2.5, None, True, "\U0001f600", {"": []}], "b": 10**30, "c": 1e308}
    assert parsed(json.dumps(value), "x", ConfigError) == value
    assert parsed("[" * DEEPEST + "]" * DEEPEST, "x", ConfigError) is not None
    assert parsed('"\\ud83d\\ude00"', "x", ConfigError) == "\U0001f600"


def test_alike_accepts_the_same_value_twice_and_no_other():
    assert parsed('{"a": 1, "a": 1}', "x", ConfigError, alike=True) == {"a": 1}
    for text in ('{"a": 1, "a": 1.0}', '{"a": 1, "a": true}', '{"a": [], "a": []}'):
        with pytest.raises(ConfigError, match="'a' stands twice"):
            parsed(text, "x", ConfigError, alike=True)
    with pytest.raises(ConfigError, match="'a' stands twice"):
        parsed('{"a": 1, "a": 1}', "x", ConfigError)


def test_an_object_is_no_other_json():
    with pytest.raises(ConfigError, match=r"^map.json: expected a JSON object, found list\. Go\.$"):
        parsed_object("[]", "map.json", ConfigError, advice="Go.")


def test_depth_can_be_bounded_otherwise():
    assert parsed("[[]]", "x", ConfigError, deepest=2) == [[]]
    with pytest.raises(ConfigError, match="more than 1 levels deep"):
        parsed("[[]]", "x", ConfigError, deepest=1)
