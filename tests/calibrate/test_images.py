"""Pictures as cameras, scanners and browsers leave them become what a network takes, or are refused with the reason."""

import warnings

import numpy as np
import pytest
from PIL import Image

from offramp.calibrate import load_samples
from offramp.errors import DataError, MissingError
from offramp.tests.helpers.manifests import COLOURED, GREY

RAMP = np.linspace(0, 1, 24).reshape(4, 6)
"""A picture that differs in every pixel, from black to white."""


def load_one(path, manifest, *, note=None):
    """Return the only sample in a file, and see that what is noted is this."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x, y = load_samples(path, manifest)
    assert y is None and len(x) == 1
    said = [str(warning.message) for warning in caught]
    assert (note is None and not said) or (note is not None and len(said) == 1 and note in said[0]), said
    return x[0]


def grey16(kind):
    values = np.round(RAMP * 65535).astype(np.uint16)
    if kind == "a PGM whose largest value is 1023":
        return b"P5 6 4 1023\n" + np.round(RAMP * 1023).astype(">u2").tobytes(), ".pgm"
    if kind == "PGM":
        return b"P5 6 4 65535\n" + values.astype(">u2").tobytes(), ".pgm"
    return Image.fromarray(values), ".png" if kind == "PNG" else ".tif"


def test_what_was_done_to_several_pictures_is_said_of_several(tmp_path):
    for name in ("a.png", "b.png"):
        grey16("PNG")[0].save(tmp_path / name)
    with pytest.warns(UserWarning, match="of 2 images 2 have 16 bits, which were scaled to 8"):
        load_samples(tmp_path, GREY)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM", "a PGM whose largest value is 1023"])
def test_grey_of_16_bits_is_scaled(tmp_path, kind):
    content, suffix = grey16(kind)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else content.save(path)
    x = load_one(path, GREY, note="1 has 16 bits, which were scaled to 8")
    assert np.abs(x[0] - RAMP * 255).max() <= 1
    assert x.min() == 0 and x.max() == 255


def test_grey_of_16_bits_whose_0_is_white_is_inverted(tmp_path):
    Image.fromarray(np.round(RAMP * 65535).astype(np.uint16)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as image:
        assert image.tag_v2[262] == 0  # so that this is such a picture
    assert np.abs(load_one(tmp_path / "a.tif", GREY, note="16 bits")[0] - (1 - RAMP) * 255).max() <= 1


@pytest.mark.parametrize(("dtype", "words"), [(np.float32, "floats"), (np.int32, "signed or of 32 bits")])
def test_pixels_without_a_known_range_are_refused(tmp_path, dtype, words):
    Image.fromarray((RAMP * 100).astype(dtype)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=f"its pixels are {words}, whose range is not known; save it with 8 or 16 bits"):
        load_samples(tmp_path / "a.tif", GREY)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_pictures_are_upright(tmp_path, orientation, suffix):
    # As it lies in the file, the picture is turned; this is where each orientation has the corner that should be the upper left.
    upright = np.zeros((40, 60), np.uint8)
    upright[:20, :30] = 255
    back = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose}
    back |= {6: lambda a: np.rot90(a, 1), 7: lambda a: np.rot90(a, 2).T, 8: lambda a: np.rot90(a, -1)}
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(back[orientation](upright))).save(tmp_path / f"a{suffix}", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = load_samples(tmp_path / f"a{suffix}", GREY)[0][0, 0]
    assert x[0, 0] > 200 and x[0, 5] < 60 and x[3, 0] < 60 and x[3, 5] < 60


def half_transparent(mode):
    image = Image.new("RGBA", (6, 4), (200, 0, 0, 255))
    image.paste((0, 200, 0, 0), (3, 0, 6, 4))
    if mode == "P":
        image = image.quantize(4)
    if mode == "LA":
        image = image.convert("LA")
    if mode == "tRNS":
        image = Image.new("RGB", (6, 4), (200, 0, 0))
        image.paste((0, 200, 0), (3, 0, 6, 4))
        image.info["transparency"] = (0, 200, 0)
    return image


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "tRNS"])
def test_what_is_transparent_is_white(tmp_path, mode):
    half_transparent(mode).save(tmp_path / "a.png")
    x = load_one(tmp_path / "a.png", COLOURED, note="1 is partly transparent and was laid on white")
    assert np.allclose(x[:, :, 4:], 1, atol=0.02) and x[1, 0, 0] < 0.5


def test_what_is_opaque_is_left_as_it_is(tmp_path):
    Image.new("RGBA", (6, 4), (200, 0, 51, 255)).save(tmp_path / "a.png")
    assert np.allclose(load_one(tmp_path / "a.png", COLOURED)[:, 0, 0], [200 / 255, 0, 0.2])


@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "L", "YCbCr"])
def test_other_colours_are_converted(tmp_path, mode):
    Image.new("RGB", (6, 4), "white").convert(mode).save(tmp_path / "a.tif")
    assert np.allclose(load_one(tmp_path / "a.tif", COLOURED), 1, atol=0.02)
    assert load_one(tmp_path / "a.tif", GREY).min() > 250


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_of_several_frames_the_first_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("white", "black", "red")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    x = load_one(tmp_path / f"a{suffix}", COLOURED, note="1 has several frames, of which the first counts")
    assert np.allclose(x, 1, atol=0.02)


def damage(path, kind):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>not found</html>")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp", ".tif", ".bmp", ".pgm"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "is not a readable image: "),
        ("empty", "image: it is empty"),
        ("text", "Pillow knows no format like it"),
    ],
)
def test_a_damaged_picture_is_named_with_the_reason(tmp_path, suffix, kind, words):
    path = tmp_path / f"a{suffix}"
    damage(path, kind)
    with pytest.raises(DataError, match=words) as caught:
        load_samples(path, COLOURED)
    assert caught.value.path == path


def test_several_damaged_pictures_are_named_at_once(tmp_path):
    for name in "abc":
        damage(tmp_path / f"{name}.png", "empty" if name != "b" else "none")
    with pytest.raises(DataError, match=r"a\.png is not .*empty\. .*c\.png is not .*empty\.$"):
        load_samples(tmp_path, COLOURED)


def test_memory_that_is_full_while_a_picture_is_read_is_no_damage(tmp_path, monkeypatch):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", fail)
    with pytest.raises(MissingError, match="do not fit into memory") as caught:
        load_samples(tmp_path / "a.png", COLOURED)
    assert caught.value.exit_code == 4


def test_a_preview_beside_a_cameras_picture_is_no_frame(tmp_path):
    big, small = Image.new("RGB", (60, 40), "white"), Image.new("RGB", (6, 4), "black")
    big.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[small])
    assert np.allclose(load_one(tmp_path / "a.jpg", COLOURED), 1, atol=0.02)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\xff" + b"\xff" * 40, b"no EXIF"])
def test_damaged_exif_turns_nothing(tmp_path, exif):
    Image.new("RGB", (6, 4), "white").save(tmp_path / "a.jpg", exif=exif)
    # What Pillow warns of is said with the file's name.
    note = f"1 made Pillow warn. {tmp_path}/a.jpg: Corrupt EXIF data" if len(exif) > 10 else None
    assert np.allclose(load_one(tmp_path / "a.jpg", COLOURED, note=note), 1, atol=0.02)
