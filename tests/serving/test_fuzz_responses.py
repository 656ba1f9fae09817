"""Mutated answers of vLLM, SGLang and OpenAI's interface: each is kept as written, or refused.

``RINGLENS_FUZZ=10`` makes ten times as many.
"""

import copy
import json
import os
import random

import numpy as np
from paths import DATA
from serving import int32, npy

from ringlens.errors import RinglensError
from ringlens.serving.records import trace_record
from ringlens.serving.responses import Exchange, openai_answers, sglang_answers
from ringlens.serving.saved import exchanges
from ringlens.serving.wire import sglang_expert_ids, vllm_expert_ids

MANY = 300 * int(os.environ.get("RINGLENS_FUZZ", "1"))
RECORDED = DATA / "served"

CALL = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
STRANGE = [
    None, True, False, 0, 1, -1, 3, 10**30, 1.5, 1e300, "", " ", "x" * 3000, "stop", "length",
    "running", "</think>", "<think>", "`</think>` and </think>", "<role>HUMAN</role>", "null", "\0",
    "\u2028", "naïve 数 🙂", [], [[]], [0], [1, 2, 3], [10**9], [-1], ["1"], [None], {},
    {"type": "stop"}, {"a": {"b": [1]}}, [{"type": "text", "text": "part"}],
    [{"type": "image_url"}], [CALL], [{"function": {"name": 1}}], {"name": "add", "arguments": "{"},
    [{"role": "user"}],
    [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [CALL]}],
]  # fmt: skip
NAMES = [
    "content", "reasoning", "reasoning_content", "tool_calls", "function_call", "refusal", "audio",
    "images", "token_ids", "prompt_token_ids", "finish_reason", "index", "usage", "message", "text",
    "choices", "meta_info", "sglext", "output_ids", "stop_reason", "messages", "prompt", "tools",
    "chat_template_kwargs", "completion_tokens", "error", "stream", "role",
]  # fmt: skip


def chosen(model, tokens):
    """Expert ids as a server reports them, zeros on dense layers."""
    config = model.config
    ids = np.zeros((tokens - 1, config.num_hidden_layers, config.num_experts_per_tok), np.int32)
    ids[:, list(config.sparse_layers)] = np.arange(config.num_experts_per_tok)
    return ids


def rows(model):
    """Whole exchanges, each with what reads it and decodes its routing."""
    chat = json.loads((RECORDED / "vllm-chat.json").read_text())
    completion = json.loads((RECORDED / "vllm-completion.json").read_text())
    messages = [{"role": "user", "content": "What is 7 - 3?"}]
    routed = copy.deepcopy(completion)
    (choice,) = routed["choices"]
    ids = choice["prompt_token_ids"] + choice["token_ids"]
    choice["routed_experts"] = npy(chosen(model, len(ids)).astype(np.uint8))
    generated = {
        "text": "x",
        "output_ids": choice["token_ids"],
        "meta_info": {
            "id": "r", "finish_reason": {"type": "stop", "matched": 1294}, "prompt_tokens": 23,
            "completion_tokens": 40, "routed_experts": int32(chosen(model, len(ids))),
        },
    }  # fmt: skip
    parted = {"role": "assistant", "reasoning": "hm\n", "content": "4", "refusal": None}
    cut = {"role": "assistant", "reasoning_content": "7 - 3 is", "content": None}
    called = {"role": "assistant", "content": None, "tool_calls": [copy.deepcopy(CALL)]}
    two = [{"index": i, "text": f"</think>{i}", "finish_reason": "stop"} for i in (0, 1)]
    asked = {"messages": messages}

    def chat_of(message, reason):
        return {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}

    return [
        (openai_answers, None, {}, chat),
        (openai_answers, None, {}, completion),
        (openai_answers, vllm_expert_ids, {}, routed),
        (sglang_answers, sglang_expert_ids, {"input_ids": ids[:23]}, generated),
        (openai_answers, None, asked, chat_of(parted, "stop")),
        (openai_answers, None, asked, chat_of(cut, "length")),
        (openai_answers, None, asked, chat_of(called, "tool_calls")),
        (openai_answers, None, {"prompt": ["one", "two"]}, {"choices": two}),
    ]


def places(value, found):
    """All objects and lists in a value, with the keys of their items."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        found.append((value, key))
        if isinstance(item, dict | list) and len(item) < 30:
            places(item, found)
    return found


def mutate(draw, row):
    """One to three things of an exchange changed, left out, added or moved."""
    for _ in range(draw.randint(1, 3)):
        holder, key = draw.choice(places(row, []))
        match draw.randrange(5):
            case 0:
                holder[key] = copy.deepcopy(draw.choice(STRANGE))
            case 1 if isinstance(holder, dict):
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[draw.choice(NAMES)] = copy.deepcopy(draw.choice(STRANGE))
            case 3 if isinstance(holder, list):
                holder.append(copy.deepcopy(draw.choice([*holder, *STRANGE])))
            case _:
                other, there = draw.choice(places(row, []))
                holder[key] = copy.deepcopy(other[there])
    return row


def assert_kept(model, answer, record):
    """The record has the answer's tokens or, where only text came, all of its text."""
    ids, text = record.tokens.token_id.tolist(), record.text
    assert "".join(record.tokens.text) == text
    assert len(ids) == record.n_prompt + record.n_think + record.n_answer
    n_prompt = record.n_prompt
    if answer.output:
        assert ids[n_prompt:] == answer.output
        return
    told, wrote = answer.message, "".join(record.tokens.text[n_prompt:])
    for part in (told.reasoning, told.text or ""):
        assert part in wrote
        wrote = wrote.replace(part, "", 1)
    for call in told.tool_calls:
        assert call["function"]["name"] in wrote
    if told.reasoning and not (told.text or told.tool_calls) and answer.finish_reason == "length":
        assert "</think>" not in wrote
        assert record.answer is None
    if not told.tool_calls:  # nothing is made up beside the marks and the token that ends
        assert wrote in ("", "</think>", "<think></think>", "<think>") or wrote.endswith(
            ("<|role_end|>", "<|endoftext|>")
        )


def outcome(model, read, decode, exchange):
    """The answers with their records, or the sentence that refuses them."""
    try:
        if isinstance(exchange, RinglensError):
            raise exchange
        answers = [a for a in read(exchange) if decode is None or a.routed_experts is not None]
        return [(answer, trace_record(model, answer, decode, 0)) for answer in answers]
    except RinglensError as error:
        return str(error)


def test_mutated_answers_are_kept_as_written_or_refused(model, tmp_path):
    draw = random.Random(7)
    bases = rows(model)
    made = [copy.deepcopy(draw.choice(bases)) for _ in range(MANY)]
    lines = [
        json.dumps(mutate(draw, {"request": request, "response": response}))
        for _, _, request, response in made
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines) + "\n")
    kept = refused = 0
    for (read, decode, _, _), line, exchange in zip(made, lines, exchanges([file]), strict=True):
        try:
            found = outcome(model, read, decode, exchange)
            for pair in found if isinstance(found, list) else ():
                assert_kept(model, *pair)
        except Exception as error:
            raise AssertionError(f"{line[:3000]}: {error!r}") from error
        kept += isinstance(found, list)
        if isinstance(found, str):
            refused += 1
            assert len(found.splitlines()) == 1, (line, found)
            assert 10 < len(found) < 800, (line, found)
    assert kept > MANY / 10
    assert refused > MANY / 10


def test_unchanged_answers_are_kept(model):
    """Else the test above could pass by refusing all."""
    found = [
        outcome(model, read, decode, Exchange(response, request, "here"))
        for read, decode, request, response in rows(model)
    ]
    (refused,) = (each for each in found if isinstance(each, str))
    assert "does not write tool calls" in refused
    for pairs in found:
        for pair in pairs if isinstance(pairs, list) else ():
            assert_kept(model, *pair)
