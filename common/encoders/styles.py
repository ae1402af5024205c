"""Where checkpoints keep their ResNet: one table of layouts, recognised by names and nesting, never by a file's name.

A checkpoint is a tree of dicts whose leaves are tensors. A dict in it with names such as
``backbone.layer1.0.conv1.weight`` holds a ResNet; its *address* is the keys that lead to the dict and what stands
before ``layer1``: ``state_dict.backbone.``. What DistributedDataParallel and torch.compile put into names is left out
of it. `STYLES` says which address a project transfers, and which others its files hold besides.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..text import first_few

# Parts of names that a wrapper adds: DistributedDataParallel (and DataParallel), torch.compile. They mean nothing.
WRAPPERS = frozenset({"module", "_orig_mod"})

# ``nn.Sequential(*resnet.children())`` numbers torchvision's children; 2, 3 and 8 (ReLU, the pools) have no tensors.
NUMBERED_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
CHILD_NUMBERS = {child: number for number, child in NUMBERED_CHILDREN.items()}

# How deep dicts are searched. VISSL's, the deepest of the table, lie four deep.
MAX_DEPTH = 8

# The one command that has the option; what else reads encoders reads what that command writes, or takes no choice.
HOW_TO_CHOOSE = "choose one with --prefix of tools/convert_pretrain_to_detectron2.py"

NAMED_BLOCK = re.compile(r"((?:.*?\.)??)layer[1-4]\.\d+\.conv[1-3]\.")
NUMBERED_BLOCK = re.compile(r"((?:.*?\.)??)([4-7])\.\d+\.conv[1-3]\.")


@dataclass(frozen=True)
class Style:
    """One layout of checkpoints. Patterns are regular expressions that match whole addresses or names.

    Attributes:
        name: what was recognised, for people.
        encoder: the address of the ResNet to take.
        companions: addresses of ResNets that belong to the method and are not transferred.
        sign: a name, with the keys that lead to it, or such keys alone, that the file must have besides.
        heads: beginnings of names inside the encoder's address that are none of the ResNet's.
        numbered: whether the ResNet's children are numbered (`NUMBERED_CHILDREN`); None: either.
    """

    name: str
    encoder: str
    companions: str = "(?!)"
    sign: str = ""
    heads: tuple[str, ...] = ()
    numbered: bool | None = False

    def fits(self, resnet: "StoredResNet") -> bool:
        """Tell whether this is the ResNet that the style transfers, its sign apart."""
        return bool(re.fullmatch(self.encoder, resnet.address)) and self.numbered in (None, resnet.numbered)

    def knows(self, resnet: "StoredResNet") -> bool:
        """Tell whether the style has this ResNet besides the one that it transfers."""
        return bool(re.fullmatch(self.companions, resnet.address))


# In the order of preference: the first that fits and accounts for every ResNet in the file. Each comment names the
# public source of the names (repository: file) and, where a file holds two encoders, of the choice between them.
STYLES: tuple[Style, ...] = (
    # facebookresearch/moco: main_moco.py (nesting), main_lincls.py and detection/convert-pretrain-to-detectron2.py take
    # encoder_q. Ours: pretrain/contrast.
    Style("MoCo query encoder, original format", r"state_dict\.encoder_q\.", r"state_dict\.encoder_k\."),
    Style("MoCo query encoder, mocodet format", r"model\.encoder_q\.", r"model\.encoder_k\."),
    Style("MoCo query encoder, bare state dict", r"encoder_q\.", r"encoder_k\."),
    # facebookresearch/moco-v3: moco/builder.py; main_lincls.py takes base_encoder.
    Style("MoCo v3 base encoder", r"(?:state_dict\.)?base_encoder\.", r"(?:state_dict\.)?momentum_encoder\."),
    # WXinlong/DenseCL: openselfsup/models/densecl.py (backbone is the module encoder_q[0] under a second name; two
    # queues); tools/extract_backbone_weights.py takes backbone.
    Style(
        "DenseCL backbone",
        r"state_dict\.backbone\.",
        r"state_dict\.encoder_[qk]\.0\.",
        sign=r"state_dict\.queue2",
    ),
    # open-mmlab/mmselfsup (and OpenSelfSup before it): mmselfsup/models/algorithms/{moco,byol,simsiam,mocov3}.py name
    # the encoder "backbone" and again as the first child of a Sequential; mmcv and mmengine add "meta".
    Style(
        "mmselfsup backbone",
        r"state_dict\.backbone\.",
        r"state_dict\.(?:encoder|encoder_q|encoder_k|online_net|target_net|base_encoder|momentum_encoder)\.0\.",
        sign=r"meta(?:\..*)?",
    ),
    Style("OpenSelfSup query encoder", r"(?:state_dict\.)?encoder_q\.0\.", r"(?:state_dict\.)?encoder_k\.0\."),
    # zdaxie/PixPro: contrast/models/PixPro.py; transfer/detection/convert_pretrain_to_d2.py takes module.encoder.
    Style("PixPro encoder", r"model\.encoder\.", r"model\.encoder_k\.", sign=r"model\.projector_k\..+"),
    # vturrisi/solo-learn: solo/methods/base.py ("encoder" in old versions), main_linear.py takes backbone; the sign is
    # Lightning's.
    Style(
        "Lightning module's backbone (solo-learn and others)",
        r"state_dict\.(?:backbone|encoder)\.",
        r"state_dict\.momentum_(?:backbone|encoder)\.",
        sign=r"pytorch-lightning_version",
    ),
    # lightly-ai/lightly: examples/pytorch_lightning/{moco,byol,densecl,simsiam}.py, backbone =
    # nn.Sequential(*list(resnet.children())[:-1]); the package's old models (lightly/models/moco.py) lie under "model".
    Style(
        "lightly backbone",
        r"(?:state_dict\.)?(?:model\.)?backbone\.",
        r"(?:state_dict\.)?(?:model\.)?(?:backbone_momentum|momentum_backbone)\.",
        numbered=None,
        sign=r"pytorch-lightning_version|(?:state_dict\.)?(?:model\.)?backbone\.4\.0\.conv1\.weight",
    ),
    # examples/pytorch_lightning/dino.py of the same; the teacher is what DINO transfers, see below.
    Style(
        "lightly DINO teacher",
        r"(?:state_dict\.)?teacher_backbone\.",
        r"(?:state_dict\.)?student_backbone\.",
        numbered=None,
    ),
    # benchmarks/imagenet/resnet50/{mocov2,dino,byol}.py of the same: "backbone" is the momentum copy in MoCo and DINO,
    # and the online network in BYOL; taken is what the papers transfer: MoCo's query encoder, DINO's teacher, BYOL's
    # online network. (tico.py has DINO's two ResNets without its last_layer; which to take is left to the user.)
    Style(
        "lightly MoCo query backbone",
        r"state_dict\.query_backbone\.",
        r"state_dict\.backbone\.",
        sign=r"pytorch-lightning_version",
    ),
    Style(
        "lightly DINO teacher, benchmark",
        r"state_dict\.backbone\.",
        r"state_dict\.student_backbone\.",
        sign=r"state_dict\.student_projection_head\.last_layer\..+",
    ),
    Style(
        "lightly BYOL online backbone",
        r"state_dict\.backbone\.",
        r"state_dict\.teacher_backbone\.",
        sign=r"state_dict\.teacher_projection_head\..+",
    ),
    Style("numbered children of a ResNet (lightly)", r"(?:state_dict\.|model\.)?", numbered=True),
    # BYOL, whose paper transfers the online network (arXiv 2006.07733, section 3.1). yaox12/BYOL-PyTorch:
    # model/byol_model.py, trainer/byol_trainer.py.
    Style(
        "BYOL online encoder (BYOL-PyTorch)",
        r"model\.online_network\.encoder\.",
        r"model\.target_network\.encoder\.",
        numbered=None,
    ),
    # sthalles/PyTorch-BYOL: models/resnet_base_network.py, trainer.py (the online encoder a second time, bare).
    Style(
        "BYOL online encoder (PyTorch-BYOL)",
        r"online_network_state_dict\.encoder\.",
        r"target_network_state_dict\.encoder\.|encoder_state_dict\.",
        numbered=None,
    ),
    # lucidrains/byol-pytorch: byol_pytorch/byol_pytorch.py (net is the module in online_encoder under a second name);
    # "learner" in examples/lightning/train.py.
    Style(
        "BYOL online encoder (byol-pytorch)",
        r"(?:state_dict\.|model\.)?(?:learner\.)?net\.",
        r"(?:state_dict\.|model\.)?(?:learner\.)?(?:online|target)_encoder\.net\.",
        sign=r"(?:state_dict\.|model\.)?(?:learner\.)?online_encoder\.net\..+",
    ),
    # facebookresearch/barlowtwins: main.py (a norm "bn" follows the projector; resnet50.pth is torchvision's layout).
    Style("Barlow Twins backbone", r"model\.backbone\.", sign=r"model\.bn\.running_mean"),
    # facebookresearch/vicreg: main_vicreg.py (resnet50.pth is torchvision's layout).
    Style("VICReg backbone", r"model\.backbone\.", sign=r"model\.projector\..+"),
    # facebookresearch/dino: main_dino.py; eval_linear.py and eval_knn.py have --checkpoint_key "teacher".
    Style("DINO teacher", r"teacher\.backbone\.", r"student\.backbone\."),
    # facebookresearch/vissl: extra_scripts/convert_vissl_to_torchvision.py.
    Style(
        "VISSL trunk",
        r"(?:classy_state_dict\.base_model\.model\.trunk\.|model_state_dict\.)?(?:base_model\.)?_feature_blocks\.",
        r"classy_state_dict\.loss\..*",
    ),
    # facebookresearch/swav: src/resnet50.py (heads beside the ResNet's own names), main_swav.py, main_deepclusterv2.py.
    Style(
        "SwAV ResNet",
        r"(?:state_dict\.)?",
        heads=("projection_head.", "prototypes."),
        sign=r"(?:state_dict\.)?prototypes\..+",
    ),
    # huggingface/pytorch-image-models: timm/utils/checkpoint_saver.py; timm/models/_helpers.py prefers the moving
    # average.
    Style("timm ResNet, moving average", r"state_dict_ema\.", r"state_dict\."),
    # facebookresearch/simsiam: simsiam/builder.py; main_lincls.py takes module.encoder.
    Style("SimSiam encoder", r"state_dict\.encoder\.", sign=r"state_dict\.predictor\..+"),
    # Ours: pretrain/supervised.py; the sign is what its checkpointer adds, as fvcore's does.
    Style("mocodet classifier, mocodet format", r"model\.encoder\.", sign="iteration"),
    Style("encoder of a model", r"(?:state_dict\.|model\.)?encoder\."),
    Style("backbone of a model", r"(?:state_dict\.|model\.)?backbone\."),
    # torchvision, and all who publish in its names: timm (safetensors too), resnet50.pth of Barlow Twins and VICReg,
    # dino_resnet50_pretrain.pth, BYOL converted from JAX (ajtejankar/byol-convert: convert.py).
    Style("torchvision ResNet, bare state dict", r""),
    Style("torchvision ResNet in a checkpoint", r"(?:state_dict|model|model_state_dict)\."),
)


@dataclass(frozen=True)
class StoredResNet:
    """What looks like a ResNet in a checkpoint; whether it is whole is not known yet.

    Attributes:
        address: dict keys and prefix, wrappers left out: ``"state_dict.encoder_q."``.
        keys: the dict keys that lead to its names, joined by dots: ``"state_dict"``.
        prefix: what stands before its names there: ``"module.encoder_q."``.
        numbered: whether its children are numbered.
        entries: torchvision name -> value, whatever it is.
        outside: number of names in the same dict that are not its own.
    """

    address: str
    keys: str
    prefix: str
    numbered: bool
    entries: Mapping[str, Any]
    outside: int

    @property
    def label(self) -> str:
        """The prefix that chooses this ResNet; with the keys before it, where they say more than the prefix."""
        return self.prefix if self.prefix and self.keys in ("state_dict", "model") else self._full_prefix

    @property
    def _full_prefix(self) -> str:
        return _join(self.keys, self.prefix)

    def own_name(self, name: str) -> str:
        """Return what the file calls torchvision's ``name``, such as ``module.encoder_q.conv1.weight``."""
        child, _, rest = name.partition(".")
        return f"{self.prefix}{CHILD_NUMBERS.get(child, child)}.{rest}" if self.numbered else f"{self.prefix}{name}"

    def answers_to(self, prefix: str) -> bool:
        """Tell whether a user means this ResNet by ``prefix``, with or without keys and wrappers."""
        full, own = self._full_prefix, self.prefix
        named = {full, own, _without_wrappers(full), _without_wrappers(own)}
        return (prefix if prefix == "" or prefix.endswith(".") else f"{prefix}.") in named


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


def holds_resnet(checkpoint: Mapping) -> bool:
    """Tell whether a loaded file has something in it that looks like a ResNet under torchvision's names."""
    return any(_resnets(keys, names) for keys, names in _states(checkpoint))


def _recognised(resnets: list[StoredResNet], states: Mapping[str, Mapping[str, Any]]) -> list[Style]:
    """Return the styles with their encoder among ``resnets`` and their sign in the file."""
    fitting = [style for style in STYLES if any(style.fits(resnet) for resnet in resnets)]
    if not any(style.sign for style in fitting):
        return fitting
    names = {_without_wrappers(keys) for keys in states}
    names |= {_without_wrappers(_join(keys, name)) for keys, state in states.items() for name in state}
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
            inner = ((_join(keys, name), value, depth + 1) for name, value in named.items())
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
        plain = _without_wrappers(name)
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
        address = _without_wrappers(_join(keys, prefix))
        resnets.append(StoredResNet(address, keys, literal, by_number, entries, len(state) - len(entries)))
    return resnets


def _named(name: str) -> str:
    child, _, rest = name.partition(".")
    return f"{NUMBERED_CHILDREN.get(child, child)}.{rest}"


def _join(keys: str, name: str) -> str:
    return f"{keys}.{name}" if keys else name


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


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
