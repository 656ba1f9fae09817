"""Routing as servers send it: base64 text to expert ids. Nothing in it is trusted.

A payload's header is compared with the shape that it must have before its bytes are touched, so
no array is allocated by what a payload claims. Pickled objects are never read.

Shape letters: R rows (tokens), N layers, S sparse layers, k experts a token.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ringlens.errors import ServingError

# The one form in which numpy writes the header of a plain array. numpy's own reader evaluates any
# Python literal there, and raises errors of many kinds on anything else.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '([ -&(-~]{1,8})', 'fortran_order': (True|False), "
    rb"'shape': \((\d{1,15}(?:, \d{1,15})*,?|)\), \} *\n",
    re.DOTALL,
)

Shape = tuple[int, int, int]

Decode = Callable[[str, Shape, int], NDArray[np.integer]]
"""Decodes base64 text to expert ids, given the shape it must have and the experts of a layer."""


def vllm_expert_ids(encoded: str, shape: Shape, experts: int) -> NDArray[np.integer]:
    """Decode vLLM's ``routed_experts``: base64 of a ``.npy`` file.

    Args:
        encoded: The base64 text.
        shape: (R, N, k) that it must have: dense layers have rows, too.
        experts: Experts of a layer: up to 256 they are uint8, above uint16.

    Returns:
        Expert ids [R, N, k].

    Raises:
        ServingError: It is anything else.
    """
    raw = _decoded(encoded)
    found = NPY.match(raw)
    if found is None or int.from_bytes(found[1], "little") != found.end() - 10:
        raise ServingError("routed_experts is no .npy file as numpy writes them")
    dtype, order, sides = (found[group].decode() for group in (2, 3, 4))
    wanted = "|u1" if experts <= 256 else "<u2"
    if dtype != wanted:
        raise ServingError(
            f"routed_experts has dtype {dtype}, where a model of {experts} experts is served as "
            f"{wanted}: is this the right --model?"
        )
    _check_shape(tuple(int(side) for side in sides.split(",") if side.strip()), shape)
    body = raw[found.end() :]
    _check_bytes(len(body), shape, np.dtype(wanted).itemsize)
    ids: NDArray[np.integer] = np.frombuffer(body, wanted)
    return ids.reshape(shape, order="F" if order == "True" else "C")


def sglang_expert_ids(encoded: str, shape: Shape, experts: int) -> NDArray[np.integer]:
    """Decode SGLang's ``routed_experts``: base64 of int32, little-endian, without a header.

    Args:
        encoded: The base64 text.
        shape: (R, N, k) that it must have: dense layers have rows, too.
        experts: Experts of a layer; int32 whatever their number.

    Returns:
        Expert ids [R, N, k].

    Raises:
        ServingError: It has another size.
    """
    raw = _decoded(encoded)
    _check_bytes(len(raw), shape, 4)
    return np.frombuffer(raw, "<i4").reshape(shape)


def sparse_choices(
    ids_RNk: NDArray[np.integer], sparse_layers: Sequence[int], experts: int
) -> NDArray[np.integer]:
    """Keep the rows of sparse layers, which the model's configuration names.

    Args:
        ids_RNk: Expert ids of all layers.
        sparse_layers: The S layers that route.
        experts: Experts of a layer.

    Returns:
        Expert ids [S, R, k].

    Raises:
        ServingError: A dense layer has experts, or the ids of a sparse one are no choice: another
            model was served, or the server did not record the token.
    """
    dense = [layer for layer in range(ids_RNk.shape[1]) if layer not in set(sparse_layers)]
    if (found := ids_RNk[:, dense]).any():
        layer = dense[int(np.argwhere(found.any(axis=(0, 2)))[0, 0])]
        raise ServingError(
            f"layer {layer} is dense in the model's configuration, but the response has experts "
            f"there: give the --model that was served"
        )
    ids_SRk = np.ascontiguousarray(ids_RNk[:, list(sparse_layers)].swapaxes(0, 1))
    if ids_SRk.size and not 0 <= ids_SRk.min() <= ids_SRk.max() < experts:
        wrong = int(ids_SRk.max() if ids_SRk.max() >= experts else ids_SRk.min())
        raise ServingError(f"expert id {wrong} in a model of {experts} experts")
    ordered_SRk = np.sort(ids_SRk, axis=2)
    twice_SR = (ordered_SRk[..., 1:] == ordered_SRk[..., :-1]).any(axis=2)
    if twice_SR.any():
        s, row = np.argwhere(twice_SR)[0]
        raise ServingError(
            f"row {row} of layer {sparse_layers[s]} names an expert twice "
            f"({ids_SRk[s, row].tolist()}), which is no choice: the server did not record it, or "
            f"the layer is dense in the served model"
        )
    return ids_SRk


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ServingError(f"routed_experts is not base64 ({error}): is it cut off?") from error


def _check_shape(found: tuple[int, ...], shape: Shape) -> None:
    if found == shape:
        return
    if found[1:] == shape[1:] and len(found) == 3:
        raise ServingError(
            f"routed_experts has {found[0]} rows, where the tokens leave {shape[0]}: all but the "
            f"last one and those before an offset. If there was an offset, give the requests or "
            f"--prompt-start"
        )
    raise ServingError(
        f"routed_experts has the shape {found}, where the model's configuration and the tokens "
        f"give {shape}: is this the right --model?"
    )


def _check_bytes(size: int, shape: Shape, item: int) -> None:
    wanted = shape[0] * shape[1] * shape[2] * item
    if size != wanted:
        raise ServingError(
            f"routed_experts has {size} bytes, where {shape[0]} tokens, {shape[1]} layers and "
            f"{shape[2]} experts make {wanted}: it is cut off, of another model, or starts at an "
            f"offset (give the requests or --prompt-start)"
        )
