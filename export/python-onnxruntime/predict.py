"""Class probabilities of images with an artifact of ttl-deploy: onnxruntime, numpy and pillow, and nothing else.

    python predict.py ARTIFACT IMAGE...

prints CSV equal to that of `ttl-deploy predict --format csv`. Everything is checked first: the manifest's version and
fields, the size and SHA-256 of every file. Exit codes: 0 done, 2 bad input (one line on stderr).
"""

import csv
import hashlib
import io
import json
import re
import sys
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnxruntime
from PIL import Image, UnidentifiedImageError

SCHEMA_VERSION = 4
MAX_PIXELS = 1024**3 // 4 // 3
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
PREPROCESS_FIELDS = {"crop", "high_bit_depth", "mean", "std"}
PNG = b"\x89PNG\r\n\x1a\n"
NPY = b"\x93NUMPY"
TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # EXIF orientation to Pillow's Transpose
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
QUIET = 4  # ONNX Runtime's log level for fatal errors only


class BadInput(Exception):
    """Something that the user gave cannot be used; the message is one line."""


def open_artifact(folder):
    """The manifest of an artifact of which every file is the recorded one."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        version, fields = manifest["schema_version"], set(manifest["preprocess"]) - {"image_size", "channels"}
        files, model_file, kind = manifest["files"], manifest["model_file"], manifest["format"]
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give the folder of an artifact") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path}: is not a manifest ({type(error).__name__}: {error})") from error
    if version > SCHEMA_VERSION or fields != PREPROCESS_FIELDS:
        raise BadInput(f"{path}: is of a newer ttl-deploy than this program; take the predict.py of that version")
    if kind != "onnx" or model_file not in files:
        raise BadInput(f"{path}: holds no ONNX model (format {kind}); export with --format onnx")
    for name, plain in (("input_type", "float32"), ("activation", "none")):
        if manifest.get(name, plain) != plain:
            raise BadInput(f"{path}: {name} is {manifest[name]}, this program needs {plain}; export without embedding")
    for name, record in files.items():
        check_file(folder, name, record)
    return manifest


def preprocessing(folder, manifest):
    """The rule of a manifest, with `size` (height, width) and `channels`; a file of a plain input writes them so."""
    rule = dict(manifest["preprocess"])
    given = manifest["model"].get("input", {"kind": "image", "size": [rule.get("image_size")] * 2, **rule})
    kind, size, channels = (given.get(name) for name in ("kind", "size", "channels"))
    plain = isinstance(size, list) and all(isinstance(number, int) and number > 0 for number in (*size, channels))
    if kind != "image" or not plain or len(size) != 2:
        raise BadInput(f"{folder / 'manifest.json'}: takes no images of two axes; use ttl-deploy for it")
    return {**rule, "size": tuple(size), "channels": channels}


class Task:
    """What the outputs mean: `multiclass`, `ordinal` or `multilabel`, and where the positive side begins to be said."""

    def __init__(self, folder, manifest):
        self.classes = manifest["model"]["classes"]
        task = manifest["model"].get("task", {"kind": "multiclass"})
        self.kind, first = task.get("kind"), task.get("positive_from")
        if self.kind not in ("multiclass", "ordinal", "multilabel"):
            raise BadInput(f"{folder / 'manifest.json'}: is of a task unknown to this program: {self.kind!r}")
        # Of two classes the second is positive, of grades those from one on; a label is by itself.
        divides = {"multiclass": len(self.classes) == 2, "ordinal": first in self.classes[1:]}
        divides["multilabel"] = len(self.classes) == 1
        self.first = self.classes.index(first) if self.kind == "ordinal" and divides["ordinal"] else 1
        self.threshold = None
        point = manifest.get("operating_point")
        if point is not None:
            self.threshold = point.get("threshold") if isinstance(point, dict) else None
            usable = isinstance(self.threshold, float) and 0 <= self.threshold <= 1
            if not usable or not divides[self.kind]:
                raise BadInput(f"{folder / 'manifest.json'}: has no usable operating point; export the run again")

    def probabilities(self, logits):
        """Of one image."""
        if self.kind == "multilabel":
            small = np.exp(-np.abs(logits))
            return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))
        powers = np.exp(logits - logits.max())
        return powers / powers.sum()

    def said(self, probabilities):
        """The label of one image; of several labels joined by |, of none nothing."""
        if self.kind == "multilabel":
            least = 0.5 if self.threshold is None else self.threshold
            return "|".join(name for name, p in zip(self.classes, probabilities, strict=True) if p >= least)
        if self.threshold is None:
            return self.classes[int(probabilities.argmax())]
        if probabilities[self.first :].sum() >= self.threshold:
            return self.classes[self.first + int(probabilities[self.first :].argmax())]
        return self.classes[int(probabilities[: self.first].argmax())]


def check_file(folder, name, record):
    """Refuses a file that is outside the folder, missing or changed."""
    path = folder / name
    if not name or any(w.anchor or ".." in w.parts for w in (PurePosixPath(name), PureWindowsPath(name))):
        raise BadInput(f"{folder / 'manifest.json'}: names a file outside the artifact: {name!r}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; export the run again") from error
    if len(content) != record["size"] or hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise BadInput(f"{path}: has changed since the export; export the run again")


def load_pixels(path, spec):
    """An image at the network's size, (H, W, C) uint8: steps 1 to 9 of the rule in ttl_deploy/inputs/image.py."""
    try:
        if not path.stat().st_size:
            raise BadInput(f"{path}: is empty (0 bytes)")
        content = path.read_bytes()
        if content.startswith(NPY):
            return array_pixels(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False), spec, path)
        if spec["channels"] not in (1, 3):
            raise BadInput(f"{path}: is a picture, and the model takes {spec['channels']} channels; give .npy files")
        try:
            return opened(content, spec, path)
        except BadInput:
            raise
        except Exception:  # it may be the metadata that is broken or too large
            if not content.startswith(PNG):
                raise
        return opened(without_metadata(content), spec, path)
    except BadInput:
        raise
    except UnidentifiedImageError as error:
        raise BadInput(f"{path}: is not an image") from error
    except Exception as error:  # on damaged files Pillow's plugins raise anything
        raise BadInput(f"{path}: cannot be read: {error or type(error).__name__}") from error


def array_pixels(values, spec, path):
    """Steps 5 to 9 for an array (H, W) or (H, W, C)."""
    channels = spec["channels"]
    fits = values.ndim == 3 and values.shape[2] == channels
    if channels in (1, 3):
        fits = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))
    if not fits or not values.size or values.dtype.kind != "u" or values.dtype.itemsize > 2:
        raise BadInput(f"{path}: {values.dtype} of shape {values.shape} is no image of {channels} channels")
    if values.shape[0] * values.shape[1] > MAX_PIXELS:
        raise BadInput(f"{path}: has more than {MAX_PIXELS:,} pixels")
    if channels not in (1, 3):
        planes = [Image.fromarray(plane_of(values[..., i], spec, path)) for i in range(channels)]
        return np.stack([sized(plane, spec) for plane in planes], axis=-1)
    values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.ndim == 3:
        values = np.ascontiguousarray(values if values.dtype == np.uint8 else values >> 8, dtype=np.uint8)
        return finish(opaque(Image.fromarray(values)), spec)
    return finish(Image.fromarray(plane_of(values, spec, path)), spec)


def plane_of(values, spec, path):
    """Step 6 for one channel of an array."""
    return np.ascontiguousarray(values) if values.dtype == np.uint8 else narrowed(values, 65535, spec, path)


def opened(content, spec, path):
    """Steps 1 to 9 for the content of a file."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise BadInput(f"{path}: has more than {MAX_PIXELS:,} pixels")
        return finish(eight_bit(image, content, spec, path), spec)


def without_metadata(content):
    """A PNG without the chunks that decide no pixel."""
    kept = [raw for kind, raw, whole in chunks(content) if not kind[0] & 32 or (kind in (b"tRNS", b"eXIf") and whole)]
    return PNG + b"".join(kept)


def chunks(content):
    """Type, bytes and whether the checksum is right, of each chunk of a PNG; nothing for other formats."""
    position, kind = len(PNG), b""
    while content.startswith(PNG) and position + 8 <= len(content) and kind != b"IEND":
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        raw, kind = content[position:end], content[position + 4 : position + 8]
        yield kind, raw, end <= len(content) and zlib.crc32(raw[4:-4]) == int.from_bytes(raw[-4:], "big")
        position = end


def upright(image, original):
    """Step 3; EXIF that cannot be read says nothing."""
    original.load()
    try:
        turn = TURNS.get(original.getexif().get(0x0112))
    except Exception:  # Pillow raises anything on broken EXIF
        turn = None
    return image if turn is None else image.transpose(turn)


def eight_bit(image, content, spec, path):
    """Steps 3 to 6: upright, opaque, 8 bits, mode L or RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        tags = getattr(image, "tag_v2", {})
        if tags.get(262) == 0 or tags.get(258, (16,))[0] in range(9, 16) or {281, 341} & set(tags):
            raise BadInput(f"{path}: is TIFF of a depth that only ttl-deploy reads; save it as 16-bit PNG")
        values, transparent = np.asarray(image), image.info.get("transparency")
        if isinstance(transparent, int):
            values = np.where(values == transparent, 0, values)
        return upright(Image.fromarray(narrowed(values, brightest(values, content), spec, path)), image)
    return opaque(upright(image, image))


def opaque(image):
    """Steps 4 and 5: mode L or RGB, transparency over black."""
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    layer = image.convert("RGBA")
    black = Image.new("RGB", layer.size)
    black.paste(layer.convert("RGB"), mask=layer.getchannel("A"))
    return black


def narrowed(values, top, spec, path):
    """Step 6: deep grey becomes 8-bit."""
    low, high = float(values.min()), float(values.max())
    if spec["high_bit_depth"] == "min-max":
        if not np.isfinite(high - low):
            raise BadInput(f"{path}: holds values that are not finite numbers")
        return ((values.astype(np.float64) - low) * (255 / (high - low or 1)) + 0.5).astype(np.uint8)
    if values.dtype.kind == "f" or low < 0 or high > 65535:
        raise BadInput(f"{path}: its values have no full range (0 to 65535)")
    return np.minimum((values.astype(np.uint64) * 510 + top) // (2 * top), 255).astype(np.uint8)


def brightest(values, content):
    """White of a deep PNG: fewer than 16 bits where its sBIT says so and the values were not scaled up."""
    bits = next((raw[8] for kind, raw, whole in chunks(content) if kind == b"sBIT" and whole and len(raw) == 13), 16)
    shift, top = 16 - bits, 2**bits - 1
    if not 1 <= bits < 16 or int(values.max()) > top:
        return 65535
    few = values.astype(np.int64) >> shift
    ways = (few << shift, (few * (2 * 65535) + top) // (2 * top), few << shift | few >> max(bits - shift, 0))
    return 65535 if any(np.array_equal(values, way) for way in ways) else top


def finish(image, spec):
    """Steps 7 to 9: channels, crop, size."""
    channels = spec["channels"]
    return sized(image.convert("RGB" if channels == 3 else "L"), spec).reshape(*spec["size"], channels)


def sized(image, spec):
    """Steps 8 and 9."""
    height, width = spec["size"]
    if spec["crop"] == "center":
        across = max(1, min(image.width, image.height * width // height))
        down = max(1, min(image.height, image.width * height // width))
        left, top = (image.width - across) // 2, (image.height - down) // 2
        image = image.crop((left, top, left + across, top + down))
    lost = image.height - height  # Pillow's versions differ in the order of the two, and in what is rounded between
    between = (image.width, height) if lost > max(0, 2 * (image.width - width)) else (width, image.height)
    for size in (between, (width, height)):
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def normalise(pixels, spec):
    """Step 10: (1, C, H, W) float32."""
    mean, std = (np.array(spec[name])[:, None, None] for name in ("mean", "std"))
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    planes *= (1 / (255 * std)).astype(np.float32)
    planes -= (mean / std).astype(np.float32)
    return planes[None]


def open_session(folder, manifest):
    """ONNX Runtime on the CPU, and the check that the graph is what the manifest says."""
    onnxruntime.set_default_logger_severity(QUIET)
    path = folder / manifest["model_file"]
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no other base class
        raise BadInput(f"{path}: ONNX Runtime refuses it: {error}") from error
    inputs = [(put.name, put.type) for put in session.get_inputs()]
    if inputs != [(manifest["input_name"], "tensor(float)")]:
        raise BadInput(f"{path}: its input is not the float image that the manifest describes")
    return session


def columns(classes):
    """The header, in which no name is there twice."""
    names = ["id", "image", "label"]
    for name in map(printable, classes):
        while name in names:
            name = f"probability_{name}"
        names.append(name)
    return names[1:]


def predict(folder, images):
    """Yields the header and then a row per image."""
    manifest = open_artifact(folder)
    spec, task = preprocessing(folder, manifest), Task(folder, manifest)
    session = open_session(folder, manifest)
    yield columns(task.classes)
    for image in images:
        batch = normalise(load_pixels(Path(image), spec), spec)
        logits = session.run([manifest["output_name"]], {manifest["input_name"]: batch})[0][0].astype(np.float64)
        probabilities = task.probabilities(logits)
        yield [image, printable(task.said(probabilities)), *(f"{p:.8f}" for p in probabilities)]


def main(arguments):
    """Runs the program and gives its exit code."""
    if len(arguments) < 2:
        sys.stderr.write("usage: python predict.py ARTIFACT IMAGE...\n")
        return 2
    try:
        for cells in predict(Path(arguments[0]), arguments[1:]):
            sys.stdout.write(row(cells))
    except BadInput as error:
        sys.stderr.write(f"error: {printable(' '.join(str(error).split()))}\n")
        return 2
    return 0


def printable(text):
    """Control characters spelled out, so that no name steers the terminal that it is shown on."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def row(cells):
    """A line of CSV; what a spreadsheet would run as a formula gets an apostrophe in front."""
    buffer = io.StringIO()
    # Python quotes a carriage return only where the row's own end has one.
    csv.writer(buffer, lineterminator="\r\n").writerow(map(inert, cells))
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def inert(cell):
    """A cell that is text to a spreadsheet, or the number that it is."""
    if not FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell if cell == cell.strip() else f"'{cell}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
