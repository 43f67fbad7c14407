"""Small real datasets that ship with a dependency, so that everything can be tried without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_digits


def digits() -> dict[str, Dataset]:
    """scikit-learn's handwritten digits: one split of 1,797 grey 8 x 8 images, 10 classes (UCI optdigits test set).

    The ink values 0..16 are scaled to 0..255.
    """
    # The stubs know only the form that returns a tuple.
    bunch: Any = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(name) for name in bunch.target_names])})
    columns = {"image": list(pixels), "label": bunch.target.tolist()}
    return {"train": Dataset.from_dict(columns, features=features)}


SAMPLES: dict[str, Callable[[], dict[str, Dataset]]] = {"digits": digits}
