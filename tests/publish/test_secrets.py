"""A whole session of somebody with a name, a home and a token: none of them is in anything that was printed, written or sent."""

from __future__ import annotations

import io
import os
import re
import socket
import sys
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture

from tests.hub.server import LoopbackHub
from tests.publish import clients
from tests.publish.runs import CARD, IMAGES, images
from tests.synthetic import CLASSES

USER, HOST, CAMERA = "zaphodqx", "heartofgoldqx", "betelgeuseqx"
ROOT = Path(__file__).parents[2]
REPO = "me/toys-diet"


def texts(data: bytes) -> Iterator[bytes]:
    """`data`, and what can be read in it once it is unpacked: archives, tables, streams of PDF files, and pictures' chunks."""
    yield data
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from texts(archive.read(name))
    elif data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        yield repr((table.schema.metadata, table.schema)).encode()
        for column in table.columns:
            for value in column.to_pylist():
                yield from _values(value)
    elif data.startswith((b"%PDF", b"\x89PNG")):
        for found in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", data):
            unpacked = zlib.decompressobj()
            try:
                yield unpacked.decompress(data[found.start() :])
            except zlib.error:
                continue


def _values(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield from texts(value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _values(inner)
    elif value is not None:
        yield str(value).encode()


def found(words: dict[str, bytes], places: dict[str, bytes]) -> list[str]:
    """Which of the words is where."""
    return sorted(
        {f"{what} in {place}" for place, data in places.items() for text in texts(data) for what, word in words.items() if word in text}
    )


def test_the_search_finds() -> None:
    """In each of the forms in which something is written: otherwise it would find nothing, whatever is there."""
    words = {"user": USER.encode()}
    table, archive, pdf = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Dataset.from_dict({"a": [{"path": f"/home/{USER}/1.png"}]}).to_parquet(table)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("names.json", USER)
    pdf.write(b"%PDF-1.4\nstream\n" + zlib.compress(f"a picture by {USER}".encode()) + b"\nendstream")
    forms = {"parquet": table.getvalue(), "zip": archive.getvalue(), "pdf": pdf.getvalue(), "text": f"by {USER}.".encode()}
    assert found(words, forms) == sorted(f"user in {form}" for form in forms)
    assert not found({"user": b"someone else"}, forms)


def photographs(n: int, seed: int) -> Dataset:
    """The images of other tests, with the name of their photographer and the place of his camera; and where they lay on his disk."""
    plain, rows = images(n, seed).cast_column("image", Image(decode=False)), []
    for row, cell in enumerate(plain["image"]):
        exif, buffer = Picture.Exif(), io.BytesIO()
        exif[0x013B], exif[0x010F] = USER, CAMERA
        Picture.open(io.BytesIO(cell["bytes"])).save(buffer, "JPEG", exif=exif, comment=f"by {USER}".encode())
        rows.append({"bytes": buffer.getvalue(), "path": f"/home/{USER}/photographs/{row}.jpg"})
    columns = {"image": rows, "label": [row % len(CLASSES) for row in range(n)], "uid": [f"{seed}-{row}" for row in range(n)]}
    return Dataset.from_dict(columns, features=Features({"image": Image(), "label": ClassLabel(names=[*CLASSES]), "uid": Value("string")}))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user, with a finished run in its folder `work`, of a source there that is named as one names it at work."""
    home = tmp_path / f"home-of-{USER}"
    data = home / "work" / "source" / "data"
    data.mkdir(parents=True)
    (home / "work" / "source" / "README.md").write_text(CARD, encoding="utf-8")
    for split, rows in {"train": photographs(48, 1), "test": photographs(12, 2)}.items():
        rows.to_parquet(str(data / f"{split}-00000-of-00001.parquet"))
    asked = {**IMAGES, "source": {**IMAGES["source"], "path": "source"}, "evaluate": {"seeds": 2, "keep_weights": True}}
    (home / "work" / "mine.yaml").write_text(yaml.safe_dump(asked), encoding="utf-8")
    return home


def _as_the_user(home: Path, token: str, in_file: bool, started: Path) -> None:
    """The process becomes one of theirs. It writes down what it starts, as a list of processes would show it."""
    from huggingface_hub import constants

    os.environ |= {"HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST}
    os.chdir(home / "work")
    socket.gethostname = socket.getfqdn = lambda *_: HOST
    os.uname = lambda: os.uname_result(("Linux", HOST, "6", "1", "x86_64"))
    if in_file:
        # As `hf auth login` leaves it.
        del os.environ["HF_TOKEN"]
        (home / "token").write_text(token, encoding="utf-8")
        constants.HF_TOKEN_PATH = str(home / "token")
    starts = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system")
    file = started.open("a")
    sys.addaudithook(lambda event, arguments: event in starts and print(event, arguments[:2], file=file, flush=True))


class Session:
    """What one user does, one command after the other, each in a process of its own."""

    def __init__(self, hub: LoopbackHub, token: str, home: Path, outside: Path) -> None:
        self.hub, self.token, self.home, self.outside = hub, token, home, outside
        self.printed: dict[str, bytes] = {}

    def __call__(self, *words: str, code: int = 0, token: str | None = None, drawn: bool = False) -> str:
        """What `hf-datadiet WORDS` says; every second one finds its token in a file."""
        number, token = len(self.printed), token or self.token
        place = self.outside / str(number)
        place.mkdir(parents=True)
        begin = partial(_as_the_user, self.home, token, number % 2 == 1, self.outside / "started")
        client = clients.started(self.hub, token, place, *words, begin=begin, drawn=drawn)
        client.join()
        said = (place / "said").read_bytes()
        self.printed[f"what {number}, {' '.join(words)} said"] = said
        assert client.exitcode == code, said.decode()
        return said.decode()


def test_nothing_of_the_user_is_anywhere(home: Path, hub: LoopbackHub, tmp_path: Path) -> None:
    mine, reading = hub.user("me"), hub.user("me", writes=False)
    unknown = "hf_" + "unknownqx" * 4
    session = Session(hub, mine, home, tmp_path / "outside")
    session("run", "mine.yaml", "--out", "run")
    session("publish", "run", "--to", REPO)
    session("publish", "run", "--to", REPO, "--dry-run", "--format", "json")
    # What goes wrong, with a Hub that repeats what it was told.
    told = {"X-Error-Message": f"the token {mine} or {reading} of {mine} is bad"}
    assert "no right to write" in session("publish", "run", "--to", REPO, "--push", code=2, token=reading)
    session("publish", "run", "--to", REPO, "--push", code=2, token=unknown)
    hub.fail("POST", "/commit/", 403, times=1, headers=told)
    session("publish", "run", "--to", REPO, "--push", code=2)
    hub.fail("POST", "/commit/", 500, times=2, headers=told)
    hub.fail("PUT", "", None, times=1)
    session("publish", "run", "--to", REPO, "--push")
    session("publish", "run", "--to", REPO, "--push", "--push-models", "--examples", drawn=True)
    session("publish", "run", "--to", "me/ids", "--push", "--ids-only", "--public", "--i-may-share", "mit", "--out", "ids")
    hub.commit("me/other", {"README.md": b"# Other\n"}, access="private")
    session("publish", "run", "--to", "me/other", "--push", "--create-pr", "--out", "other", "--format", "json")
    session("verify", REPO, "source.path=source")
    session("verify", "run/published", "source.path=source", "--format", "json")
    session("verify", REPO)
    session("score", "--from-hub", REPO, "source.path=source", "--out", "again")
    session("prune", "again", "--name", "keep-10", "--score", "forgetting", "--keep", "0.1")
    session("publish", "again", "--to", REPO, "--push")
    session("report", "again")
    session("status", "again", "--format", "json")
    assert hub.tokens == {mine, reading, unknown}
    assert len(hub.repos) == 5 and hub.repo("me/other").pulls

    words = {
        **{f"token {number}": token.encode() for number, token in enumerate((mine, reading, unknown))},
        **{"user": USER.encode(), "host": HOST.encode(), "camera": CAMERA.encode()},
        **{"a path": str(tmp_path).encode(), "the code": str(ROOT).encode(), "Python": sys.prefix.encode()},
    }
    # A short name is part of many words.
    if len(host := socket.gethostname()) > 8 and host != "localhost":
        words["this host"] = host.encode()
    sent = {f"request {number}": data for number, data in enumerate(hub.sent)}
    there = {
        f"{name}: {path}": path.encode() + b"\n" + data
        for name, repo in hub.repos.items()
        for commit in repo.commits.values()
        for path, data in commit.files.items()
    }
    written = {
        str(path.relative_to(home)): path.read_bytes()
        for folder in ("run", "ids", "other", "again")
        for path in (home / "work" / folder).rglob("*")
        if path.is_file()
    }
    started = {"processes": (tmp_path / "outside" / "started").read_bytes()}
    for places in (sent, there, written, session.printed):
        assert len(places) > 15
    assert not found(words, session.printed | sent | there | written | started)
