"""The table of commands, which help texts and docs follow. This module imports nothing from mocodet."""

from typing import NamedTuple

PROGRAM = "mocodet"


class Command(NamedTuple):
    """A command of ``mocodet``.

    Attributes:
        name: name on the command line. The arguments are defined in the file of this name, with ``_`` for ``-``.
        does: ``module:function`` that implements the command; the function takes the parsed arguments.
        help: one-line description of the command.
    """

    name: str
    does: str
    help: str


COMMANDS = (
    Command("pretrain", "mocodet.pretrain.run:main", "pre-train an encoder on images with MoCo or another method"),
    Command("convert", "mocodet.detection.weights.run:main", "convert an encoder to detectron2's format, or back"),
    Command("train", "mocodet.detection.training.run:main", "fine-tune or evaluate a detector"),
    Command("predict", "mocodet.detection.predict.run:main", "detect objects or label pixels in unlabelled images"),
    Command("export", "mocodet.detection.export.run:main", "export a trained model to TorchScript"),
    Command("evaluate", "mocodet.detection.evaluation.run:main", "compute the metrics of saved predictions"),
    Command("visualize", "mocodet.detection.visualize.run:main", "draw the ground truth next to predictions"),
    Command("study", "mocodet.common.study.run:main", "compare initialisations over multiple trials"),
    Command("report", "mocodet.common.report.run:main", "write an HTML report on a study or a pre-training run"),
    Command(
        "knn", "mocodet.pretrain.evaluation.run:knn", "classify images by the nearest neighbours of their features"
    ),
    Command("linear", "mocodet.pretrain.evaluation.run:linear", "train linear classifiers on frozen features"),
    Command("classify", "mocodet.pretrain.classify:main", "train, fine-tune or evaluate a classifier"),
    Command(
        "shards",
        "mocodet.pretrain.data.make_shards:main",
        "write images to WebDataset shards, or index existing shards",
    ),
    Command("costs", "mocodet.pretrain.costs.run:main", "estimate or measure the cost of a pre-training run"),
    Command("benchmark", "mocodet.common.benchmark.run:main", "compare the speed of each component with a reference"),
    Command("prepare-data", "mocodet.common.prepare.run:main", "download, unpack and check data sets"),
)
