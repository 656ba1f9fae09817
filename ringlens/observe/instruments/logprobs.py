"""Log-probability and entropy of every token, prompt included, over the whole vocabulary.

H = −Σ p log p; for logits z with L = log Σ exp z: log p = z − L, H = L − Σ p z.

Shape letters: B batch, T tokens of a forward, t positions of a block, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ringlens.model.family import sizes_of
from ringlens.observe.instruments.base import (
    OUTSIDE,
    Asked,
    Instrument,
    Kind,
    TraceRows,
    Watched,
)
from ringlens.observe.instruments.transfer import PendingTensors, Tensors
from ringlens.observe.kernels.attention import has_triton
from ringlens.observe.points import POINTS, module_at, unembed

# Logits held at a time; a GPU wants large products.
MAX_LOGITS = {"cpu": 2**25, "cuda": 2**27}
FIELDS = ("logprob", "entropy")
PEAK = "peak"
LAST = "last_logits"
"""What a decoding step that is repeated leaves on the tape."""


def surprise(logits: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of ``token_ids`` [...] under ``logits`` [..., V], and entropy, in nats."""
    if has_triton(logits.device, logits.dtype):
        from ringlens.observe.kernels.logprobs_triton import surprise_rows

        found = surprise_rows(logits.flatten(0, -2).contiguous(), token_ids.flatten())
        return found[0].view(token_ids.shape), found[1].view(token_ids.shape)
    logp = logits.float().log_softmax(dim=-1)
    entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)
    return logp.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1), entropy


class LogprobsInstrument:
    """Watches what the model expected before each token.

    A token's numbers come from the distribution before it: within a forward from the final norm's
    hidden states (in chunks, so that no [T, V] is ever held), across forwards from the last
    position's logits, which wait until the next token is known. A decoding step that is repeated
    leaves its logits on the tape, and the next one begins with its token's numbers.
    """

    on_tape = True

    def __init__(self, watched: Watched) -> None:
        self.model, self.transfer, self._tape = watched.model, watched.transfer, watched.tape
        self.start, self._is_new = 0, True
        self._unembed = unembed(self.model)
        self._vocabulary = sizes_of(self.model.config).vocabulary
        self._most = MAX_LOGITS.get(self.model.device.type, MAX_LOGITS["cpu"])
        self._found: list[Tensor] = []
        self._waiting: list[Tensor] = []
        self._last_logits_BV: Tensor | None = None

    def attach(self) -> list[Any]:
        """Hook the model, the final norm and the output projection; returns handles to remove."""
        return [
            self.model.register_forward_pre_hook(self._repeated, with_kwargs=True),
            *(
                module_at(self.model, POINTS[name]).register_forward_hook(hook)
                for name, hook in (("final_norm", self._hidden), ("logits", self._logits))
            ),
        ]

    def begin(self, token_ids_BT: Tensor, stop: int) -> None:
        """A forward over these tokens begins: the first one's numbers are known now."""
        if self._is_new:
            self.start, self._is_new = stop - token_ids_BT.shape[1], False
        self._token_ids_BT = token_ids_BT
        last_BV = self._last_logits_BV
        if last_BV is not None:  # which may be on another device than the tokens
            self._waiting += (last_BV, token_ids_BT[:, 0].to(last_BV.device))
            if len(self._waiting) // 2 * last_BV.numel() > self._most:
                self._settle()

    def take(self) -> dict[int, PendingTensors]:
        """What was seen since the last time, as layer `OUTSIDE`; nothing where no logits are."""
        self._is_new = True
        inputs, self._found, waiting = self._found, [], self._waiting
        if not inputs and not waiting:
            return {}
        self._waiting = []
        known = len(inputs)
        return {
            OUTSIDE: self.transfer.send(lambda *x: _joined(x[:known], x[known:]), *inputs, *waiting)
        }

    def _settle(self) -> None:
        if self._waiting:
            joined = _joined((), tuple(self._waiting))
            self._found += (joined["logprob"], joined["entropy"])
            self._waiting = []

    def _repeated(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """In a step that may be repeated: the numbers of its token."""
        if not self._tape.repeats:
            return
        if self._last_logits_BV is not None:
            self._tape.hold(LAST, self._last_logits_BV)
            self._last_logits_BV = None
        last_BV = self._tape.held[LAST]
        ids_B1 = kwargs["input_ids"].to(last_BV.device)
        self._tape.show(self._know, *surprise(last_BV[:, None], ids_B1))

    def _know(self, logprob_B1: Tensor, entropy_B1: Tensor) -> None:
        self._found += (logprob_B1, entropy_B1)

    def _hidden(self, module: nn.Module, args: tuple, hidden_BTD: Tensor) -> None:
        if self._tape.repeats:
            return
        B, T, _ = hidden_BTD.shape
        if self._last_logits_BV is None:  # nothing is expected before the first token
            nothing_B1 = torch.full((B, 1), torch.nan, device=hidden_BTD.device)
            self._found += (nothing_B1, nothing_B1)
        if T > 1:
            self._settle()
        size = max(1, self._most // (B * self._vocabulary))
        for start in range(0, T - 1, size):
            stop = min(start + size, T - 1)
            logits = self._unembed(hidden_BTD[:, start:stop])
            ids_Bt = self._token_ids_BT[:, start + 1 : stop + 1].to(logits.device)
            self._found += surprise(logits, ids_Bt)

    def _logits(self, module: nn.Module, args: tuple, logits_BTV: Tensor) -> None:
        if self._tape.repeats:
            self._tape.hold(LAST, logits_BTV[:, -1])
        else:
            self._last_logits_BV = logits_BTV[:, -1]


class PeakInstrument:
    """Watches the largest logit before each token that is drawn, where no more is recorded of them.

    It is not stored: a token drawn from logits that are NaN or infinite must not pass unseen.
    """

    on_tape = True

    def __init__(self, watched: Watched) -> None:
        self.model, self.transfer, self._tape = watched.model, watched.transfer, watched.tape
        self.start, self._is_new = 0, True
        self._found: list[Tensor] = []
        self._last_B: Tensor | None = None
        self._is_repeated = False

    def attach(self) -> list[Any]:
        """Hook the model and the output projection; returns handles to remove."""
        return [
            self.model.register_forward_pre_hook(self._repeated),
            module_at(self.model, POINTS["logits"]).register_forward_hook(self._logits),
        ]

    def begin(self, token_ids_BT: Tensor, stop: int) -> None:
        """A forward over these tokens begins; only the first one's logits are looked at."""
        if self._is_new:
            self.start, self._is_new = stop - token_ids_BT.shape[1], False
        if self._is_repeated:
            return
        device = token_ids_BT.device if self._last_B is None else self._last_B.device
        peak_BT = torch.zeros(token_ids_BT.shape, device=device)
        if self._last_B is not None:
            peak_BT[:, 0] = self._last_B
        self._found.append(peak_BT)

    def take(self) -> dict[int, PendingTensors]:
        """What was seen since the last time, as layer `OUTSIDE`."""
        self._is_new = True
        found, self._found = self._found, []
        if not found:
            return {}
        last = found[-1].device  # the first forward may not have known where logits are
        joined = lambda *x: {PEAK: torch.cat(x, dim=1)}  # noqa: E731
        return {OUTSIDE: self.transfer.send(joined, *(peak_BT.to(last) for peak_BT in found))}

    def _repeated(self, module: nn.Module, args: tuple) -> None:
        """In a step that may be repeated: what the one before it left."""
        if not self._tape.repeats:
            return
        if self._last_B is not None:
            self._tape.hold(LAST, self._last_B)
            self._last_B, self._is_repeated = None, True
        self._tape.show(self._know, self._tape.held[LAST].clone())

    def _know(self, peak_B: Tensor) -> None:
        self._found.append(peak_B[:, None])

    def _logits(self, module: nn.Module, args: tuple, logits_BTV: Tensor) -> None:
        last_B = logits_BTV[:, -1].amax(dim=-1).float()
        if self._tape.repeats:
            self._tape.hold(LAST, last_B)
        else:
            self._last_B = last_B


def _joined(found: tuple[Tensor, ...], waiting: tuple[Tensor, ...]) -> Tensors:
    """Numbers [B, t] of what was found, and then of the steps that waited."""
    logprob, entropy = list(found[0::2]), list(found[1::2])
    if waiting:
        logits_BtV, ids_Bt = torch.stack(waiting[0::2], 1), torch.stack(waiting[1::2], 1)
        late = surprise(logits_BtV, ids_Bt)
        logprob.append(late[0])
        entropy.append(late[1])
    return {"logprob": torch.cat(logprob, dim=1), "entropy": torch.cat(entropy, dim=1)}


def _make(watched: Watched, asked: Asked) -> Iterator[tuple[str, Instrument]]:
    if watched.role.is_primary:
        yield "logprobs", LogprobsInstrument(watched) if asked else PeakInstrument(watched)


def _to_record(rows: TraceRows, asked: Asked) -> Mapping[str, Any]:
    """Nothing here: they are columns of ``tokens``, which the trace buffer fills."""
    return {}


KIND = Kind(_make, _to_record)
