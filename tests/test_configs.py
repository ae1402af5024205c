"""Properties of all files in configs/, for every reader."""

import os
from collections import defaultdict

import pytest
import yaml
from fvcore.common.config import CfgNode

from mocodet import configs

FILES = {str(path.relative_to(configs.ROOT)): path for path in sorted(configs.ROOT.rglob("*.yaml"))}


class UniqueKeyLoader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice; YAML would silently keep the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"repeated {sorted(repeated)}", node.start_mark)
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize("name", FILES)
def test_configs__no_key_twice(name):
    assert yaml.load(FILES[name].read_text(encoding="utf-8"), UniqueKeyLoader)


def test_unique_key_loader__refuses():
    with pytest.raises(yaml.constructor.ConstructorError, match="repeated"):
        yaml.load("MODEL:\n  A: 1\n  B: 2\n  A: 3\n", UniqueKeyLoader)


def test_configs__pixel_means_stand_with_the_initialisations_alone():
    texts = {name: path.read_text(encoding="utf-8") for name, path in FILES.items()}
    for word in ("PIXEL_MEAN", "123.675"):
        assert [name for name, text in texts.items() if word in text] == ["Base-Init-COCO.yaml", "Base-Init-MoCo.yaml"]


def test_configs__no_two_leaves_share_an_output_dir():
    leaves = defaultdict(list)
    for name, path in FILES.items():
        if not path.name.startswith("Base-") and path.parent.name != "studies":
            output = CfgNode.load_yaml_with_base(str(path))["OUTPUT_DIR"]
            leaves[os.path.normpath(output)].append(name)
    assert {"output/coco_R_50_FPN_1x_moco", "output/demo/pretrain", "output/inat18_R_50_100ep"} <= leaves.keys()
    assert {output: names for output, names in leaves.items() if len(names) > 1} == {}
