"""What is packed and written comes back bit for bit."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hf_datadiet.durable import read_safetensors, write_safetensors
from hf_datadiet.errors import PluginError
from hf_datadiet.training.packing import pack, unpack

CPU = torch.device("cpu")


def through_a_file(tree: Any, path: Path) -> Any:
    arrays, plain = pack(tree)
    write_safetensors(path, arrays, {"plain": plain})
    arrays, meta = read_safetensors(path)
    return unpack(arrays, meta["plain"], CPU)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner), max_leaves=20
)


@given(TREES)
def test_plain_values_come_back(tree: Any) -> None:
    arrays, plain = pack(tree)
    again = unpack(arrays, json.loads(json.dumps(plain)), CPU)
    # `==` does not tell 1 from 1.0 or True, nor 0.0 from -0.0.
    assert again == tree and repr(again) == repr(tree)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64)
    drawn = {f"{kind}": torch.randn(3, 4, dtype=kind, generator=generator) for kind in kinds}
    drawn |= {f"{kind}": torch.arange(5, dtype=kind) for kind in (torch.int64, torch.int32, torch.int8, torch.uint8)}
    picture = torch.randn(2, 3, 4, 4, generator=generator)
    return drawn | {
        "bool": torch.tensor([True, False]),
        "number": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "odd": torch.tensor([math.nan, math.inf, -0.0]),
        "channels last": picture.to(memory_format=torch.channels_last),
        "transposed": picture[0, 0].T,
        "expanded": torch.ones(3, 1).expand(3, 4),
    }


def test_tensors_come_back_with_their_bits_and_strides(tmp_path: Path) -> None:
    given = tensors()
    again = through_a_file({"a/b": given, "a": {"b": [given["number"]]}}, tmp_path / "x.safetensors")
    for name, tensor in given.items():
        found = again["a/b"][name]
        assert found.dtype == tensor.dtype and found.shape == tensor.shape, name
        assert np.array_equal(*(np.frombuffer(bytes(t.contiguous().reshape(-1).view(torch.uint8)), np.uint8) for t in (found, tensor)))
        assert name == "expanded" or found.stride() == tensor.stride(), name
        found.add_(1) if found.dtype != torch.bool else found.logical_not_()
    assert torch.equal(given["number"], torch.tensor(2.5)), "a copy"


def test_what_is_packed_does_not_change_with_the_tensor() -> None:
    tensor = torch.zeros(3)
    arrays, plain = pack(tensor)
    tensor += 1
    assert torch.equal(unpack(arrays, plain, CPU), torch.zeros(3))


def test_generators_come_back(tmp_path: Path) -> None:
    own = np.random.default_rng(5)
    state = {"numpy": np.random.RandomState(3).get_state(), "own": own.bit_generator.state, "python": random.Random(2).getstate()}
    again = through_a_file(state, tmp_path / "x.safetensors")
    other = np.random.default_rng(0)
    other.bit_generator.state = again["own"]
    assert other.integers(2**60, size=3).tolist() == own.integers(2**60, size=3).tolist()
    python = random.Random()
    python.setstate(again["python"])
    assert python.random() == random.Random(2).random()


def test_another_object_is_named() -> None:
    with pytest.raises(PluginError, match=r"^model/0/extra is of type Linear, which cannot be kept"):
        pack({"model": [{"extra": nn.Linear(1, 1)}]})
