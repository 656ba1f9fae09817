"""Layers on which a name is recorded: checked against the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ringlens.config import OnLayers
from ringlens.errors import ConfigError
from ringlens.observe.points import ranges
from ringlens.store.schema.instruments import named

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel


def on_layers(lens: LoadedModel, wanted: OnLayers) -> OnLayers | str:
    """Check layers against the model; negative ones count from its last layer.

    Returns:
        The layers ascending, each once; the name alone where they are all that there are.

    Raises:
        ConfigError: A layer that the model does not have, or that has nothing of this name; the
            message says which have.
    """
    sizes = lens.sizes
    sparse = named()[wanted.name].table.is_sparse
    possible = sizes.sparse_layers if sparse else tuple(range(sizes.layers))
    found = set()
    for layer in wanted.layers:
        counted = layer + sizes.layers if layer < 0 else layer
        if counted not in possible:
            kind = "dense, without a router" if 0 <= counted < sizes.layers else "not there"
            raise ConfigError(
                f"{str(wanted)!r:.80}: layer {layer} is {kind}; {wanted.name} exists in layers "
                f"{ranges(possible)}."
            )
        found.add(counted)
    if not found:
        raise ConfigError(f"{wanted.name} is asked for on no layer; name some, or leave it out.")
    return wanted.name if found == set(possible) else OnLayers(wanted.name, tuple(sorted(found)))
