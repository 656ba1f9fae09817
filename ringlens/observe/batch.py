"""One batch under observation: generated, or teacher-forced.

Shape letters: B batch, P prompt positions (left-padded), n generated tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig

from ringlens.config import Sampling
from ringlens.observe.record import Finished
from ringlens.observe.recorder import Recorder
from ringlens.observe.sampling import processors
from ringlens.problem import Problem

if TYPE_CHECKING:
    from ringlens.lens import Lens


@dataclass
class Observer:
    """What generating and replaying share.

    Attributes:
        lens: The model.
        record: What to record.
        on_forward: Called with (B, T) at the start of each forward.
    """

    lens: Lens
    record: tuple[str, ...]
    on_forward: Callable[[int, int], None]

    def recorder(self) -> Recorder:
        """A fresh recorder, to be attached for one batch."""
        return Recorder(self.lens.model, self.lens.router, self.record, self.on_forward)


@dataclass(frozen=True)
class Text:
    """Finished text to replay: its tokens, how many are prompt, and where it comes from."""

    token_ids: list[int]
    n_prompt: int
    problem: Problem | None = None
    trace_id: int | None = None


def generate(
    observer: Observer, batch: Sequence[Problem], settings: Sampling, seeds: list[int]
) -> list[Finished]:
    """Generate one batch under observation."""
    lens = observer.lens
    prompts = [lens.encode_prompt(problem.prompt) for problem in batch]
    ids_BP, mask_BP = left_pad(prompts, lens.pad_token_id, lens.device)
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        eos_token_id=list(lens.eos_token_ids),
        pad_token_id=lens.pad_token_id,
        return_dict_in_generate=True,
    )
    with observer.recorder() as recorder, torch.inference_mode():
        output = lens.model.generate(
            ids_BP,
            attention_mask=mask_BP,
            generation_config=config,
            logits_processor=processors(settings, seeds),
        )
        # The last token is drawn but never fed: one more step completes its records.
        ones = mask_BP.new_ones(len(batch), output.sequences.shape[1] - mask_BP.shape[1])
        mask = torch.cat((mask_BP, ones), dim=1)
        lens.model(
            input_ids=output.sequences[:, -1:],
            attention_mask=mask,
            position_ids=mask.sum(dim=1, keepdim=True) - 1,
            past_key_values=output.past_key_values,
        )
    finished = []
    for row, problem in enumerate(batch):
        new = output.sequences[row, ids_BP.shape[1] :].tolist()
        stop = next((i for i, token in enumerate(new) if token in lens.eos_token_ids), None)
        kept = new if stop is None else new[: stop + 1]
        finished.append(
            Finished(
                recorder=recorder,
                row=row,
                pad=ids_BP.shape[1] - len(prompts[row]),
                token_ids=[*prompts[row], *kept],
                n_prompt=len(prompts[row]),
                finish_reason="length" if stop is None else "stop",
                problem=problem,
                seed=seeds[row],
            )
        )
    return finished


def teacher_force(observer: Observer, batch: Sequence[Text]) -> list[Finished]:
    """Observe one batch of finished token sequences."""
    lens = observer.lens
    ids_BP, mask_BP = left_pad([t.token_ids for t in batch], lens.pad_token_id, lens.device)
    with observer.recorder() as recorder, torch.inference_mode():
        lens.model(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            position_ids=(mask_BP.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
        )
    return [
        Finished(
            recorder=recorder,
            row=row,
            pad=ids_BP.shape[1] - len(text.token_ids),
            token_ids=text.token_ids,
            n_prompt=text.n_prompt,
            finish_reason="replay",
            problem=text.problem,
            seed=0,
            source_trace_id=text.trace_id,
        )
        for row, text in enumerate(batch)
    ]


def left_pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, P], shorter rows filled up on the left."""
    width = max(len(sequence) for sequence in sequences)
    ids = [[pad] * (width - len(s)) + list(s) for s in sequences]
    mask = [[0] * (width - len(s)) + [1] * len(s) for s in sequences]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
