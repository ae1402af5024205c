"""Finding the ResNet to transfer in a loaded checkpoint, by the table of styles."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ..text import first_few
from .styles import NUMBERED_CHILDREN, STYLES, StoredResNet, Style, join_keys, without_wrappers

# How deep dicts are searched. VISSL's, the deepest of the table, lie four deep.
MAX_DEPTH = 8

# The one command that has the option; what else reads encoders reads what that command writes, or takes no choice.
HOW_TO_CHOOSE = "choose one with --prefix of mocodet convert"

NAMED_BLOCK = re.compile(r"((?:.*?\.)??)layer[1-4]\.\d+\.conv[1-3]\.")
NUMBERED_BLOCK = re.compile(r"((?:.*?\.)??)([4-7])\.\d+\.conv[1-3]\.")


def find_encoder(checkpoint: Mapping, prefix: str | None = None) -> tuple[Style, StoredResNet, list[StoredResNet]]:
    """Find the ResNet to transfer in a loaded checkpoint.

    Args:
        checkpoint: what `mocodet.common.checkpoint.load_torch_file` returned.
        prefix: what stands before its names, where the choice is the user's.

    Returns:
        the style that was recognised, its ResNet, and the others that it passes over.

    Raises:
        ValueError: there is none, or there are several and no style says which.
    """
    states = dict(_states(checkpoint))
    resnets = [resnet for keys, names in states.items() for resnet in _resnets(keys, names)]
    if prefix is not None:
        return _chosen(resnets, prefix, states)
    if recorded := _recorded(checkpoint, resnets):
        return recorded
    styles = [(style, resnet) for style in _recognised(resnets, states) for resnet in resnets if style.fits(resnet)]
    for style, resnet in styles:
        others = [other for other in resnets if other is not resnet]
        if all(style.knows(other) for other in others):
            return style, resnet, others
    if len(resnets) > 1:
        raise ValueError(
            f"holds {len(resnets)} ResNets, and which one to take is not known:"
            f" {first_few([f'{resnet.label!r}' for resnet in resnets], 10)}; {HOW_TO_CHOOSE}"
        )
    raise ValueError(_no_encoder_message(states, resnets, prefix))


def recorded_method(checkpoint: Mapping) -> tuple[str, str]:
    """Return what a checkpoint of a mocodet method says of itself: METHOD, and which child is its encoder; else ""."""
    said = checkpoint.get("method")
    known = isinstance(said, Mapping) and isinstance(said.get("name"), str) and isinstance(said.get("encoder"), str)
    return (said["name"], said["encoder"]) if known else ("", "")


def _recorded(
    checkpoint: Mapping, resnets: list[StoredResNet]
) -> tuple[Style, StoredResNet, list[StoredResNet]] | None:
    """Find the encoder that the checkpoint itself names."""
    method, encoder = recorded_method(checkpoint)
    style = Style(f"encoder of METHOD {method}, mocodet format", rf"model\.{re.escape(encoder)}\.")
    chosen = next((resnet for resnet in resnets if method and style.fits(resnet)), None)
    return chosen and (style, chosen, [other for other in resnets if other is not chosen])


def holds_resnet(checkpoint: Mapping) -> bool:
    """Tell whether a loaded file has something in it that looks like a ResNet under torchvision's names."""
    return any(_resnets(keys, names) for keys, names in _states(checkpoint))


def _recognised(resnets: list[StoredResNet], states: Mapping[str, Mapping[str, Any]]) -> list[Style]:
    """Return the styles with their encoder among ``resnets`` and their sign in the file."""
    fitting = [style for style in STYLES if any(style.fits(resnet) for resnet in resnets)]
    if not any(style.sign for style in fitting):
        return fitting
    names = {without_wrappers(keys) for keys in states}
    names |= {without_wrappers(join_keys(keys, name)) for keys, state in states.items() for name in state}
    return [style for style in fitting if not style.sign or any(re.fullmatch(style.sign, name) for name in names)]


def _chosen(
    resnets: list[StoredResNet], prefix: str, states: Mapping[str, Mapping[str, Any]]
) -> tuple[Style, StoredResNet, list[StoredResNet]]:
    meant = [resnet for resnet in resnets if resnet.answers_to(prefix)]
    if not meant:
        raise ValueError(_no_encoder_message(states, resnets, prefix))
    exactly = [resnet for resnet in meant if prefix.removesuffix(".") == resnet.label.removesuffix(".")]
    meant = exactly or meant
    if len(meant) > 1:
        full = [f"{resnet.label!r}" for resnet in meant]
        raise ValueError(f"holds {len(meant)} ResNets named {prefix!r}: {first_few(full, 10)}; give the whole prefix")
    heads = next((style.heads for style in _recognised(resnets, states) if style.fits(meant[0])), ())
    style = Style("encoder named by prefix", re.escape(meant[0].address), heads=heads, numbered=None)
    return style, meant[0], [other for other in resnets if other is not meant[0]]


def _states(checkpoint: Mapping) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk through nested dicts: the keys that lead to each, and what it holds by name apart from further dicts.

    A dict that is there twice, or in itself, is seen once.
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
    """Return the ResNets in one dict, in the order of its names."""
    # Beside the dicts of a checkpoint lie values that say what it is; in a bare state dict there are tensors only.
    names = [name for name, value in state.items() if keys or isinstance(value, Tensor)]
    return [resnet for plain in _plain_names(names) for resnet in _resnets_among(plain, keys, state)]


def _plain_names(names: list[str]) -> list[dict[str, str]]:
    """Map names without wrappers to names; in several dicts where names differ in their wrappers only."""
    layers: list[dict[str, str]] = []
    for name in names:
        plain = without_wrappers(name)
        layer = next((layer for layer in layers if plain not in layer), None)
        if layer is None:
            layers.append(layer := {})
        layer[plain] = name
    return layers


def _resnets_among(plain: Mapping[str, str], keys: str, state: Mapping[str, Any]) -> list[StoredResNet]:
    named = dict.fromkeys(match[1] for name in plain if (match := NAMED_BLOCK.match(name)))
    stages: dict[str, set[str]] = {}
    for name in plain:
        if match := NUMBERED_BLOCK.match(name):
            stages.setdefault(match[1], set()).add(match[2])
    numbered = [prefix for prefix, found in stages.items() if found == set("4567")]
    resnets = []
    for prefix, by_number in [(prefix, False) for prefix in named] + [(prefix, True) for prefix in numbered]:
        own = {name[len(prefix) :]: full for name, full in plain.items() if name.startswith(prefix)}
        literal = next((full[: -len(name)] for name, full in own.items() if full.endswith(name)), prefix)
        entries = {_named(name) if by_number else name: state[full] for name, full in own.items()}
        address = without_wrappers(join_keys(keys, prefix))
        resnets.append(StoredResNet(address, keys, literal, by_number, entries, len(state) - len(entries)))
    return resnets


def _named(name: str) -> str:
    child, _, rest = name.partition(".")
    return f"{NUMBERED_CHILDREN.get(child, child)}.{rest}"


def _no_encoder_message(
    states: Mapping[str, Mapping[str, Any]], resnets: list[StoredResNet], prefix: str | None
) -> str:
    if resnets:
        found = first_few([f"{resnet.label!r}" for resnet in resnets], 10)
        wanted = "of a layout that is known" if prefix is None else f"named '{prefix.removesuffix('.')}.conv1.*'"
        return f"holds no encoder {wanted}; there are ResNets at {found}: {HOW_TO_CHOOSE}"
    tensors = [name for state in states.values() for name, value in state.items() if isinstance(value, Tensor)]
    wanted = "'encoder_q.*', 'backbone.*' or a torchvision ResNet's" if prefix is None else f"{prefix!r}"
    groups = sorted({".".join(name.split(".")[:2]) for name in tensors})
    seen = f"names begin with {first_few(groups)}" if groups else "there are no names at all"
    return (
        f"holds no encoder: {len(tensors)} tensors, none named {wanted} with a ResNet's layer1.0.conv1.weight; {seen};"
        " expected the checkpoint of a ResNet, whole"
    )
