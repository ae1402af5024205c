"""Lookup of the ResNet to transfer in a loaded checkpoint, based on the table of styles."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..text import first_few
from .styles import (
    NUMBERED_CHILDREN,
    STYLES,
    WRAPPERS,
    StoredResNet,
    Style,
    join_keys,
    rename_child,
    with_dot,
    without_wrappers,
)

# Maximum depth to which dicts are searched. The deepest ones in the table, VISSL's, have four levels.
MAX_DEPTH = 8

# mocodet knn and linear also have this option; other commands offer no choice.
HOW_TO_CHOOSE = "choose one with the option --prefix of mocodet convert"

# Signs that a run is not learning, by their names in its checkpoints.
CONSTANT_IMAGES, COLLAPSE, OLD_KEYS, PLACES = "constant images", "collapse", "old keys", "places of cells"
ABOVE_CHANCE = "loss above chance"

# Matches a name in a ResNet block; captures its prefix, and its stage by name or by number.
_WRAPPED = rf"(?:(?:{'|'.join(WRAPPERS)})\.)*"
BLOCK = re.compile(rf"((?:.*?\.)??)(layer[1-4]|[4-7])\.{_WRAPPED}\d+\.{_WRAPPED}conv[1-3]\.")


def find_encoder(checkpoint: Mapping, prefix: str | None = None) -> tuple[Style, StoredResNet, list[StoredResNet]]:
    """Find the ResNet in a loaded checkpoint that is to be transferred.

    Args:
        checkpoint: result of `mocodet.common.checkpoint.load_torch_file`.
        prefix: name prefix of the ResNet that the user selects; None leaves the choice to the styles.

    Returns:
        the recognised style, its ResNet, and the other ResNets, which are not used.

    Raises:
        ValueError: there is no ResNet, or no style determines which ResNet to use.
    """
    states = dict(_states(checkpoint))
    resnets = [resnet for keys, state in states.items() for resnet in _resnets(keys, state)]
    if not resnets:
        raise ValueError(_no_resnet_message(states, prefix))
    names = {without_wrappers(keys) for keys in states}
    names |= {without_wrappers(join_keys(keys, name)) for keys, state in states.items() for name in state}
    if prefix is not None:
        style, found = _chosen(resnets, prefix, names)
    else:
        style, found = _by_style([*_recorded(checkpoint), *STYLES], resnets, names)
    return style, found, [other for other in resnets if other is not found]


def holds_encoder(checkpoint: Any) -> bool:
    """Return whether a loaded file contains a ResNet, in any layout, with torchvision's rather than detectron2's names.

    `find_encoder` may still be unable to determine which ResNet to use.
    """
    return isinstance(checkpoint, Mapping) and any(_resnets(keys, state) for keys, state in _states(checkpoint))


def labels(resnets: Collection[StoredResNet]) -> str:
    """Format ResNets as the prefixes that select them."""
    return first_few([f"{resnet.label!r}" for resnet in resnets], 10)


def recorded_method(checkpoint: Mapping) -> dict[str, str]:
    """Return ``name`` and ``encoder`` of the METHOD in a mocodet checkpoint; {} for other checkpoints."""
    match checkpoint.get("method"):
        case {"name": str(name), "encoder": str(encoder)}:
            return {"name": name, "encoder": encoder}
    return {}


def recorded_signs(checkpoint: Mapping) -> tuple[str, ...]:
    """Return the signs of not learning that a mocodet run had reported before it wrote the checkpoint."""
    match checkpoint.get("signs"):
        case {"told": [*names]}:
            return tuple(name for name in names if isinstance(name, str))
    return ()


def _recorded(checkpoint: Mapping) -> Iterator[Style]:
    """Yield the style of a mocodet checkpoint, whose method specifies which child is the encoder."""
    if method := recorded_method(checkpoint):
        child = re.escape(method["encoder"])
        yield Style(f"encoder of METHOD {method['name']}, mocodet format", rf"model\.{child}\.", r".*")


def _by_style(styles: list[Style], resnets: list[StoredResNet], names: Collection[str]) -> tuple[Style, StoredResNet]:
    """Return the first style that fits one of the ResNets and accounts for all others, and this ResNet."""
    for style in styles:
        for resnet in resnets:
            others = (other for other in resnets if other is not resnet)
            if style.fits(resnet, names) and all(style.knows(other) for other in others):
                return style, resnet
    if len(resnets) > 1:
        raise ValueError(
            f"contains {len(resnets)} ResNets, and it is unclear which one to use: {labels(resnets)}; {HOW_TO_CHOOSE}"
        )
    raise ValueError(
        f"contains no encoder in a known layout, but does contain ResNets at {labels(resnets)}; {HOW_TO_CHOOSE}"
    )


def _chosen(resnets: list[StoredResNet], prefix: str, names: Collection[str]) -> tuple[Style, StoredResNet]:
    """Return the ResNet that the user selects with ``prefix``, and a style for it."""
    meant = [resnet for resnet in resnets if resnet.answers_to(prefix)]
    meant = [resnet for resnet in meant if resnet.label == with_dot(prefix)] or meant
    if not meant:
        wanted = f"named '{prefix.removesuffix('.')}.conv1.*'"
        raise ValueError(
            f"contains no encoder {wanted}, but does contain ResNets at {labels(resnets)}; {HOW_TO_CHOOSE}"
        )
    if len(meant) > 1:
        raise ValueError(f"contains {len(meant)} ResNets named {prefix!r}: {labels(meant)}; specify the full prefix")
    heads = next((style.heads for style in STYLES if style.fits(meant[0], names)), ())
    return Style("encoder named by prefix", "", heads=heads), meant[0]


def _states(checkpoint: Mapping) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk through nested dicts; yield the keys that lead to each, and its values by name, without nested dicts.

    A dict that occurs more than once or contains itself is visited only once.
    """
    seen: set[int] = set()
    ahead: list[tuple[str, Mapping, int]] = [("", checkpoint, 0)]
    while ahead:
        keys, found, depth = ahead.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        named = {name: value for name, value in found.items() if isinstance(name, str)}
        yield keys, {name: value for name, value in named.items() if not isinstance(value, Mapping)}
        if depth < MAX_DEPTH:
            inner = ((join_keys(keys, name), value, depth + 1) for name, value in named.items())
            ahead.extend(entry for entry in inner if isinstance(entry[1], Mapping))


def _resnets(keys: str, state: Mapping[str, Any]) -> list[StoredResNet]:
    """Return the ResNets in one dict, in the order of its names; each name belongs to its longest matching prefix."""
    # A checkpoint has nested dicts and values that describe it; a bare state dict has only tensors.
    names = [name for name, value in state.items() if keys or isinstance(value, Tensor)]
    stages: dict[str, set[str]] = {}
    for match in filter(None, map(BLOCK.match, names)):
        stages.setdefault(match[1], set()).add(match[2])
    numbers = set("4567")
    numbered = {prefix: seen == numbers for prefix, seen in stages.items() if not seen < numbers}
    sources: dict[str, dict[str, str]] = {prefix: {} for prefix in numbered}  # by torchvision's names
    for name in names:
        if prefixes := [prefix for prefix in sources if name.startswith(prefix)]:
            prefix = max(prefixes, key=len)
            own = without_wrappers(name.removeprefix(prefix))
            own = rename_child(own, NUMBERED_CHILDREN) if numbered[prefix] else own
            sources[prefix].setdefault(own, name)
    return [
        StoredResNet(
            keys,
            prefix,
            numbered[prefix],
            entries={own: state[name] for own, name in source.items()},
            outside=state.keys() - source.values(),
        )
        for prefix, source in sources.items()
    ]


def _no_resnet_message(states: Mapping[str, Mapping[str, Any]], prefix: str | None) -> str:
    tensors = [name for state in states.values() for name, value in state.items() if isinstance(value, Tensor)]
    wanted = "'encoder_q.*', 'backbone.*' or a torchvision ResNet's" if prefix is None else f"{prefix!r}"
    groups = sorted({".".join(name.split(".")[:2]) for name in tensors})
    seen = f"its names begin with {first_few(groups)}" if groups else "it has no names"
    return (
        f"contains no encoder: none of its {len(tensors)} tensors is named {wanted} with layer1.0.conv1.weight; {seen};"
        " expected the complete checkpoint of a ResNet"
    )
