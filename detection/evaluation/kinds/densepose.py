"""DensePose's metrics: box AP, and AP by geodesic point similarity (Guler et al., CVPR 2018), by the project itself."""

from ...densepose import EVALUATOR_TYPE, INSTALL, PROJECT, trainer
from . import EvaluationKind, register_kind

register_kind(
    EvaluationKind(
        EVALUATOR_TYPE,
        build=lambda cfg, name, tasks, output: trainer().build_evaluator(cfg, name, output),
        packages=(PROJECT,),
        install=INSTALL,
    )
)
