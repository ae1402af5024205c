"""The built-in toy data set: scenes of textured things, generated from a seed, with exact boxes and masks.

A thing has one of twelve textures and one of six outlines. Eight of the textures are the object classes; things with
the other four are distractors. Outlines and colours are sampled independently of the texture, so they do not indicate
the class.

An unlabelled image is a portrait: a single thing with any texture and outline, at the same scale as in the scenes.
Contrastive pre-training learns what the crops of an image have in common and what distinguishes them from other images.
The classes are textures, because almost every crop of a thing shows its texture, whereas crops often cut its outline.
Three choices make contrastive pre-training learn textures: a portrait shows one thing instead of a scene; things stand
upright, like most objects in photographs; and colours are pale, because otherwise colour would be sufficient to
distinguish the portraits.
"""

import colorsys
import json
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

Array = np.ndarray
Run = tuple[int, int]  # first row, and the row after the last

# Each function returns the signed distance to an outline (negative inside), in units of the thing's radius.
OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: np.hypot(u, v) - 1.0,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.86,
    "cross": lambda u, v: np.maximum(np.minimum(abs(u), abs(v)) - 0.33, np.maximum(abs(u), abs(v)) - 1.0),
    "triangle": lambda u, v: np.maximum(abs(u) * 0.87 + v * 0.5, -v) - 0.5,
    "star": lambda u, v: np.hypot(u, v) - 0.72 - 0.28 * np.cos(5 * np.arctan2(v, u)),
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.72) - 0.28,
}
# Each function returns a height in about [-1, 1] from coordinates in periods. Its sign selects one of two colours. The
# first eight are the classes.
TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "striped": lambda x, y: np.sin(2 * np.pi * y),
    "checked": lambda x, y: 1.4 * np.sin(2 * np.pi * x * 0.7) * np.sin(2 * np.pi * y * 0.7),
    "dotted": lambda x, y: 1.2 * (np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y)) / 2 - 0.35,
    "wavy": lambda x, y: np.sin(2 * np.pi * (y + 0.3 * np.sin(2 * np.pi * x * 0.6))),
    "barred": lambda x, y: 1.2 * np.maximum(np.sin(2 * np.pi * x * 0.8), np.sin(2 * np.pi * y * 0.8)) - 0.75,
    "ringed": lambda x, y: np.sin(2 * np.pi * np.hypot(x, y) * 0.8),
    "slanted": lambda x, y: np.sin(2 * np.pi * (x + y) * 0.75),
    "lined": lambda x, y: np.sin(2 * np.pi * x),
    "zigzag": lambda x, y: np.sin(2 * np.pi * (y + 0.35 * _zigzag(0.6 * x))),
    "diamond": lambda x, y: 1.4 * np.sin(np.pi * (x + y)) * np.sin(np.pi * (x - y)),
    "rayed": lambda x, y: np.sin(7 * np.arctan2(y - 0.5, x - 0.5)),
    "double": lambda x, y: np.sin(1.2 * np.pi * y) + 0.8 * np.sin(2.4 * np.pi * y + 1),
}
TOY_CLASSES: tuple[str, ...] = tuple(TEXTURES)[:8]

MAX_TILT = np.deg2rad(12)
MAX_SATURATION = 0.15
MIN_VISIBLE_FRACTION = 0.6  # a scene is redrawn if less of an object is visible
MIN_VISIBLE_PIXELS = 24
JPEG_QUALITY = 92
# As fractions of a scene's side length.
RADIUS = (0.125, 0.23)
PERIOD = (0.057, 0.094)
PORTRAIT = 7 / 12  # the side length of a portrait


@dataclass
class Scene:
    """A generated image (H x W x 3, uint8), with a class index and a visible mask (H x W, bool) for each object."""

    image: Array
    classes: list[int]
    masks: list[Array]


def draw_scene(rng: np.random.Generator, size: int, required_class: int | None = None) -> Scene:
    """Draw a scene of ``size`` x ``size`` pixels with one to four objects and up to two distractors.

    The scene is redrawn if an object is hidden so much that neither labelling it nor omitting it would be fair.

    Args:
        rng: source of all random choices.
        size: side length of the image in pixels.
        required_class: index into ``TOY_CLASSES`` of a class that must occur; if None, the class is random.
    """
    n_classes = len(TOY_CLASSES)
    fair = False
    while not fair:
        canvas = _background(rng, size)  # H x W x 3, float32 in [0, 1]
        first = int(rng.integers(n_classes)) if required_class is None else required_class
        objects = [first, *rng.integers(n_classes, size=rng.integers(0, 4))]
        distractors = rng.integers(n_classes, len(TEXTURES), size=rng.integers(0, 3))
        textures = [int(texture) for texture in (*objects, *distractors)]
        rng.shuffle(textures)
        covered = []
        for texture in textures:
            radius = size * rng.uniform(*RADIUS)
            centre = rng.uniform(radius * 0.8, size - radius * 0.8, 2)
            covered.append(_draw_thing(rng, canvas, texture, centre, radius, size * rng.uniform(*PERIOD)) >= 0.5)
        places = [place for place, texture in enumerate(textures) if texture < n_classes]
        # An object is visible where no thing that is painted later covers it.
        masks = [covered[place] & ~np.any(covered[place + 1 :], axis=0) for place in places]
        least = [max(MIN_VISIBLE_PIXELS, MIN_VISIBLE_FRACTION * covered[place].sum()) for place in places]
        fair = all(mask.sum() >= pixels for mask, pixels in zip(masks, least, strict=True))
    return Scene(_expose(rng, canvas), [textures[place] for place in places], masks)


def draw_portrait(rng: np.random.Generator, size: int) -> Array:
    """Draw a single thing with any texture, as it would appear as a large thing in a scene of ``size`` pixels.

    Returns:
        A square image of ``PORTRAIT * size`` pixels (H x W x 3, uint8).
    """
    side = round(PORTRAIT * size)
    canvas = _background(rng, side)
    texture = int(rng.integers(len(TEXTURES)))
    centre = side * rng.uniform(0.41, 0.59, 2)
    _draw_thing(rng, canvas, texture, centre, side * rng.uniform(0.27, 0.41), size * rng.uniform(*PERIOD))
    return _expose(rng, canvas)


def _expose(rng: np.random.Generator, canvas: Array) -> Array:
    """Apply lighting from one side and camera noise to a canvas (H x W x 3, float32 in [0, 1]); return it as uint8."""
    size = canvas.shape[0]
    ramp = np.linspace(-1.0, 1.0, size)
    slope, _ = _turn(ramp[None, :], ramp[:, None], rng.uniform(0, 2 * np.pi))
    canvas = canvas * (1 + rng.uniform(0, 0.25) * slope).astype(np.float32)[..., None]
    canvas += 0.025 * rng.standard_normal((size, size, 1), dtype=np.float32)
    return (np.clip(canvas, 0, 1) * 255).round().astype(np.uint8)


def _colour(rng: np.random.Generator, lightness: float) -> Array:
    return np.array(colorsys.hls_to_rgb(rng.random(), lightness, rng.uniform(0, MAX_SATURATION)), dtype=np.float32)


def _two_colours(rng: np.random.Generator, contrast: float, middle: float | None = None) -> tuple[Array, Array]:
    """Sample two colours whose lightness differs by ``contrast`` around ``middle``, in random order."""
    dark = rng.uniform(0.08, 0.92 - contrast) if middle is None else middle - contrast / 2
    pair = _colour(rng, dark), _colour(rng, dark + contrast)
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Return noise (H x W, in about [-1, 1]) with features that are ``size / cells`` pixels wide."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def _mix(first: Array, second: Array, height: Array, sharpness: float) -> Array:
    """Blend two RGB colours according to a height map (H x W) into an image (H x W x 3)."""
    weight = np.clip(0.5 + sharpness * height.astype(np.float32), 0, 1)[..., None]
    return first + (second - first) * weight


def _background(rng: np.random.Generator, size: int) -> Array:
    height = 0.5 * _smooth_noise(rng, size, 3)
    height += rng.uniform(0, 0.4) * _smooth_noise(rng, size, int(rng.integers(6, 12)))
    return _mix(*_two_colours(rng, rng.uniform(0.1, 0.25), middle=rng.uniform(0.4, 0.6)), height, 0.6)


def _draw_thing(
    rng: np.random.Generator, canvas: Array, texture: int, centre: Array, radius: float, period: float
) -> Array:
    """Paint one thing onto ``canvas``, and return its coverage (H x W).

    Args:
        rng: source of the outline, the tilt, the aspect ratio, the colours and the phase of the texture.
        canvas: the image to paint on, H x W x 3.
        texture: index into ``TEXTURES``.
        centre: x and y in pixels.
        radius: radius of the outline in pixels.
        period: period of the texture in pixels.
    """
    size = canvas.shape[0]
    aspect = rng.uniform(0.85, 1.18)
    reach = 1.5 * radius  # beyond any outline, including its corners and aspect ratio
    left, top = (max(0, int(centre[axis] - reach)) for axis in (0, 1))
    right, bottom = (min(size, int(centre[axis] + reach) + 1) for axis in (0, 1))
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + 0.5
    along, across = _turn(x - centre[0], y - centre[1], rng.uniform(-MAX_TILT, MAX_TILT))

    outline = list(OUTLINES.values())[rng.integers(len(OUTLINES))]
    phase = rng.random(2)
    height = list(TEXTURES.values())[texture](along / period + phase[0], across / period + phase[1])
    paint = _mix(*_two_colours(rng, rng.uniform(0.3, 0.6)), height, 1.5)
    distance = outline(along / (radius * aspect), across * aspect / radius) * radius
    alpha = np.zeros(canvas.shape[:2], dtype=np.float32)
    patch = alpha[top:bottom, left:right]
    patch += np.clip(0.5 - distance, 0, 1)  # one pixel of anti-aliasing
    canvas[top:bottom, left:right] += patch[..., None] * (paint - canvas[top:bottom, left:right])
    return alpha


def _zigzag(x: Array) -> Array:
    """Return a triangle wave in [-1, 1] with period 1."""
    return 4 * abs(x % 1 - 0.5) - 1


def _turn(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Return the coordinates of points along and across the direction of ``angle``."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def mask_to_polygons(mask: Array) -> list[list[float]]:
    """Cover a binary mask (H x W) exactly with polygons ``[x0, y0, x1, y1, ...]`` along pixel edges.

    The mask is split into pieces with one vertical run in each column, so holes and separate parts require no special
    handling. pycocotools rasterises the polygons to exactly the same pixels.
    """
    pieces: list[tuple[int, list[Run]]] = []  # first column, and the runs of that and the following columns
    growing: dict[Run, list[Run]] = {}  # for each run of the previous column, the runs of its piece
    for column in range(mask.shape[1]):
        edges = np.flatnonzero(np.diff(mask[:, column].astype(np.int8), prepend=0, append=0))
        runs = [(int(top), int(bottom)) for top, bottom in edges.reshape(-1, 2)]
        touching = {run: [other for other in growing if run[0] < other[1] and other[0] < run[1]] for run in runs}
        met = Counter(chain.from_iterable(touching.values()))
        grown = {}
        for run, before in touching.items():
            goes_on = len(before) == 1 and met[before[0]] == 1
            if not goes_on:
                pieces.append((column, []))
            grown[run] = growing[before[0]] if goes_on else pieces[-1][1]
            grown[run].append(run)
        growing = grown
    return [_staircase(first, runs) for first, runs in pieces]


def _staircase(first: int, runs: list[Run]) -> list[float]:
    """Outline consecutive columns, starting at ``first``, that are filled from ``top`` to ``bottom`` of each run."""
    sides = []
    for heights in zip(*runs, strict=True):  # the tops, the bottoms
        column, side = first, []
        for height, steps in groupby(heights):
            side.append((column, height))
            column += len(list(steps))
            side.append((column, height))
        sides.append(side)
    upper, lower = sides
    return [float(coordinate) for corner in upper + lower[::-1] for coordinate in corner]


def mask_box(mask: Array) -> tuple[int, int, int, int]:
    """Return the bounding box ``(x0, y0, x1, y1)`` of a non-empty mask (H x W); ``x1`` and ``y1`` are exclusive."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def make_toy_data(
    root: str | Path,
    *,
    seed: int = 0,
    train: int = 40,
    test: int = 200,
    unlabelled: int = 10000,
    size: int = 96,
    workers: int = 1,
) -> dict[str, int]:
    """Generate the complete data set in ``root``, and return the number of images and objects in each part.

    The labelled images are written twice with the same boxes: in VOC layout (``root/voc/VOC2007``) and as COCO JSON
    with polygon masks (``root/coco``). The unlabelled images are in ``root/unlabelled``. ``train.txt`` and
    ``trainval.txt`` list the same images. Every image has its own random stream, so a smaller set is a prefix of a
    larger one, and the same arguments produce the same bytes. ``root`` is created either completely or not at all.

    Args:
        root: folder to create; it may already exist if it is empty.
        seed: non-negative seed of all random choices.
        train: number of labelled training images.
        test: number of labelled test images.
        unlabelled: number of images for pre-training.
        size: side length of the labelled images in pixels; that of the unlabelled images is seven twelfths of it.
        workers: number of processes that generate the unlabelled images; it does not affect the result.

    Raises:
        FileExistsError: ``root`` is a file or a non-empty folder.
        ValueError: the seed or a count is negative, ``workers`` is below 1, ``size`` is below 48, or there are fewer
            labelled images than classes.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f"{root} exists and is not an empty folder; remove it or choose another output folder")
    if seed < 0 or unlabelled < 0:
        raise ValueError(f"seed and unlabelled must not be negative, got seed={seed}, unlabelled={unlabelled}")
    if min(train, test) < len(TOY_CLASSES):
        raise ValueError(
            f"train and test must each have at least {len(TOY_CLASSES)} images so that every class occurs in both; got"
            f" train={train}, test={test}"
        )
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if size < 48:
        raise ValueError(f"size must be at least 48 pixels for the textures to be visible, got {size}")
    root.parent.mkdir(parents=True, exist_ok=True)
    summary: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", suffix=".tmp", dir=root.parent) as temporary:
        building = Path(temporary) / "data"
        for stream, split, count, first_id in ((0, "train", train, 1), (1, "test", test, 1 + train)):
            # Cycle through the classes so that each of them occurs.
            rngs = (np.random.default_rng([seed, stream, index]) for index in range(count))
            scenes = (draw_scene(rng, size, index % len(TOY_CLASSES)) for index, rng in enumerate(rngs))
            summary[f"{split}_objects"] = _write_split(building, split, first_id, scenes)
            summary[f"{split}_images"] = count
        folder = building / "unlabelled"
        folder.mkdir()
        draw = partial(_write_unlabelled, folder, (seed, 2), size)
        if workers == 1:
            for index in range(unlabelled):
                draw(index)
        else:
            with multiprocessing.Pool(workers) as pool:
                pool.map(draw, range(unlabelled), chunksize=50)
        summary["unlabelled_images"] = unlabelled
        building.replace(root)  # replaces an empty folder, and fails for any other
    return summary


def _write_unlabelled(folder: Path, stream: tuple[int, ...], size: int, index: int) -> None:
    portrait = draw_portrait(np.random.default_rng([*stream, index]), size)
    Image.fromarray(portrait).save(folder / f"{index + 1:06d}.jpg", quality=JPEG_QUALITY)


def _write_split(root: Path, split: str, first_id: int, scenes: Iterator[Scene]) -> int:
    """Write one labelled split in both layouts, and return its number of objects."""
    voc, coco = root / "voc" / "VOC2007", root / "coco"
    folders = voc / "JPEGImages", voc / "Annotations", voc / "ImageSets" / "Main", coco / split, coco / "annotations"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene in enumerate(scenes, start=first_id):
        stem = f"{image_id:06d}"
        height, width = scene.image.shape[:2]
        for folder in (voc / "JPEGImages", coco / split):
            Image.fromarray(scene.image).save(folder / f"{stem}.jpg", quality=JPEG_QUALITY)
        (voc / "Annotations" / f"{stem}.xml").write_text(voc_xml(f"{stem}.jpg", scene), encoding="utf-8")
        images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width})
        for label, mask in zip(scene.classes, scene.masks, strict=True):
            x0, y0, x1, y1 = mask_box(mask)
            annotations.append(
                {
                    "id": first_id * 100 + len(annotations),  # unique across splits; COCO's 0 means "unmatched"
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": mask_to_polygons(mask),
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(TOY_CLASSES, start=1)]
    content = {"info": {"description": "mocodet toy data"}, "images": images, "annotations": annotations}
    target = coco / "annotations" / f"instances_{split}.json"
    target.write_text(json.dumps({**content, "categories": categories}), encoding="utf-8")
    listing = "".join(f"{first_id + index:06d}\n" for index in range(len(images)))
    for name in ("train", "trainval") if split == "train" else (split,):
        (voc / "ImageSets" / "Main" / f"{name}.txt").write_text(listing, encoding="utf-8")
    return len(annotations)


def voc_xml(
    file_name: str, scene: Scene, classes: Sequence[str] = TOY_CLASSES, folder: str = "", segmented: bool = False
) -> str:
    """Describe a scene in Pascal VOC's format, in which boxes include their corner pixels and coordinates start at 1.

    Args:
        file_name: file name of the image.
        scene: the scene in the image.
        classes: names of the classes.
        folder: folder of the data set, such as ``VOC2007``; omitted if empty.
        segmented: whether the image has a class map.
    """
    height, width = scene.image.shape[:2]
    lines = [
        "<annotation>",
        *([f"  <folder>{folder}</folder>"] if folder else []),
        f"  <filename>{escape(file_name)}</filename>",
        "  <source><database>mocodet toy scenes</database></source>",
        f"  <segmented>{int(segmented)}</segmented>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for label, mask in zip(scene.classes, scene.masks, strict=True):
        x0, y0, x1, y1 = mask_box(mask)
        truncated = int(x0 == 0 or y0 == 0 or x1 == width or y1 == height)
        lines += [
            "  <object>",
            f"    <name>{classes[label]}</name><pose>Unspecified</pose>",
            f"    <truncated>{truncated}</truncated><difficult>0</difficult>",
            f"    <bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
