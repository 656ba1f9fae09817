"""Reads the tokens of running texts on the device: phases, and words that were waited for.

Shape letters: B rows, T tokens of a forward, S states of an automaton, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ringlens.errors import ConfigError, ObservationError
from ringlens.interventions.place import PHASES, Place
from ringlens.observe.instruments.tape import Tape
from ringlens.observe.instruments.transfer import bring
from ringlens.observe.interventions.automaton import Table, lifted
from ringlens.observe.interventions.phases import PROMPT, PhaseReader, phase_tables
from ringlens.observe.interventions.symbols import BYTES, symbols_of
from ringlens.observe.interventions.whereabouts import Forward
from ringlens.observe.interventions.words import word_automaton
from ringlens.observe.turns import markup

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel


@dataclass(frozen=True)
class Prompts:
    """What is known of the rows of a batch beforehand.

    Attributes:
        lengths: Tokens of each row's prompt.
        written: Whether the model writes all that follows, in one turn; else that is a finished
            text, which may hold several.
    """

    lengths: Sequence[int]
    written: Sequence[bool]


class Followed:
    """An automaton that follows the rows of a batch.

    Args:
        next_VS: Number of the state behind each token; the last row is for padding.
        tape: Holds the states between decoding steps that are repeated.
        name: What they are called there.
    """

    def __init__(self, next_VS: Tensor, tape: Tape, name: str) -> None:
        self._next_VS = next_VS
        self._tape, self._name = tape, name
        self._behind: list[Tensor] = []

    def follow(self, ids_BT: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """States before and behind each token, [B, T].

        Args:
            ids_BT: The tokens; padding is the last column's number.
            start: Tokens before them; of no meaning in a step that is repeated.
        """
        if self._next_VS.device != ids_BT.device:
            self._next_VS = bring(self._next_VS, ids_BT.device)
        if self._tape.repeats:
            return self._step(ids_BT)
        first_B = self._state(start, len(ids_BT), ids_BT.device)
        behind_BT = composed(self._next_VS[ids_BT]).gather(
            -1, first_B[:, None, None].expand(*ids_BT.shape, 1)
        )
        behind_BT = behind_BT.squeeze(-1)
        self._behind.append(behind_BT)
        return torch.cat((first_B[:, None], behind_BT[:, :-1]), dim=1), behind_BT

    def reorder(self, rows_B: Tensor) -> None:
        """Continue other rows, as a beam search does."""
        self._behind = [picked(torch.cat(self._behind, dim=1), rows_B)]

    def _step(self, ids_B1: Tensor) -> tuple[Tensor, Tensor]:
        """The same of a step that is repeated."""
        if self._behind:
            self._tape.hold(self._name, self._behind[-1][:, -1:])
            self._behind.clear()
        before_B1 = self._tape.held[self._name].clone()
        behind_B1 = self._next_VS[ids_B1[:, 0]].long().gather(-1, before_B1)
        self._tape.hold(self._name, behind_B1)
        return before_B1, behind_B1

    def _state(self, start: int, rows: int, device: torch.device) -> Tensor:
        """States behind the first ``start`` tokens, int64 [B]."""
        if start == 0:
            self._behind.clear()
            return torch.zeros(rows, dtype=torch.int64, device=device)
        if sum(part.shape[1] for part in self._behind) > start or len(self._behind) > 256:
            self._behind = [torch.cat(self._behind, dim=1)[:, :start]]
        last_B = self._behind[-1][:, -1]
        return last_B.expand(rows) if len(last_B) == 1 else last_B


def composed(steps_BTS: Tensor) -> Tensor:
    """What the first t steps do together, for each t: a scan in log₂ T products, int64 [B, T, S].

    Args:
        steps_BTS: State behind each step, by the state before it.
    """
    found = steps_BTS.long()
    width = 1
    while width < found.shape[1]:
        later = found[:, width:].gather(-1, found[:, :-width])
        found = torch.cat((found[:, :width], later), dim=1)
        width *= 2
    return found


class TextReader:
    """Tells at which tokens the text is in a phase, or within reach of a word.

    Args:
        loaded: The model, for its tokenizer.
        places: The places to tell.
        tape: Holds what is known between decoding steps that are repeated.
    """

    def __init__(
        self, loaded: LoadedModel, places: Iterable[Place], tape: Tape | None = None
    ) -> None:
        tape = tape or Tape()
        self._places = [place for place in dict.fromkeys(places) if place.reads_text]
        written = markup(loaded.tokenizer)
        reader = PhaseReader(written)
        tokens = symbols_of(loaded.tokenizer, reader.atoms, loaded.sizes.vocabulary)
        self._padding = len(tokens)
        self._phases: Followed | None = None
        if any(place.phases for place in self._places):
            automaton = reader.automaton()
            self._phases = Followed(with_padding(lifted(automaton, tokens).next_SV), tape, "phases")
            self._phase_2SS = torch.from_numpy(phase_tables(automaton))
        self._words = {
            words: _Words(words, tokens, BYTES + len(reader.atoms), tape)
            for words in dict.fromkeys(place.words for place in self._places if place.words)
        }
        self._prompts: Prompts | None = None
        self._rows: Tensor | None = None
        self._seen = 0

    def begin(self, prompts: Prompts | None) -> None:
        """A batch begins, of which this is known beforehand."""
        self._prompts, self._seen, self._rows = prompts, 0, None

    def reorder(self, rows_B: Tensor) -> None:
        """Continue other rows, as a beam search does.

        Args:
            rows_B: The row that each row continues.
        """
        for each in (self._phases, *self._words.values()):
            if each is not None:
                each.reorder(rows_B)

    def read(self, forward: Forward) -> Mapping[Place, Tensor]:
        """Where each place is, bool [B, T].

        Raises:
            ConfigError: The forward is given embeddings instead of tokens.
            ObservationError: A cache with tokens that were not read here.
        """
        if forward.token_ids_BT is None:
            raise ConfigError(
                "phases and words are read from tokens, and this forward is given embeddings; "
                "give the intervention a span, or none of these."
            )
        if not forward.repeats and forward.start > self._seen:
            raise ObservationError(
                f"the cache holds {forward.start} positions, of which {self._seen} ran inside this "
                "block: what they say is not known here. Run them inside the block too, or give "
                "the intervention a span in place of phases and words."
            )
        self._seen = forward.start + forward.shape[1]
        ids_BT = forward.token_ids_BT
        if forward.valid_BT is not None:
            ids_BT = ids_BT.masked_fill(~forward.valid_BT, self._padding)
        phase_BT = None if self._phases is None else self._phase(self._phases, ids_BT, forward)
        hit_BT = {words: each.since(ids_BT, forward) for words, each in self._words.items()}
        return {place: self._at(place, phase_BT, hit_BT, forward) for place in self._places}

    def _phase(self, phases: Followed, ids_BT: Tensor, forward: Forward) -> Tensor:
        before_BT, behind_BT = phases.follow(ids_BT, forward.start)
        if self._phase_2SS.device != ids_BT.device:
            self._phase_2SS = bring(self._phase_2SS, ids_BT.device)
        if self._prompts is None:
            return self._phase_2SS[1][before_BT, behind_BT]
        if self._rows is None:
            finished = [[int(not written)] for written in self._prompts.written]
            lengths = [[length] for length in self._prompts.lengths]
            self._rows = bring(torch.tensor([finished, lengths]), ids_BT.device)
        finished_B1, lengths_B1 = self._rows
        phase_BT = self._phase_2SS[finished_B1, before_BT, behind_BT]
        return phase_BT.masked_fill(forward.positions() < lengths_B1, PROMPT)

    def _at(
        self,
        place: Place,
        phase_BT: Tensor | None,
        since_BT: Mapping[tuple[str, ...], Tensor],
        forward: Forward,
    ) -> Tensor:
        parts = [] if forward.valid_BT is None else [forward.valid_BT]
        if place.phases and phase_BT is not None:
            inside = [phase_BT == PHASES.index(phase) for phase in place.phases]
            parts.append(torch.stack(inside).any(dim=0))
        if place.words:
            parts.append(since_BT[place.words] < place.reach)
        return torch.stack(parts).all(dim=0)


class _Words:
    """How many tokens ago one of some words was completed."""

    def __init__(
        self, words: tuple[str, ...], tokens: Sequence[Sequence[int]], symbols: int, tape: Tape
    ) -> None:
        found = word_automaton(words, tokens, symbols)
        self._tape, self._name = tape, f"since {words}"
        self._followed = Followed(with_padding(found.next_SV), tape, f"words {words}")
        hit_SV = torch.from_numpy(found.hit_SV)
        self._hit_SV = torch.cat((hit_SV, torch.zeros(len(hit_SV), 1, dtype=torch.bool)), dim=1)
        self._last: list[Tensor] = []
        self._latest: Tensor | None = None

    def reorder(self, rows_B: Tensor) -> None:
        """Continue other rows, as a beam search does."""
        self._followed.reorder(rows_B)
        self._last = [picked(torch.cat(self._last, dim=1), rows_B)]

    def since(self, ids_BT: Tensor, forward: Forward) -> Tensor:
        """Tokens since a word was completed, [B, T]; very many where none was."""
        if self._hit_SV.device != ids_BT.device:
            self._hit_SV = bring(self._hit_SV, ids_BT.device)
        before_BT, _ = self._followed.follow(ids_BT, forward.start)
        if forward.repeats:
            return self._step(self._hit_SV[before_BT, ids_BT])
        at_T = torch.arange(forward.start, forward.start + ids_BT.shape[1], device=ids_BT.device)
        never = torch.iinfo(torch.int64).min // 2
        last_BT = torch.where(self._hit_SV[before_BT, ids_BT], at_T, never).cummax(dim=1).values
        if forward.start == 0:
            self._last.clear()
        else:
            if sum(part.shape[1] for part in self._last) > forward.start or len(self._last) > 256:
                self._last = [torch.cat(self._last, dim=1)[:, : forward.start]]
            last_BT = torch.maximum(last_BT, self._last[-1][:, -1:])
        self._last.append(last_BT)
        self._latest = at_T - last_BT
        return self._latest

    def _step(self, hit_B1: Tensor) -> Tensor:
        """The same of a step that is repeated."""
        if self._latest is not None:
            self._tape.hold(self._name, self._latest[:, -1:])
            self._latest = None
        since_B1 = torch.where(hit_B1, 0, self._tape.held[self._name] + 1)
        self._tape.hold(self._name, since_B1)
        return since_B1


def picked(of_BT: Tensor, rows_B: Tensor) -> Tensor:
    """Some rows in another order."""
    return of_BT.index_select(0, rows_B.to(of_BT.device))


def with_padding(next_SV: Table) -> Tensor:
    """By token, [V + 1, S]; the last row is for padding, behind which a text begins."""
    padding_1S = np.zeros((1, len(next_SV)), next_SV.dtype)
    return torch.from_numpy(np.concatenate((next_SV.T, padding_1S)))
