"""A loaded model: what observing, running and serving take."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from ringlens.errors import ConfigError
from ringlens.model.family import family_of
from ringlens.plain import check_text

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ringlens.model.family import Family
    from ringlens.model.router_rule import RouterRule
    from ringlens.model.sizes import Sizes


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer, and what follows from the two.

    Attributes:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        name: What it was loaded from.
        revision: Revision of a hub id, where one was given.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device that the embeddings are on, or run on where offloaded."""
        embeddings = self.model.get_input_embeddings()
        hook = getattr(embeddings, "_hf_hook", None)  # accelerate's
        if embeddings.weight.device.type == "meta" and hook is not None:
            return torch.device(hook.execution_device)
        return embeddings.weight.device

    @property
    def family(self) -> Family:
        """What its family says of it."""
        return family_of(self.config)

    @cached_property
    def sizes(self) -> Sizes:
        """Its sizes."""
        return self.family.sizes(self.config)

    @property
    def router(self) -> RouterRule:
        """How its routers choose."""
        return self.sizes.router

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

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added.

        Raises:
            ConfigError: It is no text, or holds half of a surrogate pair.
        """
        check_text(text)
        return self.tokenizer.encode(text, add_special_tokens=False)
