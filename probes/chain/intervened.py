"""What a model writes behind one prompt under several interventions, side by side.

The prompt is run once, as the model is, and its cache serves all.

Shape letters: B rows, P tokens of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria
from transformers.cache_utils import DynamicCache

from ringlens.interventions import Intervention
from ringlens.model.caching import CACHE
from ringlens.observe.interventions.attached import Attached
from ringlens.observe.interventions.resolve import resolve_rows
from ringlens.probes.chain.batches import batches

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

OnForward = Callable[[int, int], None]
"""Called after each forward with the forwards, and the tokens that went through."""


def written_under(
    lens: LoadedModel,
    prompt_ids: Sequence[int],
    acts: Sequence[Sequence[Intervention]],
    limit: int,
    batch_size: int,
    on_forward: OnForward = lambda forwards, tokens: None,
) -> Iterator[list[int]]:
    """Let the model write its most likely tokens under each of some interventions.

    Args:
        lens: The model.
        prompt_ids: Tokens of the prompt.
        acts: The interventions of each text, () for none. They act behind the prompt: their spans
            begin at its length, as the prompt is run without them.
        limit: Most tokens that are written.
        batch_size: Texts side by side at most.
        on_forward: Called after each forward.

    Yields:
        The tokens of each text in turn, prompt included, up to the token that ends it.
    """
    P = len(prompt_ids)
    ids_1P = torch.tensor([list(prompt_ids)], device=lens.device)
    config = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=list(lens.eos_token_ids),
        pad_token_id=lens.pad_token_id,
    )
    with torch.inference_mode():
        prompt = DynamicCache(config=lens.config)
        if P > 1:  # the last token of the prompt foretells the first that is written
            lens.model(ids_1P[:, :-1], **{CACHE: prompt}, use_cache=True, logits_to_keep=1)
            on_forward(1, P - 1)
        for part in batches(acts, batch_size):
            cache, ids_BP = deepcopy(prompt), ids_1P.expand(len(part), -1)
            if P > 1:
                cache.batch_repeat_interleave(len(part))
            with Attached(lens, resolve_rows(lens, part), by_row=True).attached():
                written = lens.model.generate(
                    ids_BP,
                    attention_mask=torch.ones_like(ids_BP),
                    generation_config=config,
                    stopping_criteria=[_Counted(on_forward)],
                    **{CACHE: cache},
                )
            yield from (_ended(lens, row, P) for row in written.tolist())


class _Counted(StoppingCriteria):
    """Counts the steps of ``generate``, and stops none."""

    def __init__(self, on_forward: OnForward) -> None:
        self._on_forward = on_forward

    def __call__(
        self, input_ids: torch.LongTensor, scores: tuple[Tensor] | None, **kwargs: object
    ) -> torch.BoolTensor:
        self._on_forward(1, len(input_ids))
        return input_ids.new_zeros(len(input_ids)).bool()  # type: ignore[return-value]


def _ended(lens: LoadedModel, ids: list[int], n_prompt: int) -> list[int]:
    """Tokens up to the one that ends the text; behind it there is padding."""
    ends = (at for at in range(n_prompt, len(ids)) if ids[at] in lens.eos_token_ids)
    return ids[: next(ends, len(ids)) + 1]
