"""Variation of a gap with the choice of test images, for fixed trained models.

The variation is estimated with a bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
Resamples of the same size as the test set are drawn from it with replacement, the AP of each model is computed on each
resample, and the interval contains the middle 95 % of the gaps. Both models of a pair are evaluated on the same images.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mocodet.common.matches import MATCHES_FILE, Matches, read_matches
from mocodet.common.progress import progress

from .statistics import CONFIDENCE

logger = logging.getLogger(__name__)

RESAMPLES = 1000
SEED = 0
AT_ONCE = 100  # number of resamples computed together, small enough for the processor's cache
SAME = 1e-3  # tolerance, in points, between the recomputed and the logged metrics of a model

Trial = Mapping[str, Any]  # as in results.json
Metrics = dict[str, np.ndarray]  # for example {"bbox/AP": B values in per cent}


def draw_weights(num_images: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """Yield how often each resample contains each image, as int32 arrays of num_images x at most AT_ONCE."""
    rng, even = np.random.default_rng(seed), np.full(num_images, 1 / num_images)
    for begin in range(0, resamples, AT_ONCE):
        weights = rng.multinomial(num_images, even, size=min(AT_ONCE, resamples - begin))
        yield np.ascontiguousarray(weights.T, dtype=np.int32)


def resample(found: Mapping[str, Matches], resamples: int = RESAMPLES, seed: int = SEED) -> Metrics:
    """Return the metrics of one trial on each resample. The same seed draws the same images for every trial."""
    metrics: Metrics = {}
    for task, matches in found.items():
        parts = [matches.metrics(weights) for weights in draw_weights(len(matches.images), resamples, seed)]
        metrics |= {f"{task}/{name}": np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return metrics


def percentiles(gaps: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of B gaps. Resamples without objects, which have no AP, are ignored."""
    low, high = np.nanquantile(gaps, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def image_intervals(
    trials: Sequence[Trial], reference: str, folder: Path
) -> dict[tuple[str, float, str], dict[str, tuple[float, float]]]:
    """Return the interval over test images of every gap to the reference, which is a mean over pairs of trials.

    Args:
        trials: finished trials, as in ``results.json``.
        reference: initialisation that the gaps refer to.
        folder: folder of the study.

    Returns:
        ``{(detector, fraction, init): {"bbox/AP": (low, high)}}``. Gaps are omitted if a trial lacks ``matches.npz``,
        or if it belongs to another evaluation than the trial's metrics, about which a warning is logged.

    Raises:
        ValueError: a ``matches.npz`` is damaged, or is for different images than the file of the other trial in the
            pair.
    """
    by_key = {_key(trial): trial for trial in trials}
    pairs: dict[tuple[str, float, str], list[tuple[Trial, Trial]]] = {}
    for (detector, init, fraction, seed), trial in by_key.items():
        partner = by_key.get((detector, reference, fraction, seed))
        if partner and init != reference:
            pairs.setdefault((detector, fraction, init), []).append((trial, partner))
    kept = {key: (folder / trial["folder"] / MATCHES_FILE).is_file() for key, trial in by_key.items()}
    pairs = {group: own for group, own in pairs.items() if all(kept[_key(trial)] for pair in own for trial in pair)}
    needed = {_key(trial): trial for own in pairs.values() for pair in own for trial in pair}
    found, images = {}, {}
    for key, trial in progress(needed.items(), "resampling trial", len(needed)):
        matches = read_matches(folder / trial["folder"] / MATCHES_FILE)
        if fault := _difference(trial, matches):
            logger.warning(
                f"the interval over images is omitted for {trial['detector']}, {trial['init']}, because"
                f" {folder / trial['folder'] / MATCHES_FILE} is not from the evaluation of the results: {fault}"
            )
            continue
        found[key], images[key] = resample(matches), {task: of.images for task, of in matches.items()}
    pairs = {group: own for group, own in pairs.items() if all(_key(trial) in found for pair in own for trial in pair)}
    intervals: dict[tuple[str, float, str], dict[str, tuple[float, float]]] = {}
    for group, own in pairs.items():
        for pair in own:
            _check_same_images(pair, *(images[_key(trial)] for trial in pair))
        gaps: dict[str, list[np.ndarray]] = {}
        for trial, partner in own:
            for name, values in found[_key(trial)].items():
                gaps.setdefault(name, []).append(values - found[_key(partner)][name])
        intervals[group] = {name: percentiles(np.mean(of_pairs, axis=0)) for name, of_pairs in gaps.items()}
    return intervals


def _difference(trial: Trial, found: Mapping[str, Matches]) -> str:
    """Return how the metrics of the detections differ from those of the trial, or an empty string if they are equal.

    They differ, for example, if the trial was evaluated again on another device.
    """
    for task, matches in found.items():
        for name, (value,) in matches.metrics().items():
            logged = trial["metrics"].get(f"{task}/{name}")
            if logged is not None and not abs(value - logged) <= SAME:
                return f"{task}/{name} is {value:.3f} in this file and {logged:.3f} in the results"
    return ""


def _check_same_images(pair: Sequence[Trial], *images: Mapping[str, np.ndarray]) -> None:
    first, second = images
    if first.keys() != second.keys() or any(not np.array_equal(first[task], second[task]) for task in first):
        names = " and ".join(trial["folder"] for trial in pair)
        raise ValueError(f"{names} were evaluated on different images or tasks, so their detections cannot be compared")


def _key(trial: Trial) -> tuple[str, str, float, int]:
    return trial["detector"], trial["init"], trial["fraction"], trial["seed"]
