"""The trials of a study, and how each is trained."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mocodet import configs

from .spec import WEIGHTS_KEY, Study


@dataclass(frozen=True)
class Trial:
    """One fine-tuning.

    Attributes:
        detector, init, fraction, seed: these identify it.
        folder: its ``OUTPUT_DIR``.
        config: its config file, which need not exist.
        opts: all overrides except ``OUTPUT_DIR`` and ``SEED``; key -> value, as text.
        only_detector: whether the study has no other detector, so that names leave it out.
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
        """Return its arguments of ``mocodet train``, without ``--resume`` and the flags of a machine.

        One of mocodet's own configs is given by name, because its path differs between machines.
        """
        packaged = self.config.is_relative_to(configs.ROOT)
        config = self.config.relative_to(configs.ROOT) if packaged else self.config
        pairs = [word for pair in self.opts.items() for word in pair]
        return ["--config-file", str(config), *pairs, "OUTPUT_DIR", str(self.folder), "SEED", str(self.seed)]


def plan(study: Study, output: Path) -> list[Trial]:
    """Return the trials of a study, seed by seed, so that an early stop leaves complete comparisons.

    Their folders are ``output/<detector>/<init>/labels_<percent>/seed_<seed>``.
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
    """Format a fraction in per cent, without trailing zeros: 0.1 is ``10``, 0.005 is ``0.5``."""
    return f"{100 * fraction:.6g}"


def _config_of(study: Study, detector: str, init: str) -> Path:
    """Return the config of an initialisation: a given path, or one of mocodet's own; the given path if neither exists.

    The config of a variant is beside the detector's, with the variant at the end of its name.
    """
    start = study.inits[init]
    name = start.config or study.detectors[detector].config or ""
    if start.config is None and start.variant != "supervised":
        name = re.sub(r"(\.ya?ml)?$", rf"_{start.variant}\1", name, count=1)
    try:
        return configs.locate(name)
    except OSError:  # the name may be too long
        return Path(name)


def _opts_of(study: Study, detector: str, init: str, fraction: float, seed: int) -> dict[str, str]:
    """Merge the overrides, the more specific later, and set the study's own keys."""
    start = study.inits[init]
    opts = {**study.opts, **study.detectors[detector].opts, **start.opts}
    if start.weights is not None:
        opts[WEIGHTS_KEY] = start.weights
    if fraction < 1:  # with all images every seed has the same subset
        opts |= {"MOCO.TRAIN_FRACTION": str(fraction), "MOCO.FRACTION_SEED": str(seed)}
    if study.passes is not None:
        opts["MOCO.PASSES"] = str(study.passes)
        if study.min_iters is not None:
            opts["MOCO.MIN_ITERS"] = str(study.min_iters)
    return opts
