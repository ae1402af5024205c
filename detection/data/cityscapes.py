"""The files of Cityscapes, whose images and annotations are paired by name alone."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.data import MetadataCatalog

from mocodet.common.text import first_few

IMAGE_ENDING = "_leftImg8bit.png"


def check_cityscapes_files(name: str, endings: Sequence[str]) -> None:
    """Check that every image of ``<image_dir>/<city>/`` has its annotations in ``<gt_dir>/<city>/``, and the reverse.

    Args:
        name: a data set whose metadata has ``image_dir`` and ``gt_dir``, as ``leftImg8bit/train`` and ``gtFine/train``.
        endings: what the names of an image's annotations end in; they begin like the image.

    Raises:
        FileNotFoundError: images, annotations or images of annotations are missing.
        ValueError: a folder of images holds something else.
    """
    image_dir, gt_dir = MetadataCatalog.get(name).image_dir, MetadataCatalog.get(name).gt_dir
    images = sorted(path for path in Path(image_dir).glob("*/*") if not path.name.startswith("."))
    if strange := [str(path) for path in images if not path.name.endswith(IMAGE_ENDING)]:
        raise ValueError(
            f"data set {name}: {image_dir} must hold nothing but a folder for each city with images that end in"
            f" {IMAGE_ENDING}; found {first_few(strange, 3)}"
        )
    if not images:
        raise FileNotFoundError(f"data set {name}: there is no image like {image_dir}/aachen/*{IMAGE_ENDING}")
    stems = {str(path.relative_to(image_dir)).removesuffix(IMAGE_ENDING) for path in images}
    for ending in endings:
        found = {str(path.relative_to(gt_dir)).removesuffix(ending) for path in Path(gt_dir).glob(f"*/*{ending}")}
        if missing := sorted(stems - found):
            how = "; make them with  mocodet prepare-data cityscapes" if "labelTrainIds" in ending else ""
            raise FileNotFoundError(
                f"data set {name}: {len(missing)} of the {len(stems)} images have no {ending} in {gt_dir}:"
                f" {first_few(missing, 3)}{how}"
            )
        if spare := sorted(found - stems):
            raise FileNotFoundError(
                f"data set {name}: {len(spare)} annotations {ending} in {gt_dir} have no image in {image_dir}:"
                f" {first_few(spare, 3)}"
            )
