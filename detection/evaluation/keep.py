"""The files that a study needs from an evaluation besides its metrics, in the run's folder."""

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
    """Writes two files beside the metrics, on the main process; each evaluation replaces them.

    * ``matches.npz``: which detections were right, if the kind of evaluation can tell.
    * ``examples.json``: the detections in a few images, the same ones in every run, if there are boxes.

    Args:
        evaluator: of the data set's kind.
        dataset_name: the data set.
        folder: where to write the files.
    """

    def __init__(self, evaluator: DatasetEvaluator, dataset_name: str, folder: str | Path):
        self._folder = Path(folder)
        super().__init__(evaluator, dataset_name, kind_of(dataset_name).records)

    def reset(self) -> None:
        """Forget the images seen."""
        self._candidates = Candidates()
        super().reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Pass a batch on, and look for images to keep."""
        super().process(inputs, outputs)
        for record, output in zip(inputs, outputs, strict=True):
            if "instances" in output and output["instances"].has("pred_boxes"):
                self._candidates.see(record, output["instances"])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Write the files, and return (or raise) as `CompleteEvaluator` does."""
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
