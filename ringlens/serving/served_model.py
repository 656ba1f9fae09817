"""A model that runs in a server, known by its configuration and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.errors import ServingError
from ringlens.model.family import sizes_of
from ringlens.model.gate.hub import described
from ringlens.model.gate.tokenizer_files import open_tokenizer
from ringlens.model.loading import locate, model_name, read_config
from ringlens.observe.chat import messages_text, prompt_text
from ringlens.observe.pipeline.run_record import sizes as run_sizes
from ringlens.observe.turns import FAULTS
from ringlens.plain import check_text
from ringlens.store.schema.run_shape import RunShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from ringlens.model.sizes import Sizes


@dataclass(frozen=True)
class ServedModel:
    """Configuration and tokenizer of a model whose weights are elsewhere.

    Attributes:
        config: Its configuration, which says which layers route.
        tokenizer: Its tokenizer.
        name: What it was read from.
        revision: Revision of a hub id, where one was given.
    """

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str | None = None

    @classmethod
    def read(cls, name: str | PathLike[str], revision: str | None = None) -> ServedModel:
        """Read the configuration and tokenizer of a model, but not its weights.

        Args:
            name: "ring-nano", a folder, a hub id, or a ``config.json`` beside its tokenizer.
            revision: Branch, tag or commit of a hub id.

        Raises:
            ModelNotFoundError: There is no such model, or it has no tokenizer.
            ConfigError: It is of no family that ringlens knows.
            CheckpointError: Its description is malformed.
        """
        name = model_name(name)
        file = Path(name).expanduser()
        place = locate(str(file.parent.resolve()) if file.name == "config.json" else name)
        config = read_config(place, revision)
        tokenizer = open_tokenizer(described(place, revision), config)
        return cls(config, tokenizer, name, revision)

    @property
    def sizes(self) -> Sizes:
        """Its sizes."""
        return sizes_of(self.config)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, nothing added.

        Raises:
            ConfigError: It is no text, or holds half of a surrogate pair.
        """
        check_text(text)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def chat_text(
        self, messages: Sequence[Any], template: Mapping[str, Any], begin: bool = True
    ) -> str:
        """A chat's messages in the chat template.

        Args:
            messages: The messages.
            template: Tools and variables for the template.
            begin: Whether to end with the opening of the answer.

        Raises:
            ServingError: The template refuses them.
        """
        try:
            return messages_text(self.tokenizer, messages, template, begin=begin)
        except FAULTS as error:
            raise ServingError(f"the chat template refuses the messages: {error}") from error

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt in the chat template."""
        return self.encode(prompt_text(self.tokenizer, prompt))

    @property
    def shape(self) -> RunShape:
        """What every trace of the model must fit."""
        return RunShape.of_row(run_sizes(self.sizes))

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a trace; none if neither configuration nor tokenizer names one."""
        eos = self.config.eos_token_id or self.tokenizer.eos_token_id
        return tuple(eos) if isinstance(eos, list | tuple) else () if eos is None else (eos,)
