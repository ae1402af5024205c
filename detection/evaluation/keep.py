"""Writes the files that a study requires from an evaluation in addition to its metrics."""

import itertools
from collections import OrderedDict
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from mocodet.common.matches import MATCHES_FILE, write_matches

from .complete import CompleteEvaluator
from .examples import EXAMPLES_FILE, Candidates, choose, write_examples
from .kinds import kind_of
from .things import image_key


class KeepingEvaluator(CompleteEvaluator):
    """Writes two files in addition to the metrics, on the main process. Each evaluation replaces them.

    * ``matches.npz``: which detections were correct, if the evaluation kind provides this.
    * ``examples.json``: the detections in a few images, which are the same in every run, if there are boxes.

    Args:
        evaluator: the evaluator for the data set's kind.
        dataset_name: the name of the data set.
        folder: the folder for the files.
    """

    def __init__(self, evaluator: DatasetEvaluator, dataset_name: str, folder: str | Path):
        self._folder = Path(folder)
        super().__init__(evaluator, dataset_name, kind_of(dataset_name).records)

    def reset(self) -> None:
        """Clear the recorded images."""
        self._candidates = Candidates()
        super().reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Process a batch, and select images to keep."""
        super().process(inputs, outputs)
        for record, output in zip(inputs, outputs, strict=True):
            if "instances" in output and output["instances"].has("pred_boxes"):
                self._candidates.see(record, output["instances"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Write the files, and return or raise the same as `CompleteEvaluator`."""
        gathered = comm.gather(self._candidates.kept, dst=0)
        results = super().evaluate()
        if results is None:
            return None
        kind, metadata = kind_of(self._dataset_name), MetadataCatalog.get(self._dataset_name)
        if kind.matches:
            write_matches(self._folder / MATCHES_FILE, kind.matches(self.evaluator))
        kept, classes = list(itertools.chain.from_iterable(gathered)), metadata.get("thing_classes")
        if kept and classes:
            records = {image_key(record): record for record in self._records}
            write_examples(self._folder / EXAMPLES_FILE, choose(kept, records), records, classes)
        return results
