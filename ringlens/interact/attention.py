"""What the heads of one layer look at in a text: every weight, or the heaviest positions.

The weights are those of the model's own queries and keys, as its attention kernel gets them: after
norms and rotary embedding. So they are the same whichever kernel the model runs on, and no kernel
has to return them.

Shape letters: H heads of the model, h chosen heads, T tokens, Q queries, k positions, C head
dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ringlens.config import whole
from ringlens.errors import ConfigError, ObservationError
from ringlens.interact.run import forward
from ringlens.model.parallel import parallel_of
from ringlens.observe.given import TextOrIds
from ringlens.observe.inputs import token_rows
from ringlens.observe.instruments.attention import watched_attention
from ringlens.observe.kernels.attention import CausalAt
from ringlens.observe.kernels.attention_segments import all_weights, top_positions
from ringlens.observe.points import POINTS, layer_of
from ringlens.observe.text import token_text

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

LARGEST = 2**28
"""Most bytes of a result: 16 heads over 2,048 tokens in full."""

Queries = int | slice | Iterable[int] | None


@dataclass(frozen=True, repr=False, eq=False)
class AttentionPattern:
    """How heads of one layer spread their attention over a text.

    Attributes:
        layer: The layer.
        heads: The h heads.
        tokens: Text of each of the T tokens.
        pos: Positions of the queries, int32 [Q].
        weights: Weight of each query on each token, float32 [h, Q, T]; rows sum to 1, and tokens
            behind the query have 0.
        dtype: Type in which the model computed queries and keys; the weights are computed from
            these in float32.
    """

    layer: int
    heads: tuple[int, ...]
    tokens: tuple[str, ...]
    pos: NDArray[np.int32]
    weights: NDArray[np.float32]
    dtype: str

    def __repr__(self) -> str:
        return f"AttentionPattern({_what(self)}, {len(self.pos)} × {len(self.tokens)} weights)"

    def of(self, head: int) -> NDArray[np.float32]:
        """The weights of one head, [Q, T].

        Raises:
            ObservationError: The head is not among these.
        """
        return self.weights[_index(self.heads, head)]


@dataclass(frozen=True, repr=False, eq=False)
class TopPositions:
    """The tokens of a text that heads of one layer attend to most.

    Attributes:
        layer: The layer.
        heads: The h heads.
        tokens: Text of each of the T tokens.
        pos: Positions of the queries, int32 [Q].
        positions: Positions of the tokens with the largest weights, heaviest first, int32
            [h, Q, k]; -1 where a query sees fewer than k.
        weights: Their weights, float32 [h, Q, k]; 0 where there is no token.
        dtype: As in `AttentionPattern`.
    """

    layer: int
    heads: tuple[int, ...]
    tokens: tuple[str, ...]
    pos: NDArray[np.int32]
    positions: NDArray[np.int32]
    weights: NDArray[np.float32]
    dtype: str

    def __repr__(self) -> str:
        return (
            f"TopPositions({_what(self)}, the {self.weights.shape[2]} heaviest of "
            f"{len(self.tokens)} tokens for {len(self.pos)})"
        )

    def of(self, head: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The positions and weights of one head, [Q, k] each.

        Raises:
            ObservationError: The head is not among these.
        """
        index = _index(self.heads, head)
        return self.positions[index], self.weights[index]


def attention(
    lens: LoadedModel,
    text_or_ids: TextOrIds,
    layer: int,
    heads: int | Iterable[int] | None = None,
    *,
    queries: Queries = None,
    top: int | None = None,
) -> AttentionPattern | TopPositions:
    """See :meth:`ringlens.lens.Lens.attention`."""
    if parallel_of(lens.model).pp_size > 1:
        raise ObservationError(
            "attention does not work with pp_size > 1: another process holds the layer. Record it "
            "with capture or replay, as in record=['attention:8@3/0'], and read trace.attention."
        )
    place = layer_of(POINTS["attn_out"], whole("layer", layer, -(2**31)), lens.config)
    assert place is not None
    token_ids = _one_row(lens, text_or_ids)
    chosen = _heads(heads, lens.sizes.heads)
    own_Q = torch.tensor(_positions(queries, len(token_ids)))
    k = None if top is None else min(whole("top", top, 1), len(token_ids))
    _check_size(len(chosen), len(own_Q), len(token_ids), k)
    tokens = tuple(token_text(lens.tokenizer, token_ids).pieces)
    query_1hQC, key_1GTC, scaling = _queries_and_keys(lens, token_ids, place, own_Q)
    shared = (place, chosen, tokens, own_Q.numpy().astype(np.int32))
    mask, dtype = CausalAt(own_Q.to(key_1GTC.device)), str(key_1GTC.dtype).removeprefix("torch.")
    if k is None:
        weights_1QhT = all_weights(query_1hQC, key_1GTC, mask, scaling, chosen)
        return AttentionPattern(*shared, _by_head(weights_1QhT.float()), dtype)
    positions_1Qhk, weights_1Qhk = top_positions(query_1hQC, key_1GTC, mask, scaling, k, chosen)
    found = _by_head(positions_1Qhk.to(torch.int32)), _by_head(weights_1Qhk.float())
    return TopPositions(*shared, *found, dtype)


def _queries_and_keys(
    lens: LoadedModel, token_ids: list[int], layer: int, own_Q: Tensor
) -> tuple[Tensor, Tensor, float]:
    """Chosen queries [1, H, Q, C] and all keys [1, G, T, C] of a layer, and the factor on scores.

    Raises:
        ObservationError: The layer's attention was not called through transformers' interface.
    """
    seen: list[tuple[Tensor, Tensor, float]] = []

    def watch(query_1HTC: Tensor, key_1GTC: Tensor, _: Tensor, scaling: float, *__: object) -> None:
        seen.append((query_1HTC[:, :, own_Q.to(query_1HTC.device)], key_1GTC, scaling))

    last = layer + 1 == lens.sizes.layers
    with watched_attention(lens.model, layer, watch):
        options = {"logits_to_keep": 1} if last else {}
        forward(lens, token_ids, [], None if last else layer + 1, options)
    if len(seen) != 1:
        raise ObservationError(
            f"layer {layer} of {lens.name} called transformers' attention interface {len(seen)} "
            "times in a forward, not once: its queries and keys are not known."
        )
    return seen[0]


def _one_row(lens: LoadedModel, given: TextOrIds) -> list[int]:
    rows = token_rows(lens, given)
    if len(rows) != 1:
        raise ConfigError(f"attention takes one text, not {len(rows)}; call it for each of them.")
    return rows[0]


def _heads(heads: object, count: int) -> tuple[int, ...]:
    """The heads that are asked for, checked."""
    if heads is None:
        return tuple(range(count))
    given = heads if isinstance(heads, Iterable) and not isinstance(heads, str) else [heads]
    found = tuple(whole("head", head, 0, count - 1) for head in given)
    if not found:
        raise ConfigError("heads names no head; give some, or None for all.")
    return found


def _positions(queries: object, count: int) -> list[int]:
    """The positions of queries that are asked for, checked; negative ones count from the end."""
    if queries is None:
        return list(range(count))
    if isinstance(queries, slice):
        try:
            found = list(range(count)[queries])
        except TypeError as error:
            raise ConfigError(f"queries = {queries!r:.60}; its ends are whole numbers.") from error
    else:
        several = isinstance(queries, Iterable) and not isinstance(queries, str)
        given: Any = queries if several else [queries]
        found = [whole("query", each, -count, count - 1) % count for each in given]
    if not found:
        raise ConfigError(f"queries = {queries!r:.60} names none of the {count} tokens.")
    return found


def _check_size(heads: int, queries: int, tokens: int, k: int | None) -> None:
    """Refuse a result that is too large to hold.

    Raises:
        ConfigError: It is; the message says what is smaller.
    """
    size = heads * queries * (4 * tokens if k is None else 8 * k)
    if size <= LARGEST:
        return
    what = f"{heads} heads for {queries:,} of {tokens:,} tokens"
    most = f"at most {LARGEST / 2**20:,.0f} MiB are given"
    if k is None:
        raise ConfigError(
            f"all attention weights of {what} take {size / 2**20:,.0f} MiB; {most}. Give top=16 "
            "for the 16 heaviest positions of each, or fewer heads= or queries=."
        )
    raise ConfigError(
        f"the {k:,} heaviest positions of {what} take {size / 2**20:,.0f} MiB; {most}. Give a "
        "smaller top=, or fewer heads= or queries=."
    )


def _by_head(found_1Qhx: Tensor) -> NDArray[Any]:
    """One text's numbers by head, [h, Q, x], on the CPU."""
    array: NDArray[Any] = found_1Qhx[0].transpose(0, 1).contiguous().cpu().numpy()
    return array


def _index(heads: tuple[int, ...], head: int) -> int:
    if head not in heads:
        raise ObservationError(
            f"head {head!r:.60} is not among those asked for: {', '.join(map(str, heads))}."
        )
    return heads.index(head)


def _what(found: AttentionPattern | TopPositions) -> str:
    """Layer, heads and type in a few words."""
    heads = found.heads
    named = f"head {heads[0]}" if len(heads) == 1 else f"{len(heads)} heads"
    return f"layer {found.layer}, {named}, {found.dtype}"
