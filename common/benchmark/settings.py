"""Configs for benchmarks."""

from collections.abc import Mapping

from fvcore.common.config import CfgNode

from ..config.merge import merge_config


def merge_changes(cfg: CfgNode, config_file: str, changes: Mapping[str, object]) -> None:
    """Merge a config file, and then ``changes`` by config key, into ``cfg``. See `merge_config`."""
    merge_config(cfg, config_file, [str(word) for pair in changes.items() for word in pair])
