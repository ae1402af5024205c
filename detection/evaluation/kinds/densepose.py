"""DensePose's metrics from the project: box AP, and AP by geodesic point similarity (Guler et al., CVPR 2018)."""

import importlib
import math

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluators
from detectron2.utils.file_io import PathManager
from scipy.io import loadmat

from ...densepose import EVALUATOR_TYPE, INSTALL, PROJECT, records_of, trainer
from . import EvaluationKind, Results, register_kind

DISTANCES = "https://dl.fbaipublicfiles.com/densepose/data/Pdist_matrix.pkl"  # as in the project's evaluator


class DensePoseEvaluators(DatasetEvaluators):
    """The project's evaluators for boxes and surfaces, with nan instead of -100 for metrics without ground truth."""

    def evaluate(self) -> Results | None:
        """Return ``{task: {metric: value}}`` on the main process and None on the others."""
        results = super().evaluate()
        if not results:
            return None
        return Results(
            (task, {name: math.nan if value < 0 else value for name, value in metrics.items()})
            for task, metrics in results.items()
        )


def check_surface(cfg: CfgNode, dataset_name: str) -> None:
    """Download the files of the human surface, which the project does only at the end, and test its distances.

    Raises:
        ValueError: a file cannot be downloaded, or the project would look up the distances of the wrong vertices. With
            NumPy 2, it multiplies vertex numbers in the narrow integer type of the file.
    """
    metadata = MetadataCatalog.get(dataset_name)
    files = {}
    for address in (
        metadata.densepose_transform_src,
        metadata.densepose_smpl_subdiv,
        metadata.densepose_smpl_subdiv_transform,
        DISTANCES,
    ):
        try:
            files[address] = PathManager.get_local_path(address)
        except OSError as error:
            raise ValueError(
                f"data set {dataset_name}: DensePose's evaluation requires {address}, which cannot be downloaded:"
                f" {error}; alternatively, place the file in densepose/data under FVCORE_CACHE (default:"
                " ~/.torch/iopath_cache)"
            ) from error
    vertices = loadmat(files[metadata.densepose_smpl_subdiv_transform])["index"].ravel()
    if not finds_distances(vertices):
        raise ValueError(
            f"data set {dataset_name}: with NumPy {np.__version__}, DensePose's evaluation looks up wrong distances,"
            f" because its products of vertex numbers overflow their {vertices.dtype}; evaluate with an older NumPy"
            ' (pip install "numpy<2" "opencv-python-headless<4.11"), or train with DATASETS.TEST "()" and'
            " evaluate later"
        )


def finds_distances(vertices: np.ndarray) -> bool:
    """Return whether the project looks up the distance of two vertices at the correct index of its table.

    Args:
        vertices: the vertex numbers, starting at 1, of which the highest and the lowest are tested.
    """
    evaluation = importlib.import_module(f"{PROJECT}.evaluation.densepose_coco_evaluation").DensePoseCocoEval()
    evaluation.Pdist_matrix = _Places()
    high, low = vertices.max(keepdims=True), vertices.min(keepdims=True)
    with np.errstate(over="ignore"):
        (place,) = evaluation.getDistancesUV(high, low)
    row, column = int(high[0]) - 1, int(low[0]) - 1
    return place == row * (row - 1) // 2 + column  # the table contains the pairs (1, 0), (2, 0), (2, 1), (3, 0), ...


class _Places:
    """A table in which every entry is its own index."""

    def __getitem__(self, place: int) -> tuple[int]:
        return (place,)


register_kind(
    EvaluationKind(
        EVALUATOR_TYPE,
        build=lambda cfg, name, tasks, output: DensePoseEvaluators(
            trainer().build_evaluator(cfg, name, output)._evaluators
        ),
        check=check_surface,
        records=records_of,
        packages=(PROJECT,),
        install=INSTALL,
    )
)
