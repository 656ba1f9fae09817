"""Lets a model write on from several places of a thought at once.

Shape letters: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ringlens.config import Sampling
from ringlens.observe.sampling import processors
from ringlens.probes.chain.prefix import Rows

Ended = Callable[[Sequence[int]], bool]
"""Whether written tokens are all that is wanted."""


class Written(NamedTuple):
    """What a row wrote.

    Attributes:
        ids: Its tokens, the end included.
        entropy: Sum over them of the entropy of the model's distribution before each, in nats. Over
            texts drawn at temperature 1 its mean is the entropy of the text (the chain rule).
    """

    ids: tuple[int, ...]
    entropy: float


def write(
    rows: Rows,
    given: Sequence[Sequence[int]],
    settings: Sampling,
    seeds: Sequence[int],
    ended: Ended,
) -> list[Written]:
    """Write on, each row until it has ended or has ``max_new_tokens``.

    A row whose text has ended leaves the batch, so that the others do not wait for it.

    Args:
        rows: The rows; used up.
        given: Tokens that each row reads first, as many in each.
        settings: How tokens are drawn.
        seeds: Seed of each row.
        ended: Whether a row has ended, given what it wrote.

    Returns:
        What each row wrote, its end included.
    """
    written: list[list[int]] = [[] for _ in given]
    entropy = [0.0] * len(given)
    left = list(range(len(given)))
    scores_BV = rows.feed(given, keep=1)[:, -1]
    while True:
        drawn = _drawn(scores_BV, settings, [seeds[row] for row in left], rows.lengths)
        logp_BV = scores_BV.log_softmax(dim=-1)
        told = torch.special.entr(logp_BV.exp()).sum(dim=-1).tolist()
        for row, token, nats in zip(left, drawn, told, strict=True):
            written[row].append(token)
            entropy[row] += nats
        going = [
            place
            for place, row in enumerate(left)
            if len(written[row]) < settings.max_new_tokens and not ended(written[row])
        ]
        if not going:
            return [Written(tuple(ids), e) for ids, e in zip(written, entropy, strict=True)]
        if len(going) < len(left):
            rows.select(going)
            left = [left[place] for place in going]
        scores_BV = rows.feed([[written[row][-1]] for row in left])[:, -1]


def _drawn(
    scores_BV: Tensor, settings: Sampling, seeds: list[int], lengths: Sequence[int]
) -> list[int]:
    """The next token of each row; what is drawn depends on its seed and its position alone."""
    longest = max(lengths)
    pads = [longest - length for length in lengths]
    chain = processors(settings, seeds, pads, [[] for _ in lengths])
    unread = torch.empty(len(lengths), longest, dtype=torch.long, device=scores_BV.device)
    found_BV: Tensor = chain(unread, scores_BV)
    drawn: list[int] = found_BV.argmax(dim=-1).tolist()
    return drawn
