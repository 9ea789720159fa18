"""Pictures, decoded and resized into a network's input."""

import io
import stat
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Manifest, Preprocess, Tensor
from ..errors import DataError, require
from ..progress import Progress, no_progress
from .sample_memory import make_array

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".avif", ".jp2"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)

STRETCH_ONLY = Preprocess(mean=(0.0,), std=(1.0,))
"""Default for bundles without preprocessing: images are stretched to the size, by bilinear interpolation."""

ORIENTATION, BITS, PHOTOMETRIC, WHITE_IS_ZERO = 274, 258, 262, 0
"""Tags of EXIF and TIFF, and the value of a photometric interpretation in which 0 is white."""

UPRIGHT = {
    **{2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"},
    **{6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"},
}
"""By EXIF orientation, what turns the picture upright."""

PLURALS = {"has": "have", "is": "are", "was": "were", "its": "their"}
"""Words that change where a change was made to several pictures."""

NAMED_FAULTS = 5
"""Pictures that cannot be read and are named in a message; reading ends after as many."""


class ImageReader:
    """Turns pictures into a network's input, and counts what it did to them besides resizing.

    Args:
        manifest: of the bundle that the pictures are for.

    Attributes:
        shape, dtype: of one sample: (channel, height, width) or (height, width, channel), in the network's dtype; uint8 if the
            bundle preprocesses.

    Raises:
        DataError: the network does not take images of 1 or 3 channels and a fixed size.
        MissingError: Pillow is not installed.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._pil = require("PIL.Image", extra="calibrate")
        self._channels, self._height, self._width, self._channels_first = find_layout(manifest.inputs)
        self._preprocess = manifest.preprocess or STRETCH_ONLY
        size = self._height, self._width
        self.shape = (self._channels, *size) if self._channels_first else (*size, self._channels)
        self.dtype = np.dtype(manifest.inputs[0].dtype)
        if self.dtype.kind != "f" and self.dtype != np.uint8:
            raise DataError(f"The network takes {self.dtype}, which no image is scaled to: give arrays (.npz).")
        self._changes = Counter[str]()
        self._remark = ""
        self._count = 0

    def read(self, file: Path) -> np.ndarray:
        """Return the picture in a file as one sample.

        Raises:
            DataError: the file is not a picture that can be read.
            OSError: the file may not be read.
        """
        try:
            state = file.stat()
            if not stat.S_ISREG(state.st_mode):
                raise ValueError("it is no regular file")
            if state.st_size == 0:
                raise ValueError("it is empty")
            with warnings.catch_warnings(record=True) as remarks:
                warnings.simplefilter("always")
                # By name Pillow misreads TIFFs that lie on a side.
                with file.open("rb") as stream, self._pil.open(stream) as image:
                    pixels = self.convert(image)
            if remarks:
                self._changes["made Pillow warn"] += 1
                self._remark = self._remark or f" {file}: {remarks[0].message}"
            return pixels
        except MemoryError:
            raise
        except Exception as error:  # a damaged picture raises one of a dozen types
            if isinstance(error, OSError) and error.errno is not None:
                raise
            known = not isinstance(error, self._pil.UnidentifiedImageError)
            reason = str(error) if known else "Pillow knows no format like it"
            raise DataError(f"{file} is not a readable image: {reason}.", path=file) from error

    def decode(self, content: bytes | None, path: object) -> np.ndarray:
        """Return a picture as one sample, from the content of its file or, if that is None, from its path.

        Raises:
            ValueError, OSError: it is not a picture that can be read.
        """
        if content is None:
            return self.read(Path(str(path)))
        try:
            with self._pil.open(io.BytesIO(content)) as image:
                return self.convert(image)
        except self._pil.UnidentifiedImageError:
            raise ValueError("Pillow knows no format like it") from None

    def convert(self, image: "Image") -> np.ndarray:
        """Return a picture as one sample: 8 bits, its first frame, upright, transparent parts on white, resized.

        Raises:
            ValueError: the picture's pixels have no known range, or no known colours.
        """
        mode = "L" if self._channels == 1 else "RGB"
        image.load()
        changes = ["has several frames, of which the first counts"] if _count_frames(image) > 1 else []
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            image, original = to_eight_bits(image), image
            changes.append("has 16 bits, which were scaled to 8")
        else:
            original = image
        orientation = _read_orientation(original)
        if orientation in UPRIGHT:
            image = image.transpose(self._pil.Transpose[UPRIGHT[orientation]])
            changes.append("was turned upright, as its EXIF says")
        if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
            image = image.convert("RGBA")
            if image.getchannel("A").histogram()[255] < image.width * image.height:
                image = self._pil.alpha_composite(self._pil.new("RGBA", image.size, "white"), image)
                changes.append("is partly transparent and was laid on white")
        small = resize(image.convert(mode), self._width, self._height, self._preprocess)
        self._changes.update(changes)
        self._count += 1
        pixels = np.asarray(small).reshape(self._height, self._width, self._channels)
        pixels = pixels.transpose(2, 0, 1) if self._channels_first else pixels
        return pixels if self.dtype == np.uint8 else pixels.astype(self.dtype) / self.dtype.type(255)

    def warn(self, source: object) -> None:
        """Say in one line what was done to pictures besides resizing, if anything was."""
        if self._changes:
            parts = [
                f"{count} {change if count == 1 else ' '.join(PLURALS.get(word, word) for word in change.split())}"
                for change, count in self._changes.items()
            ]
            warnings.warn(f"{source}: of {self._count} images {'; '.join(parts)}.{self._remark}", stacklevel=1)


def load_images(
    files: Sequence[Path], manifest: Manifest, *, source: object = "Images", progress: Progress = no_progress
) -> np.ndarray:
    """Decode images and resize them as the bundle's preprocessing says.

    Args:
        files: the images.
        manifest: of the bundle that they are for.
        source: where they come from, for a note.
        progress: is told of each image.

    Returns:
        uint8 (N, height, width, channel) if the bundle preprocesses. Otherwise the network's own layout, (N, channel, height,
        width) or (N, height, width, channel); for float inputs pixels are scaled to 0..1, and nothing else is done to them.

    Raises:
        DataError: the network does not take images of 1 or 3 channels and a fixed size, or a file is not a readable image.
        MissingError: Pillow is not installed.
        OSError: a file may not be read.
    """
    reader = ImageReader(manifest)
    x = make_array((len(files), *reader.shape), reader.dtype)
    faults: list[DataError] = []
    for i, file in enumerate(files):
        try:
            x[i] = reader.read(file)
        except DataError as error:
            faults.append(error)
            if len(faults) == NAMED_FAULTS:
                break
        progress("loading samples", i + 1, len(files))
    if faults:
        others = "".join(f" {error}" for error in faults[1:])
        raise DataError(f"{faults[0]}{others}", path=faults[0].path) from faults[0]
    reader.warn(source)
    return x


def to_eight_bits(image: "Image") -> "Image":
    """Return a grey picture of 16 bits as one of 8 bits.

    Raises:
        ValueError: the pixels are floats or have 32 bits, whose range no file states.
    """
    from PIL import Image

    tags = getattr(image, "tag_v2", {})
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # whose `I` holds 0 to 65535
        kind = "floats" if image.mode == "F" else "signed or of 32 bits"
        raise ValueError(f"its pixels are {kind}, whose range is not known; save it with 8 or 16 bits, or give arrays")
    largest = 2 ** int(tags.get(BITS, (16,))[0]) - 1
    values = np.asarray(image).astype(np.float32) * np.float32(255 / largest)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = 255 - values
    return Image.fromarray(np.round(values).astype(np.uint8))


def _count_frames(image: "Image") -> int:
    """Return how many frames or pages a picture has. The further pictures in a camera's JPEG are previews, no frames."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except Exception:  # a later frame is damaged: the first one was read
        return 2


def _read_orientation(image: "Image") -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF raises one of a dozen types, and says nothing about the pixels
        return 1


def resize(image: "Image", width: int, height: int, preprocess: Preprocess) -> "Image":
    """Return an image of a given size: stretched, its middle cut out, or padded with black."""
    from PIL import Image

    resample: Any = Image.Resampling[preprocess.interpolation.upper()]
    if preprocess.resize == "stretch":
        return image.resize((width, height), resample)
    if preprocess.resize == "crop":
        # As torchvision's Resize and CenterCrop do: one side fits exactly, the other is rounded down.
        wide, high = round(width / preprocess.crop), round(height / preprocess.crop)
        if wide * image.height >= high * image.width:
            high = max(height, wide * image.height // image.width)
        else:
            wide = max(width, high * image.width // image.height)
        resized = image.resize((wide, high), resample)
        left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
        return resized.crop((left, top, left + width, top + height))
    scale = min(width / image.width, height / image.height)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
    padded = Image.new(image.mode, (width, height))
    padded.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return padded


def find_layout(inputs: Sequence[Tensor]) -> tuple[int, int, int, bool]:
    """Return channels, height, width, and whether the channels come first.

    Raises:
        DataError: the network takes no images of 1 or 3 channels and a fixed size.
    """
    shape = inputs[0].shape[1:]
    if (
        len(inputs) == 1
        and inputs[0].shape[0] is None
        and len(shape) == 3
        and all(isinstance(axis, int) for axis in shape)
    ):
        sizes = [int(axis) for axis in shape if axis is not None]
        if sizes[0] in (1, 3):
            return sizes[0], sizes[1], sizes[2], True
        if sizes[2] in (1, 3):
            return sizes[2], sizes[0], sizes[1], False
    if len(inputs) == 1 and not inputs[0].is_sized:
        raise DataError(f"The network takes images of any size, {shape}: give arrays (.npz) of the size you want.")
    takes = ", ".join(str(shape if len(inputs) == 1 else tensor.shape) for tensor in inputs)
    raise DataError(
        f"The network takes samples of shape {takes}, which are no images with 1 or 3 channels: give arrays (.npz)."
    )
