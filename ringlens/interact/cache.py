"""Activations of one forward, kept by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ringlens.display import html_table, lines, plural, spans
from ringlens.errors import ObservationError
from ringlens.observe.points import POINTS, Point, find_point, layer_of, layers_with

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Name = str | tuple[str, int]
Names = Name | Iterable[Name] | Callable[[str], bool] | None
Place = tuple[Point, int | None]


class ActivationCache(Mapping[Any, Tensor]):
    """Tensors by point, in the order in which the model computed them.

    Iterating gives TransformerLens names. Besides these, ``cache[name, layer]`` with any name of a
    point (negative layers count from the end) and module paths are accepted::

        cache["blocks.3.hook_resid_post"]
        cache["resid_post", 3]
        cache["model.layers.3.mlp"]
    """

    def __init__(self, tensors: dict[Place, Tensor], config: PreTrainedConfig) -> None:
        self._tensors, self._config = tensors, config

    def __getitem__(self, name: Name) -> Tensor:
        """The tensor of a point.

        Raises:
            ObservationError: There is no such point, or it is not in the cache.
        """
        place = locate(name, self._config)
        if place not in self._tensors:
            raise ObservationError(
                f"{place[0].at(place[1])} is not in this cache; let names_filter name it. "
                f"It holds {', '.join(self) or 'nothing'}."
            )
        return self._tensors[place]

    def __contains__(self, name: object) -> bool:
        """Whether the cache holds this point; False for names that are none."""
        try:
            return locate(name, self._config) in self._tensors  # type: ignore[arg-type]
        except ObservationError:
            return False

    def get(self, name: Any, default: Any = None) -> Any:
        """The tensor of a point, or ``default`` where the cache does not hold it."""
        return self[name] if name in self else default  # noqa: SIM401 (this is that method)

    def __iter__(self) -> Iterator[str]:
        return (point.at(layer) for point, layer in self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        places = (f"{row[0]}: {', '.join(filter(None, row[1:]))}" for row in self._rows())
        return lines(f"ActivationCache: {plural(len(self), 'tensor')}", *places)

    def _repr_html_(self) -> str:
        head = ("point", "layers", "shape", "dtype", "device")
        return html_table(f"Cache of {plural(len(self), 'tensor')}", head, self._rows())

    def _rows(self) -> list[tuple[str, str, str, str, str]]:
        """Point, layers, and what the tensors of the first layer are."""
        found: dict[Point, list[int | None]] = {}
        for point, layer in self._tensors:
            found.setdefault(point, []).append(layer)
        return [self._row(point, layers) for point, layers in found.items()]

    def _row(self, point: Point, layers: list[int | None]) -> tuple[str, str, str, str, str]:
        tensor = self._tensors[point, layers[0]]
        held = spans(sorted(layer for layer in layers if layer is not None))
        dtype = str(tensor.dtype).removeprefix("torch.")
        layer_words = f"layers {held}" if held else ""
        return point.name, layer_words, str([*tensor.shape]), dtype, str(tensor.device)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def stack(self, name: str) -> Tensor:
        """All cached layers of a point, [layers, B, T, …], ascending.

        Raises:
            ObservationError: The cache holds no layer of this point.
        """
        point = find_point(name, self._config)[0]
        found = {p: x for p, x in self._tensors.items() if p[0] is point}
        if not found:
            raise ObservationError(f"no layer of {point.name} is in this cache.")
        return torch.stack([found[p] for p in sorted(found, key=lambda p: p[1] or 0)])

    def to(self, device: torch.device | str) -> ActivationCache:
        """A cache with all tensors on ``device``."""
        moved = {place: tensor.to(device) for place, tensor in self._tensors.items()}
        return ActivationCache(moved, self._config)


def locate(name: Name, config: PreTrainedConfig) -> Place:
    """Point and layer of a name, or of a pair of a name and a layer.

    Raises:
        ObservationError: No such point, or a layer that lacks it.
    """
    if isinstance(name, str):
        point, layer = find_point(name, config)
    else:
        point, layer = find_point(name[0], config)[0], name[1]
    return point, layer_of(point, layer, config)


def select(names: Names, config: PreTrainedConfig) -> list[Place]:
    """The points that a filter names, in the order of the model's layers.

    Args:
        names: A name or a pair of name and layer, several of them, or a function from
            TransformerLens names to bool. A point's name without a layer stands for all layers.
            None for every point.
        config: The model's configuration.

    Raises:
        ObservationError: No such point, or a layer that lacks it.
    """
    everything: list[Place] = [
        (point, layer)
        for point in POINTS.values()
        for layer in layers_with(point, config) or [None]
    ]
    if names is None:
        return everything
    if callable(names):
        return [place for place in everything if names(place[0].at(place[1]))]
    listed = [cast("Name", names)] if _is_name(names) else list(cast("Iterable[Name]", names))
    wanted = {place for name in listed for place in _places(name, config)}
    return [place for place in everything if place in wanted]


def _is_name(names: object) -> bool:
    """One name, or one pair of a name and a layer, rather than several names."""
    pair = isinstance(names, tuple) and len(names) == 2 and isinstance(names[1], int)
    return isinstance(names, str) or pair


def _places(name: Name, config: PreTrainedConfig) -> list[Place]:
    point, layer = find_point(name, config) if isinstance(name, str) else locate(name, config)
    if layer is None:  # all of them
        return [(point, each) for each in layers_with(point, config) or [None]]
    return [(point, layer_of(point, layer, config))]
