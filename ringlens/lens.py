"""The lens: a model, its tokenizer, and what is known of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ringlens.errors import ConfigError
from ringlens.model.loading import BUNDLED, load_model
from ringlens.observe.router import RouterSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from ringlens.model.configuration import BailingMoeV2Config
    from ringlens.model.modeling import BailingMoeV2ForCausalLM


@dataclass(frozen=True)
class Lens:
    """A loaded model that can be observed.

    Attributes:
        model: The Ring model, in evaluation mode.
        tokenizer: Its tokenizer.
        name: What it was loaded from.
        revision: Revision of a hub id, where one was given.
    """

    model: BailingMoeV2ForCausalLM
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None

    @property
    def config(self) -> BailingMoeV2Config:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Device of the embeddings, where inputs go."""
        return self.model.get_input_embeddings().weight.device

    @cached_property
    def router(self) -> RouterSpec:
        """Constants of the routers."""
        config = self.config
        return RouterSpec(
            experts=config.num_experts,
            experts_per_token=config.num_experts_per_tok,
            groups=config.n_group,
            groups_kept=config.topk_group,
            routed_scaling_factor=config.routed_scaling_factor,
        )

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a trace.

        Raises:
            ConfigError: Neither the generation config, the config nor the tokenizer names one.
        """
        for holder in (self.model.generation_config, self.config, self.tokenizer):
            eos = getattr(holder, "eos_token_id", None)
            if eos is not None:
                return tuple(eos) if isinstance(eos, list | tuple) else (eos,)
        raise ConfigError(
            f"{self.name} names no eos_token_id; set it in its generation_config.json."
        )

    @property
    def pad_token_id(self) -> int:
        """Token that fills up shorter rows of a batch."""
        pad = self.tokenizer.pad_token_id
        return self.eos_token_ids[0] if pad is None else pad

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt in the checkpoint's own chat template, the answer about to begin.

        Tokenizers without a chat template get the prompt as it is.
        """
        if not self.tokenizer.chat_template:
            return self.encode(prompt)
        turns = [{"role": "user", "content": prompt}]
        text = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return self.encode(str(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return self.tokenizer.encode(text, add_special_tokens=False)


def load(name: str = "ring-nano", **options: Any) -> Lens:
    """Load a Ring model to look through.

    Args:
        name: "ring-nano" (bundled), a folder, or a hub id such as "inclusionAI/Ring-mini-2.0".
        **options: ``dtype``, ``device``, ``attention``, ``experts``, ``revision``; see
            :func:`ringlens.model.loading.load_model`. ring-nano is run in float32 unless told
            otherwise.

    Raises:
        ModelNotFoundError: There is no such model.
        ConfigError: It is not a Ring model, or its configuration contradicts itself.
        CheckpointError: A tensor is missing or misshapen.
    """
    if name in BUNDLED:
        options.setdefault("dtype", "float32")
    model, tokenizer = load_model(name, **options)
    return Lens(model, tokenizer, name, options.get("revision"))
