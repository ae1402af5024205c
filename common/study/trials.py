"""The trials of a study, and the training arguments of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mocodet import configs

from .spec import WEIGHTS_KEY, Study


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run.

    Attributes:
        detector, init, fraction, seed: detector, initialisation, label fraction and seed, which identify the trial.
        folder: ``OUTPUT_DIR`` of the trial.
        config: config file of the trial, which need not exist.
        opts: all overrides except ``OUTPUT_DIR`` and ``SEED``, as a mapping from keys to strings.
        only_detector: whether the study has no other detector, in which case names omit the detector.
    """

    detector: str
    init: str
    fraction: float
    seed: int
    folder: Path
    config: Path
    opts: Mapping[str, str]
    only_detector: bool = False

    def __str__(self) -> str:
        labels = [] if self.fraction == 1 else [f"{percent(self.fraction)} % of the labels"]
        detector = [] if self.only_detector else [self.detector]
        return ", ".join([*detector, self.init, *labels, f"seed {self.seed}"])

    def __hash__(self) -> int:
        return hash(self.folder)

    def words(self) -> list[str]:
        """Return the arguments of ``mocodet train`` for this trial, without ``--resume`` and machine-specific flags.

        Configs included in mocodet are given by name, because their path differs between machines.
        """
        packaged = self.config.is_relative_to(configs.ROOT)
        config = self.config.relative_to(configs.ROOT) if packaged else self.config
        pairs = [word for pair in self.opts.items() for word in pair]
        return ["--config-file", str(config), *pairs, "OUTPUT_DIR", str(self.folder), "SEED", str(self.seed)]


def plan(study: Study, output: Path) -> list[Trial]:
    """Return the trials of a study, ordered by seed, so that stopping early leaves complete comparisons.

    The folder of a trial is ``output/<detector>/<init>/labels_<percent>/seed_<seed>``.
    """
    return [
        Trial(
            detector=detector,
            init=init,
            fraction=fraction,
            seed=seed,
            folder=output / detector / init / f"labels_{percent(fraction)}" / f"seed_{seed}",
            config=_config_of(study, detector, init),
            opts=_opts_of(study, detector, init, fraction, seed),
            only_detector=len(study.detectors) == 1,
        )
        for seed in study.seeds
        for detector in study.detectors
        for fraction in study.fractions
        for init in study.inits
    ]


def percent(fraction: float) -> str:
    """Format a fraction in per cent, without trailing zeros: 0.1 becomes ``10``, and 0.005 becomes ``0.5``."""
    return f"{100 * fraction:.6g}"


def _config_of(study: Study, detector: str, init: str) -> Path:
    """Return the config of an initialisation: the given path or, if it is a name, a config included in mocodet.

    The config of a variant is in the folder of the detector's config, and its name ends with the name of the variant.
    If no config is found, the given path is returned.
    """
    start = study.inits[init]
    name = start.config or study.detectors[detector].config or ""
    if start.config is None and start.variant != "supervised":
        name = re.sub(r"(\.ya?ml)?$", rf"_{start.variant}\1", name, count=1)
    try:
        return configs.locate(name)
    except OSError:  # also raised if the name is too long
        return Path(name)


def _opts_of(study: Study, detector: str, init: str, fraction: float, seed: int) -> dict[str, str]:
    """Merge the overrides, of which the more specific take precedence, and set the keys that the study controls."""
    start = study.inits[init]
    opts = {**study.opts, **study.detectors[detector].opts, **start.opts}
    if start.weights is not None:
        opts[WEIGHTS_KEY] = start.weights
    if fraction < 1:  # with all images, the subset is the same for every seed
        opts |= {"MOCO.TRAIN_FRACTION": str(fraction), "MOCO.FRACTION_SEED": str(seed)}
    if study.passes is not None:
        opts["MOCO.PASSES"] = str(study.passes)
        if study.min_iters is not None:
            opts["MOCO.MIN_ITERS"] = str(study.min_iters)
    return opts
