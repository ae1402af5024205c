import pytest

from mocodet.common.commands.study import parse_init
from mocodet.common.study.spec import Detector, Init, Study, keep_study, kept_study, paired, read_study

FULL = """
NAME: fashion
DETECTORS:
  FPN: {CONFIG: coco_R_50_FPN_1x.yaml, OPTS: {SOLVER.MAX_ITER: 600, SOLVER.STEPS: [400, 500]}}
INITS:
  mine: {VARIANT: moco, WEIGHTS: output/mine.pkl}
  own: {CONFIG: own.yaml, OPTS: {SOLVER.AMP.ENABLED: true}}
  random:
REFERENCE: random
FRACTIONS: [0.1, 1]
SEEDS: [3, 1]
PASSES: 20
MIN_ITERS: 200
OPTS: {INPUT.MIN_SIZE_TEST: 160, SOLVER.BASE_LR: 1e-4, MOCO.DATASETS: [{NAME: a, MASK: false}, "it's"]}
"""
EXPECTED = Study(
    name="fashion",
    detectors={
        "FPN": Detector("coco_R_50_FPN_1x.yaml", {"SOLVER.MAX_ITER": "600", "SOLVER.STEPS": "[400, 500]"}),
    },
    inits={
        "mine": Init("moco", weights="output/mine.pkl"),
        "own": Init(config="own.yaml", opts={"SOLVER.AMP.ENABLED": "True"}),
        "random": Init("random"),
    },
    reference="random",
    fractions=(0.1, 1.0),
    seeds=(3, 1),
    passes=20,
    min_iters=200,
    opts={
        "INPUT.MIN_SIZE_TEST": "160",
        "SOLVER.BASE_LR": "0.0001",
        "MOCO.DATASETS": """[{"NAME": "a", "MASK": False}, "it's"]""",
    },
)
SHORT = "DETECTORS: {a: {CONFIG: x.yaml}}\nINITS: {random: {}}\nREFERENCE: random\n"


def read(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    return read_study(tmp_path / "mine.yaml")


def test_read_study__every_key(tmp_path):
    assert read(tmp_path, FULL) == EXPECTED


def test_read_study__defaults(tmp_path):
    assert read(tmp_path, SHORT) == Study(
        "mine", {"a": Detector("x.yaml")}, {"random": Init("random")}, "random", (1.0,), (0, 1, 2, 3, 4)
    )
    assert read(tmp_path, SHORT + "SEEDS: 2").seeds == (0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", r"mine.yaml: the study must be a mapping \(KEY: VALUE\), got \['a'\]"),
        ("A: [", r"mine.yaml, line 1: .*; close|mine.yaml, line 1: expected the node content"),
        (SHORT + "SEED: 3", "unknown key 'SEED' in the study; expected one of NAME, .*, OPTS; did you mean SEEDS?"),
        (SHORT + "reference: x", "did you mean REFERENCE"),
        (SHORT + "REFERENCE: x", "line 4: REFERENCE is already set on line 3"),
        (SHORT.replace("{}", "{A: 1, A: 1}"), "line 2: A is already set on line 2"),
        (
            SHORT.replace("{}", "{WEIGTHS: x}"),
            "unknown key 'WEIGTHS' in initialisation 'random'.*; did you mean WEIGHTS?",
        ),
        (SHORT.replace("CONFIG", "Config"), "unknown key 'Config' in detector 'a'; .*; did you mean CONFIG?"),
        ("INITS: {random: {}}\nREFERENCE: random", "DETECTORS is missing"),
        (
            SHORT.replace("REFERENCE: random", "REFERENCE: randon"),
            "'randon' is not among .* random; did you mean random",
        ),
        (SHORT.replace("{}", "{VARIANT: Moco}"), "VARIANT is 'Moco', expected one of moco, .*; did you mean moco?"),
        (SHORT.replace("random", "mine"), r"'mine' requires either VARIANT .* or CONFIG \(a file\), got neither"),
        (SHORT.replace("{}", "{VARIANT: moco, CONFIG: y.yaml}"), "got both"),
        (SHORT.replace("{CONFIG: x.yaml}", "{}"), "neither initialisation 'random' nor detector a has a CONFIG"),
        (SHORT.replace("{}", "{WEIGHTS: x, OPTS: {MODEL.WEIGHTS: y}}"), "WEIGHTS and MODEL.WEIGHTS in OPTS"),
        (SHORT + "SEEDS: 0", "SEEDS must be a positive number or a list of seeds, got 0"),
        (SHORT + "SEEDS: [1, 1]", r"each seed must be given only once, got \[1, 1\]"),
        (SHORT + "SEEDS: [-1]", "not be negative"),
        (SHORT + "SEEDS: []", "at least one seed"),
        (SHORT + "SEEDS: [0.5]", r"SEEDS must be a list of whole numbers, or the number of .*, got \[0.5\]"),
        (SHORT + "FRACTIONS: [10]", r"greater than 0 and at most 1 \(all labels\), got \[10.0\]"),
        (SHORT + "FRACTIONS: 0.1", r"FRACTIONS must be a list of numbers, such as \[0.1, 1.0\], got 0.1"),
        (SHORT + "PASSES: 0.5", "PASSES must be a whole number, got 0.5"),
        (SHORT + "PASSES: 0", "PASSES must be a positive number"),
        (SHORT + "MIN_ITERS: 20", "MIN_ITERS must not be negative and can only be used with PASSES, got 20"),
        (SHORT + "OPTS: {SEED: 1}", "OPTS: SEED is set by the study"),
        (SHORT + "OPTS: {MOCO.PASSES: 1}", "MOCO.PASSES is set by the study, .*PASSES and MIN_ITERS in the STUDY.yaml"),
        (SHORT + "OPTS: {'a b': 1}", "'a b' is not a config key"),
        (SHORT + "OPTS: [a]", "OPTS must be a mapping"),
        (SHORT + "NAME: [a]", r"NAME must be a string, got \['a'\]"),
        (SHORT.replace("a:", "../a:"), "invalid detector name '../a'"),
    ],
)
def test_read_study__refuses(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_read_study__none_there_lists_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"there is no config 'none.yaml'; expected"):
        read_study("none.yaml")


def test_overridden__the_command_line_wins():
    changed = EXPECTED.overridden(
        {"SOLVER.MAX_ITER": "5", "MODEL.WEIGHTS": "x.pkl", "SOLVER.AMP.ENABLED": "False"}, seeds=(7,)
    )
    assert changed.seeds == (7,)
    assert changed.detectors["FPN"].opts == {"SOLVER.STEPS": "[400, 500]"}
    assert changed.inits["mine"].weights is None
    assert changed.inits["own"].opts == {}
    assert changed.opts == {
        **EXPECTED.opts,
        "SOLVER.MAX_ITER": "5",
        "MODEL.WEIGHTS": "x.pkl",
        "SOLVER.AMP.ENABLED": "False",
    }


def test_kept_study__is_the_study(tmp_path):
    keep_study(EXPECTED, tmp_path)
    kept = kept_study(tmp_path)
    assert (kept.name, kept.detectors, kept.inits, kept.opts) == (
        EXPECTED.name,
        EXPECTED.detectors,
        EXPECTED.inits,
        EXPECTED.opts,
    )
    assert tuple(kept.seeds) == EXPECTED.seeds
    (tmp_path / "study.json").write_text('{"name": "x"}')
    with pytest.raises(ValueError, match=r"study.json is not a valid study"):
        kept_study(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"contains no study.json, .* pass the STUDY.yaml"):
        kept_study(tmp_path / "none")


def test_paired():
    assert paired(["A", "1", "B", "2"]) == {"A": "1", "B": "2"}
    with pytest.raises(ValueError, match="A has no VALUE"):
        paired(["A"])
    with pytest.raises(ValueError, match="A is overridden twice"):
        paired(["A", "1", "A", "2"])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("moco=a.yaml", ("moco", "a.yaml", ())),
        ("v2=a.yaml,MODEL.WEIGHTS=b=c.pkl,SEED=1", ("v2", "a.yaml", ("MODEL.WEIGHTS", "b=c.pkl", "SEED", "1"))),
        (
            "x=a,b.yaml,SOLVER.STEPS=(1,2),MODEL.WEIGHTS=runs/lr=0.1,wd=0/x.pkl",
            ("x", "a,b.yaml", ("SOLVER.STEPS", "(1,2)", "MODEL.WEIGHTS", "runs/lr=0.1,wd=0/x.pkl")),
        ),
        (
            "x=a.yaml,MOCO.DATASETS=[{'NAME':'a','ROOT':'b'},{'NAME':'c'}],DATASETS.TRAIN=('a','c')",
            ("x", "a.yaml", ("MOCO.DATASETS", "[{'NAME':'a','ROOT':'b'},{'NAME':'c'}]", "DATASETS.TRAIN", "('a','c')")),
        ),
    ],
)
def test_parse_init__values_may_hold_commas(argument, expected):
    assert parse_init(argument) == expected
