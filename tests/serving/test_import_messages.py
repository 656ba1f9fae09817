"""What chat answers say beside plain text: cut thoughts, tool calls, parts; kept or refused."""

import json
from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from ringlens.data import path
from ringlens.errors import ServingError
from ringlens.serving.records import trace_record
from ringlens.serving.responses import Exchange, openai_answers

ASK = [{"role": "user", "content": "What is 7 - 3?"}]
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOLS = (
    "{%- for m in messages -%}{{ '<role>' + m.role + '</role>' + m.content }}"
    "{%- for c in m.tool_calls or [] -%}"
    "{{ '<tool_call>' + (c.function | tojson) + '</tool_call>' }}"
    "{%- endfor -%}{{ '<|role_end|>' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<role>assistant</role>' }}{%- endif -%}"
)


@pytest.fixture(scope="module")
def tools(model):
    """The same model with a template that writes tool calls and opens no thought."""
    tokenizer = AutoTokenizer.from_pretrained(path("ring-nano"))
    tokenizer.chat_template = TOOLS
    return replace(model, tokenizer=tokenizer)


def traces(model, message, finish="stop", request=None, usage=None, **more):
    choice = {"message": message, "finish_reason": finish, **more}
    response = {"choices": [choice], "usage": usage}
    asked = {"messages": ASK} if request is None else request
    answers = openai_answers(Exchange(response, asked, "here"))
    return [trace_record(model, answer, None, 0) for answer in answers]


def only(model, message, finish="stop", **more):
    """What the model wrote, and the record."""
    (record,) = traces(model, message, finish, **more)
    return "".join(record.tokens.text[record.n_prompt :]), record


def test_a_cut_thought_gets_no_closing_mark(model):
    text, record = only(model, {"reasoning_content": "7 - 3 is", "content": None}, "length")
    assert text == "7 - 3 is"
    assert (record.n_answer, record.answer) == (0, None)
    closed, record = only(model, {"reasoning_content": "It is 4.\n", "content": "\n4"})
    assert closed == "It is 4.\n</think>\n4"
    assert record.answer == "4"


def test_a_thought_with_nothing_behind_is_closed_where_the_count_says_so(model):
    message = {"reasoning": "It is 4.\n", "content": None}
    n = len(model.encode("It is 4.\n</think>"))
    assert only(model, message, usage={"completion_tokens": n})[0].endswith("</think>")
    assert only(model, message, usage={"completion_tokens": n + 1})[0].endswith("<|role_end|>")
    assert only(model, message)[0] == "It is 4.\n"


def test_the_token_that_ended_an_answer_is_the_one_that_the_server_names(model):
    two = replace(model, config=type(model.config).from_dict(model.config.to_dict()))
    two.config.eos_token_id = [1293, 1294]
    usage = {"completion_tokens": len(model.encode("</think>4")) + 1}
    message = {"content": "</think>4"}
    assert only(two, message, usage=usage)[1].tokens.token_id[-1] == 1294
    assert only(two, message, usage=usage, stop_reason=1293)[1].tokens.token_id[-1] == 1293


def test_tool_calls_are_written_by_the_template_or_refused(model, tools):
    message = {"content": None, "tool_calls": [CALL]}
    text, _ = only(tools, message, "tool_calls")
    assert text == '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    text, _ = only(tools, {"content": "So:", "reasoning": "hm", "tool_calls": [CALL]}, "tool_calls")
    assert text.startswith("<think>hm</think>So:<tool_call>")
    legacy = {"content": None, "function_call": CALL["function"]}
    assert "add" in only(tools, legacy, "function_call")[0]
    with pytest.raises(ServingError, match="calls 'add', and the chat template does not write"):
        only(model, message, "tool_calls")
    ids = model.encode("</think>add 1")
    assert (
        only(model, message, "tool_calls", token_ids=ids)[1].tokens.token_id[-len(ids) :].tolist()
        == ids
    )


def test_a_template_that_leaves_arguments_out_is_refused(tools):
    template = TOOLS.replace("(c.function | tojson)", "c.function.name")
    tokenizer = AutoTokenizer.from_pretrained(path("ring-nano"))
    tokenizer.chat_template = template
    with pytest.raises(ServingError, match="does not write tool calls"):
        only(replace(tools, tokenizer=tokenizer), {"content": "", "tool_calls": [CALL]})


def test_parts_of_text_are_kept_and_all_others_refused(model):
    parts = [{"type": "text", "text": "</think>"}, {"type": "text", "text": "4"}]
    assert only(model, {"content": parts})[0] == "</think>4"
    with pytest.raises(ServingError, match="a part that is no text"):
        only(model, {"content": [*parts, {"type": "image_url", "image_url": {"url": "x"}}]})


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": None, "refusal": "I will not."}, "has refusal"),
        ({"content": "4", "audio": {"data": "AA=="}}, "has audio"),
        ({"content": "4", "images": [{"type": "image_url"}]}, "has images"),
        ({"content": None}, "no text, no tool call"),
        ({"role": "assistant"}, "no text, no tool call"),
        ({"content": "4", "reasoning": "a", "reasoning_content": "b"}, "differ"),
        ({"content": "4", "reasoning_details": [{"text": "a"}]}, "only in reasoning_details"),
        ({"content": 4}, "neither text nor"),
        ({"content": "4", "tool_calls": [{"type": "custom"}]}, "a tool call needs"),
        ({"content": "4", "reasoning": "Say </think> now."}, "where the thought ends"),
    ],
)
def test_what_cannot_be_kept_is_refused(model, message, said):
    with pytest.raises(ServingError, match=said):
        only(model, message)


def test_quoted_marks_in_a_parted_thought_are_kept(model):
    text, record = only(model, {"reasoning": "Say `</think>` now.", "content": "4"})
    assert text == "Say `</think>` now.</think>4"
    assert record.answer == "4"
    assert only(model, {"reasoning": "same", "reasoning_content": "same", "content": "4"})


def test_an_answer_that_drops_what_was_counted_is_refused(model):
    with pytest.raises(ServingError, match="counted 12 generated tokens"):
        only(model, {"content": ""}, usage={"completion_tokens": 12})
    assert only(model, {"content": ""}, usage={"completion_tokens": 1})[0] == "<|role_end|>"


def test_prompts_with_history_are_what_the_template_makes_of_them(model, tools):
    history = [
        *ASK,
        {"role": "assistant", "content": "4", "reasoning_content": "hm"},
        {"role": "user", "content": [{"type": "text", "text": "And 8 - 3?"}]},
    ]
    _, record = only(model, {"content": "</think>5"}, request={"messages": history})
    assert record.prompt == "And 8 - 3?"
    head = "".join(record.tokens.text[: record.n_prompt])
    assert head.count("<role>") == 4
    assert record.tokens.turn.tolist()[record.n_prompt :] == [3] * (
        len(record.tokens.text) - record.n_prompt
    )
    called = [*ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    assert '"a": 1' in only(tools, {"content": "5"}, request={"messages": called})[1].text
    for request, said in (
        ({"messages": called}, "leaves out the prompt's call of 'add'"),
        ({"messages": [{"role": "user", "content": None}]}, "has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text"),
        ({"messages": ["x"]}, "has no role"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "template refuses"),
        ({"messages": ASK, "chat_template": "x"}, "the request has chat_template"),
    ):
        with pytest.raises(ServingError, match=said):
            only(model, {"content": "5"}, request=request)


def test_choices_belong_to_their_index(model):
    request = {"prompt": ["one", "two"]}
    choices = [
        {"index": index, "text": f"</think>{index}", "finish_reason": "stop"} for index in (1, 0)
    ]
    answers = openai_answers(Exchange({"choices": choices}, request, "here"))
    assert [answer.prompt for answer in answers] == ["two", "one"]
    for wrong, said in (([0, 0], "same index"), ([0, 7], "index is 7"), ([0], "2 prompts have 1")):
        bad = [{**choices[0], "index": index} for index in wrong]
        with pytest.raises(ServingError, match=said):
            openai_answers(Exchange({"choices": bad}, request, "here"))


def test_tools_of_the_request_reach_the_template(tools):
    tokenizer = AutoTokenizer.from_pretrained(path("ring-nano"))
    tokenizer.chat_template = "{{ (tools or []) | tojson }}" + TOOLS
    request = {"messages": ASK, "tools": [{"type": "function", "function": {"name": "add"}}]}
    served = replace(tools, tokenizer=tokenizer)
    assert json.dumps(request["tools"]) in only(served, {"content": "4"}, request=request)[1].text
