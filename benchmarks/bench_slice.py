"""What observing costs at Ring's real layer sizes: prefill and decoding, records on disk.

python benchmarks/bench_slice.py --model ring-1t-slice --parts prefill decode
python benchmarks/bench_slice.py --model ring-mini --parts decode nnsight
python benchmarks/bench_slice.py --model ring-mini --parts sustained --rounds 5
python benchmarks/bench_slice.py --cpu        # a tiny model on the CPU, to try the script

Observed runs write real records to a store in a temporary folder (--folder). Of each, two spans:
"model", from the start of the first forward until the last is done on the device, and "call", the
whole call until everything is committed on disk, which pays once for making the store and the run.
The part "sustained" replays eight texts and looks at the whole call, with everything on the disk
when it ends, against the plain forwards; --workers says in how many processes records are encoded
(0: in threads, -1: as many as pay for themselves). "per text" is what each further text takes, from
calls of eight and of four, without what a call pays once: opening the store, starting and ending
the run.
The plain run is the same forwards without ringlens. Attention "sdpa" pays a second pass for the
head statistics, "ringlens" has them in its own pass.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig

sys.path.append(str(Path(__file__).parent))
from ring_sizes import random_lens, size_line
from side_by_side import machine

import ringlens as rl
from ringlens.lens import Lens
from ringlens.observe.batch import left_pad
from ringlens.observe.kernels.attention_interface import register_attention
from ringlens.observe.tasks import Text

RECORDS = {
    "tokens": (),
    "logprobs": ("logprobs",),
    "routing": ("routing",),
    "routing + logits": ("routing", "router_logits"),
    "routing + head blocks": ("routing", "head_blocks"),
    "routing + logits + head blocks": ("routing", "router_logits", "head_blocks"),
    "routing + heads": ("routing", "heads"),
    "everything": ("logprobs", "routing", "router_logits", "heads"),
}
SUSTAINED = ("routing", "routing + logits + head blocks", "everything")


STORES: list[Path] = []


@dataclass
class Timed:
    """Seconds from the first forward to the last, of the whole call, and bytes written."""

    model: float
    call: float
    size: int = 0


class Span:
    """From the start of a model's first forward until its n-th is done on the device."""

    def __init__(self, model: nn.Module, n: int) -> None:
        self.left, self.start, self.stop = n, 0.0, 0.0
        self.handles = [
            model.register_forward_pre_hook(self._begin),
            model.register_forward_hook(self._end),
        ]

    def _begin(self, *_: object) -> None:
        self.start = self.start or time.perf_counter()

    def _end(self, *_: object) -> None:
        self.left -= 1
        if not self.left:
            synchronize()
            self.stop = time.perf_counter()


def synchronize() -> None:
    """Wait for all GPUs."""
    for device in range(torch.cuda.device_count()):
        torch.cuda.synchronize(device)


def timed(model: nn.Module, forwards: int, run: Callable[[], int]) -> Timed:
    """Run once; ``run`` returns the bytes it has written."""
    synchronize()
    span = Span(model, forwards)
    start = time.perf_counter()
    try:
        size = run()
    finally:
        for handle in span.handles:
            handle.remove()
    synchronize()
    if span.left:
        raise RuntimeError(f"{span.left} of {forwards} forwards did not happen")
    return Timed(span.stop - span.start, time.perf_counter() - start, size)


def table(
    title: str, variants: dict[str, Callable[[], Timed]], own: dict[str, str], rounds: int
) -> None:
    """Time variants in turn; print medians, and medians of the ratios within each round.

    A machine's pace may drift by more than what is measured: a ratio is of two runs that follow
    one another. Its quartiles stand behind it.
    """
    found: dict[str, list[Timed]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            once = run()
            if turn:
                found[name].append(once)
    first = next(iter(found))
    print(title)
    print(f"  {'':42s} {'model s':>9s} {'/ first':>21s} {'/ own':>21s} {'call s':>9s} MB")
    for name, times in found.items():
        model = statistics.median(t.model for t in times)
        call = statistics.median(t.call for t in times)
        print(
            f"  {name:42s} {model:9.3f} {ratios(times, found[first])} "
            f"{ratios(times, found[own[name]])} {call:9.3f} {times[-1].size / 1e6:.1f}",
            flush=True,
        )


def ratios(times: list[Timed], base: list[Timed]) -> str:
    """Median and quartiles of the ratios of runs in the same round."""
    return spread([(t.model, b.model) for t, b in zip(times, base, strict=True)])


def spread(pairs: list[tuple[float, float]]) -> str:
    """Median and quartiles of the ratios of pairs."""
    each = sorted(a / b for a, b in pairs)
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    return f"{middle:6.3f}x ({low:5.3f}-{high:5.3f})"


def in_store(run: Callable[[Path], rl.Store], folder: Path | None) -> int:
    """Run with a fresh store; returns its bytes."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = store_path(Path(place))
        run(path).close()
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def store_path(folder: Path) -> Path:
    """Where a fresh store goes; processes of a launcher name it alike, and leave it there."""
    port = os.environ.get("MASTER_PORT")
    if port is None:
        return folder / "store"
    STORES.append(Path(tempfile.gettempdir()) / f"ring-stores-{port}" / str(len(STORES)))
    return STORES[-1]


class Prefill:
    """Texts of one length, forwarded plainly or replayed."""

    def __init__(self, lens: Lens, tokens: int, texts: int, folder: Path) -> None:
        self.lens, self.folder, self.n = lens, folder, texts
        generator = torch.Generator().manual_seed(0)
        top = min(lens.config.vocab_size, len(lens.tokenizer))
        ids = torch.randint(0, top, (texts, tokens), generator=generator)
        self.ids = ids.to(lens.device)
        self.texts = [Text(row, tokens // 2) for row in ids.tolist()]

    def plain(self, attention: str, logprobs: bool = False) -> Timed:
        """Forwards without ringlens; with ``logprobs``, of every token of the text."""
        self.lens.config._attn_implementation = attention

        def run() -> int:
            with torch.inference_mode():
                for row in self.ids.split(1):
                    if logprobs:
                        hidden = self._hidden(row)
                        self._logprobs(row, hidden)
                    else:
                        self.lens.model(row, use_cache=False, logits_to_keep=1)
            return 0

        module = self.lens.model.model if logprobs else self.lens.model
        return timed(module, self.n, run)

    def _hidden(self, row: torch.Tensor) -> torch.Tensor:
        return self.lens.model.model(row, use_cache=False).last_hidden_state

    def _logprobs(self, row: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Log-probability of each token: what recording tokens costs any tool."""
        parts = []
        for h, ids in zip(hidden[0, :-1].split(1024), row[0, 1:].split(1024), strict=True):
            logits = self.lens.model.lm_head(h).float()
            parts.append(logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(-1))
        return torch.cat(parts).cpu()

    def observed(
        self, attention: str, record: tuple[str, ...], workers: int | None = None
    ) -> Timed:
        """Replay into a fresh store."""
        self.lens.config._attn_implementation = attention

        def run(path: Path) -> rl.Store:
            settings = {"batch_size": 1, "record": record, "workers": workers}
            return rl.replay(self.lens, self.texts, path, **settings)

        return timed(self.lens.model, self.n, lambda: in_store(run, self.folder))


class Decode:
    """Generating a number of tokens after short prompts, plainly or captured."""

    def __init__(self, lens: Lens, batch: int, new: int, folder: Path) -> None:
        self.lens, self.new, self.folder = lens, new, folder
        self.problems = rl.problems("countdown", n=batch)
        prompts = [lens.encode_prompt(problem.prompt) for problem in self.problems]
        self.ids, self.mask = left_pad(prompts, lens.pad_token_id, lens.device)
        self.config = GenerationConfig(
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=list(lens.eos_token_ids),
            pad_token_id=lens.pad_token_id,
        )

    def plain(self, attention: str) -> Timed:
        """Plain ``generate``."""
        self.lens.config._attn_implementation = attention

        def run() -> int:
            with torch.inference_mode():
                self.lens.model.generate(
                    self.ids, attention_mask=self.mask, generation_config=self.config
                )
            return 0

        return timed(self.lens.model, self.new, run)

    def observed(self, attention: str, record: tuple[str, ...]) -> Timed:
        """Capture into a fresh store."""
        self.lens.config._attn_implementation = attention

        def run(path: Path) -> rl.Store:
            return rl.capture(
                self.lens,
                self.problems,
                path,
                batch_size=len(self.problems),
                record=record,
                max_new_tokens=self.new,
                decode="eager",
            )

        # One forward more than generate needs: the last token's own records.
        return timed(self.lens.model, self.new + 1, lambda: in_store(run, self.folder))


def variants_of(
    work: Prefill | Decode, attentions: list[str], records: dict[str, tuple[str, ...]]
) -> tuple[dict[str, Callable[[], Timed]], dict[str, str]]:
    """Plain and observed under each attention, and what each is compared with."""
    variants: dict[str, Callable[[], Timed]] = {}
    own = {}
    for attention in attentions:
        plain = f"{attention}: plain"
        variants[plain] = lambda a=attention: work.plain(a)
        own[plain] = plain
        if isinstance(work, Prefill):
            name = f"{attention}: plain + log-probabilities"
            variants[name] = lambda a=attention: work.plain(a, logprobs=True)
            own[name] = plain
        for label, record in records.items():
            if attention != attentions[0] and not {"heads", "head_blocks"} & set(record):
                continue  # no difference to the first kernel
            name = f"{attention}: {label}"
            variants[name] = lambda a=attention, r=record: work.observed(a, r)
            own[name] = plain
    return variants, own


def sustained_table(
    many: Prefill, few: Prefill, attention: str, workers: list[int], rounds: int
) -> None:
    """Whole calls until everything is on the disk, against plain forwards, in turn."""
    variants = {"plain": lambda work: work.plain(attention)}
    for label in SUSTAINED:
        for number in workers:
            where = {-1: "default", 0: "threads"}.get(number, f"{number} processes")
            variants[f"{label}, {where}"] = lambda work, r=RECORDS[label], n=number: work.observed(
                attention, r, None if n < 0 else n
            )
    found: dict[str, list[tuple[Timed, Timed]]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            once = run(many), run(few)
            if turn:
                found[name].append(once)
    print(f"sustained: {many.n} texts of {many.ids.shape[1]} tokens, {attention}")
    heads = ("/ plain", "per text / plain", "model / plain")
    print(f"  {'':44s} {'call s':>8s} " + " ".join(f"{head:>21s}" for head in heads))
    for name, times in found.items():
        pairs = list(zip(times, found["plain"], strict=True))
        whole = [(a.call, b.call) for (a, _), (b, _) in pairs]
        further = [(a.call - c.call, b.call - d.call) for (a, c), (b, d) in pairs]
        model = [(a.model, b.model) for (a, _), (b, _) in pairs]
        call = statistics.median(a.call for a, _ in times)
        print(
            f"  {name:44s} {call:8.3f} {spread(whole)} {spread(further)} {spread(model)}",
            flush=True,
        )


def nnsight_table(work: Prefill, rounds: int) -> None:
    """The routers' outputs in a cache of nnsight, beside the same recorded by ringlens."""
    try:
        import nnsight
    except ImportError as error:
        print(f"nnsight is not installed here ({error}): not compared")
        return
    lens = work.lens
    lens.config._attn_implementation = "sdpa"

    def cached() -> int:
        envoy = nnsight.NNsight(lens.model)
        gates = [envoy.model.layers[layer].mlp.gate for layer in lens.config.sparse_layers]
        with torch.inference_mode():
            for row in work.ids.split(1):
                with envoy.trace(row, use_cache=False, logits_to_keep=1) as tracer:
                    cache = tracer.cache(modules=gates)
                for path in cache.keys():  # noqa: SIM118 (no mapping); a record goes to the CPU
                    for x in cache[path].output:
                        x.cpu()
        return 0

    variants = {
        "plain": lambda: work.plain("sdpa"),
        f"nnsight {nnsight.__version__}: cache of the routers": lambda: timed(
            lens.model, work.n, cached
        ),
        "ringlens: routing + logits, written": lambda: work.observed(
            "sdpa", RECORDS["routing + logits"]
        ),
    }
    tokens = work.ids.shape[1]
    table(
        f"routers of {work.n} x {tokens} tokens", variants, dict.fromkeys(variants, "plain"), rounds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ring-1t-slice")
    parser.add_argument("--parts", nargs="+", default=["prefill", "decode", "nnsight"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--texts", type=int, default=3, help="texts of 8k; longer ones: 2")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attention", nargs="+", default=["sdpa", "ringlens"])
    parser.add_argument("--records", nargs="+", default=list(RECORDS), choices=RECORDS)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, -1], help="of sustained")
    parser.add_argument("--folder", type=Path, help="where temporary stores go")
    parser.add_argument("--cpu", action="store_true", help="a tiny model, float32, short texts")
    options = parser.parse_args()
    register_attention()
    start = time.perf_counter()
    if options.cpu:
        torch.set_num_threads(1)
        lens = random_lens("tiny", "cpu", torch.float32)
        options.tokens, options.new = [256], 16
    else:
        lens = random_lens(options.model, "cuda")
    synchronize()
    where = machine() if options.cpu else torch.cuda.get_device_name()
    print(f"{where}, torch {torch.__version__}; {size_line(lens)}; made in "
          f"{time.perf_counter() - start:.1f} s", flush=True)  # fmt: skip
    records = {name: RECORDS[name] for name in options.records}
    for tokens in options.tokens if "prefill" in options.parts else ():
        texts = options.texts if tokens <= 8192 else min(2, options.texts)
        work = Prefill(lens, tokens, texts, options.folder)
        table(
            f"prefill of {texts} x {tokens} tokens",
            *variants_of(work, options.attention, records),
            options.rounds,
        )
    if "sustained" in options.parts:
        many, few = (Prefill(lens, options.tokens[0], n, options.folder) for n in (8, 4))
        print(f"{len(os.sched_getaffinity(0))} cores usable; {many.ids.shape[1]} tokens a text")
        for attention in options.attention:
            sustained_table(many, few, attention, options.workers, options.rounds)
    for batch in options.batch if "decode" in options.parts else ():
        work = Decode(lens, batch, options.new, options.folder)
        table(
            f"decoding {options.new} tokens, batch {batch}",
            *variants_of(work, options.attention, records),
            options.rounds,
        )
    if "nnsight" in options.parts:
        nnsight_table(Prefill(lens, options.tokens[0], 1, options.folder), options.rounds)
    if torch.cuda.is_available():
        print(f"most device memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
