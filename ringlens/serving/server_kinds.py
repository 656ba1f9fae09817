"""Kinds of servers: how to ask each, and where its answers hold what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ringlens.errors import ConfigError, ServingError
from ringlens.serving.responses import Answer, Exchange, openai_answers, sglang_answers
from ringlens.serving.wire import Decode, sglang_expert_ids, vllm_expert_ids

if TYPE_CHECKING:
    from ringlens.config import Sampling
    from ringlens.observe.pipeline.trace_buffer import Task
    from ringlens.serving.served_model import ServedModel

Body = dict[str, Any]


@dataclass(frozen=True)
class ServerKind:
    """A kind of server, an engine such as vLLM or just an API.

    Attributes:
        name: Its name.
        path: Path that prompts are posted to.
        body: Makes a request from the model, the task, the sampling settings and the name under
            which the model is served.
        read: Reads the answers of an exchange.
        decode: Decodes their routing; None for a server that sends none.
        advice: What to do where routing is missing.
        version_path: Path at which the server gives its version; None if it has none.
    """

    name: str
    path: str
    body: Callable[[ServedModel, Task, Sampling, str], Body]
    read: Callable[[Exchange], list[Answer]]
    decode: Decode | None = None
    advice: str = ""
    version_path: str | None = None

    def check(self, answer: Answer) -> None:
        """Raise ServingError where routing should be and is not."""
        if self.decode is not None and answer.routed_experts is None:
            raise ServingError(f"{answer.place}: there are no routed_experts. {self.advice}")


def _vllm_body(model: ServedModel, task: Task, sampling: Sampling, served: str) -> Body:
    """A completion of token ids, so that no template or tokenizer of the server is used."""
    body = _openai_body(model, task, sampling, served)
    top_k = {"top_k": sampling.top_k} if sampling.top_k else {}
    return body | top_k | {"prompt": task.token_ids, "return_token_ids": True}


def _sglang_body(model: ServedModel, task: Task, sampling: Sampling, served: str) -> Body:
    """SGLang's own API, which takes and returns token ids."""
    params: Body = {
        "max_new_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
    }
    if sampling.temperature:
        params["sampling_seed"] = task.seed
    return {"input_ids": task.token_ids, "sampling_params": params, "return_routed_experts": True}


def _openai_body(model: ServedModel, task: Task, sampling: Sampling, served: str) -> Body:
    """A completion of the prompt in the model's own chat template."""
    return {
        "prompt": model.tokenizer.decode(task.token_ids),
        **_openai_sampling(task, sampling, served),
    }


def _chat_body(model: ServedModel, task: Task, sampling: Sampling, served: str) -> Body:
    """A chat completion, for servers that have no other."""
    assert task.problem is not None
    problem = task.problem
    messages = list(problem.messages) or [{"role": "user", "content": problem.prompt}]
    return {"messages": messages, **_openai_sampling(task, sampling, served)}


def _openai_sampling(task: Task, sampling: Sampling, served: str) -> Body:
    body: Body = {
        "model": served,
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stream": False,
    }
    return body | {"seed": task.seed} if sampling.temperature else body


VLLM = ServerKind(
    "vllm",
    "/v1/completions",
    _vllm_body,
    openai_answers,
    vllm_expert_ids,
    "Start vLLM 0.28 or newer with --enable-return-routed-experts, and do not stream.",
    "/version",
)
SGLANG = ServerKind(
    "sglang",
    "/generate",
    _sglang_body,
    sglang_answers,
    sglang_expert_ids,
    'Start SGLang with --enable-return-routed-experts and send "return_routed_experts": true. Of '
    "several choices its OpenAI-compatible API returns the routing of the first only: ask for one "
    "choice, or use /generate.",
    "/server_info",
)
OPENAI = ServerKind("openai", "/v1/completions", _openai_body, openai_answers)
CHAT = ServerKind("openai-chat", "/v1/chat/completions", _chat_body, openai_answers)

SERVER_KINDS = {kind.name: kind for kind in (VLLM, SGLANG, OPENAI, CHAT)}


def find_kind(name: str) -> ServerKind:
    """The kind of servers of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in SERVER_KINDS:
        raise ConfigError(f"no kind of server {name!r}. Known: {', '.join(SERVER_KINDS)}.")
    return SERVER_KINDS[name]
