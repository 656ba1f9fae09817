"""Routing as servers encode it: what numpy and SGLang write comes back, all else is refused."""

import base64
import io
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import int32, npy

from ringlens.errors import ServingError
from ringlens.serving.wire import sglang_expert_ids, sparse_choices, vllm_expert_ids

# Written out by hand from the format's definition: magic, version 1.0, header, 2 x 1 x 3 bytes.
HEADER = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 3), }"
HEADER += b" " * (118 - len(HEADER) - 1) + b"\n"
BY_HAND = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + HEADER + bytes([7, 0, 3, 255, 4, 9])


def b64(raw):
    return base64.b64encode(raw).decode()


def test_bytes_of_the_format_itself():
    assert vllm_expert_ids(b64(BY_HAND), (2, 1, 3), 256).tolist() == [[[7, 0, 3]], [[255, 4, 9]]]
    raw = struct.pack("<6i", 7, 0, 3, 255, 4, 9)
    assert sglang_expert_ids(b64(raw), (2, 1, 3), 256).tolist() == [[[7, 0, 3]], [[255, 4, 9]]]


shapes = st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(1, 5))


@given(shape=shapes, experts=st.sampled_from([2, 256, 257, 65536]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_round_trip(shape, experts, seed):
    ids = np.random.default_rng(seed).integers(0, experts, shape)
    small = ids.astype(np.uint8 if experts <= 256 else np.uint16)
    np.testing.assert_array_equal(vllm_expert_ids(npy(small), shape, experts), ids)
    fortran = npy(np.asfortranarray(small))
    np.testing.assert_array_equal(vllm_expert_ids(fortran, shape, experts), ids)
    np.testing.assert_array_equal(sglang_expert_ids(int32(ids), shape, experts), ids)


@given(junk=st.binary(max_size=300), after=st.integers(0, len(BY_HAND)))
@settings(max_examples=150, deadline=None)
def test_junk_is_refused_and_never_believed(junk, after):
    for raw in (junk, BY_HAND[:after] + junk):
        if raw != BY_HAND:
            with pytest.raises(ServingError):
                vllm_expert_ids(b64(raw), (2, 1, 7), 256)


class Bomb:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def object_array():
    file = io.BytesIO()
    np.save(file, np.array([[[Bomb()]]], object), allow_pickle=True)
    return b64(file.getvalue())


def claimed(header):
    header = header.encode() + b" " * 20 + b"\n"
    return b64(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(24))


GOOD = np.zeros((2, 3, 4), np.uint8)


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (npy(GOOD.astype(np.int64)), "dtype <i8"),
        (npy(GOOD.astype(">u2")), "dtype >u2"),
        (npy(GOOD.astype(np.uint16)), "dtype <u2"),
        (npy(GOOD.astype(np.float32)), "dtype <f4"),
        (npy(GOOD[:1]), "has 1 rows, where the tokens leave 2"),
        (npy(GOOD[:, :2]), r"shape \(2, 2, 4\)"),
        (npy(GOOD[..., :3]), r"shape \(2, 3, 3\)"),
        (npy(GOOD.reshape(-1)), r"shape \(24,\)"),
        (npy(GOOD)[:-8], "has 18 bytes|cut off"),
        (npy(GOOD)[:-3], "not base64"),
        (npy(GOOD)[:40], "no .npy file|not base64"),
        ("%%%%", "not base64"),
        ("naïve", "not base64"),
        ("", "no .npy file"),
        (object_array(), r"dtype \|O"),
        (b64(pickle.dumps(Bomb())), "no .npy file"),
        (b64(b"\x93NUMPY\x03\x00" + bytes(40)), "no .npy file"),
        (claimed("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4), }"), None),
        (
            claimed("{'descr': '|u1', 'fortran_order': False, 'shape': (9**9**9, 3, 4), }"),
            "no .npy",
        ),
        (claimed("{'descr': '|u1', 'fortran_order': False, 'shape': (10**15,), }"), "no .npy"),
        (
            claimed("{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999999, 3, 4), }"),
            "999999999999999 rows",
        ),
        (claimed("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3, 4), }"), r"dtype \|O"),
        (
            claimed("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (2, 3, 4), }"),
            "no .npy",
        ),
        (claimed("__import__('os').mkdir('pwned')"), "no .npy"),
        (claimed("(" * 3000 + ")" * 3000), "no .npy"),
        (claimed("{'a': 1}" + " " * 9000), "no .npy"),
        (claimed("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1" * 9000), "no .npy"),
        (b64(BY_HAND.replace(b"\x76\x00", b"\x75\x00")), "no .npy"),
    ],
)
def test_payloads_are_refused_with_the_reason(encoded, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if message is None:  # the harness itself: a header that tells the truth is read
        assert vllm_expert_ids(encoded, (2, 3, 4), 256).shape == (2, 3, 4)
        return
    with pytest.raises(ServingError, match=message):
        vllm_expert_ids(encoded, (2, 3, 4), 256)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("size", [0, 4, 92, 95, 97, 100])
def test_int32_of_another_size_is_refused(size):
    with pytest.raises(ServingError, match=f"{size} bytes, where 2 tokens, 3 layers and 4"):
        sglang_expert_ids(b64(bytes(size)), (2, 3, 4), 256)


def test_dense_layers_are_those_of_the_configuration_not_those_of_zeros():
    ids = np.tile(np.arange(4), (2, 3, 1))
    ids[:, 0] = 0
    assert sparse_choices(ids, (1, 2), 8).shape == (2, 2, 4)
    # One expert a token, always the first one: zeros on a sparse layer are a choice.
    assert sparse_choices(np.zeros((5, 3, 1), int), (2,), 8).tolist() == [[[0]] * 5]
    with pytest.raises(ServingError, match="layer 2 is dense"):
        sparse_choices(ids, (0, 1), 8)
    with pytest.raises(ServingError, match=r"row 0 of layer 0 names an expert twice \(\[0, 0"):
        sparse_choices(ids, (0, 1, 2), 8)


@pytest.mark.parametrize("wrong", [8, 2**31 - 1, -1])
def test_experts_that_the_model_does_not_have_are_refused(wrong):
    ids = np.tile(np.arange(4), (2, 3, 1))
    ids[1, 2, 3] = wrong
    with pytest.raises(ServingError, match=f"expert id {wrong} in a model of 8"):
        sparse_choices(ids, (0, 1, 2), 8)
