"""Records what a model does while it runs: attach, run, detach; the model is left as it was.

Shape letters: B batch, T tokens of a forward, P positions of all forwards so far, N = B·T, H heads,
C head dimension, E experts, k experts a token, S sparse layers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from ringlens.errors import ObservationError
from ringlens.observe.attention import head_statistics
from ringlens.observe.points import POINTS, attention_kernel, gate, module_at, unembed
from ringlens.observe.router import RouterSpec, router_record, storable_logits
from ringlens.observe.vocabulary import VocabularyRecorder
from ringlens.store.records import HeadArrays, RoutingArrays

if TYPE_CHECKING:
    from ringlens.model.modeling import BailingMoeV2ForCausalLM

Rows = tuple[int, slice]


class Recorder:
    """Hooks on a model, and what they have seen since they were attached.

    Use as a context manager around forwards that continue one another (a prefill and its decoding
    steps, or one teacher-forced forward). A row of the batch and a slice of positions then give the
    record of one trace.

    Args:
        model: The model to observe.
        router: Constants of its routers.
        record: Any of "routing", "router_logits", "heads".
        on_forward: Called with (B, T) at the start of each forward.
    """

    def __init__(
        self,
        model: BailingMoeV2ForCausalLM,
        router: RouterSpec,
        record: tuple[str, ...],
        on_forward: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model, self.router, self.record = model, router, record
        self.on_forward = on_forward
        self.vocabulary = VocabularyRecorder(unembed(model), model.config.vocab_size)
        self._shape = (0, 0)
        self._routers: dict[int, list[tuple[Tensor, ...]]] = defaultdict(list)
        self._heads: dict[int, list[tuple[Tensor, ...]]] = defaultdict(list)
        self._handles: list[Any] = []
        self._kernel = ""

    def __enter__(self) -> Self:
        """Attach."""
        if self._handles:
            raise ObservationError("this recorder is attached already; make a new one.")
        model = self.model
        self._handles.append(model.register_forward_pre_hook(self._begin, with_kwargs=True))
        for name, seen in (("final_norm", self._hidden), ("logits", self._logits)):
            self._handles.append(module_at(model, POINTS[name]).register_forward_hook(seen))
        if "routing" in self.record:
            for layer in model.config.sparse_layers:
                self._handles.append(gate(model, layer).register_forward_hook(self._routed(layer)))
        if "heads" in self.record:
            self._wrap_attention()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Detach."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._kernel:
            self.model.config._attn_implementation = self._kernel
            self._kernel = ""

    def _wrap_attention(self) -> None:
        """Put a kernel of our own around the model's: same output, statistics on the side."""
        self._kernel = self.model.config._attn_implementation
        name = f"ringlens:{self._kernel}"
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[self._kernel])
        AttentionInterface.register(name, _observed_attention)
        self.model.config._attn_implementation = name
        for layer in range(self.model.config.num_hidden_layers):
            attention = module_at(self.model, POINTS["attn_out"], layer)
            self._handles.append(_Sink(attention, self._kernel, self._heads[layer].append))

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        token_ids_BT = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        self._shape = (token_ids_BT.shape[0], token_ids_BT.shape[1])
        self.vocabulary.tokens(token_ids_BT)
        if self.on_forward is not None:
            self.on_forward(*self._shape)

    def _hidden(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.vocabulary.hidden(output)

    def _logits(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        self.vocabulary.logits(output)

    def _routed(self, layer: int) -> Callable[[nn.Module, tuple, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple, output: tuple[Tensor, ...]) -> None:
            self._routers[layer].append(tuple(x.unflatten(0, self._shape) for x in output))

        return hook

    def token_numbers(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log-probability and entropy of each token, nats; NaN where there is none."""
        logprob = _numpy(torch.cat(self.vocabulary.logprob, 1)[rows]).copy()
        entropy = _numpy(torch.cat(self.vocabulary.entropy, 1)[rows]).copy()
        logprob[0] = entropy[0] = np.nan  # in a padded row something stands before: padding
        return logprob, entropy

    def routing(self, rows: Rows) -> tuple[RoutingArrays, NDArray[np.float32] | None]:
        """The router record of one trace, and its storable logits [S, T, E] if they are recorded.

        Raises:
            ObservationError: A choice does not follow from its logits.
        """
        records, logits = [], []
        for layer, forwards in self._routers.items():
            z, weights, ids = (torch.cat(parts, 1)[rows] for parts in zip(*forwards, strict=True))
            bias = gate(self.model, layer).expert_bias
            records.append(router_record(z, weights, ids, bias, self.router))
            if "router_logits" in self.record:
                logits.append(_numpy(storable_logits(z, ids, bias, self.router)))
        id_type = np.uint8 if self.router.experts <= 256 else np.uint16

        def stack(name: str) -> NDArray:
            return np.stack([getattr(record, name).cpu().numpy() for record in records])

        arrays = RoutingArrays(
            layers=tuple(self._routers),
            expert_ids=stack("expert_ids_Nk").astype(id_type),
            weights=_half(stack("weights_Nk")),
            affinities=stack("affinities_Nk"),
            margin=stack("margin_N"),
            group_margin=stack("group_margin_N"),
            bias_flips=stack("bias_flips_Nk"),
            unlimited_ids=stack("unlimited_ids_Nk").astype(id_type),
            group_flips=stack("group_flips_Nk"),
            entropy=stack("entropy_N"),
        )
        return arrays, np.stack(logits) if logits else None

    def heads(self, rows: Rows) -> HeadArrays:
        """Head statistics of one trace, [layers, T, H]; all but the norm rounded to fp16."""
        layers = []
        for layer in sorted(self._heads):
            parts = zip(*self._heads[layer], strict=True)
            layers.append([_numpy(torch.cat(part, 1)[rows]) for part in parts])
        entropy, first, previous, norm = (np.stack(s) for s in zip(*layers, strict=True))
        return HeadArrays(_half(entropy), _half(first), _half(previous), norm)


class _Sink:
    """Tells an attention module where its statistics go; ``remove`` takes that back."""

    def __init__(self, module: nn.Module, kernel: str, append: Callable[[Any], None]) -> None:
        self.module, self.kernel, self.append = module, kernel, append
        module.__dict__["ringlens_sink"] = self

    def remove(self) -> None:
        del self.module.__dict__["ringlens_sink"]


def _observed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """The model's own kernel; entropy, first and previous weight and output norm on the side."""
    sink: _Sink = module.__dict__["ringlens_sink"]
    kernel = attention_kernel(sink.kernel, query)
    output_BTHC, weights = kernel(module, query, key, value, attention_mask, **kwargs)
    seen = head_statistics(query, key, attention_mask, kwargs["scaling"])
    norm_BTH = output_BTHC.float().norm(dim=-1)
    sink.append((seen.entropy, seen.first_weight, seen.previous_weight, norm_BTH))
    return output_BTHC, weights


def _numpy(x: Tensor) -> NDArray[np.float32]:
    return x.float().cpu().numpy()


def _half(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x.astype(np.float16).astype(np.float32)
