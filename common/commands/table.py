"""The commands. Help and README derive from this table; it imports nothing of mocodet."""

from typing import NamedTuple

PROGRAM = "mocodet"


class Command(NamedTuple):
    """A command of ``mocodet``.

    Attributes:
        name: what the user types. The file of this name in this folder, with ``_`` for ``-``, has its arguments.
        does: ``module:function`` that does the work; the function takes the parsed arguments.
        help: what it does, in one line.
    """

    name: str
    does: str
    help: str


COMMANDS = (
    Command("pretrain", "mocodet.pretrain.run:main", "pre-train an encoder from images, by MoCo or another method"),
    Command("convert", "mocodet.detection.weights.run:main", "rewrite an encoder for detectron2, and back"),
    Command("train", "mocodet.detection.training.run:main", "fine-tune a detector, or evaluate one"),
    Command("predict", "mocodet.detection.predict.run:main", "find objects, or label pixels, in images without labels"),
    Command("export", "mocodet.detection.export.run:main", "write a trained model as TorchScript"),
    Command("evaluate", "mocodet.detection.evaluation.run:main", "compute the metrics of saved predictions"),
    Command("visualize", "mocodet.detection.visualize.run:main", "draw ground truth beside predictions"),
    Command("study", "mocodet.common.study.run:main", "compare initialisations over several trials"),
    Command(
        "report", "mocodet.common.report.run:main", "show the results of a study or a pre-training run on one page"
    ),
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
    Command("costs", "mocodet.pretrain.costs.run:main", "estimate or measure what a pre-training run costs"),
    Command(
        "benchmark", "mocodet.common.benchmark.run:main", "measure the speed of every part against a plain reference"
    ),
    Command("prepare-data", "mocodet.common.prepare.run:main", "download, lay out and check data sets"),
)
