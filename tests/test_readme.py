"""What the README shows must work as it stands there."""

import re
from pathlib import Path

import pytest

from mocodet import configs
from mocodet.detection import add_moco_config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL))
def test_readme__yaml_blocks_are_configs(block, tmp_path):
    from detectron2.config import get_cfg

    for name in re.findall(r"_BASE_: (\S+)", block):
        block = block.replace(name, str(configs.path(name)))
    file = tmp_path / "mine.yaml"
    file.write_text(block)
    cfg = get_cfg()
    add_moco_config(cfg)
    cfg.merge_from_file(str(file))


def test_readme__files_it_names_exist():
    named = set(re.findall(r"(?:tools|configs|docs|pretrain|requirements)/[\w./-]+\.\w+", README))
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]
