"""Servers of models on loopback: they answer with what ring-nano really did, in each wire format.

The formats are written here once more, from the servers' documentation, and not by ringlens.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections import deque
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def all_layers(trace, config, start=0):
    """Expert ids [tokens - 1 - start, layers, k] in no order, zeros on dense layers."""
    return _all_layers(trace, config.num_hidden_layers, config.sparse_layers)[start:].copy()


@cache
def _all_layers(trace, layers, sparse_layers):
    chosen = {layer: trace.routing(layer)["expert_ids"][:-1] for layer in sparse_layers}
    ids = np.zeros((len(trace) - 1, layers, chosen[sparse_layers[0]].shape[1]), np.int32)
    rng = np.random.default_rng(0)
    for layer, ids_Tk in chosen.items():
        ids[:, layer] = rng.permuted(ids_Tk, axis=1)
    return ids


def npy(array):
    """Base64 of what numpy.save writes, as vLLM sends it."""
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def int32(array):
    """Base64 of the bare numbers, as SGLang sends it."""
    return base64.b64encode(array.astype("<i4").tobytes()).decode()


class Told:
    """What ring-nano did, as each server tells it."""

    def __init__(self, store, lens):
        self.store, self.lens, self.config = store, lens, lens.config
        rows = store.sql("select trace_id from traces order by trace_id").fetchall()
        self.traces = [store.trace(trace_id) for (trace_id,) in rows]

    def by_prompt(self, ids):
        """The trace whose prompt has these tokens."""
        return next(t for t in self.traces if self.ids(t)[0] == list(ids))

    @cache  # noqa: B019 (a server is asked the same again and again)
    def ids(self, trace):
        """Token ids of prompt and answer."""
        ids = trace.tokens()["token_id"].tolist()
        return ids[: trace.summary["n_prompt"]], ids[trace.summary["n_prompt"] :]

    def text(self, trace):
        """The answer without special tokens."""
        return self.lens.tokenizer.decode(self.ids(trace)[1], skip_special_tokens=True)

    def usage(self, *traces):
        prompt = len(self.ids(traces[0])[0])
        output = sum(len(self.ids(trace)[1]) for trace in traces)
        return {"prompt_tokens": prompt, "completion_tokens": output}

    def routed(self, trace, start=0, dtype=np.uint8):
        return npy(all_layers(trace, self.config, start).astype(dtype))

    def vllm(self, *traces, start=0):
        """A completion with return_token_ids."""
        choices = [
            {
                "index": index,
                "text": self.text(trace),
                "logprobs": None,
                "finish_reason": trace.summary["finish_reason"],
                "stop_reason": None,
                "prompt_token_ids": self.ids(trace)[0],
                "token_ids": self.ids(trace)[1],
                "routed_experts": self.routed(trace, start),
            }
            for index, trace in enumerate(traces)
        ]
        head = {"id": f"cmpl-{traces[0].trace_id}", "object": "text_completion", "model": "ring"}
        return {**head, "choices": choices, "usage": self.usage(*traces)}

    def vllm_chat(self, trace):
        """A chat completion with return_token_ids."""
        found = self.vllm(trace)
        (choice,) = found["choices"]
        choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        prompt = choice.pop("prompt_token_ids")
        return found | {"object": "chat.completion", "prompt_token_ids": prompt}

    def sglang(self, trace, start=0):
        """An answer of /generate."""
        return {
            "text": self.text(trace),
            "output_ids": self.ids(trace)[1],
            "meta_info": {
                "id": f"r{trace.trace_id}",
                "finish_reason": {"type": trace.summary["finish_reason"], "matched": 1},
                **self.usage(trace),
                "routed_experts": int32(all_layers(trace, self.config, start)),
            },
        }

    def sglang_chat(self, *traces):
        """A chat completion with return_routed_experts and the ids in sglext."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": self.text(trace)},
                "finish_reason": trace.summary["finish_reason"],
            }
            for index, trace in enumerate(traces)
        ]
        sglext = {
            "routed_experts": int32(all_layers(traces[0], self.config)),
            "input_ids": self.ids(traces[0])[0],
            "output_ids": [self.ids(trace)[1] for trace in traces],
        }
        head = {"id": "chat", "object": "chat.completion"}
        return {**head, "choices": choices, "sglext": sglext, "usage": self.usage(*traces)}

    def text_only(self, trace):
        """A completion of a server that knows nothing of routing."""
        choice = {"index": 0, "text": self.text(trace), "finish_reason": "stop"}
        return {"object": "text_completion", "choices": [choice], "usage": self.usage(trace)}

    def assert_same(self, trace, found, first=0):
        """The imported trace has the tokens and, as sets, the choices of what ring-nano did."""
        assert found.text == trace.text
        assert found.tokens()["token_id"].tolist() == trace.tokens()["token_id"].tolist()
        assert found.tokens()["phase"] == trace.tokens()["phase"]
        for layer in self.config.sparse_layers:
            routing = found.routing(layer)
            assert routing["pos"].tolist() == list(range(first, len(trace) - 1))
            ids = trace.routing(layer)["expert_ids"][first:-1]
            np.testing.assert_array_equal(np.sort(routing["expert_ids"]), np.sort(ids))
        assert found.layers("routing") == list(self.config.sparse_layers)


class Server(ThreadingHTTPServer):
    """Answers posts with ``answer(path, body)``; first come the faults, one a post.

    A fault is a status, "close" (the connection is cut), "half" (the answer is), "stream", or any
    JSON to answer with. No post is answered before ``together`` have come, nor, from number
    ``held`` on, before ``released`` is set.
    """

    daemon_threads = True

    def __init__(self, answer, faults=(), together=1, held=None, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.faults, self.together, self.held = answer, deque(faults), together, held
        self.asked, self.headers, self.lock = [], [], threading.Lock()
        self.enough, self.released = threading.Event(), threading.Event()
        self.most, self.busy = 0, 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Clients that are killed are no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        known = {
            "/v1/models": {"object": "list", "data": [{"id": "ring", "object": "model"}]},
            "/version": {"version": "0.28.0"},
            "/server_info": {"version": "0.5.23"},
        }
        found = known.get(self.path)
        self._send(200 if found else 404, found or {"error": "not found"})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append((self.path, body))
            server.headers.append(dict(self.headers))
            server.busy += 1
            server.most = max(server.most, server.busy)
            fault = server.faults.popleft() if server.faults else None
            number = len(server.asked)
        if number >= server.together:
            server.enough.set()
        server.enough.wait(300)
        if server.held is not None and number > server.held:
            server.released.wait()
        try:
            self._answer(fault, body)
        finally:
            with server.lock:
                server.busy -= 1

    def _answer(self, fault, body):
        if fault == "close":
            self.close_connection = True
            self.connection.close()
        elif isinstance(fault, int):
            self._send(fault, {"error": {"message": f"this is fault {fault}"}})
        elif fault == "stream":
            self._send(200, "data: {}\n\n", "text/event-stream")
        elif fault == "half":
            self._send(200, self.server.answer(self.path, body), cut=True)
        else:
            self._send(200, self.server.answer(self.path, body) if fault is None else fault)

    def _send(self, status, content, kind="application/json", cut=False):
        raw = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw[: len(raw) // 2] if cut else raw)
        if cut:
            self.close_connection = True

    def log_message(self, *args):
        """Not into the tests' output."""


@contextmanager
def serving(answer, faults=(), **options):
    """A running server."""
    server = Server(answer, faults, **options)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


def answers(told):
    """What all kinds of servers answer, by path."""

    def answer(path, body):
        if path == "/generate":
            return told.sglang(told.by_prompt(body["input_ids"]))
        if path == "/v1/chat/completions":
            asked = body["messages"][-1]["content"]
            trace = next(t for t in told.traces if t.summary["prompt"] == asked)
            found = told.text_only(trace)
            found["choices"][0]["message"] = {"content": found["choices"][0].pop("text")}
            return found
        if isinstance(body["prompt"], str):
            return told.text_only(told.by_prompt(told.lens.encode(body["prompt"])))
        return told.vllm(told.by_prompt(body["prompt"]))

    return answer


@contextmanager
def ring_nano(folder, n=4, max_new_tokens=48):
    """What ring-nano did about some problems, captured."""
    import ringlens as rl

    lens = rl.load("ring-nano")
    options = {"max_new_tokens": max_new_tokens, "record": ["routing"]}
    with rl.capture(lens, rl.problems("countdown", n=n), folder, **options) as store:
        yield Told(store, lens)
