"""Attach functions to points of a model: plain torch hooks, gone when the block ends.

Works whole, offloaded, quantised and sharded alike: hooks run outside accelerate's and
transformers' own wrappers, and see global expert ids and whole tensors.

Shape letters: B batch, T tokens, N = B·T, D hidden size, H heads, C head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from accelerate.utils import align_module_device
from torch import Tensor, nn

from ringlens.errors import ObservationError
from ringlens.model.family import family_of, sizes_of
from ringlens.observe.points import (
    POINTS,
    Point,
    in_this_process,
    layer_of,
    location,
    module_at,
    tokens_module,
)

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from ringlens.model.family import Family
    from ringlens.model.points import Location

Hook = Callable[[Tensor], Tensor | None]

RECHOOSE: WeakKeyDictionary[nn.Module, Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]] = (
    WeakKeyDictionary()
)
"""By router what interventions make of its output; see `ringlens.observe.interventions`."""

Attachment = tuple[Point, int | None, Hook]


@contextmanager
def attach(model: PreTrainedModel, hooks: Iterable[Attachment]) -> Iterator[None]:
    """Call functions with tensors of the model as long as the block runs.

    Afterwards the model is what it was, also when the block raised. Under pipeline parallelism a
    process calls only the functions at points that it holds.

    Args:
        model: The model.
        hooks: Point, layer (None outside the layers) and function. A function is given the point's
            tensor in the shape that :class:`~ringlens.observe.points.Point` states, and may return
            another of the same shape, which takes its place. Several at one point run in order.
            Router logits that are replaced (or changed in place) are routed anew: the weights and
            the choice follow them.

    Raises:
        ObservationError: A layer lacks the point; or, while the model runs, a function returned
            something else than a tensor of that shape.
    """
    checked = [(point, layer_of(point, layer, model.config), fn) for point, layer, fn in hooks]
    handles: list[RemovableHandle] = []
    try:
        for point, layer, fn in checked:
            if in_this_process(model, point, layer):
                handles += _register(model, point, layer, fn)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _register(
    model: PreTrainedModel, point: Point, layer: int | None, fn: Hook
) -> list[RemovableHandle]:
    module, place = module_at(model, point, layer), location(point, model.config)
    if place.side == "input":
        before = partial(_before, point, fn, sizes_of(model.config).head_dim)
        return [module.register_forward_pre_hook(before, with_kwargs=True)]
    rows: list[int] = []
    after = partial(_after, point, place, family_of(model.config), fn, rows)
    handles = [module.register_forward_hook(after)]
    if place.flat:
        assert layer is not None
        begin = partial(_begin, rows)
        handles.append(tokens_module(model, layer).register_forward_pre_hook(begin))
    return handles


def _begin(rows: list[int], module: nn.Module, args: tuple) -> None:
    rows[:] = args[0].shape[:2]


def _before(
    point: Point, fn: Hook, head_dim: int, module: nn.Module, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]] | None:
    name = None if args else next(iter(kwargs))
    whole = args[0] if name is None else kwargs[name]
    seen = view(point, whole, head_dim=head_dim)
    changed = fn(seen)
    if changed is None:
        return None
    check_like(point, seen, changed)
    changed = changed.reshape(whole.shape)
    return ((changed, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: changed})


def _after(
    point: Point,
    place: Location,
    family: Family,
    fn: Hook,
    rows: list[int],
    module: nn.Module,
    args: tuple,
    output: Any,
) -> Any:
    whole = output if place.item is None else output[place.item]
    seen = view(point, whole, rows=rows if place.flat else ())
    version = version_of(whole)
    changed = fn(seen)
    if changed is not None:
        check_like(point, seen, changed)
        return replace(point, place, family, module, output, changed.reshape(whole.shape))
    if point is POINTS["router_logits"] and changed_since(version, whole):
        return replace(point, place, family, module, output, whole)
    return None


def view(point: Point, whole: Tensor, *, head_dim: int = 0, rows: Sequence[int] = ()) -> Tensor:
    """A module's tensor in the shape of ``point``; shares memory with it.

    Args:
        point: The point.
        whole: The tensor as the module takes or gives it.
        head_dim: C, for head_out.
        rows: (B, T), where the module has all rows' tokens in one dimension.
    """
    if rows:
        return whole.unflatten(0, tuple(rows))
    return whole.unflatten(-1, (-1, head_dim)) if point.name == "head_out" else whole


def replace(
    point: Point, place: Location, family: Family, module: nn.Module, output: Any, whole: Tensor
) -> Any:
    """A module's output with ``whole`` in the place of the point's tensor.

    The choice is made inside the router, so new router logits go through the router's own
    selection once more.
    """
    if point is POINTS["router_logits"]:
        return route(family, module, whole)
    if place.item is None:
        return whole
    return tuple(whole if i == place.item else x for i, x in enumerate(output))


def route(family: Family, gate: nn.Module, logits_NE: Tensor) -> tuple[Tensor, ...]:
    """What a router gives for logits given to it."""
    with align_module_device(gate):  # an offloaded selection bias
        output = family.route(gate, logits_NE.float())
    change = RECHOOSE.get(gate)  # else new logits would undo an intervention
    return output if change is None else change(output)


def version_of(tensor: Tensor) -> int | None:
    """Counts changes in place; None for inference tensors, which do not count them."""
    return None if tensor.is_inference() else tensor._version


def changed_since(version: int | None, tensor: Tensor) -> bool:
    """Whether ``tensor`` was changed in place, or may have been (inference tensors)."""
    return version is None or tensor._version != version


def check_like(point: Point, seen: Tensor, changed: object) -> None:
    """Refuse what cannot stand in the place of ``seen``.

    Raises:
        ObservationError: Not a tensor, or of another shape.
    """
    if not isinstance(changed, Tensor):
        raise ObservationError(
            f"{point.name} can only become a tensor, not {type(changed).__name__}; "
            "a function that only looks returns None."
        )
    if changed.shape != seen.shape:
        raise ObservationError(
            f"{point.name} has shape {tuple(seen.shape)} ({point.shape}); what should replace it "
            f"has {tuple(changed.shape)}. Give a tensor of the same shape."
        )
