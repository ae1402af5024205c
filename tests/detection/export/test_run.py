import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn

from mocodet.detection import Predictor
from mocodet.detection.export.agreement import Agreement, compare
from mocodet.detection.export.run import export
from mocodet.detection.export.trace import DESCRIPTION, Exportable, load, outputs_of
from tests.commands import export as export_command
from tests.detection.predict.families import make_model
from tests.detection.tiny import CLASSES


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    """The folder of a run of FPN with masks, with its data beside it."""
    folder = tmp_path_factory.mktemp("fpn")
    make_model("fpn", folder)
    return folder / "run"


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_export__of_a_detector_finds_what_it_predicts(detector, tmp_path):
    predictor, file = Predictor(str(detector / "config.yaml"), detector / "model_final.pth"), tmp_path / "model.ts"
    agreement = export(predictor, file, [detector.parent / "data" / "images" / "0.jpg"])
    assert agreement.images == 1
    assert agreement.objects > 0
    extra = {DESCRIPTION: ""}
    exported = torch.jit.load(file, _extra_files=extra)
    assert json.loads(extra[DESCRIPTION])["classes"]["names"] == list(CLASSES)
    for image in (picture(64, 64), picture(64, 90)):  # with the shorter side to which it would be resized
        (expected,) = predictor([image])
        with torch.no_grad():
            found = exported(torch.from_numpy(image).permute(2, 0, 1))
        assert len(expected) > 0
        assert torch.equal(found["classes"], expected.pred_classes)
        assert torch.equal(found["masks"], expected.pred_masks)
        torch.testing.assert_close(found["boxes"], expected.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(found["scores"], expected.scores, rtol=0, atol=1e-4)


def test_export__of_a_segmentation_network_labels_what_it_predicts(tmp_path, capsys):
    cfg, _ = make_model("fcn", tmp_path)
    weights, file = str(Path(cfg.OUTPUT_DIR, "model_final.pth")), str(tmp_path / "model.ts")
    export_command(["--config-file", f"{cfg.OUTPUT_DIR}/config.yaml", "--weights", weights, "--output", file])
    printed = capsys.readouterr().out
    assert "on 3 images, the results differ by at most" in printed
    assert "image in: 3 x H x W, uint8 or float32 from 0 to 255, RGB, with a shorter side of 64 pixels" in printed
    assert "labels out: H x W, int64" in printed
    image = picture(64, 70)
    with Path(file).open("rb") as handle, torch.no_grad():
        found = load(handle)(torch.from_numpy(image).permute(2, 0, 1).float())
    (expected,) = Predictor(cfg, weights)([image])
    assert np.array_equal(found["labels"].numpy(), expected)
    assert len(np.unique(expected)) > 1


class Sized(nn.Module):
    """A segmentation network whose trace treats the size of its example as a constant."""

    def forward(self, inputs: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        image = inputs[0]["image"].float()
        brightest = torch.zeros(2, *(int(side) for side in image.shape[1:])) + image.mean()
        brightest[1] += image[0] - 128
        return [{"sem_seg": brightest}]


def test_compare__of_pixels_refuses_what_differs():
    images = [torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8) for _ in range(2)]
    example = images[0]
    traced = torch.jit.trace(Exportable(Sized(), example), (example,), check_trace=False, strict=False)
    assert compare(traced, Sized(), images) == Agreement(images=2, objects=0, alone=0, difference=0)
    with pytest.raises(ValueError, match=r"labels 100\.00% of 20 x 30 pixels differently"):
        compare(lambda image: {"labels": 1 - traced(image)["labels"]}, Sized(), images)
    with pytest.raises(ValueError, match=r"labels 100\.00% of 20 x 30 pixels differently"):
        compare(lambda image: {"labels": traced(image)["labels"].T}, Sized(), images)
    with pytest.raises(ValueError, match=r"fails on an image of 30 x 20 pixels \(RuntimeError: The size of"):
        compare(traced, Sized(), [example.transpose(1, 2)])


class Finds(nn.Module):
    """A detector that finds 150 objects wherever it looks."""

    def forward(self, inputs: list[dict[str, torch.Tensor]]) -> list[dict[str, Instances]]:
        found = Instances((20, 30), pred_boxes=Boxes(torch.arange(600.0).view(150, 4)))
        found.pred_classes, found.scores = torch.arange(150) % 2, torch.linspace(1, 0.1, 150)
        found.pred_masks = torch.rand(150, 20, 30, generator=torch.manual_seed(0)) < 0.5
        return [{"instances": found}]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("scores", 0.0, Agreement(images=1, objects=150, alone=0, difference=0.0)),
        ("boxes", 5e-4, Agreement(images=1, objects=150, alone=0, difference=pytest.approx(5e-4, abs=1e-4))),
        ("boxes", 5e-3, 2),
        ("scores", 2e-3, 2),
        ("classes", 1, 2),
        ("masks", True, 2),
    ],
)
def test_compare__of_objects_in_any_order(name, change, expected):
    image, order = torch.zeros(3, 20, 30), torch.randperm(150, generator=torch.manual_seed(1))
    found = {key: tensor[order] for key, tensor in outputs_of(Finds(), image).items()}
    changed = found[name] ^ change if name == "masks" else found[name] + change
    one = {**found, name: torch.cat((changed[:1], found[name][1:]))}
    if expected == 2:  # of 300 objects in two images, the first in one of them
        answers = iter([one, found])
        assert compare(lambda image: next(answers), Finds(), [image, image]).alone == expected
        with pytest.raises(ValueError, match=r"300 of 150 objects were found by only one"):
            compare(lambda image: {**found, name: changed}, Finds(), [image])
    else:
        assert compare(lambda image: one, Finds(), [image]) == expected


def test_export__what_cannot_be_traced_leaves_one_line_and_no_file(detector, tmp_path, monkeypatch):
    predictor = Predictor(str(detector / "config.yaml"), detector / "model_final.pth")

    def refuse(*arguments: object) -> None:
        if torch.jit.is_tracing():
            raise RuntimeError("no\ntracing")

    predictor.model.proposal_generator.register_forward_pre_hook(refuse)
    with pytest.raises(ValueError, match=r"a GeneralizedRCNN .* cannot be exported: .* fails \(no tracing\)"):
        export(predictor, tmp_path / "model.ts")
    assert not list(tmp_path.iterdir())
