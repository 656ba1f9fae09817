"""Answers of ring-nano to many prompts at once: a static cache, and one CUDA graph a token.

Prompts start at position 0 and are fed token by token like everything else, so all traces of a
batch stand at the same position and no mask depends on the trace.

Shape letters: B traces, T tokens of the longest, S cached tokens, V vocabulary, D hidden size,
H heads, G kv heads, C head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ringlens.data.forward import Forward

BLOCK = 128
"""A step reads the cache in blocks of so many tokens, and has a graph for each count of them."""
LOOK_EVERY = 32
"""Steps between two looks at whether all traces have ended."""


@dataclass(frozen=True)
class Samples:
    """Traces that a model wrote.

    Attributes:
        tokens_BT: Prompts and what follows, padded on the right.
        prompts_B: Tokens of each prompt.
        lengths_B: Tokens of each trace, its end mark counted.
        ended_B: Whether it ended by itself.
        logp_BT: Log-probability of each written token, at the sampling temperature.
    """

    tokens_BT: Tensor
    prompts_B: Tensor
    lengths_B: Tensor
    ended_B: Tensor
    logp_BT: Tensor


class Sampler:
    """Writes a fixed number of traces at a time.

    Args:
        forward: The model.
        batch: Traces at a time, B.
        longest: Tokens of a trace at most, T, its prompt counted.
        vocabulary: Tokens that exist; rows of the head beyond are padding.
        temperature: Of sampling; 0 takes the most probable token.
    """

    def __init__(
        self, forward: Forward, batch: int, longest: int, vocabulary: int, temperature: float
    ) -> None:
        self.forward, self.temperature, self.vocabulary = forward, temperature, vocabulary
        config, weight = forward.config, forward.model.lm_head.weight
        device = weight.device
        shape = (batch * config.num_key_value_heads, longest, config.head_dim)
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(shape, dtype=weight.dtype, device=device) for _ in layers]
        self.values = [torch.zeros(shape, dtype=weight.dtype, device=device) for _ in layers]
        self.tokens = torch.zeros(batch, longest, dtype=torch.long, device=device)
        self.logp = torch.zeros(batch, longest, device=device)
        self.prompts = torch.ones(batch, dtype=torch.long, device=device)
        self.done = torch.zeros(batch, dtype=torch.bool, device=device)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    @torch.no_grad()
    def __call__(self, prompts: list[list[int]]) -> Samples:
        """Answer prompts, as many as the batch holds or fewer."""
        pad, end = self.forward.config.pad_token_id, self.forward.config.eos_token_id
        batch, longest = self.tokens.shape
        filled = prompts + [prompts[0]] * (batch - len(prompts))
        rows = torch.full((batch, longest), pad, dtype=torch.long)
        for row, ids in zip(rows, filled, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        self.tokens.copy_(rows)
        self.prompts.copy_(torch.tensor([len(ids) for ids in filled]))
        self.done.zero_()
        self.done[len(prompts) :] = True
        self.logp.zero_()
        self.at.zero_()
        for step in range(longest - 1):
            self._advance(min(longest, (step // BLOCK + 1) * BLOCK))
            if step % LOOK_EVERY == LOOK_EVERY - 1 and bool(self.done.all()):
                break
        tokens = self.tokens[: len(prompts)].clone()
        lengths = tokens.ne(pad).sum(dim=1)
        ended = tokens.gather(1, lengths[:, None] - 1)[:, 0].eq(end)
        kept = len(prompts)
        return Samples(
            tokens, self.prompts[:kept].clone(), lengths, ended, self.logp[:kept].clone()
        )

    def _advance(self, cached: int) -> None:
        if not self.tokens.is_cuda:
            self._step(cached)
            return
        if cached not in self.graphs:
            self.graphs[cached] = self._capture(cached)
        self.graphs[cached].replay()

    def _capture(self, cached: int) -> torch.cuda.CUDAGraph:
        """Record a step; the state that its rehearsals change is put back."""
        state = (self.tokens, self.logp, self.done, self.at)
        before = [each.clone() for each in state]
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._step(cached)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(cached)
        for each, old in zip(state, before, strict=True):
            each.copy_(old)
        return graph

    def _step(self, cached: int) -> None:
        """Read the token at the current position, write the next, move on."""
        forward, config = self.forward, self.forward.config
        decoder = forward.model.model
        x_BD = decoder.word_embeddings(self.tokens.index_select(1, self.at)[:, 0])
        cos, sin = forward.rotary(self.at, x_BD)
        cos, sin = (each.expand(len(x_BD), -1).contiguous() for each in (cos, sin))
        hidden_S = torch.arange(cached, device=x_BD.device) > self.at
        for number, layer in enumerate(decoder.layers):
            weights = forward.attention_weights(layer)
            q, k, v = forward.project(x_BD, weights, cos, sin, forward.shape)
            attended = self._attend(number, q, k, v, hidden_S)
            x_BD, _ = forward.after(layer, x_BD, attended)
        x_BD = forward.norm(x_BD, decoder.norm.weight, forward.eps)
        logits_BV = forward.model.lm_head(x_BD).float()
        logits_BV[:, self.vocabulary :] = -torch.inf
        logits_BV[:, config.pad_token_id] = -torch.inf
        self._write(logits_BV, config.pad_token_id, config.eos_token_id)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, hidden_S: Tensor) -> Tensor:
        """Attention [B, H·C] of one query a trace over the cache and itself."""
        B, H, C = q.shape
        G = k.shape[1]
        keys, values = self.keys[layer], self.values[layer]
        keys.index_copy_(1, self.at, k.reshape(B * G, 1, C))
        values.index_copy_(1, self.at, v.reshape(B * G, 1, C))
        cached = len(hidden_S)
        scores = q.view(B * G, H // G, C) @ keys[:, :cached].transpose(1, 2) * C**-0.5
        weights = scores.float().masked_fill(hidden_S, -torch.inf).softmax(dim=-1).to(q.dtype)
        return (weights @ values[:, :cached]).reshape(B, H * C)

    def _write(self, logits_BV: Tensor, pad: int, end: int) -> None:
        if self.temperature:
            logits_BV = logits_BV / self.temperature
            noise = torch.rand_like(logits_BV).clamp_(min=1e-20).log_().neg_().log_()
            drawn_B = (logits_BV - noise).argmax(dim=-1)  # Gumbel's trick
        else:
            drawn_B = logits_BV.argmax(dim=-1)
        logp_B = logits_BV.log_softmax(dim=-1).gather(1, drawn_B[:, None])[:, 0]
        self.at.add_(1)
        given_B = self.tokens.index_select(1, self.at)[:, 0]
        asked_B = self.at < self.prompts
        next_B = torch.where(asked_B, given_B, torch.where(self.done, pad, drawn_B))
        kept_B = torch.where(asked_B | self.done, 0.0, logp_B)
        self.tokens.index_copy_(1, self.at, next_B[:, None])
        self.logp.index_copy_(1, self.at, kept_B[:, None])
        self.done.logical_or_(~asked_B & (next_B == end))
