"""Attention that gives head statistics, against sdpa, a second pass and the explicit matrix.

python benchmarks/bench_attention.py [--tokens 2048 8192 32768] [--rounds 7] [--sweep]

Needs CUDA. Ring-1T's attention: 64 heads, 8 kv heads, head dimension 128, bfloat16. The first thing
it does is check every variant against float64 at sampled rows; a wrong result ends it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "tests")]
from attention_reference import explicit
from gpu_timing import device_line, device_medians, peak_bytes

from ringlens.observe.kernels import attention_triton as kernels
from ringlens.observe.kernels.attention import Causal, head_statistics, second_pass

H, G, C = 64, 8, 128
SCALING = C**-0.5
NAMES = ("entropy", "first_weight", "previous_weight", "logsumexp")
T = kernels.Tiling
SWEEP = (
    T(128, 128, 8, 2),
    T(128, 128, 8, 2, descriptors=True),
    T(128, 64, 8, 3),
    T(128, 64, 8, 3, descriptors=True),
    T(128, 64, 8, 2, registers=128, descriptors=True),
    T(64, 64, 4, 2, descriptors=True),
)
SWEEP_STATISTICS = (
    T(128, 128, 8, 3),
    T(128, 128, 8, 3, descriptors=True),
    T(128, 64, 8, 3, registers=128, descriptors=True),
    T(64, 64, 4, 3, descriptors=True),
)


def inputs(B: int, queries: int, keys: int):
    """Queries from diffuse to sharp heads, keys, and values as a view of a fused projection."""
    torch.manual_seed(0)
    sharp = torch.linspace(0.5, 4.0, H, device="cuda")[:, None, None]
    query = (torch.randn(B, H, queries, C, device="cuda") * sharp).bfloat16()
    key = torch.randn(B, G, keys, C, device="cuda").bfloat16()
    fused = torch.randn(B, keys, H + 2 * G, C, device="cuda").bfloat16()
    return query, key, fused[:, :, H + G :].transpose(1, 2)


def sdpa(query, key, value):
    output = F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=SCALING, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous()


def explicit_softmax(query, key, value):
    """What most tools do: the whole matrix of weights, and its entropy."""
    repeats = H // G
    scores = query @ key.repeat_interleave(repeats, 1).transpose(2, 3) * SCALING
    scores.masked_fill_(torch.ones(scores.shape[2:], device="cuda").triu_(1).bool(), -torch.inf)
    p = scores.softmax(dim=-1, dtype=torch.float32)
    entropy = torch.special.entr(p).sum(-1)
    return p.to(value.dtype) @ value.repeat_interleave(repeats, 1), entropy, p[..., 0]


def check(name, found, wanted, rows, tolerance=0.01):
    """Largest difference of each statistic from float64; ends the run beyond ``tolerance``."""
    worst = []
    for field, got in zip(NAMES, found, strict=True):
        got = got if rows is None else got[:, rows]
        assert torch.equal(got.isnan(), wanted[field].isnan()), f"{name}: NaN in {field}"
        worst.append((got - wanted[field]).nan_to_num().abs().max().item())
        assert worst[-1] < tolerance, f"{name}: {field} is {worst[-1]} from float64"
    print(f"  {name:34s} " + "  ".join(f"{f} {e:.1e}" for f, e in zip(NAMES, worst, strict=True)))


def fields(statistics):
    return [getattr(statistics, name) for name in NAMES]


def check_shapes() -> None:
    """Padding, cached keys and odd lengths, every row."""
    print("largest difference from float64, padded and cached shapes")
    for B, queries, keys, pads in [
        (2, 300, 300, [0, 130]),
        (2, 300, 1000, [65, 900]),
        (2, 64, 777, [3, 0]),
        (1, 1, 300, [129]),
        (1, 129, 129, None),
    ]:
        query, key, value = inputs(B, queries, keys)
        first = torch.tensor(pads or [0] * B, device="cuda")
        wanted = explicit(query, key, first, SCALING)
        given = None if pads is None else first
        shape = f"{queries} of {keys}, padding {pads}"
        found = head_statistics(query, key, Causal(given), SCALING)
        check(f"statistics {shape}", fields(found), wanted, None)
        check(
            f"second pass {shape}",
            fields(second_pass(query, key, given, SCALING)),
            wanted,
            None,
            tolerance=0.1,
        )
        p = wanted["p"].nan_to_num()
        right = p.transpose(1, 2) @ value.double().repeat_interleave(H // G, 1)
        for tiling in (None, *SWEEP[:2], kernels.SHORT):
            output, found = kernels.attention_with_statistics(
                query, key, value, given, SCALING, tiling
            )
            error = (output - right.transpose(1, 2)).abs().max().item()
            assert error < 0.04, f"output of {tiling} at {shape} is {error} from float64"
            for field, got in zip(NAMES, found, strict=True):
                gap = (got - wanted[field]).nan_to_num().abs().max().item()
                assert gap < 1e-3, f"{field} of {tiling} at {shape} is {gap} from float64"


def check_long(query, key, value, tilings, tilings_statistics) -> None:
    """Every variant at rows sampled from a long text, and the output against sdpa's."""
    tokens = query.shape[2]
    rows = torch.cat(
        (torch.arange(8), torch.randint(0, tokens, (24,)), torch.arange(tokens - 8, tokens))
    ).cuda()
    wanted = explicit(query, key, torch.zeros(1, device="cuda"), SCALING, rows)
    values = value.double().repeat_interleave(H // G, 1)
    right = (wanted.pop("p").transpose(1, 2) @ values).transpose(1, 2)
    theirs = sdpa(query, key, value)
    print(f"  sdpa's output: {(theirs[:, rows] - right).abs().max().item():.1e} from float64")
    for tiling in tilings:
        ours, found = kernels.attention_with_statistics(query, key, value, None, SCALING, tiling)
        assert ours.isfinite().all()
        error = (ours[:, rows] - right).abs().max().item()
        apart = (ours - theirs).abs().max().item()
        assert apart < 0.07, f"{tiling} is {apart} from sdpa"
        print(f"  {label(tiling)}: output {error:.1e} from float64, {apart:.1e} from sdpa")
        check(label(tiling), found, wanted, rows)
    for tiling in tilings_statistics:
        found = kernels.statistics(query, key, None, SCALING, tiling)
        check("statistics " + label(tiling), found, wanted, rows)
    check("second pass", fields(second_pass(query, key, None, SCALING)), wanted, rows, 0.1)


def label(tiling) -> str:
    if tiling is None:
        return "default"
    parts = f"{tiling.queries}x{tiling.keys}, {tiling.warps} warps, {tiling.stages} stages"
    return parts + (f", {tiling.registers} reg" if tiling.registers else "") + (
        ", tma" if tiling.descriptors else ""
    )  # fmt: skip


def compiled(tilings, run):
    """Those tilings that this machine's Triton compiles and starts; says which do not."""
    kept = []
    for tiling in tilings:
        try:
            run(tiling)
            torch.cuda.synchronize()
            kept.append(tiling)
        except Exception as error:  # a variant that fails is a result
            print(f"  does not run: {label(tiling)}: {type(error).__name__} {str(error)[:200]}")
            if tiling is None or "CUDA error" in str(error):
                raise
    return kept


def compare(tokens: int, rounds: int, sweep: bool) -> None:
    """The table of one length."""
    query, key, value = inputs(1, tokens, tokens)
    tilings = compiled(
        (None, *(SWEEP if sweep else ())),
        lambda t: kernels.attention_with_statistics(query, key, value, None, SCALING, t),
    )
    tilings_statistics = compiled(
        (None, *(SWEEP_STATISTICS if sweep else ())),
        lambda t: kernels.statistics(query, key, None, SCALING, t),
    )
    print(f"{tokens} tokens; largest difference from float64 at 40 rows")
    check_long(query, key, value, tilings, tilings_statistics)

    def bind(run, tiling):
        return lambda: run(tiling)

    variants = {"sdpa": lambda: sdpa(query, key, value)}
    for tiling in tilings:
        variants[f"one pass, {label(tiling)}"] = bind(
            lambda t: kernels.attention_with_statistics(query, key, value, None, SCALING, t), tiling
        )
    for tiling in tilings_statistics:
        variants[f"statistics alone, {label(tiling)}"] = bind(
            lambda t: kernels.statistics(query, key, None, SCALING, t), tiling
        )
    variants["flash, V = K, alone"] = lambda: second_pass(query, key, None, SCALING)
    if tokens <= 8192:
        variants["explicit softmax"] = lambda: explicit_softmax(query, key, value)
    found = device_medians(variants, rounds)
    print(f"{tokens} tokens: ms, times sdpa, peak GiB")
    for name, ms in found.items():
        memory = peak_bytes(variants[name]) / 2**30
        print(f"  {name:56s} {ms:8.3f}  {ms / found['sdpa']:6.2f}x  {memory:7.2f}")


def decoding(tokens: int, rounds: int) -> None:
    """What 64 decoded tokens cost after the fact: their statistics against the cache."""
    for B in (1, 16):
        if B * tokens > 2**18:
            continue
        query, key, value = inputs(B, 64, tokens)
        step = query[:, :, :1]
        found = device_medians(
            {
                "64": lambda q=query, k=key: head_statistics(q, k, Causal(), SCALING),
                "1": lambda q=step, k=key, v=value: F.scaled_dot_product_attention(
                    q, k, v, enable_gqa=True
                ),
            },
            rounds,
        )
        print(
            f"decoding at {tokens} cached tokens, batch {B}: statistics of 64 steps "
            f"{found['64']:.3f} ms; attention of one step {found['1']:.3f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sweep", action="store_true", help="compare tilings")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs CUDA.")
    print(device_line(), flush=True)
    with torch.inference_mode():
        check_shapes()
        for tokens in options.tokens:
            compare(tokens, options.rounds, options.sweep)
            decoding(tokens, options.rounds)


if __name__ == "__main__":
    main()
