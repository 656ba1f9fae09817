"""``ringlens annotate``: what is said on the command line is in the store, and comes back."""

import json

import pytest
from click.testing import CliRunner
from records import random_run, random_trace

from ringlens.cli.main import main
from ringlens.store import Store, StoreWriter

RUN = random_run()
EXPERT = f"{RUN.sparse_layers[0]}/1"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("annotated") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, [random_trace(RUN, 8, seed=0)])
        writer.finish_run(run_id)
    return str(path)


def annotate(*words):
    return CliRunner().invoke(main, ["annotate", *words], prog_name="ringlens")


def test_what_is_said_is_listed_corrected_retracted_and_exchanged(store, tmp_path):
    asked = ("--trace", "1", "--label", "odd\u202e", "--note", "a\nb", "--author", "Ada")
    first = annotate("add", store, *asked).output.strip()
    second = annotate("add", store, "--expert", EXPERT, "--label", "commas").output.strip()
    listed = annotate("list", store, "--format", "jsonl").output.splitlines()
    assert [json.loads(line)["annotation_id"] for line in listed] == [first, second]
    only = annotate("list", store, "--expert", EXPERT, "--format", "jsonl").output
    assert json.loads(only)["label"] == "commas"
    assert "\u202e" not in annotate("list", store).output
    third = annotate("add", store, "--supersedes", first, "--note", "even").output.strip()
    assert "retracted" in annotate("retract", store, second).output
    with Store(store) as opened:
        (row,) = opened.annotations().to_arrow_table().to_pylist()
    assert (row["annotation_id"], row["label"], row["note"]) == (third, None, "even")
    file = tmp_path / "notes.jsonl"
    assert annotate("export", store, "-o", str(file)).exit_code == 0
    assert len(file.read_text().splitlines()) == 4
    assert "0 annotations added, 4 there already" in annotate("import", store, str(file)).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("add", "--trace", "1"), "says something"),
        (("add", "--trace", "9", "--label", "x"), "no trace 9"),
        (("add", "--expert", "5", "--label", "x"), "give a layer and an expert"),
        (("add", "--label", "x"), "about one thing"),
        (("retract", "0123456789abcdef"), "no annotation"),
        (("import", "nowhere.jsonl"), "cannot read the annotations"),
    ],
)
def test_what_is_wrong_is_said(store, words, message):
    result = annotate(words[0], store, *words[1:])
    assert result.exit_code != 0
    assert message in result.output
