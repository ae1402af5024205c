"""Made-up content of a study's ``results.json``."""

from collections.abc import Mapping, Sequence
from typing import Any


def content_of(
    metrics: Mapping[str, Sequence[Mapping[str, float] | None]], detector: str = "FPN", fraction: float = 1.0
) -> dict[str, Any]:
    """Make the content of initialisations whose trials, with the seeds 0, 1, ..., have these metrics; None: failed."""
    trials = [
        {
            "detector": detector,
            "init": init,
            "fraction": fraction,
            "seed": seed,
            "status": "failed" if found is None else "finished",
            "metrics": found or {},
            "folder": f"{detector}/{init}/labels_{100 * fraction:g}/seed_{seed}",
        }
        for init, of_init in metrics.items()
        for seed, found in enumerate(of_init)
    ]
    return {
        "version": 2,
        "reference": "random",
        "detectors": [detector],
        "inits": list(metrics),
        "fractions": [fraction],
        "trials": trials,
    }
