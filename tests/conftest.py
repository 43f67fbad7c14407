"""Tests run offline, without a token, on one CPU thread, with every cache in a folder that is removed afterwards.

The environment is set here, before any test imports a library: most of these variables are read at import.
Processes that a test starts inherit it.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

CACHE = Path(tempfile.mkdtemp(prefix="hf-datadiet-tests-"))
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

for name in (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_STORED_TOKENS_PATH",
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "HF_ASSETS_CACHE",
):
    os.environ.pop(name, None)
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "HF_HOME": str(CACHE / "huggingface"),
    "HF_DATASETS_CACHE": str(CACHE / "huggingface" / "datasets"),
    "TORCH_HOME": str(CACHE / "torch"),
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

# A shell that runs the tests in the background has Ctrl-C ignored for them and for all that they start, also by those that send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread: the models here are too small for two to help, and threads that wait for a busy core spin.
# The first example of a property may pay for an import or a compilation.
hypothesis.settings.register_profile("hf_datadiet", deadline=None)
hypothesis.settings.load_profile("hf_datadiet")


def _is_local(family: int, address: object) -> bool:
    if family == socket.AF_UNIX:
        return True
    host = address[0] if isinstance(address, tuple) else None
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def no_network():
    """Connecting to another machine fails the test, even where the library swallows exceptions."""
    with pytest.MonkeyPatch.context() as patch:
        for method in ("connect", "connect_ex"):
            original = getattr(socket.socket, method)

            def guarded(self, address, original=original):
                if not _is_local(self.family, address):
                    pytest.fail(f"this test tried to reach {address!r}; tests run offline")
                return original(self, address)

            patch.setattr(socket.socket, method, guarded)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_drawn():
    """Most commands end with a report, and its pictures take seconds: tests of pictures draw them, for others the names of the files do."""
    with pytest.MonkeyPatch.context() as patch:
        forms = ("png", "svg", "pdf")
        named = lambda picture, report: {f"{picture['name']}.{form}": b"not drawn" for form in forms}  # noqa: E731
        patch.setattr("hf_datadiet.pictures.gallery.files_of", named)
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A Hub of this test alone (`LoopbackHub`), and an empty cache; the client in this process is online and talks to it."""
    from tests.hub.server import LoopbackHub

    with LoopbackHub() as server:
        server.connect(monkeypatch, tmp_path / "hub-cache")
        yield server


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """(exit code, stdout, stderr) of `hf-datadiet WORDS`, in this process."""

    from hf_datadiet import cli

    def said(*words: str) -> tuple[Any, str, str]:
        monkeypatch.setattr("sys.argv", ["hf-datadiet", *words])
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            return end.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return said
