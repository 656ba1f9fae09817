"""nnsight's tracing on a loaded model, with the points by name.

The model carries nnsight's controllers only while something is traced; between traces it is what
it was. Text is encoded by the lens, and nothing moves to another device.

Shape letters: B batch, T tokens, N = B·T.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from nnsight import NNsight
from nnsight.intervention.eproperty import eproperty
from nnsight.intervention.interleaver import Mediator
from nnsight.intervention.source import STATE
from nnsight.intervention.util import first_input, replace_first_input
from torch import Tensor, nn

from ringlens.display import spans
from ringlens.errors import ConfigError, ObservationError
from ringlens.interact.cache import Name, Place, locate
from ringlens.model.parallel import parallel_of
from ringlens.observe.hooks import changed_since, check_like, replace, version_of, view
from ringlens.observe.inputs import check_generation, check_options, model_inputs, token_rows
from ringlens.observe.points import (
    POINTS,
    Point,
    find_point,
    layers_with,
    location,
    module_at,
    tokens_module,
)

if TYPE_CHECKING:
    from nnsight.intervention.tracer import InterleavingTracer

    from ringlens.model.loaded import LoadedModel
    from ringlens.model.points import Location

INPUTS = ("input_ids", "attention_mask")
ROOT = "model"  # nnsight's name for the whole model


class ModelEnvoy(NNsight):
    """nnsight's view of a lens's model: ``trace``, ``generate``, ``edit``, and ``points``.

    Everything of nnsight's is there too, by module path: ``envoy.model.layers[3].mlp.output``.
    """

    def __init__(self, lens: LoadedModel) -> None:
        refuse_sharded(lens)
        before = [(module, _installed(module)) for module in lens.model.modules()]
        super().__init__(lens.model, path=ROOT)
        self._lens = lens
        self._rows: dict[int, tuple[int, int]] = {}
        self._controllers = [(module, _installed(module)) for module, _ in before]
        for module, own in before:
            _install(module, own)
        self.points = Points(lens, self.interleaver, self._rows)

    @property
    def device(self) -> torch.device:
        """Where inputs go (nnsight looks at the first parameter, which may be offloaded)."""
        return self._lens.device

    def trace(self, *text_or_ids: Any, fn: Any = None, **options: Any) -> InterleavingTracer:
        """One forward; see :meth:`ringlens.lens.Lens.trace`."""
        if fn is None:
            options.setdefault("use_cache", False)
        return super().trace(*text_or_ids, fn=fn, **options)

    def generate(self, *text_or_ids: Any, **options: Any) -> InterleavingTracer:
        """Many forwards; see :meth:`ringlens.lens.Lens.generate`."""
        return self.trace(*text_or_ids, fn="generate", **options)

    def interleave(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model with the blocks that wait for its values; nnsight calls this."""
        with self._attached():
            return super().interleave(fn, *args, **kwargs)

    @contextmanager
    def _attached(self) -> Iterator[None]:
        before = [(module, _installed(module)) for module, _ in self._controllers]
        handles = []
        try:
            for module, controller in self._controllers:
                _install(module, controller)
            for layer in self._lens.sizes.sparse_layers:
                begin = partial(self._begin, layer)
                module = tokens_module(self._lens.model, layer)
                handles.append(module.register_forward_pre_hook(begin))
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module, own in before:
                _install(module, own)

    def _begin(self, layer: int, module: nn.Module, args: tuple) -> None:
        self._rows[layer] = (args[0].shape[0], args[0].shape[1])

    def _batch_size(self, *inputs: Any, **options: Any) -> int:
        return len(self._token_rows(inputs, options))

    def _batch(self, invokes: list[tuple], fn: Any) -> tuple[tuple, dict[str, Any]]:
        rows = [row for invoke in invokes for row in self._token_rows(*invoke)]
        batch: dict[str, Any] = dict(model_inputs(self._lens, rows)) if rows else {}
        if fn == "generate":
            batch.pop("position_ids", None)  # it counts them itself, from the mask
            batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
            batch["pad_token_id"] = self._lens.pad_token_id
        for _, options in invokes:
            left = {name: value for name, value in options.items() if name not in INPUTS}
            check = check_generation if fn == "generate" else check_options
            check(self._lens, left)
            batch |= left
        return (), batch

    def _token_rows(self, inputs: tuple, options: dict[str, Any]) -> list[list[int]]:
        """Token ids of what was given, by position or, as a tokenizer returns it, by name."""
        given = {name: options[name] for name in INPUTS if options.get(name) is not None}
        if len(inputs) + ("input_ids" in given) > 1:
            raise ConfigError("give one text, or several texts in one list.")
        if not inputs and not given:
            return []
        whole = {"input_ids": inputs[0]} | given if inputs else given
        return token_rows(self._lens, whole if given else inputs[0])


class Points:
    """The points of a model by name, inside ``with lens.trace(…):`` and its like.

    ``points.resid_post[3]`` reads, ``points.resid_post[3] = tensor`` replaces, and a change in
    place (``points.resid_post[3][:] = 0``) takes effect too. Points outside the layers need no
    index: ``points.logits``. ``points[name]`` takes TransformerLens names and module paths.

    Raises:
        ObservationError: No trace is open; or there is no such point or layer.
    """

    def __init__(
        self, lens: LoadedModel, interleaver: Any, rows: dict[int, tuple[int, int]]
    ) -> None:
        # Past __setattr__, which replaces tensors.
        self.__dict__.update(_lens=lens, _interleaver=interleaver, _rows=rows)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        point = find_point(name, self._lens.config)[0]
        return self[name] if point.layers == "none" else LayerPoints(self, point)

    def __setattr__(self, name: str, tensor: Tensor) -> None:
        self[name] = tensor

    def __getitem__(self, name: Name) -> Tensor:
        """The tensor of a point given by any of its names, or by name and layer."""
        return self._site(locate(name, self._lens.config)).value

    def __setitem__(self, name: Name, tensor: Tensor) -> None:
        self._site(locate(name, self._lens.config)).value = tensor

    def __dir__(self) -> list[str]:
        return list(POINTS)

    def _ipython_key_completions_(self) -> list[str]:
        return list(POINTS)

    def __repr__(self) -> str:
        return f"Points: {', '.join(POINTS)}"

    def _site(self, place: Place) -> Site:
        point, layer = place
        site = _site_class(point, location(point, self._lens.config))(self, point, layer)
        try:
            Mediator.current(site.path)
        except ValueError as error:
            raise ObservationError(
                f"{point.at(layer)} has a value only while the model runs; read it inside "
                "`with lens.trace(text):`, or use lens.run_with_cache(text)."
            ) from error
        return site


class LayerPoints:
    """One point, to be indexed by layer; negative layers count from the model's last."""

    def __init__(self, points: Points, point: Point) -> None:
        self._points, self._point = points, point

    def __repr__(self) -> str:
        layers = spans(layers_with(self._point, self._points._lens.config))
        return f"Point {self._point.name}, [{' '.join(self._point.shape)}] in layers {layers}"

    def __getitem__(self, layer: int) -> Tensor:
        return self._points[self._point.name, layer]

    def __setitem__(self, layer: int, tensor: Tensor) -> None:
        self._points[self._point.name, layer] = tensor


class Site:
    """One point of one layer, as nnsight's ``eproperty`` wants its host."""

    value: Any  # an eproperty: reading waits for the model, writing replaces

    def __init__(self, points: Points, point: Point, layer: int | None) -> None:
        self.points, self.point, self.layer = points, point, layer
        self.place = location(point, points._lens.config)
        self.path = f"{ROOT}.{self.place.path.format(layer)}"
        self.version: int | None = None

    def whole(self, raw: Any) -> Tensor:
        """The point's tensor as the module takes or gives it."""
        return raw if self.place.item is None else raw[self.place.item]

    def filled(self, raw: Any, whole: Tensor) -> Any:
        """What the module takes or gives, with another tensor at the point."""
        lens = self.points._lens
        module = module_at(lens.model, self.point, self.layer)
        return replace(self.point, self.place, lens.family, module, raw, whole)

    def cut(self, whole: Tensor) -> Tensor:
        """The tensor in the point's shape, with the rows of the asking block alone."""
        if self.layer is None or not self.place.flat:
            return view(self.point, whole, head_dim=self.points._lens.sizes.head_dim)
        tensor_BT = view(self.point, whole, rows=(-1, self.points._rows[self.layer][1]))
        # nnsight cuts rows out of the first dimension; in a flat tensor that is no row.
        batcher, group = self.points._interleaver.batcher, Mediator.current(self.path).batch_group
        if group is None or not batcher.batching or len(tensor_BT) != batcher.total:
            return tensor_BT
        return tensor_BT.narrow(0, *group)

    def read(self, raw: Any) -> Tensor:
        """What the block gets to see."""
        whole = self.whole(raw)
        self.version = version_of(whole)
        return self.cut(whole)

    def write(self, tensor: Any) -> Any:
        """What the module takes or gives, with ``tensor`` in the place of the point's."""
        raw = Mediator.value(f"{self.path}.{self.place.side}")
        whole = self.whole(raw)
        seen = self.cut(whole)
        check_like(self.point, seen, tensor)
        if seen.numel() == whole.numel():
            return self.filled(raw, tensor.reshape(whole.shape))
        whole = whole.clone()
        self.cut(whole).copy_(tensor)
        return self.filled(raw, whole)

    def settle(self, seen: Tensor, raw: Any) -> Any:
        """What the module gives after the block may have changed router logits in place."""
        whole = self.whole(raw)
        return self.filled(raw, whole) if changed_since(self.version, whole) else raw


class InputSite(Site):
    """A point on the input of its module."""

    value = eproperty(key="input")(Site.read).postprocess(Site.write)

    def whole(self, raw: Any) -> Tensor:
        """The first argument."""
        args, kwargs = raw
        return first_input(args, kwargs)

    def filled(self, raw: Any, whole: Tensor) -> Any:
        """The arguments with another first one."""
        args, kwargs = raw
        return replace_first_input(args, kwargs, whole)


class OutputSite(Site):
    """A point on the output of its module."""

    value = eproperty(key="output")(Site.read).postprocess(Site.write)


class LogitsSite(Site):
    """Router logits: after a change in place the router chooses once more."""

    value = eproperty(key="output")(Site.read).postprocess(Site.write).transform(Site.settle)


def _site_class(point: Point, place: Location) -> type[Site]:
    if point is POINTS["router_logits"]:
        return LogitsSite
    return InputSite if place.side == "input" else OutputSite


def _installed(module: nn.Module) -> dict[str, Any]:
    """What nnsight may have put on a module, or may have displaced."""
    return {name: module.__dict__[name] for name in ("forward", STATE) if name in module.__dict__}


def _install(module: nn.Module, entries: dict[str, Any]) -> None:
    for name in ("forward", STATE):
        module.__dict__.pop(name, None)
    module.__dict__.update(entries)


def refuse_sharded(lens: LoadedModel) -> None:
    """Refuse a model that is divided over processes: nnsight follows only one.

    Raises:
        ObservationError: The model is sharded.
    """
    layout = parallel_of(lens.model)
    sizes = {"tp_size": layout.tp_size, "ep_size": layout.ep_size, "pp_size": layout.pp_size}
    shared = ", ".join(f"{name} = {size}" for name, size in sizes.items() if size > 1)
    if shared:
        raise ObservationError(
            f"{lens.name} is divided over processes ({shared}), where nnsight would show one "
            "process's part as the whole. Use lens.run_with_cache, lens.run_with_hooks or "
            "ringlens.capture, which work on divided models, or load the model into one process "
            'with device_map="auto".'
        )
