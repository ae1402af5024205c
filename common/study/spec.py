"""What a study compares: detectors, initialisations, label fractions and seeds, from a YAML file or from flags."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mocodet import configs
from mocodet.common.config.pairs import CONFIG_KEY, read_pairs
from mocodet.common.config.yaml_file import read_yaml
from mocodet.common.files import read_json, write_json
from mocodet.common.text import did_you_mean, repeated

VARIANTS = ("moco", "supervised", "random", "coco")  # X_moco.yaml, X.yaml, X_random.yaml and X_coco.yaml
OWN_KEYS = ("OUTPUT_DIR", "SEED", "MOCO.TRAIN_FRACTION", "MOCO.FRACTION_SEED", "MOCO.PASSES", "MOCO.MIN_ITERS")
WEIGHTS_KEY = "MODEL.WEIGHTS"
DEFAULT_SEEDS = 5
STUDY_FILE = "study.json"  # in the folder of a study
NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*")

STUDY_KEYS = ("NAME", "DETECTORS", "INITS", "REFERENCE", "FRACTIONS", "SEEDS", "PASSES", "MIN_ITERS", "OPTS")
DETECTOR_KEYS = ("CONFIG", "OPTS")
INIT_KEYS = ("VARIANT", "CONFIG", "WEIGHTS", "OPTS")

Opts = Mapping[str, str]  # config key -> value, as on the command line


@dataclass(frozen=True)
class Detector:
    """A detector: the config of its supervised variant, and its own overrides.

    ``config`` is None if every initialisation names its own config.
    """

    config: str | None = None
    opts: Opts = field(default_factory=dict)


@dataclass(frozen=True)
class Init:
    """An initialisation: a variant of the detectors' configs or one config for all, weights, and its own overrides."""

    variant: str | None = None  # one of VARIANTS
    config: str | None = None
    weights: str | None = None  # None: those of the config
    opts: Opts = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Detectors x initialisations x label fractions x seeds, and the common settings of their trainings.

    Attributes:
        name: its name in reports.
        detectors, inits: by name; the names are also those of folders.
        reference: the initialisation that gaps are measured from.
        fractions: fractions of the training images, 0 < fraction <= 1.
        seeds: seeds of fine-tuning; with each, every initialisation is trained on the same images.
        passes: length of a schedule in passes over the fraction of the images; None: the config's iterations.
        min_iters: the fewest iterations of a schedule of ``passes``.
        opts: overrides of all trials. A detector's take precedence over them, an initialisation's over both.

    Raises:
        ValueError: nothing to compare, a bad name, an unknown reference or variant, a number out of range, or an
            override of a key that the study sets.
    """

    name: str
    detectors: Mapping[str, Detector]
    inits: Mapping[str, Init]
    reference: str
    fractions: Sequence[float] = (1.0,)
    seeds: Sequence[int] = (0,)
    passes: int | None = None
    min_iters: int | None = None
    opts: Opts = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what, named in (("detector", self.detectors), ("initialisation", self.inits)):
            if not named:
                raise ValueError(f"a study needs at least one {what}")
            for name in named:
                if not NAME.fullmatch(name):
                    raise ValueError(f"{name!r} cannot name a {what}: use letters, digits and _ . + - only")
        if self.reference not in self.inits:
            raise ValueError(
                f"the reference {self.reference!r} is not among the initialisations {', '.join(self.inits)}"
                + did_you_mean(self.reference, self.inits)
            )
        _check_numbers(self)
        for name, init in self.inits.items():
            _check_init(name, init, self.detectors)
        for owner, opts in _owners(self).items():
            _check_opts(owner, opts)

    def overridden(self, opts: Opts, **changes: Any) -> "Study":
        """Return the study with other attributes, and with overrides that take precedence over all of its own.

        This applies the command line to a file.
        """

        def without(own: Opts) -> dict[str, str]:
            return {key: value for key, value in own.items() if key not in opts}

        detectors = {name: replace(detector, opts=without(detector.opts)) for name, detector in self.detectors.items()}
        inits = {
            name: replace(init, opts=without(init.opts), weights=None if WEIGHTS_KEY in opts else init.weights)
            for name, init in self.inits.items()
        }
        return replace(self, detectors=detectors, inits=inits, opts={**self.opts, **opts}, **changes)


def _check_numbers(study: Study) -> None:
    """Check seeds, fractions and schedule."""
    for what, values in (("seed", study.seeds), ("label fraction", study.fractions)):
        if not values:
            raise ValueError(f"a study needs at least one {what}")
        if repeated(values):
            raise ValueError(f"each {what} must be given once, got {list(values)}")
    if min(study.seeds) < 0:
        raise ValueError(f"seeds must not be negative, got {list(study.seeds)}")
    if not all(0 < fraction <= 1 for fraction in study.fractions):
        raise ValueError(f"label fractions must be above 0 and at most 1 (all labels), got {list(study.fractions)}")
    if study.passes is not None and study.passes <= 0:
        raise ValueError(f"PASSES must be a positive number of passes over the training images, got {study.passes}")
    if study.min_iters is not None and (study.passes is None or study.min_iters < 0):
        raise ValueError(f"MIN_ITERS {study.min_iters} is the least length of a schedule that PASSES gives; set both")


def _check_init(name: str, init: Init, detectors: Mapping[str, Detector]) -> None:
    """Check that the initialisation gives its config and its weights only once."""
    if init.variant is not None and init.variant not in VARIANTS:
        raise ValueError(
            f"initialisation {name!r}: VARIANT {init.variant!r}; expected one of {', '.join(VARIANTS)}"
            + did_you_mean(init.variant, VARIANTS)
        )
    if (init.variant is None) == (init.config is None):
        raise ValueError(
            f"initialisation {name!r} needs either VARIANT (one of {', '.join(VARIANTS)}) or CONFIG, a file; got"
            f" {'both' if init.variant else 'neither'}"
        )
    if init.config is None and (lacking := [key for key, detector in detectors.items() if detector.config is None]):
        raise ValueError(f"initialisation {name!r} has no CONFIG, and neither has the detector {', '.join(lacking)}")
    if init.weights is not None and WEIGHTS_KEY in init.opts:
        raise ValueError(f"initialisation {name!r} has WEIGHTS and {WEIGHTS_KEY} in OPTS; leave one out")


def _owners(study: Study) -> dict[str, Opts]:
    """Return all overrides, by the names of their owners in messages."""
    return {
        "OPTS": study.opts,
        **{f"detector {name!r}": detector.opts for name, detector in study.detectors.items()},
        **{f"initialisation {name!r}": init.opts for name, init in study.inits.items()},
    }


def _check_opts(owner: str, opts: Opts) -> None:
    for key in opts:
        if not CONFIG_KEY.fullmatch(key):
            raise ValueError(f"{owner}: {key!r} is not a config key such as SOLVER.MAX_ITER")
        if key in OWN_KEYS:
            raise ValueError(
                f"{owner}: {key} is set by the study, since it differs between trials; leave it out"
                + (" (PASSES and MIN_ITERS of a STUDY.yaml)" if key in OWN_KEYS[-2:] else "")
            )


def paired(words: Sequence[str]) -> dict[str, str]:
    """Turn ``KEY, VALUE, KEY, VALUE, ...`` into a mapping.

    Raises:
        ValueError: see `read_pairs`; or a key twice.
    """
    pairs = read_pairs(words)
    if twice := repeated(key for key, _ in pairs):
        raise ValueError(f"{', '.join(twice)} is overridden twice; leave one of the values out")
    return dict(pairs)


def read_study(file: str | Path) -> Study:
    """Read a STUDY.yaml, by its path or, for one of mocodet's own, by its name, such as ``studies/table_4.yaml``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not YAML (see `read_yaml`), is not a study (see `Study`), or has an unknown key.
    """
    path = configs.locate(str(file))
    content, _ = read_yaml(path)
    try:
        return _parse(content, default_name=path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def keep_study(study: Study, folder: Path) -> None:
    """Write the study into its folder, so that the folder itself records what was compared."""
    write_json(folder / STUDY_FILE, asdict(study))


def kept_study(folder: Path) -> Study:
    """Read what `keep_study` wrote.

    Raises:
        FileNotFoundError: the folder is not that of a study.
        ValueError: the file is damaged.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {STUDY_FILE}, so it is not a study's folder; give the STUDY.yaml")
    content = read_json(path)
    try:
        parts: dict[str, Any] = {
            "detectors": {name: Detector(**_texts(value)) for name, value in content.pop("detectors").items()},
            "inits": {name: Init(**_texts(value)) for name, value in content.pop("inits").items()},
        }
        _texts({key: content.get(key) for key in ("name", "reference", "opts")})
        for key in ("seeds", "passes", "min_iters"):
            if any(type(number) is not int for number in _listed(content.get(key))):
                raise TypeError(f"{key} {content.get(key)!r:.60}; expected whole numbers")
        return Study(**parts, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not what a study writes there: {error}") from error


def _texts(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return texts by name, and overrides, unchanged; None stands for no text.

    Raises:
        TypeError: a value is neither.
    """
    for key, value in values.items():
        inner = value.values() if key == "opts" and isinstance(value, dict) else [value]
        if (key == "opts" and not isinstance(value, dict)) or not all(isinstance(one, str | None) for one in inner):
            raise TypeError(f"{key} {value!r:.60}; expected text")
    return values


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _parse(content: object, default_name: str) -> Study:
    given = _mapping(content, "the study", STUDY_KEYS)
    if missing := [key for key in ("DETECTORS", "INITS", "REFERENCE") if key not in given]:
        raise ValueError(f"{', '.join(missing)} is missing; a study needs DETECTORS, INITS and REFERENCE")
    detectors = {}
    for name, value in _mapping(given["DETECTORS"], "DETECTORS").items():
        parts = _mapping(value, f"detector {name!r}", DETECTOR_KEYS)
        where = f"detector {name!r}: "
        detectors[name] = Detector(_text(parts, "CONFIG", where), _opts(parts, where))
    inits = {}
    for name, value in _mapping(given["INITS"], "INITS").items():
        parts = _mapping({} if value is None else value, f"initialisation {name!r}", INIT_KEYS)
        where = f"initialisation {name!r}: "
        variant, config = _text(parts, "VARIANT", where), _text(parts, "CONFIG", where)
        if variant is None and config is None and name in VARIANTS:
            variant = name
        inits[name] = Init(variant, config, _text(parts, "WEIGHTS", where), _opts(parts, where))
    return Study(
        name=_text(given, "NAME") or default_name,
        detectors=detectors,
        inits=inits,
        reference=_text(given, "REFERENCE") or "",
        fractions=_numbers(given.get("FRACTIONS", [1.0]), "FRACTIONS", float),
        seeds=_seeds(given.get("SEEDS", DEFAULT_SEEDS)),
        passes=_whole_number(given, "PASSES"),
        min_iters=_whole_number(given, "MIN_ITERS"),
        opts=_opts(given),
    )


def _mapping(value: object, what: str, known: Collection[str] | None = None) -> dict[str, Any]:
    """Return ``value`` if it is a mapping by names, with only ``known`` keys (None: any)."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a mapping, KEY: VALUE, got {value!r}")
    named = {str(key): item for key, item in value.items()}
    for key in named:
        if known is not None and key not in known:
            raise ValueError(f"{what} has no {key!r}; expected {', '.join(known)}{did_you_mean(key, known)}")
    return named


def _text(parts: Mapping[str, Any], key: str, where: str = "") -> str | None:
    value = parts.get(key)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"{where}{key} must be a text, got {value!r}")
    return None if value is None else str(value)


def _opts(parts: Mapping[str, Any], where: str = "") -> dict[str, str]:
    return {key: _literal(value) for key, value in _mapping(parts.get("OPTS", {}), f"{where}OPTS").items()}


def _literal(value: object) -> str:
    """Format a value for a command line; texts within it are in double quotes, to fit within the shell's quotes."""

    def inner(value: object) -> str:
        if isinstance(value, str):
            return json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict):
            return f"{{{', '.join(f'{inner(key)}: {inner(item)}' for key, item in value.items())}}}"
        return f"[{', '.join(map(inner, value))}]" if isinstance(value, list) else str(value)

    return value if isinstance(value, str) else inner(value)


def _whole_number(parts: Mapping[str, Any], key: str) -> int | None:
    value = parts.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ValueError(f"{key} must be a whole number, got {value!r}")
    return value


def _numbers(values: object, what: str, kind: type) -> tuple[Any, ...]:
    allowed = (int, float) if kind is float else int
    if not isinstance(values, list) or not all(isinstance(n, allowed) and not isinstance(n, bool) for n in values):
        form = "numbers, such as [0.1, 1.0]" if kind is float else "whole numbers, or how many there are"
        raise ValueError(f"{what} must be a list of {form}, got {values!r}")
    return tuple(kind(value) for value in values)


def _seeds(value: object) -> tuple[int, ...]:
    """Read a list of seeds, or the number N of seeds 0 to N - 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"SEEDS must be a positive number or a list of seeds, got {value}")
        return tuple(range(value))
    return _numbers(value, "SEEDS", int)
