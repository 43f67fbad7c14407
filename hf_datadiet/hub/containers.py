"""Image files without what tells of people, places and machines, every pixel as it was.

JPEG, PNG, GIF and WebP files are lists of labelled pieces. Those that make the picture, or change its colours, its transparency or its
movement, stay byte for byte; all others go, known or not: EXIF, XMP, IPTC, comments, texts, times, thumbnails, and what stands behind
the end of the picture. The pixels are not encoded anew. Other formats cannot be taken apart so: they pass if they tell nothing.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any

from PIL import ExifTags
from PIL import Image as Pillow

ORIENTATION = ExifTags.Base.Orientation

CORRUPT = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError),
    *(struct.error, zlib.error, Pillow.DecompressionBombError),
)
"""What Pillow raises for bytes that are no image, or one with EXIF that is none."""


class UnreadableError(Exception):
    """Bytes that are no image, or one that is cut off or damaged."""


class TellingError(Exception):
    """An image with metadata that cannot be removed without encoding its pixels anew."""


def without_metadata(content: bytes) -> bytes:
    """The image file without metadata; exactly `content` if it has none.

    An image that EXIF or XMP turns is still turned: it gets an EXIF that holds only the orientation. `UnreadableError` for what is no
    image, `TellingError` for a format whose metadata cannot be removed and that has some.
    """
    try:
        with Pillow.open(BytesIO(content)) as image:
            form = image.format or ""
            if form not in TAKE_APART:
                _require_silent(image, form, content)
                return content
            bare = TAKE_APART[form](content, b"")
            if bare == content:
                return content
            # As datasets finds it, which also looks into XMP and into texts.
            turned: Any = image.getexif().get(ORIENTATION)
            if turned not in range(2, 9):
                return bare
            exif = Pillow.Exif()
            exif[ORIENTATION] = int(turned)
            return TAKE_APART[form](content, exif.tobytes())
    except CORRUPT as error:
        reason = str(error).partition(" <")[0] if str(error) else type(error).__name__
        raise UnreadableError(reason) from error


# JPEG: segments of a marker, a length and a payload; after a start of scan come coded data until the next marker

MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
AFTER_SCAN = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
"""Restart markers (d0 to d7) belong to the coded data."""

END_OF_IMAGE, START_OF_SCAN, RESTARTS = 0xD9, 0xDA, range(0xD0, 0xD8)
CODING = {*range(0xC0, 0xD0), *range(0xDA, 0xE0)}
"""Frames, scans and their tables."""


def _jpeg(content: bytes, exif: bytes) -> bytes:
    pieces, at, scanned = [content[:2]], 2, False
    if exif:
        pieces.append(b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif)
    while found := (AFTER_SCAN if scanned else MARKER).search(content, at):
        if scanned:
            pieces.append(content[at : found.start()])
        # What stands between segments is passed over by decoders.
        marker, at, scanned = found[1][0], found.end(), False
        if marker == END_OF_IMAGE:
            return b"".join([*pieces, found[0]])
        if marker in RESTARTS:
            continue
        end = at + int.from_bytes(content[at : at + 2], "big")
        if end < at + 2 or end > len(content):
            raise ValueError("JPEG file is cut off")
        if marker in CODING:
            pieces.append(content[found.start() : end])
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            pieces.append(_application(content[found.start() : at], content[at + 2 : end]))
        else:
            raise ValueError(f"JPEG file has an unknown marker {marker:#x}")
        at, scanned = end, marker == START_OF_SCAN
    raise ValueError("JPEG file is cut off")


def _application(marker: bytes, payload: bytes) -> bytes:
    """What stays of an application segment or comment: size and colours, but no thumbnail, which may show what was cut away."""
    if marker.endswith(b"\xe0") and payload.startswith(b"JFIF\0"):
        payload = payload if len(payload) <= 14 else payload[:12] + b"\0\0"
    elif marker.endswith(b"\xee") and payload.startswith(b"Adobe"):
        payload = payload[:12]
    elif not (marker.endswith(b"\xe2") and payload.startswith(b"ICC_PROFILE\0")):
        return b""
    return marker + (len(payload) + 2).to_bytes(2, "big") + payload


# PNG: chunks of a length, a kind, data and a checksum

PNG_STAYS = {
    *(b"IHDR", b"PLTE", b"IDAT", b"IEND"),
    *(b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"bKGD", b"hIST", b"pHYs", b"cICP", b"mDCV", b"cLLI"),
    *(b"acTL", b"fcTL", b"fdAT"),
}


def _png(content: bytes, exif: bytes) -> bytes:
    pieces, at = [content[:8]], 8
    while at < len(content):
        kind, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4], "big")
        if end > len(content) or (len(pieces) == 1) != (kind == b"IHDR"):
            raise ValueError("PNG file is cut off")
        if kind in PNG_STAYS:
            pieces.append(content[at:end])
        elif not kind[0] & 0x20:
            raise ValueError(f"PNG file has an unknown critical chunk {kind!r}")
        at = end
        if kind == b"IEND":
            break
    if exif:
        data = b"eXIf" + exif.removeprefix(b"Exif\0\0")
        pieces.insert(2, (len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big"))
    return b"".join(pieces)


# GIF: a screen with its palette, then extensions and images, each a list of blocks

GIF_STAYS = {b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"}
"""Applications whose extensions say how often to repeat, and the colours."""

EXTENSION, IMAGE, TRAILER = b"!", b",", b";"


def _gif(content: bytes, exif: bytes) -> bytes:
    if exif:
        raise ValueError("GIF has no place for an orientation")
    at = 13 + _palette(content[10])
    pieces = [content[:at]]
    while at < len(content):
        kind = content[at : at + 1]
        if kind == TRAILER:
            return b"".join([*pieces, TRAILER])
        if kind == EXTENSION:
            end = _after_blocks(content, at + 2)
            stays = content[at + 1] == 0xF9 or (content[at + 1] == 0xFF and content[at + 3 : at + 14] in GIF_STAYS)
        elif kind == IMAGE:
            end = _after_blocks(content, at + 11 + _palette(content[at + 9]))
            stays = True
        else:
            raise ValueError("GIF file is damaged")
        if stays:
            pieces.append(content[at:end])
        at = end
    return b"".join(pieces)


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(content: bytes, at: int) -> int:
    while content[at]:
        at += content[at] + 1
    return at + 1


# WebP: RIFF chunks of a kind, a length and data, filled up to an even length

WEBP_STAYS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP"}
HAS_EXIF, HAS_XMP = 0x08, 0x04


def _webp(content: bytes, exif: bytes) -> bytes:
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise ValueError("WebP file is cut off")
    pieces = [_frame(piece) if piece.startswith(b"ANMF") else piece for piece in _riff(content[12:end])]
    if pieces[0].startswith(b"VP8X"):
        flags = pieces[0][8] & ~(HAS_EXIF | HAS_XMP) | (HAS_EXIF if exif else 0)
        pieces[0] = pieces[0][:8] + bytes([flags]) + pieces[0][9:]
    elif exif:
        raise ValueError("a simple WebP file has no place for an orientation")
    body = b"".join(pieces)
    if exif:
        body += b"\0" * (len(body) % 2) + _chunk(b"EXIF", exif.removeprefix(b"Exif\0\0"))
    return b"RIFF" + (len(body) + 4).to_bytes(4, "little") + b"WEBP" + body


def _frame(piece: bytes) -> bytes:
    """A frame of an animation: 16 bytes, then chunks of its own."""
    end = 8 + int.from_bytes(piece[4:8], "little")
    stays = piece[8:24] + b"".join(_riff(piece[24:end]))
    return piece if len(stays) == end - 8 else _chunk(b"ANMF", stays)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + len(data).to_bytes(4, "little") + data + b"\0" * (len(data) % 2)


def _riff(data: bytes) -> Iterator[bytes]:
    """The chunks that stay."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > len(data):
            raise ValueError("WebP file is cut off")
        end = at + 8 + size + size % 2
        if data[at : at + 4] in WEBP_STAYS:
            yield data[at:end]
        at = end


TAKE_APART: dict[str, Callable[[bytes, bytes], bytes]] = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif, "WEBP": _webp}
"""By Pillow's name of the format: (file, EXIF to put in) -> file without other metadata; ValueError or IndexError if it is malformed."""


# Other formats

TIFF_STAYS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 282, 283, 284, 292, 293, 296, 301, 317, 318, 319, 320),
    *(322, 323, 324, 325, 332, 334, 336, 338, 339, 340, 341, 347, 529, 530, 531, 532, 34675),
}
"""Tags that say how the pixels lie and what their numbers mean."""

PLAIN_PPM = re.compile(rb"P4\s+\d+\s+\d+\s|P[56]\s+\d+\s+\d+\s+\d+\s")
"""A header without comments."""


def _require_silent(image: Pillow.Image, form: str, content: bytes) -> None:
    if form == "TIFF":
        tells = any(set(tags) - TIFF_STAYS for tags in _directories(image))
    elif form in ("AVIF", "HEIF"):
        tells = bool(set(image.getexif()) - {ORIENTATION} or image.info.get("xmp"))
    elif form == "PPM":
        tells = PLAIN_PPM.match(content) is None
    elif form in ("BMP", "QOI"):
        tells = False
    else:
        raise TellingError(f"{form} file, which may have metadata that cannot be removed")
    if tells:
        raise TellingError(f"{form} file with metadata that cannot be removed")


def _directories(image: Any) -> Iterator[Iterable[int]]:
    """The tags of each picture in a TIFF file."""
    for frame in range(image.n_frames):
        image.seek(frame)
        yield image.tag_v2
