import json
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tests.commands import predict
from tests.commands import train as train_net
from tests.detection.predict.families import FAMILIES, KEYPOINTS, make_model
from tests.detection.tiny import SEGMENTS, SIZE


def evaluated(run: Path, name: str) -> list[dict]:
    """Evaluate the model of a run; return its saved predictions."""
    weights = str(run / "model_final.pth")
    train_net(["--eval-only", "--config-file", str(run / "config.yaml"), "MODEL.WEIGHTS", weights])
    (file,) = run.glob(f"inference/*/{name}")
    return json.loads(file.read_text())


def command(run: Path, output: Path, *images: Path, more: tuple[str, ...] = ()) -> list[str]:
    model = ["--config-file", str(run / "config.yaml"), "--weights", str(run / "model_final.pth")]
    return [*model, "--output", str(output), *more, *map(str, images)]


def read(output: Path) -> tuple[dict, list]:
    found = (json.loads((output / name).read_text()) for name in ("images.json", "coco_instances_results.json"))
    return tuple(found)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a run of dilated C5, and its data set."""
    folder = tmp_path_factory.mktemp("dc5")
    _, entry = make_model("dc5", folder)
    return folder / "run", entry


@pytest.mark.parametrize("name", ["c4", "fpn", "keypoints"])
def test_predict__objects_are_those_of_an_evaluation(tmp_path, name, capsys):
    cfg, entry = make_model(name, tmp_path)
    run = Path(cfg.OUTPUT_DIR)
    expected = evaluated(run, "coco_instances_results.json")
    shutil.move(entry["JSON"], tmp_path / "truth.json")  # predicting needs no annotations
    more = ("--no-pictures",) if name == "c4" else ()
    predict(command(run, tmp_path / "out", Path(entry["IMAGES"]), more=more))
    assert "Predictions on 2 images are in" in capsys.readouterr().out
    images, results = read(tmp_path / "out")
    truth = json.loads((tmp_path / "truth.json").read_text())
    files = {image["file_name"]: image["id"] for image in truth["images"]}
    theirs = {image["id"]: files[image["file_name"]] for image in images["images"]}
    assert len(results) > 3
    assert {*FAMILIES[name].shapes, "bbox"} < set(results[0])
    assert [row | {"image_id": theirs[row["image_id"]]} for row in results] == expected
    # The format is COCO's own.
    assert images["categories"] == [
        {key: value for key, value in row.items() if key in ("id", "name", "keypoints")} for row in truth["categories"]
    ]
    coco = COCO(str(tmp_path / "out" / "images.json"))
    loaded = coco.loadRes(str(tmp_path / "out" / "coco_instances_results.json"))
    assert len(loaded.anns) == len(results)
    if name == "keypoints":
        assert len(results[0]["keypoints"]) == 3 * len(KEYPOINTS)
    else:
        assert {mask_util.decode(row["segmentation"]).shape for row in results} == {(SIZE, SIZE)}
    for image in images["images"] if not more else []:
        picture = np.array(Image.open(tmp_path / "out" / "pictures" / image["file_name"]))
        assert picture.shape == (7 * SIZE, 7 * SIZE, 3)  # enlarged


def test_predict__labels_are_those_of_an_evaluation(tmp_path):
    cfg, entry = make_model("fcn", tmp_path)
    run = Path(cfg.OUTPUT_DIR)
    regions = evaluated(run, "sem_seg_predictions.json")
    predict(command(run, tmp_path / "out", Path(entry["IMAGES"])))
    images = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [category["name"] for category in images["categories"]] == list(SEGMENTS)
    assert len(images["images"]) == 2
    seen = set()
    for image in images["images"]:
        assert (tmp_path / "out" / "labels" / image["file_name"]).read_bytes()[24] == 8, "bits per pixel"
        with Image.open(tmp_path / "out" / "labels" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
            labels = np.array(picture)
            colours = np.array(picture.convert("RGB"))
        expected = np.full(labels.shape, 255)
        for region in regions:
            if Path(region["file_name"]).name == image["file_name"]:
                expected[mask_util.decode(region["segmentation"]) > 0] = region["category_id"]
        assert np.array_equal(labels, expected)
        assert len(np.unique(colours.reshape(-1, 3), axis=0)) == len(np.unique(labels))
        seen |= set(labels.flat)
        assert (tmp_path / "out" / "pictures" / image["file_name"]).with_suffix(".jpg").is_file()
    assert len(seen) > 1
    with pytest.raises(SystemExit, match=r"error: --threshold applies to object scores"):
        predict(command(run, tmp_path / "other", Path(entry["IMAGES"]), more=("--threshold", "0.5")))


def test_predict__damaged_files_are_named_and_the_others_predicted(tmp_path, model, capsys):
    run, entry = model
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    picture = Image.open(Path(entry["IMAGES"], "0.jpg"))
    picture.save(folder / "a.JPG")
    picture.resize((96, 48)).save(folder / "deep" / "b.png")
    picture.save(folder / "deep" / "c.tif")
    (folder / "broken.png").write_bytes((folder / "deep" / "b.png").read_bytes()[:500])
    (folder / "notes.txt").write_text("no image")
    picture.save(tmp_path / "no_suffix", format="PNG")
    words = command(run, folder / "out", folder, tmp_path / "no_suffix", more=("--batch-size", "2", "--no-pictures"))
    with pytest.raises(SystemExit, match=r"^error: 1 of 5 images could not be read .* other 4 are in .*out$"):
        predict([*words, "INPUT.MIN_SIZE_TEST", "32"])
    log = capsys.readouterr().out
    assert f"{folder / 'broken.png'} cannot be read as an image" in log
    assert "ignoring 1 files without an image extension" in log
    images, results = read(folder / "out")
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in images["images"]}
    square = (SIZE, SIZE)
    assert sizes == {
        "photos/a.JPG": square,
        "photos/deep/b.png": (96, 48),
        "photos/deep/c.tif": square,
        "no_suffix": square,
    }
    assert {row["image_id"] for row in results} == {image["id"] for image in images["images"]}
    assert not (folder / "out" / "pictures").exists()


def test_predict__batches_change_nothing(tmp_path, model):
    run, entry = model
    found = []
    for size in ("1", "3"):
        more = ("--batch-size", size, "--no-pictures")
        predict(command(run, tmp_path / size, Path(entry["IMAGES"]), more=more))
        found.append(read(tmp_path / size)[1])
    for one, three in zip(*found, strict=True):
        assert (one["image_id"], one["category_id"]) == (three["image_id"], three["category_id"])
        assert one["score"] == pytest.approx(three["score"], abs=1e-5)
        assert one["bbox"] == pytest.approx(three["bbox"], abs=1e-3)


def test_predict__folder_threshold_and_overwrite(tmp_path, model):
    run, entry = model
    image, output = Path(entry["IMAGES"], "0.jpg"), tmp_path / "out"
    predict(command(run, output, image))
    before = read(output)[1]
    middle = sorted(row["score"] for row in before)[len(before) // 2]
    with pytest.raises(SystemExit, match=r"already contains predictions; choose another folder, or add --overwrite"):
        predict(command(run, output, image))
    assert read(output)[1] == before
    predict(command(run, output, image, more=("--overwrite", "--no-pictures", "--threshold", str(middle))))
    assert read(output)[1] == [row for row in before if row["score"] >= middle]
    assert not (output / "pictures").exists()
    with pytest.raises(SystemExit, match=r"contains files other than predictions; choose a new folder"):
        predict(command(run, run, image, more=("--overwrite",)))
    assert (run / "model_final.pth").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("MODEL.ROI_HEADS.NUM_CLASSES", "3"), r"the file does not contain the complete detector"),
        (
            ("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
            r"does not predict objects or pixel classes",
        ),
        (("MODEL.LOAD_PROPOSALS", "True"), r"new images have no proposals"),
        (("--weights", ""), r"the name of the weights is empty; expected the checkpoint of a model"),
        (("MODEL.DEVICE", "cpu"), r"the file or folder .*none\.jpg does not exist"),
    ],
)
def test_predict__refuses_before_anything_is_written(tmp_path, model, change, message):
    run, entry = model
    image = Path(entry["IMAGES"], "0.jpg") if "DEVICE" not in change[0] else tmp_path / "none.jpg"
    with pytest.raises(SystemExit, match=rf"^error: .*{message}"):
        predict([*command(run, tmp_path / "out", image), *change])
    assert not (tmp_path / "out").exists()
