"""The lens: a model, its tokenizer, and what is known of its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from ringlens.config import refuse_unknown
from ringlens.display import html_facts, lines
from ringlens.interact.attention import AttentionPattern, Queries, TopPositions, attention
from ringlens.interact.cache import ActivationCache, Name, Names
from ringlens.interact.intervene import intervene, intervene_by_row
from ringlens.interact.run import HookFunction, run_with_cache, run_with_hooks
from ringlens.model.loaded import LoadedModel
from ringlens.model.loading import BUNDLED, load_model, model_name
from ringlens.observe.chat import prompt_text
from ringlens.observe.given import TextOrIds
from ringlens.observe.interventions.effect import Effect
from ringlens.observe.interventions.resolve import Given

if TYPE_CHECKING:
    from nnsight.intervention.editing import EditingTracer
    from nnsight.intervention.tracer import InterleavingTracer

    from ringlens.interact.tracing import ModelEnvoy, Points


@dataclass(frozen=True, repr=False)
class Lens(LoadedModel):
    """A loaded model that can be observed.

    The doors for people stand here; observing takes any loaded model.
    """

    def __repr__(self) -> str:
        title, *facts = self._facts().items()
        return lines(f"Lens({title[1]!r})", *(f"{name}: {value}" for name, value in facts))

    def _repr_html_(self) -> str:
        return html_facts(f"Lens {self.name}", self._facts())

    def _facts(self) -> dict[str, str]:
        sizes, router = self.sizes, self.router
        dense = len(sizes.dense_layers)
        return {
            "name": self.name,
            "model": f"{self.config.model_type}, {self.model.num_parameters():,} parameters, "
            f"{str(self.model.dtype).removeprefix('torch.')} on {self.device}",
            "layers": f"{sizes.layers}, of which {dense} {'is' if dense == 1 else 'are'} dense",
            "router": f"{router.experts_per_token} of {router.experts} experts a token, from "
            f"{router.groups_kept} of {router.groups} groups",
            "attention": f"{sizes.heads} heads ({sizes.kv_heads} key/value) of {sizes.head_dim}",
            "vocabulary": f"{sizes.vocabulary:,} tokens, context {sizes.positions:,}",
        }

    @refuse_unknown
    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt in the checkpoint's own chat template, the answer about to begin.

        Tokenizers without a chat template get the prompt as it is; so do those with one where the
        prompt is in the template already.

        Raises:
            ConfigError: The template refuses the prompt; or marks of turns stand in its midst.
        """
        return self.encode(prompt_text(self.tokenizer, prompt))

    def run_with_cache(
        self,
        text_or_ids: TextOrIds,
        names_filter: Names = None,
        *,
        device: torch.device | str | None = None,
        stop_at_layer: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, ActivationCache]:
        """Run the model once, without gradients, and keep activations.

        Args:
            text_or_ids: A text (taken as it stands), token ids (list, array or tensor), what the
                tokenizer returned, a list of chat messages or a Problem (put in the chat
                template), or a list of these; shorter rows are padded on the left.
            names_filter: What to keep: a name, a pair of name and layer, a list of these, or a
                function from TransformerLens names to bool. The name of a point without a layer
                stands for all layers. None keeps every point, which for a long text is a lot.
            device: Where to keep it; None leaves each tensor on the device that computed it.
            stop_at_layer: Run the layers before this one only.
            **options: For the model's forward, such as ``logits_to_keep``.

        Returns:
            Logits [B, T, V] (with ``stop_at_layer`` the residual stream [B, T, D] at the beginning
            of that layer), and the cache.

        Raises:
            ObservationError: No such point, or a layer that lacks it.
        """
        return run_with_cache(
            self, text_or_ids, names_filter, device=device, stop_at_layer=stop_at_layer, **options
        )

    def run_with_hooks(
        self,
        text_or_ids: TextOrIds,
        fwd_hooks: Sequence[tuple[Name | Callable[[str], bool], HookFunction]] = (),
        *,
        stop_at_layer: int | None = None,
        **options: Any,
    ) -> Tensor:
        """Run the model once, without gradients, with functions at points.

        Args:
            text_or_ids: As in :meth:`run_with_cache`.
            fwd_hooks: Pairs of a name (or a function that picks names) and a function
                ``fn(activation, hook)``; ``hook.name`` and ``hook.layer()`` say where it is. It may
                change the activation in place or return another of the same shape. From changed
                router logits the router chooses again. Experts chosen by hand
                (``router_choice``) keep the weights that were given to the ones they replace.
            stop_at_layer: As in :meth:`run_with_cache`.
            **options: For the model's forward.

        Returns:
            As the first value of :meth:`run_with_cache`.

        Raises:
            ObservationError: No such point, a layer that lacks it, or a replacement of another
                shape.
        """
        return run_with_hooks(self, text_or_ids, fwd_hooks, stop_at_layer=stop_at_layer, **options)

    @overload
    def attention(
        self,
        text_or_ids: TextOrIds,
        layer: int,
        heads: int | Iterable[int] | None = None,
        *,
        queries: Queries = None,
        top: None = None,
    ) -> AttentionPattern: ...

    @overload
    def attention(
        self,
        text_or_ids: TextOrIds,
        layer: int,
        heads: int | Iterable[int] | None = None,
        *,
        queries: Queries = None,
        top: int,
    ) -> TopPositions: ...

    @refuse_unknown
    def attention(
        self,
        text_or_ids: TextOrIds,
        layer: int,
        heads: int | Iterable[int] | None = None,
        *,
        queries: Queries = None,
        top: int | None = None,
    ) -> AttentionPattern | TopPositions:
        """Compute what heads of a layer attend to in a text.

        The softmax is computed in float32 from the queries and keys that the model computed, in
        the model's own type. A model in 16 bits may round the weights once more for its output.

        Args:
            text_or_ids: One text, in any of the forms of :meth:`run_with_cache`.
            layer: The layer; negative ones count from the last.
            heads: A head or several; None for all.
            queries: Positions of the tokens that attend: one, several or a slice; negative ones
                count from the end. None for all.
            top: None gives every weight, [heads, queries, tokens], if these take at most 256 MiB.
                A number gives only so many of the heaviest positions for each query. Then no
                matrix of all tokens is ever held, so the text may be long.

        Returns:
            An `AttentionPattern`; with ``top`` a `TopPositions`.

        Raises:
            ConfigError: Several texts, no such head or position, or a result that is too large.
            ObservationError: There is no such layer, or the model is divided into a pipeline.
        """
        return attention(self, text_or_ids, layer, heads, queries=queries, top=top)

    @refuse_unknown
    def intervene(self, *interventions: Given) -> AbstractContextManager[Effect]:
        """Change the model while the block runs: every forward and every generation in it.

        ``with lens.intervene(Ablate(layer=5, experts=(3, 7))) as effect:``. Afterwards the model is
        what it was. ``effect`` counts what changed; an intervention that changed nothing is logged
        with the reason when the block ends. See docs/acting.md.

        Args:
            *interventions: Objects such as :class:`ringlens.Ablate`, or their text form. Edits of
                selection scores act at once, the others in this order.

        Raises:
            ConfigError: A number that the model does not have, or routers that could not choose
                enough experts any more.
            ObservationError: A layer that is not there or is dense; or interventions are attached
                already.
        """
        return intervene(self, interventions)

    @refuse_unknown
    def intervene_by_row(self, rows: Sequence[Given]) -> AbstractContextManager[Effect]:
        """Change each row of a batch in its own way, as :meth:`intervene` changes all.

        Args:
            rows: The interventions of each row of the batches that run, in order; () for none.

        Raises:
            ConfigError: As for :meth:`intervene`.
            ObservationError: As for :meth:`intervene`; or a batch of another number of rows runs.
        """
        return intervene_by_row(self, rows)

    def trace(self, *text_or_ids: TextOrIds, **options: Any) -> InterleavingTracer:
        """Trace one forward with nnsight.

        Inside ``with lens.trace(text):`` read and change ``lens.points``, in the order in which the
        model computes them; ``.save()`` what is needed after the block. See docs/probing.md.

        Args:
            *text_or_ids: As in :meth:`run_with_cache`; nothing, where ``tracer.invoke(text)``
                blocks follow.
            **options: For the model's forward.

        Raises:
            ObservationError: The model is divided over processes.
        """
        return self.nnsight.trace(*text_or_ids, **options)

    def generate(self, *text_or_ids: TextOrIds, **options: Any) -> InterleavingTracer:
        """Trace a generation with nnsight; ``tracer.iter[:n]`` walks through its steps.

        The first step is the prompt, each further one a token. ``tracer.result`` gives the token
        ids, prompt included.

        Args:
            *text_or_ids: As in :meth:`trace`; ``encode_prompt`` puts a prompt in the chat template.
            **options: For the model's ``generate``, such as ``max_new_tokens``.

        Raises:
            ObservationError: The model is divided over processes.
        """
        return self.nnsight.generate(*text_or_ids, **options)

    def edit(self) -> EditingTracer:
        """Keep a block of changes, to be applied in every trace of an edited twin of this lens.

        ``with lens.edit() as (tracer, edited):`` the block changes ``edited.points``; afterwards
        ``edited.trace``, ``edited.generate`` and ``edited.edit`` apply it. The lens itself stays
        unedited, and ``edited.clear_edits()`` removes the changes. Other ways to run the model
        (``run_with_cache``, ``capture``) know nothing of them.

        Raises:
            ObservationError: The model is divided over processes.
        """
        return self.nnsight.edit()

    @cached_property  # no property: completion in a notebook does not look into those
    def points(self) -> Points:
        """The points of the model by name, inside a trace."""
        return self.nnsight.points

    @cached_property
    def nnsight(self) -> ModelEnvoy:
        """All of nnsight on this model, by module path.

        Raises:
            ObservationError: The model is divided over processes.
        """
        # Imported when first used: nnsight takes seconds, and adds .save to every object.
        from ringlens.interact.tracing import ModelEnvoy

        return ModelEnvoy(self)


@refuse_unknown
def load(
    name: str | PathLike[str] = "ring-nano",
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, str | int | torch.device] | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | PathLike[str] | None = None,
    quantization: str | None = None,
    attention: str = "sdpa",
    experts: str | None = None,
    tp_size: int = 1,
    ep_size: int = 1,
    pp_size: int = 1,
    revision: str | None = None,
) -> Lens:
    """Load a model to look through. See docs/loading.md.

    Args:
        name: "ring-nano" or "ring-nano-base" (bundled), a folder, or a hub id such
            as "inclusionAI/Ring-mini-2.0".
        dtype: dtype of the weights, such as "bfloat16"; "auto" takes the checkpoint's. None is
            "auto", but float32 for bundled models.
        device: Where to put the whole model; None for the CPU.
        device_map: Instead of ``device``: "auto" fills the GPUs, then CPU memory, then the disk;
            or a place for each module.
        max_memory: With ``device_map="auto"``: bytes (or "70GiB") per GPU number and for "cpu".
        offload_folder: Where weights that go to the disk are kept.
        quantization: "nf4", "nf4-double", "int8", "fp8" (a checkpoint published in FP8), or None
            for the checkpoint as it is.
        attention: Attention kernel: "sdpa", "eager", "flex_attention"; "ringlens" gives head
            statistics in the same pass on CUDA.
        experts: Experts layout, "fused" or "modules"; None chooses the one that fits the rest.
        tp_size: Processes that share each weight (tensor parallelism), under torchrun.
        ep_size: Processes that share out the experts (expert parallelism).
        pp_size: Stages that the layers are divided into (pipeline parallelism), under torchrun.
        revision: Branch, tag or commit of a hub id.

    Raises:
        ModelNotFoundError: There is no such model.
        ConfigError: It is of no family known here, its configuration contradicts itself, options
            contradict each other, or there is no such option.
        CheckpointError: A tensor is missing or misshapen.
    """
    name = model_name(name)
    if attention == "ringlens":
        from ringlens.observe.kernels.attention_interface import register_attention

        register_attention()
    model, tokenizer = load_model(
        name,
        dtype=dtype or ("float32" if name in BUNDLED else "auto"),
        device=device,
        device_map=device_map,
        max_memory=max_memory,
        offload_folder=offload_folder,
        quantization=quantization,
        attention=attention,
        experts=experts,
        tp_size=tp_size,
        ep_size=ep_size,
        pp_size=pp_size,
        revision=revision,
    )
    return Lens(model, tokenizer, name, revision)
