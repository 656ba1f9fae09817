"""Log-probability and entropy of every token, prompt included, over the whole vocabulary.

H = −Σ p log p; for logits z with L = log Σ exp z: log p = z − L, H = L − Σ p z.

Shape letters: B batch, T tokens of a forward, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Logits held at a time: 2**25 float32 are 128 MiB.
MAX_LOGITS = 2**25


def surprise(logits: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of ``token_ids`` [...] under ``logits`` [..., V], and entropy, in nats."""
    logp = logits.float().log_softmax(dim=-1)
    entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(dim=-1)
    return logp.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1), entropy


class VocabularyRecorder:
    """Collects log-probability and entropy forward by forward.

    A token's numbers come from the distribution before it: within a forward from the final norm's
    hidden states (in chunks, so that no [T, V] is ever held), across forwards from the last
    position's logits, which are kept until the next token is known.
    """

    def __init__(self, unembed: Callable[[Tensor], Tensor], vocabulary: int) -> None:
        self.unembed = unembed
        self.vocabulary = vocabulary
        self.logprob: list[Tensor] = []
        self.entropy: list[Tensor] = []
        self._last_logits_BV: Tensor | None = None

    def tokens(self, token_ids_BT: Tensor) -> None:
        """A forward over these tokens begins: the first one's numbers are known now."""
        first = token_ids_BT[:, 0]
        if self._last_logits_BV is None:
            nothing = torch.full(first.shape, torch.nan, device=first.device)
            self._append(nothing[:, None], nothing[:, None])
        else:
            logprob_B, entropy_B = surprise(self._last_logits_BV, first)
            self._append(logprob_B[:, None], entropy_B[:, None])
        self._token_ids_BT = token_ids_BT

    def hidden(self, hidden_BTD: Tensor) -> None:
        """The final norm's output of this forward: the other tokens' numbers follow from it."""
        B, T, _ = hidden_BTD.shape
        size = max(1, MAX_LOGITS // (B * self.vocabulary))
        for start in range(0, T - 1, size):
            stop = min(start + size, T - 1)
            logits = self.unembed(hidden_BTD[:, start:stop])
            self._append(*surprise(logits, self._token_ids_BT[:, start + 1 : stop + 1]))

    def logits(self, logits_BTV: Tensor) -> None:
        """The model's own logits of this forward; the last position's wait for the next token."""
        self._last_logits_BV = logits_BTV[:, -1]

    def _append(self, logprob_BT: Tensor, entropy_BT: Tensor) -> None:
        self.logprob.append(logprob_BT.float())
        self.entropy.append(entropy_BT.float())
