from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_datadiet.errors import CoverageError
from hf_datadiet.identity import check_ids, digest_of


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([0, 1, 1, 2, 2]), "example id 1 appears more than once"),
        (np.array([3, -4]), "example id -4 is negative"),
        (np.array([0, 1], np.int32), "one-dimensional int64 array, not int32"),
        (np.array([0.0, 1.0]), "one-dimensional int64 array, not float64"),
        (np.array([[0, 1]]), r"one-dimensional int64 array, not int64 \(1, 2\)"),
    ],
)
def test_every_id_once_int64_not_negative(ids: Any, message: str) -> None:
    with pytest.raises(CoverageError, match=f"here: .*{message}"):
        check_ids(ids, "here")


def test_good_ids_pass_in_any_order() -> None:
    check_ids(np.array([5, 0, 2**40]), "here")
    check_ids(np.array([], np.int64), "here")


def test_a_digest_frames_its_parts() -> None:
    assert digest_of(["ab", "c"]) != digest_of(["a", "bc"]) != digest_of(["abc"])
    assert digest_of([b"ab"]) == digest_of(["ab"]) and digest_of(["ab"]).startswith("sha256:")
    one = np.arange(6, dtype=np.int32)
    same_bytes = (one.view(np.uint32), one.reshape(2, 3), one.view(np.float32))
    assert len({digest_of([array]) for array in (one, *same_bytes)}) == 4, "dtype and shape count"
    assert digest_of([one[::2]]) == digest_of([one[::2].copy()]), "memory layout does not"
