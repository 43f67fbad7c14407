from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.hub.server import LoopbackHub
from tests.publish.runs import IMAGES, TEXTS, finished, images, texts


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": images(48, 1), "test": images(12, 2), "extra": images(6, 3)}
    return finished(tmp_path_factory.mktemp("images"), IMAGES, splits)


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("texts"), TEXTS, {"train": texts(60)})


@pytest.fixture(params=["image_run", "text_run"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One of the two, to work on."""
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "place"))


@pytest.fixture
def pictures(image_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_run, tmp_path / "place"))


@pytest.fixture
def me(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whoever publishes, logged in; the token."""
    token = hub.user("me")
    hub.log_in(monkeypatch, token)
    return token
