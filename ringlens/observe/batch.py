"""One batch under observation: generated, or teacher-forced.

Shape letters: B batch, P known positions (left-padded), n generated tokens, S positions in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria
from transformers.cache_utils import DynamicCache

from ringlens.config import Recorded, Sampling
from ringlens.model.caching import CACHE, cache_of
from ringlens.observe.instruments.tape import Tape
from ringlens.observe.instruments.transfer import bring
from ringlens.observe.interventions.reader import Prompts
from ringlens.observe.monitoring.judge import EndsWarned, Judge
from ringlens.observe.pipeline.commit_thread import Recording
from ringlens.observe.pipeline.following import EachStep, Following
from ringlens.observe.pipeline.ranks import RankRole
from ringlens.observe.pipeline.recorder import STEPS, OnForward, Recorder
from ringlens.observe.pipeline.trace_buffer import Task, TraceBuffer
from ringlens.observe.sampling import processors

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel
    from ringlens.observe.interventions.attached import Attached

# Positions a forward takes at most; a longer text goes through in several.
PREFILL = 32_768

INTERRUPTED = "interrupted"
"""``finish_reason`` of a trace that was stopped by the caller."""


@dataclass(frozen=True)
class Observer:
    """What generating and replaying share.

    Attributes:
        lens: The model.
        record: What to record, resolved for the model.
        role: What of the model this process watches.
        recording: Takes the blocks.
        on_forward: Called with (B, T) at the start of each forward.
        prefill: Positions a forward takes at most.
        following: Who follows the traces, if anybody does.
        acting: The interventions that are attached to the model; None without any.
        judge: The monitor that judges the traces; None without one.
    """

    lens: LoadedModel
    record: tuple[Recorded, ...]
    role: RankRole
    recording: Recording
    on_forward: OnForward
    prefill: int = PREFILL
    following: Following | None = None
    acting: Attached | None = None
    judge: Judge | None = None

    def recorder(self, pads: Sequence[int], tape: Tape | None = None) -> Recorder:
        """A recorder, to be attached for one batch; with a tape, steps may be repeated."""
        return Recorder(
            self.lens,
            self.record,
            self.recording.put,
            self.on_forward,
            tuple(pads),
            self.role,
            STEPS if self.following is None else 1,
            self.acting,
            tape,
            self.judge,
        )

    def begin(
        self, tasks: Sequence[Task], eos_token_ids: tuple[int, ...], finish_reason: str
    ) -> tuple[Tensor, Tensor, list[int]]:
        """Tell the recording which traces follow; returns ids and mask [B, P], and the pads."""
        ids_BP, mask_BP = left_pad(
            [task.token_ids for task in tasks], self.lens.pad_token_id, self.lens.device
        )
        pads = [ids_BP.shape[1] - len(task.token_ids) for task in tasks]
        prompts = Prompts([t.n_prompt for t in tasks], [t.written for t in tasks])
        acts = monitor = None
        if self.acting is not None:
            acts = self.acting.by_layer
            self.acting.begin(prompts)
        if self.judge is not None:
            monitor = self.judge.monitor
            self.judge.begin(prompts)
        tokenizer = self.lens.tokenizer
        self.recording.begin(
            [
                TraceBuffer(
                    task,
                    tokenizer,
                    row,
                    pad,
                    eos_token_ids,
                    finish_reason,
                    self.record,
                    acts,
                    monitor,
                )
                for row, (task, pad) in enumerate(zip(tasks, pads, strict=True))
                if not task.finished
            ]
        )
        return ids_BP, mask_BP, pads

    def end(self) -> None:
        """Tell the recording that a batch that was generated is done."""
        # What has reached its own end by now keeps the reason for that.
        stopped = self.following is not None and self.following.stops
        self.recording.end(INTERRUPTED if stopped else None)


def generate(observer: Observer, tasks: Sequence[Task], settings: Sampling) -> None:
    """Generate one batch under observation."""
    lens = observer.lens
    ids_BP, mask_BP, pads = observer.begin(tasks, lens.eos_token_ids, "length")
    config = GenerationConfig(
        max_new_tokens=max(task.limit - len(task.token_ids) for task in tasks),
        do_sample=False,
        eos_token_id=list(lens.eos_token_ids),
        pad_token_id=lens.pad_token_id,
        prefill_chunk_size=observer.prefill if ids_BP.shape[1] > observer.prefill else None,
        return_dict_in_generate=True,
    )
    seeds = [task.seed for task in tasks]
    stored = [[] if t.earlier is None else t.earlier.token_id.tolist() for t in tasks]
    with observer.recorder(pads), torch.inference_mode():
        output = lens.model.generate(
            ids_BP,
            attention_mask=mask_BP,
            generation_config=config,
            logits_processor=processors(settings, seeds, pads, stored),
            stopping_criteria=_stopping(observer) or None,
        )
        # The last token is drawn but never fed: one more step completes its records.
        n = output.sequences.shape[1] - mask_BP.shape[1]
        mask_BS = torch.cat((mask_BP, mask_BP.new_ones(len(tasks), n)), dim=1)
        lens.model(
            input_ids=output.sequences[:, -1:],
            attention_mask=mask_BS,
            position_ids=mask_BS.sum(dim=1, keepdim=True) - 1,
            **{CACHE: cache_of(output)},
        )
    observer.end()


def _stopping(observer: Observer) -> list[StoppingCriteria]:
    """What ends rows of ``generate``, beside the end of their texts."""
    found: list[StoppingCriteria] = []
    if observer.following is not None:
        found.append(EachStep(observer.following))
    if observer.judge is not None and observer.judge.monitor.stops:
        found.append(EndsWarned(observer.judge))
    return found


LARGEST_MASK = 2**28
"""Entries of a mask at most; rows of another length that would take more run one by one."""


def teacher_force(observer: Observer, tasks: Sequence[Task]) -> None:
    """Observe one batch of finished token sequences.

    Rows of different lengths need padding, and padding a mask of each query and key. Where that is
    large, each row runs by itself, which changes no record.
    """
    lengths = [len(task.token_ids) for task in tasks]
    mask = len(tasks) * max(lengths) * min(max(lengths), observer.prefill)
    if len(set(lengths)) > 1 and mask > LARGEST_MASK:
        for task in tasks:
            if not task.finished:
                _force(observer, [task])
    else:
        _force(observer, tasks)


def _force(observer: Observer, tasks: Sequence[Task]) -> None:
    lens = observer.lens
    ids_BP, mask_BP, pads = observer.begin(tasks, (), "replay")
    P, size = ids_BP.shape[1], observer.prefill
    # Without padding no mask and no positions: kernels then need no [P, P] mask in memory.
    mask = positions_BP = None
    if any(pads):
        mask, positions_BP = mask_BP, (mask_BP.cumsum(dim=1) - 1).clamp(min=0)
    cache = DynamicCache(config=lens.config) if size < P else None
    with observer.recorder(pads), torch.inference_mode():
        for start in range(0, P, size):
            stop = min(start + size, P)
            lens.model(
                input_ids=ids_BP[:, start:stop],
                attention_mask=None if mask is None else mask[:, :stop],
                position_ids=None if positions_BP is None else positions_BP[:, start:stop],
                **{CACHE: cache},
                use_cache=cache is not None,
                logits_to_keep=1,
            )
    observer.recording.end()


def left_pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask [B, P], shorter rows filled up on the left."""
    width = max(len(sequence) for sequence in sequences)
    ids = [[pad] * (width - len(s)) + list(s) for s in sequences]
    mask = [[0] * (width - len(s)) + [1] * len(s) for s in sequences]
    return bring(torch.tensor(ids), device), bring(torch.tensor(mask), device)
