"""The definition of a study (detectors, initialisations, label fractions and seeds), from a YAML file or from flags."""

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

    ``config`` is None if every initialisation specifies its own config.
    """

    config: str | None = None
    opts: Opts = field(default_factory=dict)


@dataclass(frozen=True)
class Init:
    """An initialisation: a variant of each detector's config or one config for all, weights, and its own overrides."""

    variant: str | None = None  # one of VARIANTS
    config: str | None = None
    weights: str | None = None  # None: the weights in the config
    opts: Opts = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Detectors x initialisations x label fractions x seeds, and the settings that all trials share.

    Attributes:
        name: name of the study in reports.
        detectors, inits: detectors and initialisations by name. Folders have the same names.
        reference: initialisation that the gaps refer to.
        fractions: fractions of the training images, 0 < fraction <= 1.
        seeds: seeds for fine-tuning. For each seed, all initialisations are trained on the same images.
        passes: length of the schedule in passes over the selected images; None keeps the config's iterations.
        min_iters: minimum number of iterations of a schedule that ``passes`` defines.
        opts: overrides for all trials. Overrides of a detector take precedence over these, and overrides of an
            initialisation take precedence over both.

    Raises:
        ValueError: there is nothing to compare, a name is invalid, the reference or a variant is unknown, a number is
            out of range, or an override sets a key that is reserved for the study.
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
                raise ValueError(f"a study requires at least one {what}")
            for name in named:
                if not NAME.fullmatch(name):
                    raise ValueError(f"invalid {what} name {name!r}; use only letters, digits and _ . + -")
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
        """Return a copy of the study with changed attributes, and with overrides that take precedence over its own.

        This method applies the command line to a study from a file.
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
    """Check the seeds, the fractions and the schedule."""
    for what, values in (("seed", study.seeds), ("label fraction", study.fractions)):
        if not values:
            raise ValueError(f"a study requires at least one {what}")
        if repeated(values):
            raise ValueError(f"each {what} must be given only once, got {list(values)}")
    if min(study.seeds) < 0:
        raise ValueError(f"seeds must not be negative, got {list(study.seeds)}")
    if not all(0 < fraction <= 1 for fraction in study.fractions):
        raise ValueError(
            f"label fractions must be greater than 0 and at most 1 (all labels), got {list(study.fractions)}"
        )
    if study.passes is not None and study.passes <= 0:
        raise ValueError(f"PASSES must be a positive number of passes over the training images, got {study.passes}")
    if study.min_iters is not None and (study.passes is None or study.min_iters < 0):
        raise ValueError(f"MIN_ITERS must not be negative and can only be used with PASSES, got {study.min_iters}")


def _check_init(name: str, init: Init, detectors: Mapping[str, Detector]) -> None:
    """Check that the initialisation specifies its config exactly once, and its weights at most once."""
    if init.variant is not None and init.variant not in VARIANTS:
        raise ValueError(
            f"initialisation {name!r}: VARIANT is {init.variant!r}, expected one of {', '.join(VARIANTS)}"
            + did_you_mean(init.variant, VARIANTS)
        )
    if (init.variant is None) == (init.config is None):
        raise ValueError(
            f"initialisation {name!r} requires either VARIANT (one of {', '.join(VARIANTS)}) or CONFIG (a file), got"
            f" {'both' if init.variant else 'neither'}"
        )
    if init.config is None and (lacking := [key for key, detector in detectors.items() if detector.config is None]):
        raise ValueError(
            f"neither initialisation {name!r} nor detector {', '.join(lacking)} has a CONFIG; set it for one of them"
        )
    if init.weights is not None and WEIGHTS_KEY in init.opts:
        raise ValueError(f"initialisation {name!r} sets both WEIGHTS and {WEIGHTS_KEY} in OPTS; remove one of them")


def _owners(study: Study) -> dict[str, Opts]:
    """Return all overrides, keyed by the description of their owner in messages."""
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
                f"{owner}: {key} is set by the study, because it differs between trials; remove it"
                + (" and use PASSES and MIN_ITERS in the STUDY.yaml instead" if key in OWN_KEYS[-2:] else "")
            )


def paired(words: Sequence[str]) -> dict[str, str]:
    """Convert ``KEY, VALUE, KEY, VALUE, ...`` to a mapping.

    Raises:
        ValueError: see `read_pairs`; or a key occurs twice.
    """
    pairs = read_pairs(words)
    if twice := repeated(key for key, _ in pairs):
        raise ValueError(f"{', '.join(twice)} is overridden twice; remove one of the values")
    return dict(pairs)


def read_study(file: str | Path) -> Study:
    """Read a STUDY.yaml from a path or, for a study included in mocodet, by a name such as ``studies/table_4.yaml``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not YAML (see `read_yaml`), is not a study (see `Study`), or contains an unknown key.
    """
    path = configs.locate(str(file))
    content, _ = read_yaml(path)
    try:
        return _parse(content, default_name=path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def keep_study(study: Study, folder: Path) -> None:
    """Write the definition of the study to its folder, so that the folder is self-contained."""
    write_json(folder / STUDY_FILE, asdict(study))


def kept_study(folder: Path) -> Study:
    """Read a study that `keep_study` wrote.

    Raises:
        FileNotFoundError: the folder does not belong to a study.
        ValueError: the file is damaged.
    """
    path = folder / STUDY_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} contains no {STUDY_FILE}, so it is not the folder of a study; pass the STUDY.yaml instead"
        )
    content = read_json(path)
    try:
        parts: dict[str, Any] = {
            "detectors": {name: Detector(**_texts(value)) for name, value in content.pop("detectors").items()},
            "inits": {name: Init(**_texts(value)) for name, value in content.pop("inits").items()},
        }
        _texts({key: content.get(key) for key in ("name", "reference", "opts")})
        for key in ("seeds", "passes", "min_iters"):
            if any(type(number) is not int for number in _listed(content.get(key))):
                raise TypeError(f"{key} is {content.get(key)!r:.60}, expected whole numbers")
        return Study(**parts, **content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a valid study: {error}") from error


def _texts(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return ``values`` unchanged if they are strings or None and, under ``opts``, a mapping of such values.

    Raises:
        TypeError: a value has another type.
    """
    for key, value in values.items():
        inner = value.values() if key == "opts" and isinstance(value, dict) else [value]
        if (key == "opts" and not isinstance(value, dict)) or not all(isinstance(one, str | None) for one in inner):
            raise TypeError(f"{key} is {value!r:.60}, expected text")
    return values


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _parse(content: object, default_name: str) -> Study:
    given = _mapping(content, "the study", STUDY_KEYS)
    if missing := [key for key in ("DETECTORS", "INITS", "REFERENCE") if key not in given]:
        raise ValueError(f"{', '.join(missing)} is missing; a study requires DETECTORS, INITS and REFERENCE")
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
    """Return ``value`` with string keys if it is a mapping that contains only ``known`` keys (None: any keys)."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a mapping (KEY: VALUE), got {value!r}")
    named = {str(key): item for key, item in value.items()}
    for key in named:
        if known is not None and key not in known:
            raise ValueError(
                f"unknown key {key!r} in {what}; expected one of {', '.join(known)}{did_you_mean(key, known)}"
            )
    return named


def _text(parts: Mapping[str, Any], key: str, where: str = "") -> str | None:
    value = parts.get(key)
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"{where}{key} must be a string, got {value!r}")
    return None if value is None else str(value)


def _opts(parts: Mapping[str, Any], where: str = "") -> dict[str, str]:
    return {key: _literal(value) for key, value in _mapping(parts.get("OPTS", {}), f"{where}OPTS").items()}


def _literal(value: object) -> str:
    """Format a value for the command line. Nested strings have double quotes, because the shell uses single quotes."""

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
        form = "numbers, such as [0.1, 1.0]" if kind is float else "whole numbers, or the number of seeds"
        raise ValueError(f"{what} must be a list of {form}, got {values!r}")
    return tuple(kind(value) for value in values)


def _seeds(value: object) -> tuple[int, ...]:
    """Read a list of seeds, or the number N of seeds 0 to N - 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"SEEDS must be a positive number or a list of seeds, got {value}")
        return tuple(range(value))
    return _numbers(value, "SEEDS", int)
