"""Files and pairs over the defaults: values of the keys' types, and messages that name place and key."""

import re

import pytest
from detectron2.config import get_cfg as detectron2_cfg
from fvcore.common.config import CfgNode

from mocodet import configs
from mocodet.common.config.merge import merge_config
from mocodet.detection.config import add_moco_config
from mocodet.pretrain.config import get_cfg

RECIPE = "pretrain/moco_v2_R_50_200ep.yaml"


def detection_cfg() -> CfgNode:
    cfg = detectron2_cfg()
    add_moco_config(cfg)
    return cfg


@pytest.mark.parametrize(
    ("make", "name", "opts"),
    [
        (get_cfg, RECIPE, ["SOLVER.STEPS", "(3, 5)", "DATA.ROOT", "'x'", "MODEL.CHANNELS_LAST", "False"]),
        (detection_cfg, "coco_R_50_FPN_2x_moco.yaml", ["MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.6]"]),
        (detection_cfg, "pascal_voc_R_50_FCN_30k_moco.yaml", ["INPUT.CROP.SIZE", "[512, 512]", "OUTPUT_DIR", "y"]),
    ],
)
def test_merge_config__is_detectron2s_where_that_takes_the_config(make, name, opts):
    found, expected = make(), make()
    merge_config(found, name, opts)
    expected.merge_from_file(str(configs.path(name)), allow_unsafe=False)
    expected.merge_from_list(opts)
    assert found.dump() == expected.dump()


# Key, as in YAML, as a word, what it becomes.
LENIENT = [
    ("SOLVER.BASE_LR", "1", "1", 1.0),
    ("SOLVER.BASE_LR", "1e-4", "1e-4", 0.0001),
    ("SOLVER.MAX_EPOCHS", "1e2", "100.0", 100),
    ("SOLVER.STEPS", "[2, 3]", "[2, 3]", (2, 3)),
    ("SOLVER.STEPS", "'(2,)'", "(2,)", (2,)),
    ("OUTPUT_DIR", "'2026'", "2026", "2026"),
    ("OUTPUT_DIR", "C:\\data", "C:\\data", "C:\\data"),
]


@pytest.mark.parametrize(("key", "in_yaml", "word", "expected"), LENIENT)
def test_merge_config__takes_what_can_mean_one_thing_only(tmp_path, key, in_yaml, word, expected):
    *sections, name = key.split(".")
    path = tmp_path / "mine.yaml"
    path.write_text(f"{sections[0]}: {{{name}: {in_yaml}}}" if sections else f"{name}: {in_yaml}")
    from_file, from_words = get_cfg(), get_cfg()
    merge_config(from_file, str(path), [])
    merge_config(from_words, RECIPE, [key, word])
    for cfg in (from_file, from_words):
        found = cfg[sections[0]][name] if sections else cfg[name]
        assert (found, type(found)) == (expected, type(expected))


def test_merge_config__numbers_in_lists_stay_as_they_are():
    cfg = detection_cfg()
    merge_config(cfg, "coco_R_50_FPN_2x_moco.yaml", ["MODEL.PIXEL_STD", "(57, 57.5, 1)"])
    assert cfg.MODEL.PIXEL_STD == [57, 57.5, 1]


# Key, value as a word and in YAML, the message after "KEY is VALUE" in both.
WRONG = [
    ("SOLVER.MAX_EPOCHS", "ten", "'ten'; expected an integer, such as 200$"),
    ("SOLVER.MAX_EPOCHS", "1.5", "1.5; expected an integer, such as 200$"),
    ("SOLVER.BASE_LR", "fast", "'fast'; expected a number, such as 0.03$"),
    ("SOLVER.BASE_LR", "1" + "0" * 400, r"1000.*…; expected a number, such as 0\.03$"),
    ("MODEL.CHANNELS_LAST", "1", "1; expected True or False$"),
    ("SOLVER.MAX_EPOCHS", "[3]", r"\[3\]; expected an integer"),
    ("SOLVER.STEPS", "3", "3; expected a list, such as "),
    ("SOLVER.STEPS", "[a, 3]", r"(\['a', 3\]|'\[a, 3\]'); expected a list, such as "),
]


@pytest.mark.parametrize(("key", "value", "told"), WRONG)
def test_merge_config__a_wrong_type_is_told_with_key_place_and_example(tmp_path, key, value, told):
    section, name = key.split(".")
    path = tmp_path / "mine.yaml"
    path.write_text(f"SEED: 1\n{section}:\n  {name}: {value}\n")
    with pytest.raises(ValueError, match=rf"mine\.yaml, line 3: {key} is {told}"):
        merge_config(get_cfg(), str(path), [])
    with pytest.raises(ValueError, match=f"^the overrides: {key} is {told}"):
        merge_config(get_cfg(), RECIPE, [key, value])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SOLVER: {STEPS: (2,)}", r"line 1: SOLVER.STEPS is '\(2'; .* such as \[120, 160\]: inside braces, YAML ends"),
        (
            "SOLVER: 3",
            "line 1: SOLVER is a section; set one of its keys instead, such as SOLVER.IMS_PER_BATCH",
        ),
        ("OUTPUT_DIR: 2026", r"line 1: OUTPUT_DIR is 2026; expected text in quotes, such as '\./output/pretrain'$"),
        ("OUTPUT_DIR:", "line 1: OUTPUT_DIR is None; expected text"),
        ("SEED: 2026-01-01", r"line 1: SEED is datetime\.date\(2026, 1, 1\); expected an integer"),
        ("DATA: {ROT: x}", r"line 1: unknown key DATA\.ROT; did you mean DATA\.ROOT\?$"),
        ("SEED: {A: 1}", "line 1: SEED is {'A': 1}; expected an integer"),
    ],
)
def test_merge_config__files_are_told_with_the_line(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.yaml, {told}"):
        merge_config(get_cfg(), str(path), [])


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("DATA.ROT", r"did you mean DATA\.ROOT\?$"),
        ("solver.max_epochs", r"did you mean SOLVER\.MAX_EPOCHS\?$"),
        ("max_epochs", r"did you mean SOLVER\.MAX_EPOCHS\?$"),
        ("SOLVER.MAX_EPOCHS.X", r"did you mean SOLVER\.MAX_EPOCHS\?$"),
        ("DATA.QQQQQQQQQ", "DATA contains ROOT, SHARDS, "),
        ("QQQQQQQQQ", "expected one of the sections "),
    ],
)
def test_merge_config__an_unknown_key_is_told_with_what_was_meant(key, told):
    with pytest.raises(ValueError, match=f"^the overrides: unknown key {key}; {told}"):
        merge_config(get_cfg(), RECIPE, [key, "1"])


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("WEIGHTS", "MODEL.WEIGHTS"),
        ("ROI_HEADS.NUM_CLASSES", "MODEL.ROI_HEADS.NUM_CLASSES"),
        (
            "NUM_CLASSES",
            "MODEL.ROI_HEADS.NUM_CLASSES or MODEL.SEM_SEG_HEAD.NUM_CLASSES or MODEL.RETINANET.NUM_CLASSES",
        ),
    ],
)
def test_merge_config__a_key_without_its_section_is_told_with_the_section(key, meant):
    with pytest.raises(ValueError, match=rf"^the overrides: unknown key {key}; did you mean {re.escape(meant)}\?$"):
        merge_config(detection_cfg(), "coco_R_50_FPN_2x_moco.yaml", [key, "2"])


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("DATASETS.TEST", "mine", r"""'mine'; expected a list, such as DATASETS.TEST "\('voc_2007_test',\)"$"""),
        (
            "MOCO.DATASETS",
            "[{NAME: mine, KIND: voc]",
            r"""'\[{NAME: .*'; .* such as MOCO.DATASETS "\[{'NAME': 'mine', .*}\]" with each text in quotes$""",
        ),
        ("DATASETS.TRAIN", "(3,)", None),  # an empty default says nothing about its values
        ("MODEL.RPN.IN_FEATURES", "[3]", r"\[3\]; expected a list, such as MODEL.RPN.IN_FEATURES"),
        ("VERSION", "1", "1; expected 2, as in detectron2 0.6"),
    ],
)
def test_merge_config__lists_of_detection_are_shown(key, value, told):
    if told is None:
        merge_config(detection_cfg(), "coco_R_50_FPN_2x_moco.yaml", [key, value])
        return
    with pytest.raises(ValueError, match=f"^the overrides: {key} is {told}"):
        merge_config(detection_cfg(), "coco_R_50_FPN_2x_moco.yaml", [key, value])


@pytest.mark.parametrize("text", ["[{NAME: a b, HOLD_OUT: 0.2}]", "{NAME: a b, HOLD_OUT: 0.2}"])
def test_merge_config__an_entry_may_be_written_as_in_yaml(text):
    cfg = detection_cfg()
    merge_config(cfg, "coco_R_50_FPN_2x_moco.yaml", ["MOCO.DATASETS", text])
    assert list(cfg.MOCO.DATASETS) == [{"NAME": "a b", "HOLD_OUT": 0.2}]
