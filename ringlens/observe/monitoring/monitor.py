"""A monitor: a linear probe with a threshold, kept in a file.

The probe was trained on the mean vectors of steps. As it is linear, its score of a step is the mean
of its scores of the step's tokens; so a running thought is scored token by token, and judged by the
mean over the last few tokens.

Shape letters: D numbers of a vector, T tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringlens.config import whole
from ringlens.errors import ConfigError
from ringlens.files import regular
from ringlens.store.schema.records import RunRecord
from ringlens.strict_json import parsed_object

FORMAT = "ringlens monitor 1"
"""First entry of a monitor's file."""

LARGEST = 2**26
"""Bytes of a monitor's file at most."""

FLAG, STOP = "flag", "stop"
CRITERIA = (FLAG, STOP)
"""What a monitor does where its score passes the threshold."""


@dataclass(frozen=True)
class ModelMark:
    """What a monitor knows its model by.

    Attributes:
        name: Name or folder.
        revision: Its revision, if known.
        quantization: Its quantisation, as a run says it; None for none.
        digest: Digest of its sizes, its tokenizer and the selection bias of its routers.
    """

    name: str
    revision: str | None
    quantization: str | None
    digest: str


@dataclass(frozen=True)
class Monitor:
    """A linear probe that scores a running thought.

    Attributes:
        target: What it foretells, as `ringlens.probes.linear.linear_probe` names it.
        alarm: The class that it warns of.
        features: The point that it reads.
        layer: The layer.
        mean: Mean of each number in training, [D].
        scale: Its standard deviation there, [D].
        weights: Weights of the standardised numbers, [D].
        bias: What is added to their sum.
        window: Tokens of a thought whose mean score is judged.
        threshold: The mean score above which it warns.
        criterion: "flag" marks the trace, "stop" ends it as well.
        model: The model that it was trained on.
        trained: What it was trained on, in numbers and names.
        calibrated: How the threshold was found.
        held_out: What it did on problems that neither training nor threshold had seen.
    """

    target: str
    alarm: str
    features: str
    layer: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    window: int
    threshold: float
    criterion: str
    model: ModelMark
    trained: Mapping[str, Any]
    calibrated: Mapping[str, Any]
    held_out: Mapping[str, Any]

    def __post_init__(self) -> None:
        whole("layer", self.layer, 0)
        whole("window", self.window, 1)
        sizes = {len(self.mean), len(self.scale), len(self.weights)}
        numbers = (*self.mean, *self.scale, *self.weights, self.bias, self.threshold)
        if len(sizes) != 1 or sizes == {0} or not all(map(math.isfinite, numbers)):
            raise ConfigError("the numbers of a monitor are not finite, or not as many of each.")
        if min(self.scale) <= 0:
            raise ConfigError("a scale of the monitor is not above 0.")
        if self.criterion not in CRITERIA:
            raise ConfigError(
                f"criterion = {self.criterion!r:.60}; it must be one of {', '.join(CRITERIA)}."
            )

    @property
    def stops(self) -> bool:
        """Whether it ends traces."""
        return self.criterion == STOP

    @property
    def folded(self) -> tuple[NDArray[np.float32], np.float32]:
        """Weights of the numbers as they are [D], and what is added: float32."""
        weight_D = np.array(self.weights) / np.array(self.scale)
        return weight_D.astype(np.float32), np.float32(self.bias - weight_D @ np.array(self.mean))

    def scores(self, vector_TD: NDArray[np.float32]) -> NDArray[np.float32]:
        """The score of each token, [T]."""
        weight_D, bias = self.folded
        scored_T: NDArray[np.float32] = (vector_TD * weight_D).sum(axis=-1) + bias
        return scored_T

    def recent(
        self, score_T: NDArray[np.float32], think_T: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Mean score of the last tokens [T]; −inf where these are not all in a thought."""
        found_T = np.full(len(score_T), -np.inf, np.float32)
        if len(score_T) >= self.window:
            view = np.lib.stride_tricks.sliding_window_view
            inside_T = view(think_T, self.window).all(axis=1)
            mean_T = view(score_T, self.window).mean(axis=1, dtype=np.float32)
            found_T[self.window - 1 :] = np.where(inside_T, mean_T, -np.inf)
        return found_T

    @property
    def digest(self) -> str:
        """Digest of all that it is."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:16]

    @property
    def facts(self) -> dict[str, Any]:
        """All that it is, without its weights."""
        whole_ = asdict(self)
        return {"digest": self.digest} | {
            name: value
            for name, value in whole_.items()
            if name not in ("mean", "scale", "weights", "bias")
        }

    def check(self, run: RunRecord) -> None:
        """Refuse a run of another model.

        Raises:
            ConfigError: It is another.
        """
        other = mark_of(vars(run))
        for name in ("name", "revision", "quantization", "digest"):
            was, now = getattr(self.model, name), getattr(other, name)
            if was != now:
                raise ConfigError(
                    f"this monitor was trained on thoughts of {self.model.name:.80}, and the model "
                    f"that runs differs in its {name} ({was!r:.60} there, {now!r:.60} here): what "
                    "its score means is not known. Train one on captures of this model."
                )

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it to a file, wholly or not at all."""
        place = Path(path)
        part = place.with_name(f"{place.name}.{os.getpid()}.part")
        part.write_text(self._text(), encoding="utf-8")
        part.replace(place)
        return place

    def _text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


SHAPE = (
    *("layers", "sparse_layers", "experts", "experts_per_token", "groups", "groups_kept"),
    *("heads", "kv_heads", "head_dim", "hidden_size", "tokenizer"),
)
"""Fields of a run that are digested, beside its selection bias."""


def mark_of(run: Mapping[str, Any]) -> ModelMark:
    """Say what the model of a run is known by.

    Args:
        run: Fields of a `ringlens.store.schema.records.RunRecord`: ``model``, ``revision``,
            ``quantization``, those of `SHAPE`, and ``expert_bias`` in order of layer and expert.
    """
    values = (run[name] for name in SHAPE)
    shape = [list(value) if isinstance(value, tuple) else value for value in values]
    found = hashlib.sha256(json.dumps(shape).encode())
    found.update(np.nan_to_num(np.asarray(run["expert_bias"], "<f4")).tobytes())
    return ModelMark(run["model"], run["revision"], run["quantization"], found.hexdigest()[:16])


def read_monitor(given: Monitor | str | PathLike[str]) -> Monitor:
    """A monitor as it is, or that of a file.

    Raises:
        ConfigError: There is no such file, or it holds none.
    """
    if isinstance(given, Monitor):
        return given
    if not isinstance(given, str | PathLike):
        raise ConfigError(f"monitor is {type(given).__name__}; give a Monitor, or the file of one.")
    path = Path(given)
    try:
        size = regular(path).st_size
        if size > LARGEST:
            raise ConfigError(f"{path} has {size:,} bytes, which is no monitor.")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the monitor {str(path)!r:.200} ({error}); make one with `ringlens probe "
            "monitor`."
        ) from error
    return _of_file(parsed_object(text, str(path), ConfigError), str(path))


def _of_file(told: dict[str, Any], place: str) -> Monitor:
    """A monitor from the object of its file."""
    names = [field.name for field in fields(Monitor)]
    kinds: dict[str, type | tuple[type, ...]] = {
        **dict.fromkeys(("target", "alarm", "features", "criterion"), str),
        **dict.fromkeys(("mean", "scale", "weights"), list),
        **dict.fromkeys(("bias", "threshold"), (int, float)),
        **dict.fromkeys(("layer", "window"), int),
        **dict.fromkeys(("model", "trained", "calibrated", "held_out"), dict),
    }
    if told.get("format") != FORMAT:
        raise ConfigError(f"{place} is no monitor of this version: its format is not {FORMAT!r}.")
    for name in names:
        if not isinstance(told.get(name), kinds[name]) or isinstance(told[name], bool):
            raise ConfigError(f"{place} is no monitor: {name} is missing, or of another kind.")
    mark = told["model"]
    texts = [mark.get(name) for name in ("name", "digest")]
    open_ = [mark.get(name) for name in ("revision", "quantization")]
    if not all(isinstance(x, str) for x in texts) or not all(
        x is None or isinstance(x, str) for x in open_
    ):
        raise ConfigError(f"{place} is no monitor: model does not say which it is.")
    listed: dict[str, tuple[float, ...]] = {}
    for name in ("mean", "scale", "weights"):
        numbers = told[name]
        if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in numbers):
            raise ConfigError(f"{place} is no monitor: {name} holds something else than numbers.")
        listed[name] = tuple(map(float, numbers))
    given = {name: told[name] for name in names} | listed
    given |= {name: float(told[name]) for name in ("bias", "threshold")}
    given["model"] = ModelMark(mark["name"], open_[0], open_[1], mark["digest"])
    return Monitor(**given)
