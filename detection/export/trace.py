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

DESCRIPTION = "description.json"  # in the exported file; describes its input, its output and the classes


class Exportable(nn.Module):
    """A model as a function of one image, with named outputs.

    Args:
        model: a detectron2 model in evaluation mode.
        example: an image (C x H x W), which detectron2's tracer requires.
    """

    def __init__(self, model: nn.Module, example: torch.Tensor):
        super().__init__()
        self.names = sorted(outputs_of(model, example))  # in the order in which detectron2 flattens a dict
        self.adapter = TracingAdapter(model, example, outputs_of)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the predictions on an image (C x H x W, from 0 to 255); see `outputs_of`."""
        return dict(zip(self.names, self.adapter(image), strict=True))


def outputs_of(model: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a model's predictions on an image (C x H x W) as named tensors, in pixels of that image.

    A detector returns ``boxes`` (N x 4: x0, y0, x1, y1), ``classes`` (N, indices), ``scores`` (N) and, if the model
    predicts them, ``masks`` (N x H x W, bool) and ``keypoints`` (N x K x 3: x, y, score). A segmentation network
    returns ``labels`` (H x W, the class index of each pixel).
    """
    with torch.no_grad():
        (output,) = model([{"image": image}])
    if "sem_seg" in output:
        return {"labels": output["sem_seg"].argmax(dim=0)}
    found = output["instances"]
    named = {"boxes": found.pred_boxes.tensor, "classes": found.pred_classes, "scores": found.scores}
    return named | {name: found.get(f"pred_{name}") for name in ("masks", "keypoints") if found.has(f"pred_{name}")}


def trace(predictor: Predictor, example: torch.Tensor) -> torch.jit.ScriptModule:
    """Return a model as TorchScript, traced such that it accepts images of any size.

    Args:
        predictor: the predictor with the model.
        example: an image in the model's input format, C x H x W, uint8.

    Raises:
        ValueError: the model cannot be traced.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The tracer warns about values that become constants. The comparison shows whether this matters.
            warnings.simplefilter("ignore")
            # The model returns a dict, which requires strict=False.
            return torch.jit.trace(Exportable(predictor.model, example), (example,), check_trace=False, strict=False)
    except Exception as error:  # the tracer may raise any exception
        said = " ".join(str(error).split())[:300]
        raise ValueError(
            f"a {predictor.cfg.MODEL.META_ARCHITECTURE} with {predictor.cfg.MODEL.BACKBONE.NAME} cannot be exported:"
            f" TorchScript's tracer fails ({said}); docs/predict.md lists the models that can be exported"
        ) from error


def save(module: torch.jit.ScriptModule, handle: IO[bytes], description: Mapping[str, Any]) -> None:
    """Write a TorchScript file that contains the model and a description."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is no longer developed
        torch.jit.save(module, handle, _extra_files={DESCRIPTION: json.dumps(description)})


def load(handle: IO[bytes]) -> torch.jit.ScriptModule:
    """Read a file written by `save`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.load(handle)


def describe(predictor: Predictor) -> dict[str, Any]:
    """Describe an exported model's input, output and classes."""
    cfg, model = predictor.cfg, predictor.model
    channels = "L (greyscale)" if cfg.INPUT.FORMAT == "L" else cfg.INPUT.FORMAT
    boxes = {
        "boxes": "N x 4, float32: x0, y0, x1, y1 in pixels of the image",
        "classes": "N, int64: class indices",
        "scores": "N, float32",
    }
    if cfg.MODEL.MASK_ON:
        boxes["masks"] = "N x H x W, bool"
    if cfg.MODEL.KEYPOINT_ON:
        boxes["keypoints"] = "N x K x 3, float32: x, y in pixels of the image, score"
    pixelwise = predicts_pixels(cfg)
    size = "" if cfg.INPUT.MIN_SIZE_TEST == 0 else f", with a shorter side of {cfg.INPUT.MIN_SIZE_TEST} pixels"
    if size:
        size += f" and a longer side of at most {cfg.INPUT.MAX_SIZE_TEST} pixels, as in evaluation"
    return {
        "input": f"{len(cfg.MODEL.PIXEL_MEAN)} x H x W, uint8 or float32 from 0 to 255, {channels}{size}; the model"
        f" subtracts the mean {list(cfg.MODEL.PIXEL_MEAN)}",
        "output": {"labels": "H x W, int64: class indices"} if pixelwise else boxes,
        "device": str(next(model.parameters()).device),
        "classes": asdict(predictor.classes),
    }
