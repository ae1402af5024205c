"""Converts a model to TorchScript with detectron2's tracer."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any

import torch
from detectron2.export import TracingAdapter
from torch import nn

from ..data.classes import predicts_pixels
from ..predict.predictor import Predictor

DESCRIPTION = "description.json"  # in the file: its input, its output, and the classes


class Exportable(nn.Module):
    """A model as a function of one image, with its outputs by name.

    Args:
        model: of detectron2, in evaluation mode.
        example: an image, C x H x W, which detectron2's tracer needs.
    """

    def __init__(self, model: nn.Module, example: torch.Tensor):
        super().__init__()
        self.names = sorted(outputs_of(model, example))  # in the order in which detectron2 flattens a dict
        self.adapter = TracingAdapter(model, example, outputs_of)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the predictions on an image, C x H x W of 0 to 255; see `outputs_of`."""
        return dict(zip(self.names, self.adapter(image), strict=True))


def outputs_of(model: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a model's predictions on an image, C x H x W, as tensors by name, in pixels of that image.

    For a detector: ``boxes`` (N x 4: x0, y0, x1, y1), ``classes`` (N, indices), ``scores`` (N), and if it has them
    ``masks`` (N x H x W, bool) and ``keypoints`` (N x K x 3: x, y, score). For a segmentation network: ``labels``
    (H x W, the index of each pixel's class).
    """
    with torch.no_grad():
        (output,) = model([{"image": image}])
    if "sem_seg" in output:
        return {"labels": output["sem_seg"].argmax(dim=0)}
    found = output["instances"]
    named = {"boxes": found.pred_boxes.tensor, "classes": found.pred_classes, "scores": found.scores}
    return named | {name: found.get(f"pred_{name}") for name in ("masks", "keypoints") if found.has(f"pred_{name}")}


def trace(predictor: Predictor, example: torch.Tensor) -> torch.jit.ScriptModule:
    """Return a model in TorchScript, traced so that it takes images of any size.

    Args:
        predictor: holds the model.
        example: an image in the model's input format, C x H x W, uint8.

    Raises:
        ValueError: the model cannot be traced.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # It warns of values that become constants; the comparison decides if that matters.
            warnings.simplefilter("ignore")
            # It returns a dict, which strict=False allows.
            return torch.jit.trace(Exportable(predictor.model, example), (example,), check_trace=False, strict=False)
    except Exception as error:  # the tracer raises errors of any kind
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"a {predictor.cfg.MODEL.META_ARCHITECTURE} with {predictor.cfg.MODEL.BACKBONE.NAME} cannot be exported:"
            f" TorchScript's tracer fails ({said}); docs/predict.md lists the models that can be exported"
        ) from error


def save(module: torch.jit.ScriptModule, handle: IO[bytes], description: Mapping[str, Any]) -> None:
    """Write a TorchScript file that holds the model and a description."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript gets no new features
        torch.jit.save(module, handle, _extra_files={DESCRIPTION: json.dumps(description)})


def load(handle: IO[bytes]) -> torch.jit.ScriptModule:
    """Read the file of `save`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(handle)


def describe(predictor: Predictor) -> dict[str, Any]:
    """Describe an exported model's input, output and classes."""
    cfg, model = predictor.cfg, predictor.model
    channels = "L (grey)" if cfg.INPUT.FORMAT == "L" else cfg.INPUT.FORMAT
    boxes = {
        "boxes": "N x 4, float32: x0, y0, x1, y1 in pixels of the image",
        "classes": "N, int64: indices of classes",
        "scores": "N, float32",
    }
    if cfg.MODEL.MASK_ON:
        boxes["masks"] = "N x H x W, bool"
    if cfg.MODEL.KEYPOINT_ON:
        boxes["keypoints"] = "N x K x 3, float32: x, y in pixels of the image, score"
    pixelwise = predicts_pixels(cfg)
    size = "" if cfg.INPUT.MIN_SIZE_TEST == 0 else f", whose shorter side is {cfg.INPUT.MIN_SIZE_TEST} pixels"
    if size:
        size += f" and whose longer side is at most {cfg.INPUT.MAX_SIZE_TEST}, as in the evaluation"
    return {
        "input": f"{len(cfg.MODEL.PIXEL_MEAN)} x H x W, uint8 or float32 of 0 to 255, {channels}{size}; the mean"
        f" {list(cfg.MODEL.PIXEL_MEAN)} is subtracted inside",
        "output": {"labels": "H x W, int64: indices of classes"} if pixelwise else boxes,
        "device": str(next(model.parameters()).device),
        "classes": asdict(predictor.classes),
    }
