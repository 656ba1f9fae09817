"""The door for inputs: any nesting of what it takes equals its plain form; all else is refused."""

import logging
from collections import UserDict
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_lens
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BatchEncoding

import ringlens as rl
from ringlens import transcript
from ringlens.config import Sampling
from ringlens.errors import ConfigError, RinglensError
from ringlens.model import loading
from ringlens.observe.chat import prompt_text, turn_marks
from ringlens.observe.given import Text
from ringlens.observe.inputs import say_beyond_context, token_rows
from ringlens.observe.tasks import problem_tasks, text_tasks
from ringlens.problem import Problem

TEMPLATE = (
    "{% for m in messages %}{{ {'user': 't10.', 'assistant': 't11.', 'system': 't12.'}[m.role] }}"
    " {{ m.content }} t13. {% endfor %}{% if add_generation_prompt %}t11. {% endif %}"
)


class Encoder:
    """What the door needs of a lens, without a model."""

    sizes = SimpleNamespace(vocabulary=384, positions=64)

    def __init__(self, template=TEMPLATE):
        self.tokenizer = tiny_lens.tokenizer()
        self.tokenizer.chat_template = template

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)


ENCODER = Encoder()
IDS = st.lists(st.integers(20, 383), min_size=1, max_size=5)  # no marks among them
INT_TYPES = ("int8", "uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64")


def user(ids):
    """A user's prompt in the template, as ids."""
    return [10, *ids, 13, 11]


@st.composite
def single(draw):
    """One row in some form, and its ids."""
    ids = draw(IDS)
    text = tiny_lens.prompt(*ids)
    kind = draw(st.sampled_from(FORMS))
    return kind(draw, ids, text)


def _typed(draw, ids):
    limits = {name: np.iinfo(name).max for name in INT_TYPES}
    return draw(st.sampled_from([n for n in INT_TYPES if limits[n] >= max(ids)]))


FORMS = (
    lambda draw, ids, text: (text, ids),
    lambda draw, ids, text: (np.str_(text), ids),
    lambda draw, ids, text: (ids, ids),
    lambda draw, ids, text: (tuple(ids), ids),
    lambda draw, ids, text: (range(ids[0], ids[0] + 1), ids[:1]),
    lambda draw, ids, text: ([np.int16(i) for i in ids], ids),
    lambda draw, ids, text: (list(torch.tensor(ids)), ids),
    lambda draw, ids, text: (np.array(ids, _typed(draw, ids)), ids),
    lambda draw, ids, text: (torch.tensor(ids, dtype=draw(st.sampled_from(
        [torch.int16, torch.int32, torch.int64]))), ids),
    lambda draw, ids, text: (Problem("a", "", text), user(ids)),
    lambda draw, ids, text: (Text(ids, draw(st.integers(0, len(ids)))), ids),
    lambda draw, ids, text: ([{"role": "user", "content": text}], user(ids)),
    lambda draw, ids, text: (
        tuple({"role": role, "content": text} for role in ("system", "user", "assistant")),
        [12, *ids, 13, 10, *ids, 13, 11, *ids, 13]),
    lambda draw, ids, text: (BatchEncoding({"input_ids": ids}), ids),
    lambda draw, ids, text: _masked(draw, [ids]),
)  # fmt: skip


def _masked(draw, rows):
    """Rows as a tokenizer returns them, padded on either side, and the first row's ids."""
    width = max(map(len, rows)) + draw(st.integers(0, 2))
    left = draw(st.booleans())
    pads = [[0] * (width - len(row)) for row in rows]
    ids = [pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)]
    ones = [[1] * len(row) for row in rows]
    mask = [pad + one if left else one + pad for pad, one in zip(pads, ones, strict=True)]
    form = draw(st.sampled_from([list, np.array, torch.tensor]))
    flags = draw(st.sampled_from([int, bool]))
    output = {"input_ids": form(ids), "attention_mask": form([[flags(m) for m in r] for r in mask])}
    kind = draw(st.sampled_from([dict, UserDict, BatchEncoding]))
    return kind(output), rows[0]


@given(single())
def test_a_row_in_any_form_equals_its_ids(drawn):
    form, ids = drawn
    assert token_rows(ENCODER, form) == [ids]


@given(st.lists(single(), min_size=1, max_size=4), st.sampled_from([list, tuple]))
def test_a_list_of_rows_in_any_forms_equals_their_ids(drawn, kind):
    wanted = [ids for _, ids in drawn]
    assert token_rows(ENCODER, kind(form for form, _ in drawn)) == wanted


@given(st.lists(IDS, min_size=1, max_size=3), st.data())
def test_rows_of_a_tokenizer_or_a_table(rows, data):
    assert token_rows(ENCODER, _masked(data.draw, rows)[0]) == rows
    table = [rows[0]] * len(rows)
    for form in (list, np.array, torch.tensor):
        assert token_rows(ENCODER, form(table)) == table


@given(st.lists(single(), min_size=1, max_size=4))
def test_capture_and_replay_take_the_same(drawn):
    for form, ids in drawn:
        is_text = isinstance(form, str)
        assert [task.token_ids for task in text_tasks(ENCODER, [form])] == [ids]
        if not (isinstance(form, tuple) and isinstance(form[-1], dict)):
            (task,) = problem_tasks(ENCODER, [form], Sampling(max_new_tokens=3))
            assert task.token_ids == (user(ids) if is_text else ids)
            assert (task.limit, task.n_prompt) == (len(task.token_ids) + 3, len(task.token_ids))


ARRAYS = [
    np.array([1.0]), np.array(["t1."]), np.array([None]), np.zeros((1, 1, 1), int), np.array(3.0),
    torch.tensor([True]), torch.tensor([0.5]), torch.zeros(0, dtype=int), np.bool_(True),
    torch.tensor([1], device="meta"), {1, 2}, iter([1]),
]  # fmt: skip
RUBBISH = st.recursive(
    st.none() | st.booleans() | st.floats() | st.binary(max_size=3) | st.complex_numbers()
    | st.just("") | st.just("\ud800") | st.just(object()) | st.just([])
    | st.integers(384, 2**70) | st.integers(-(2**70), -1)
    | st.sampled_from(ARRAYS),
    lambda inner: st.lists(inner, min_size=1, max_size=3)
    | st.dictionaries(st.sampled_from(["input_ids", "attention_mask", "role", "content"]), inner)
    | st.tuples(st.just("t5."), inner),
    max_leaves=5,
)  # fmt: skip


@given(RUBBISH)
def test_anything_else_is_refused_in_a_sentence(rubbish):
    for take in (token_rows, lambda encoder, x: problem_tasks(encoder, x, Sampling()), text_tasks):
        try:
            rows = take(ENCODER, rubbish)
        except RinglensError as error:
            sentence = str(error)
        else:
            sentence = "nothing" if rows == [] == rubbish else f"taken: {rows}"
        assert not sentence.startswith("taken") and len(sentence) < 500


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"input_ids": [[5, 6, 7]], "attention_mask": [[1, 0, 1]]}, r"row 0 has a hole .* 1:"),
        ({"input_ids": [5], "attention_mask": [0]}, "no token"),
        ({"input_ids": [[5, 6]], "attention_mask": [[1]]}, "differ in shape"),
        ({"input_ids": [5], "attention_mask": [2]}, "0 and 1"),
        ({"input_ids": [5], "labels": [5]}, "'labels' beside input_ids"),
        ({"role": "user", "content": "t5."}, "a chat message alone"),
        ({"text": "t5."}, "a mapping of 'text'"),
        ([{"role": "user", "content": "t5."}, "t5."], "a chat message alone"),
        ([{"role": "user", "content": ["t5."]}], "not a text"),
        ([{"role": "judge", "content": "t5."}], "of the role 'judge'"),
        ([{"role": "tool", "content": "t5."}], "does not know the role 'tool'"),
        ([{"role": "user", "content": "t5.", "name": "x"}], "role and content and nothing else"),
        ([[5], [384]], r"row 1 holds the token id 384.* ids 0 to 383 .*knows 384"),
        ([-1], "token id -1"),
        ([[[5]]], "no list of rows"),
        ([5, "t5."], "token ids stand in a list of their own"),
        (Text([5], 2), "n_prompt = 2"),
        (Text([5], True), "n_prompt = True"),
        ([Text(["a"])], "item 0: token_ids of a Text"),
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong(wrong, said):
    with pytest.raises(ConfigError, match=said):
        token_rows(ENCODER, wrong)


def test_what_carries_the_template_is_not_wrapped_again():
    assert set(turn_marks(ENCODER.tokenizer)) == {"t10.", "t11.", "t12."}
    lens = ENCODER.tokenizer
    wrapped = prompt_text(lens, "t5. t6.")
    for text in (wrapped, "t12. t4. t13. " + wrapped, " \n" + wrapped, "t11. t5."):
        assert prompt_text(lens, text) == text
        (task,) = problem_tasks(ENCODER, [Problem("a", "", text)], Sampling())
        assert task.token_ids == ENCODER.encode(text)
    with pytest.raises(ConfigError, match=r"message 0 .* in the chat template already"):
        token_rows(ENCODER, [{"role": "user", "content": wrapped}])
    with pytest.raises(ConfigError, match="ends with the assistant's message"):
        problem_tasks(ENCODER, [[{"role": "assistant", "content": "t5."}]], Sampling())


def test_marks_amid_a_prompt_are_refused_where_they_are_special():
    encoder = Encoder()
    assert prompt_text(encoder.tokenizer, "t5. t10. t6.") == "t10. t5. t10. t6. t13. t11. "
    encoder.tokenizer.add_special_tokens({"additional_special_tokens": ["t10."]})
    with pytest.raises(ConfigError, match=r"'t10\.' in its midst"):
        prompt_text(encoder.tokenizer, "t5. t10. t6.")


RING = tuple(transcript.RING.openings)


@pytest.mark.parametrize(
    ("template", "marks"),
    [
        (None, None),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", RING),
        ("{{ raise_exception('no') }}", RING),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", RING),
        # A standing system prompt before the first turn.
        ("{% if messages[0].role != 'system' %}SYS be good END {% endif %}{% for m in messages %}"
         "{{ m.role | upper }}: {{ m.content }} END {% endfor %}",
         ("USER:", "ASSISTANT:", "SYSTEM:", "TOOL:")),
        # System messages are refused.
        ("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
         "[{{ m.role }}] {{ m.content }} {% endfor %}", ("[user]", "[assistant]", "[tool]")),
    ],
)  # fmt: skip
def test_marks_are_what_the_template_writes(template, marks):
    encoder = Encoder(template)
    if marks is not None:
        assert set(turn_marks(encoder.tokenizer)) == set(marks)
    if template is None:
        assert prompt_text(encoder.tokenizer, "t5.") == "t5."
        with pytest.raises(ConfigError, match="no chat template"):
            token_rows(encoder, [{"role": "user", "content": "t5."}])


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only in pairs') }}", "refuses the messages: only in pairs"),
        ("{{ 1 // 0 }}", "refuses the messages"),
        ("{{ messages[7].content }}", "refuses|leaves out"),
        ("{% for i in range(10**9) %}{% endfor %}", "refuses the messages"),
        ("nothing", "leaves out message 0"),
    ],
)
def test_templates_that_refuse_or_drop_are_told(template, said):
    with pytest.raises(ConfigError, match=said):
        problem_tasks(Encoder(template), ["t5."], Sampling())


def test_texts_beyond_the_context_are_said_before_the_run(caplog):
    with caplog.at_level(logging.WARNING, "ringlens"):
        say_beyond_context(ENCODER, [60, 64])
        problem_tasks(ENCODER, [[5] * 60], Sampling(max_new_tokens=4))
        assert not caplog.records
        problem_tasks(ENCODER, [[5] * 60, [5]], Sampling(max_new_tokens=5))
        text_tasks(ENCODER, [[5] * 65])
    assert [record.getMessage()[:73] for record in caplog.records] == [
        "1 of 2 texts may go beyond the model's context of 64 tokens (the longest ",
        "1 of 1 texts may go beyond the model's context of 64 tokens (the longest ",
    ]


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


def test_a_tokenizers_output_runs_as_its_tokens(lens):
    given = lens.tokenizer(["t5. t6. t7.", "t8."], padding=True, return_tensors="pt")
    wanted = lens.run_with_hooks([[5, 6, 7], [8]])
    assert torch.equal(lens.run_with_hooks(given), wanted)
    by_name = lens.run_with_hooks(given["input_ids"], attention_mask=given["attention_mask"])
    assert torch.equal(by_name, wanted)
    with lens.trace(given):
        traced = lens.points.logits.save()
    with lens.trace(**given):
        named = lens.points.logits.save()
    assert torch.equal(traced, wanted) and torch.equal(named, wanted)


def test_options_that_would_be_ignored_are_refused(lens):
    for options, said in (
        ({"lgits_to_keep": 1}, "'lgits_to_keep'. Did you mean 'logits_to_keep'"),
        ({"input_ids": torch.tensor([[1]])}, "would replace the text"),
    ):
        with pytest.raises(ConfigError, match=said):
            lens.run_with_hooks("t5.", **options)


REFUSED = [
    ["t5.", "\ud800"], [Problem("a", "", "t5.", "\udfff")], [Problem("\ud800", "", "t5.")],
    [Problem("a", "", "t5.", 5)], [Problem("a", "countdown", "t5.")], [[384]], [None],
    [Problem("a", "countdown", "t5.", fields={"numbers": "35", "target": 8})],
]  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED, ids=range(len(REFUSED)))
def test_refused_input_leaves_no_store(wrong, lens, tmp_path):
    with pytest.raises(RinglensError):
        rl.capture(lens, wrong, tmp_path / "s", max_new_tokens=1)
    if not isinstance(wrong[0], Problem):
        with pytest.raises(RinglensError):
            rl.replay(lens, wrong, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_numpy_settings_are_recorded_as_numbers(lens, tmp_path):
    store = rl.capture(
        lens, [np.array([5, 6])], tmp_path / "s", batch_size=np.int64(2), seed=np.int64(3),
        max_new_tokens=np.int8(1), temperature=np.float32(0.5),
    )  # fmt: skip
    assert store.sql("select seed from runs").fetchall() == [(3,)]
    assert store.trace(np.int64(1)).text.startswith("t5. t6.")
    for wrong in ("abc", 1.0, True, None, 2**70, "1"):
        with pytest.raises(KeyError, match="is not a whole number"):
            store.trace(wrong)
    with pytest.raises(KeyError, match="is not a whole number"):
        store.trace(1).routing("a")


def test_the_command_line_shows_warnings_and_refusals(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from ringlens.cli.main import main

    (tmp_path / "set.jsonl").write_text('{"id": "a", "task": "t", "prompt": "Hi"}\n')
    command = ["capture", "ring-nano", "--problems", str(tmp_path / "set.jsonl"), "--record",
               "routing", "--store", str(tmp_path / "s"), "--max-new-tokens"]  # fmt: skip
    refused = CliRunner().invoke(main, [*command, "0"])
    assert refused.exit_code == 1 and "max_new_tokens = 0" in refused.output
    assert not (tmp_path / "s").exists()
    config = loading.read_config(loading.locate("ring-nano"))
    config.max_position_embeddings = 8
    monkeypatch.setattr(loading, "read_config", lambda *_: config)
    done = CliRunner().invoke(main, [*command, "1"])
    assert done.exit_code == 0, done.output
    assert "warning: 1 of 1 texts may go beyond the model's context of 8 tokens" in done.output
