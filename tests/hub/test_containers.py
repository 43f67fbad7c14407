from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from datasets import Image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, ImageCms, PngImagePlugin, features
from PIL import Image as Pillow

from hf_datadiet.hub.containers import TellingError, UnreadableError, without_metadata

SECRET = "Ada.Lovelace@enigma"
ORIENTATION = 0x0112
PIXELS = np.random.default_rng(0).integers(0, 256, (11, 17, 4)).astype(np.uint8)
PICTURE = Pillow.fromarray(PIXELS[..., :3])
OTHER = Pillow.fromarray(PIXELS[::-1, ::-1, :3].copy())
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def saved(form: str, image: Pillow.Image = PICTURE, **options: Any) -> bytes:
    file = io.BytesIO()
    image.copy().save(file, form, **options)  # Pillow keeps options of one save for the next
    return file.getvalue()


KINDS: dict[str, tuple[str, Pillow.Image, dict[str, Any]]] = {
    "jpeg": ("JPEG", PICTURE, {"quality": 80}),
    "jpeg, progressive": ("JPEG", PICTURE, {"progressive": True}),
    "jpeg, restarts": ("JPEG", PICTURE, {"restart_marker_blocks": 1}),
    "jpeg, grey": ("JPEG", PICTURE.convert("L"), {}),
    "jpeg, cmyk": ("JPEG", PICTURE.convert("CMYK"), {}),
    "png": ("PNG", PICTURE, {}),
    "png, alpha": ("PNG", Pillow.fromarray(PIXELS), {}),
    "png, palette": ("PNG", PICTURE.convert("P"), {"transparency": 3}),
    "png, 16 bits": ("PNG", Pillow.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), {}),
    "png, moving": ("PNG", PICTURE, {"save_all": True, "append_images": [OTHER], "duration": 70, "loop": 3}),
    "gif": ("GIF", PICTURE, {}),
    "gif, moving": ("GIF", PICTURE, {"save_all": True, "append_images": [OTHER], "duration": 70, "loop": 3, "transparency": 5}),
    "webp": ("WEBP", PICTURE, {}),
    "webp, alpha": ("WEBP", Pillow.fromarray(PIXELS), {}),
    "webp, lossless": ("WEBP", Pillow.fromarray(PIXELS), {"lossless": True}),
    "webp, moving": ("WEBP", PICTURE, {"save_all": True, "append_images": [OTHER], "duration": 70, "loop": 3}),
}


def decoded(content: bytes) -> tuple[Any, ...]:
    """As datasets decodes it, which turns it as EXIF or XMP says."""
    image = Image().decode_example({"bytes": content, "path": None})
    return image.mode, image.size, image.convert("RGBA").tobytes(), np.asarray(image).tobytes()


def frames(content: bytes) -> list[Any]:
    """Every picture of a file, how long it is shown, and what changes how it looks."""
    found: list[Any] = []
    with Pillow.open(io.BytesIO(content)) as image:
        for frame in range(getattr(image, "n_frames", 1)):
            image.seek(frame)
            image.load()
            look = ["icc_profile", "gamma", "transparency", "jfif_density", "adobe_transform", "loop", "duration", "background"]
            look += ["dpi"] if image.format == "PNG" else []  # elsewhere Pillow takes it from EXIF
            found.append((image.convert("RGBA").tobytes(), [image.info.get(key) for key in look]))
    return found


def told(content: bytes) -> set[Any]:
    """What Pillow finds of metadata."""
    with Pillow.open(io.BytesIO(content)) as image:
        image.load()
        tags = set(image.getexif()) | set(image.getexif().get_ifd(ExifTags.IFD.GPSInfo)) | set(image.getexif().get_ifd(ExifTags.IFD.Exif))
        texts = {
            key for key, value in image.info.items() if isinstance(value, str) or (isinstance(value, bytes) and SECRET.encode() in value)
        }
        known = {"exif", "xmp", "XML:com.adobe.xmp", "comment", "photoshop", "mp", "flashpix"} & set(image.info)
        names = {name for name, _ in getattr(image, "applist", [])} - {"APP0", "APP2", "APP14"}
    return (tags | texts | known | names) - ({ORIENTATION, "exif", "APP1"} if ORIENTATION in tags else set())


def exif(orientation: int | None = None, **tags: Any) -> Pillow.Exif:
    made = Pillow.Exif()
    made[ExifTags.Base.Artist] = SECRET
    made[ExifTags.Base.HostComputer] = SECRET
    made.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    made.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (51.0, 30.0, 26.0)
    made.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = SECRET.encode()
    if orientation is not None:
        made[ORIENTATION] = orientation
    return made


def xmp(orientation: int | None = None) -> bytes:
    turned = "" if orientation is None else f' tiff:Orientation="{orientation}"'
    return f'<x:xmpmeta><rdf:Description dc:creator="{SECRET}"{turned}/></x:xmpmeta>'.encode()


def texts(orientation: int | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET)
    info.add_text("Comment", SECRET * 9, zip=True)
    info.add_itxt("XML:com.adobe.xmp", xmp(orientation).decode())
    return info


# What goes and what stays


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_metadata_keeps_its_bytes(kind: str) -> None:
    form, image, options = KINDS[kind]
    dressed = {"icc_profile": PROFILE, "dpi": (300, 300)} if form in ("JPEG", "PNG", "WEBP") else {}
    for content in (saved(form, image, **options), saved(form, image, **options, **dressed)):
        assert without_metadata(content) is content


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    orientation=st.none() | st.integers(0, 9),
    places=st.sets(st.sampled_from(["exif", "xmp", "text"])),
    dressed=st.booleans(),
)
def test_metadata_goes_and_the_picture_stays(kind: str, orientation: int | None, places: set[str], dressed: bool) -> None:
    form, image, options = KINDS[kind]
    options = dict(options)
    if "exif" in places and form != "GIF":
        options["exif"] = exif(orientation)
    if "xmp" in places and form in ("JPEG", "WEBP"):
        options["xmp"] = xmp(orientation)
    if "text" in places and form == "PNG":
        options["pnginfo"] = texts(orientation)
    if "text" in places and form in ("JPEG", "GIF"):
        options["comment"] = SECRET.encode()
    if dressed and form in ("JPEG", "PNG", "WEBP"):
        options |= {"icc_profile": PROFILE, "dpi": (300, 300)}
    content = saved(form, image, **options)
    bare = without_metadata(content)
    assert SECRET.encode() not in bare and told(bare) == set()
    assert decoded(bare) == decoded(content) and frames(bare) == frames(content)
    assert without_metadata(bare) == bare and len(bare) <= len(content) + 50
    if not told(content):
        assert bare == content


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_picture_that_was_turned_stays_turned(kind: str) -> None:
    form, image, options = KINDS[kind]
    upright = decoded(saved(form, image, **options))
    seen = set()
    for orientation in range(1, 9):
        for content in (saved(form, image, **options, exif=exif(orientation)), saved(form, image, **options, xmp=xmp(orientation))):
            if form == "PNG" and b"eXIf" not in content:
                continue
            bare = without_metadata(content)
            assert decoded(bare) == decoded(content)
            with Pillow.open(io.BytesIO(bare)) as bared:
                assert dict(bared.getexif()) == ({} if orientation == 1 else {ORIENTATION: orientation})
            seen.add(decoded(bare))
    assert len(seen) == 8 and upright in seen


# Places that Pillow does not write to


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


IPTC = (
    b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", 5 + len(SECRET)) + b"\x1c\x02\x50\0" + bytes([len(SECRET)]) + SECRET.encode()
)
THUMBNAIL = b"JFIF\0\x01\x02\0\0\x01\0\x01\x01\x02" + SECRET[:6].encode()
SEGMENTS = {
    "extended XMP": segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + SECRET.encode()),
    "IPTC": segment(0xED, IPTC),
    "second EXIF": segment(0xE1, exif(3).tobytes()),
    "FlashPix": segment(0xE2, b"FPXR\0" + SECRET.encode()),
    "multi-picture": segment(0xE2, b"MPF\0" + SECRET.encode()),
    "JUMBF": segment(0xEB, b"JP" + SECRET.encode()),
    "Ducky": segment(0xEC, b"Ducky" + SECRET.encode()),
    "JFIF extension": segment(0xE0, b"JFXX\0\x10" + SECRET.encode()),
    "a maker's own": segment(0xE5, SECRET.encode()),
    "comment": segment(0xFE, SECRET.encode()),
    "fill bytes and a comment": b"\xff\xff" + segment(0xFE, SECRET.encode()),
    "between segments": SECRET.encode(),
}


def between(content: bytes) -> list[int]:
    """Where a segment may stand: before each one of a JPEG file, also between the scans of a progressive one."""
    at, places = 2, []
    while content[at + 1] != 0xD9:
        places.append(at)
        marker, at = content[at + 1], at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        while marker == 0xDA and not (content[at] == 0xFF and content[at + 1] not in (0, *range(0xD0, 0xD8))):
            at += 1
    return [*places, at]


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("jpeg")])
def test_segments_of_a_jpeg(kind: str, name: str) -> None:
    form, image, options = KINDS[kind]
    content = saved(form, image, **options)
    places = between(content)
    assert len(places) >= 6, kind
    if name == "between segments":
        # Within coded data nobody can tell, and before the first segment it is no JPEG.
        places = places[1 : [content[place + 1] for place in places].index(0xDA) + 1]
    for place in places:
        planted = content[:place] + SEGMENTS[name] + content[place:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a malformed MPO
            before = decoded(planted)
            bare = without_metadata(planted)
        assert SECRET[:6].encode() not in bare and decoded(bare) == before
        assert len(bare) <= len(content) + (36 if name == "second EXIF" else 0)
        if name != "second EXIF":
            assert bare == content


def test_the_rest_of_a_jpeg() -> None:
    content = saved("JPEG")
    for behind in (b"\0\0\0\x18ftypmp42" + SECRET.encode(), saved("JPEG", exif=exif()), b"\0"):
        assert without_metadata(content + behind) == content, "a film or a second picture behind the end"
    jfif = content[2 : 2 + 18]
    assert jfif[4:9] == b"JFIF\0"
    planted = content[:2] + segment(0xE0, THUMBNAIL) + content[20:]
    bare = without_metadata(planted)
    assert SECRET[:6].encode() not in bare and decoded(bare) == decoded(content)
    with Pillow.open(io.BytesIO(bare)) as image:
        assert image.info["jfif_version"] == (1, 2) and image.info["jfif_density"] == (1, 1), "but for its thumbnail it stays"
    adobe = saved("JPEG", PICTURE.convert("CMYK"))
    at = adobe.index(b"Adobe")
    planted = adobe[: at - 4] + segment(0xEE, adobe[at : at + 12] + SECRET.encode()) + adobe[at + 12 :]
    assert without_metadata(planted) == adobe


def test_a_picture_with_a_gain_map() -> None:
    """Photographs of a wide range carry a second one behind the end, and say so in XMP and in a list of pictures."""
    content = saved("JPEG")
    with Pillow.open(io.BytesIO(saved("MPO", save_all=True, append_images=[OTHER]))) as both:
        pictures = both.info["mp"]
    marked = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0" by="%s"/>' % SECRET.encode()) + segment(
        0xE2, b"MPF\0" + pictures
    )
    planted = content[:20] + marked + content[20:] + saved("JPEG", OTHER)
    assert without_metadata(planted) == content
    with Pillow.open(io.BytesIO(without_metadata(planted))) as image:
        assert image.format == "JPEG"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("png")])
def test_chunks_of_a_png(kind: str) -> None:
    form, image, options = KINDS[kind]
    content = saved(form, image, **options)
    planted = {
        b"tIME": struct.pack(">HBBBBB", 2026, 11, 23, 1, 2, 3),
        b"eXIf": exif(6).tobytes()[6:],
        b"caBX": SECRET.encode(),
        b"prVt": SECRET.encode(),
        b"zTXt": b"Raw profile type iptc\0\0" + zlib.compress(SECRET.encode()),
    }
    for name, data in planted.items():
        for place in (content.index(b"IHDR") + 21, content.index(b"IDAT") - 4, content.index(b"IEND") - 4):
            added = content[:place] + chunk(name, data) + content[place:]
            bare = without_metadata(added)
            assert SECRET.encode() not in bare and name not in bare.replace(b"eXIf", b"", int(name == b"eXIf"))
            assert decoded(bare) == decoded(added) and frames(bare) == frames(content) and told(bare) == set()
            assert name == b"eXIf" or bare == content
    assert without_metadata(content + SECRET.encode()) == content, "behind the end"
    # Old programs keep EXIF as a text of hexadecimal digits, which Pillow turns an image by.
    digits = f"\nexif\n{len(exif(6).tobytes())}\n{exif(6).tobytes().hex()}\n".encode()
    place = content.index(b"IDAT") - 4
    old = content[:place] + chunk(b"tEXt", b"Raw profile type exif\0" + digits) + content[place:]
    assert decoded(without_metadata(old)) == decoded(old) != decoded(content) and b"Raw profile" not in without_metadata(old)


@pytest.mark.parametrize("kind", ["gif", "gif, moving"])
def test_extensions_of_a_gif(kind: str) -> None:
    form, image, options = KINDS[kind]
    content = saved(form, image, **options)
    magic = bytes([1, *range(255, -1, -1), 0])
    planted = {
        "XMP": b"\x21\xff\x0bXMP DataXMP" + xmp() + magic,
        "comment": b"\x21\xfe" + bytes([len(SECRET)]) + SECRET.encode() + b"\0",
        "plain text": b"\x21\x01\x0c" + bytes(12) + bytes([len(SECRET)]) + SECRET.encode() + b"\0",
        "program": b"\x21\xff\x0bMGK8BIM0000" + bytes([len(SECRET)]) + SECRET.encode() + b"\0",
    }
    first = 13 + (3 << (content[10] & 7) + 1)
    assert content[first : first + 1] in b"!,"
    for extension in planted.values():
        for place in (first, len(content) - 1):
            added = content[:place] + extension + content[place:]
            assert without_metadata(added) == content and decoded(added) == decoded(content)
    assert without_metadata(content + SECRET.encode()) == content


def riff(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def test_chunks_of_a_webp() -> None:
    def with_chunk(content: bytes, extra: bytes) -> bytes:
        return b"RIFF" + struct.pack("<I", len(content) - 8 + len(extra)) + content[8:] + extra

    for kind in ("webp", "webp, lossless", "webp, moving"):
        form, image, options = KINDS[kind]
        content = saved(form, image, **options)
        for name in (b"EXIF", b"XMP ", b"prVt"):
            assert without_metadata(with_chunk(content, riff(name, SECRET.encode()))) == content, "although no flag tells of it"
        assert without_metadata(content + SECRET.encode()) == content
    moving = saved(*KINDS["webp, moving"][:2], **KINDS["webp, moving"][2])
    at = moving.index(b"ANMF")
    size = struct.unpack("<I", moving[at + 4 : at + 8])[0]
    frame = riff(b"ANMF", moving[at + 8 : at + 8 + size] + riff(b"prVt", SECRET.encode()))
    rest = moving[at + 8 + size + size % 2 :]
    planted = moving[12:at] + frame + rest
    planted = b"RIFF" + struct.pack("<I", len(planted) + 4) + b"WEBP" + planted
    assert frames(planted) == frames(moving) and without_metadata(planted) == moving, "inside a frame"


# What cannot be taken apart


def test_other_formats_pass_if_they_tell_nothing() -> None:
    floats = Pillow.fromarray(PIXELS[..., 0].astype(np.float32))
    silent = [
        saved("TIFF"),
        saved("TIFF", floats),
        saved("TIFF", icc_profile=PROFILE, dpi=(300, 300)),
        saved("TIFF", compression="tiff_lzw"),
    ]
    silent += [
        saved("TIFF", save_all=True, append_images=[OTHER.copy()]),
        saved("BMP"),
        saved("QOI"),
        saved("PPM"),
        saved("PPM", PICTURE.convert("1")),
    ]
    if features.check("avif"):
        silent.append(saved("AVIF"))
    for content in silent:
        assert without_metadata(content) is content


def test_other_formats_that_tell_something_are_refused() -> None:
    telling = {
        "TIFF": [saved("TIFF", exif=exif()), saved("TIFF", tiffinfo={ExifTags.Base.ImageDescription: SECRET})],
        "PPM": [saved("PPM").replace(b"P6\n", b"P6\n# " + SECRET.encode() + b"\n", 1)],
        "MPO": [saved("MPO", save_all=True, append_images=[OTHER], exif=exif())],
        "JPEG2000": [saved("JPEG2000")],
        "ICO": [saved("ICO")],
        "TGA": [saved("TGA")],
    }
    if features.check("avif"):
        telling["AVIF"] = [saved("AVIF", exif=exif()), saved("AVIF", xmp=xmp())]
    for form, contents in telling.items():
        for content in contents:
            with pytest.raises(TellingError, match=form):
                without_metadata(content)
    second: Any = OTHER.copy()
    second.encoderinfo = {"tiffinfo": {ExifTags.Base.Artist: SECRET}}
    pages = saved("TIFF", save_all=True, append_images=[second])
    with Pillow.open(io.BytesIO(pages)) as image:
        assert ExifTags.Base.Artist not in image.getexif()
    with pytest.raises(TellingError, match="TIFF file with metadata"):
        without_metadata(pages)


@settings(max_examples=300)
@given(kind=st.sampled_from(sorted(KINDS)), data=st.data())
def test_damaged_files_are_named_or_harmless(kind: str, data: st.DataObject) -> None:
    """Whatever happens to a file: it is unreadable, or what can be decoded before and after is the same."""
    form, image, options = KINDS[kind]
    more: dict[str, Any] = {"comment": SECRET.encode()} if form == "GIF" else {"exif": exif(6)}
    content = bytearray(saved(form, image, **options, **more))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        change = data.draw(st.sampled_from(["byte", "cut", "insert", "remove"]))
        if change == "byte":
            content[at] = data.draw(st.sampled_from([0, 1, 0x21, 0x3B, 0xD9, 0xDA, 0xFE, 0xFF]))
        elif change == "cut" and at > 0:
            del content[at:]
        elif change == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=6))
        else:
            del content[at : at + data.draw(st.integers(1, 6))]
        if not content:
            return
    damaged = bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            before = decoded(damaged)
        except Exception:
            before = None
        try:
            bare = without_metadata(damaged)
        except (UnreadableError, TellingError):
            return
        if before is not None:
            assert decoded(bare) == before and without_metadata(bare) == bare


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8 ", b"\0" * 99]
)
def test_what_is_no_image(content: bytes) -> None:
    with pytest.raises(UnreadableError) as error:
        without_metadata(content)
    assert "\n" not in str(error.value) and "0x" not in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "16" not in kind])
def test_half_a_file(kind: str) -> None:
    form, image, options = KINDS[kind]
    content = saved(form, image, **options)
    for length in (len(content) // 2, len(content) - 3):
        if form == "GIF" and length > len(content) // 2:
            continue  # complete but for its last byte, as some programs leave it
        with pytest.raises(UnreadableError):
            without_metadata(content[:length])
