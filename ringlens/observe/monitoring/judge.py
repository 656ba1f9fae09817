"""A monitor at work: scores of the tokens of a running model, and which traces it warns of.

All of it is computed on the device. Phases are read as the text reads up to each token.

Shape letters: B rows, T tokens of a forward, D numbers of a vector, W tokens that are judged
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import StoppingCriteria

from ringlens.errors import ConfigError, ObservationError
from ringlens.interventions.place import place_of
from ringlens.model.parallel import parallel_of
from ringlens.observe.hooks import attach
from ringlens.observe.instruments.transfer import bring
from ringlens.observe.interventions.reader import Prompts, TextReader
from ringlens.observe.interventions.whereabouts import forward_of
from ringlens.observe.monitoring.monitor import Monitor
from ringlens.observe.points import find_point, layer_of

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel

See = Callable[[Tensor, Tensor], None]
"""Takes scores and recent means [B, T] of a forward, on its device."""


class Judge:
    """A monitor of a model.

    Args:
        lens: The model.
        monitor: The monitor.

    Attributes:
        monitor: The monitor.

    Raises:
        ObservationError: The model is divided over processes, or lacks the point.
        ConfigError: The monitor reads vectors of another size.
    """

    def __init__(self, lens: LoadedModel, monitor: Monitor) -> None:
        if parallel_of(lens.model).world_size > 1:
            raise ObservationError(
                "a monitor judges in one process for each copy of the model; load it with "
                "device_map='auto', or whole in each process, which then share the problems out."
            )
        self.monitor, self._lens = monitor, lens
        self._point, _ = find_point(monitor.features, lens.config)
        layer_of(self._point, monitor.layer, lens.config)
        weight_D, bias = monitor.folded
        self._weight_D, self._bias = torch.from_numpy(weight_D), float(bias)
        self._place = place_of("think", (0, None), (), 1)
        self._reader = TextReader(lens, [self._place])
        self._think_BT: Tensor | None = None
        self._earlier: tuple[Tensor, Tensor] | None = None
        self._warned_B: Tensor | None = None

    def begin(self, prompts: Prompts) -> None:
        """A batch begins, of which this is known."""
        self._reader.begin(prompts)
        self._earlier = self._warned_B = self._think_BT = None

    @contextmanager
    def attached(self, see: See) -> Iterator[None]:
        """Judge every forward of the block."""

        def judge(x_BTD: Tensor) -> None:
            see(*self._judged(x_BTD))

        with ExitStack() as stack:
            model = self._lens.model
            stack.callback(model.register_forward_pre_hook(self._read, with_kwargs=True).remove)
            stack.enter_context(attach(model, [(self._point, self.monitor.layer, judge)]))
            yield

    def warned(self, rows: int, device: torch.device) -> Tensor:
        """Which rows it has warned of, bool [B]."""
        if self._warned_B is None:
            return torch.zeros(rows, dtype=torch.bool, device=device)
        return self._warned_B.to(device)

    def _read(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self._think_BT = self._reader.read(forward_of(args, kwargs))[self._place]

    @torch.no_grad()
    def _judged(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and recent means of a forward, [B, T] float32."""
        x_BTD = x.detach().flatten(2).float()
        if x_BTD.shape[2] != len(self._weight_D):
            raise ConfigError(
                f"the monitor reads {len(self._weight_D)} numbers a token, and "
                f"{self.monitor.features} has {x_BTD.shape[2]} here; it was trained on a part of "
                "them."
            )
        if self._weight_D.device != x_BTD.device:
            self._weight_D = bring(self._weight_D, x_BTD.device)
        score_BT = (x_BTD * self._weight_D).sum(dim=-1) + self._bias
        recent_BT = self._recent(score_BT)
        over_B = (recent_BT > self.monitor.threshold).any(dim=1)
        self._warned_B = over_B if self._warned_B is None else self._warned_B | over_B
        return score_BT, recent_BT

    def _recent(self, score_BT: Tensor) -> Tensor:
        """Mean score of the last tokens, −inf where these are not all in a thought."""
        W, B = self.monitor.window, len(score_BT)
        assert self._think_BT is not None  # the forward has begun
        think_BT = self._think_BT.to(score_BT.device).expand_as(score_BT)
        if self._earlier is None:
            self._earlier = score_BT.new_zeros(B, W - 1), think_BT.new_zeros(B, W - 1)
        scores = torch.cat((self._earlier[0], score_BT), dim=1)
        thinks = torch.cat((self._earlier[1], think_BT), dim=1)
        cut = scores.shape[1] - (W - 1)
        self._earlier = scores[:, cut:], thinks[:, cut:]
        mean_BT = scores.unfold(1, W, 1).mean(dim=-1)
        return mean_BT.masked_fill(~thinks.unfold(1, W, 1).all(dim=-1), -torch.inf)


class EndsWarned(StoppingCriteria):
    """Ends the rows of ``generate`` that a monitor has warned of."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def __call__(
        self, input_ids: torch.LongTensor, scores: tuple[Tensor] | None, **kwargs: object
    ) -> torch.BoolTensor:
        """Which rows end, bool [B]."""
        return self._judge.warned(len(input_ids), input_ids.device)  # type: ignore[return-value]
