"""Layouts of checkpoints: a table of ResNet locations, recognised by names and nesting, never by the file name.

A checkpoint is a tree of dicts whose leaves are tensors. A dict with names such as ``backbone.layer1.0.conv1.weight``
contains a ResNet. The *address* of the ResNet consists of the keys that lead to the dict and the prefix of ``layer1``:
``state_dict.backbone.``, without the parts that DistributedDataParallel and torch.compile add. `STYLES` lists the
address that each project transfers, and the other addresses in its files.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

# Parts that wrappers add to names: DistributedDataParallel (and DataParallel), torch.compile.
WRAPPERS = frozenset({"module", "_orig_mod"})

# ``nn.Sequential(*resnet.children())`` numbers torchvision's children; 2, 3 and 8 (ReLU and pooling) have no tensors.
NUMBERED_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4", "9": "fc"}
CHILD_NUMBERS = {child: number for number, child in NUMBERED_CHILDREN.items()}


def join_keys(keys: str, name: str) -> str:
    """Join the keys that lead to a dict with a name in the dict."""
    return f"{keys}.{name}" if keys else name


def rename_child(name: str, new: Mapping[str, str]) -> str:
    """Replace the first part of a name."""
    child, dot, rest = name.partition(".")
    return new.get(child, child) + dot + rest


def with_dot(prefix: str) -> str:
    """Append a dot to a prefix, unless the prefix is empty or already ends with a dot."""
    return prefix if prefix == "" or prefix.endswith(".") else f"{prefix}."


def without_wrappers(name: str) -> str:
    """Remove the parts that wrappers add from a name."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


@dataclass(frozen=True)
class StoredResNet:
    """A candidate for a ResNet in a checkpoint, not yet known to be complete.

    Attributes:
        keys: dict keys that lead to its names, joined with dots: ``"state_dict"``.
        prefix: prefix of its names in this dict: ``"module.encoder_q."``.
        numbered: whether its children are numbered.
        entries: torchvision name -> value of any type.
        outside: names in the same dict that do not belong to the ResNet.
    """

    keys: str
    prefix: str
    numbered: bool
    entries: Mapping[str, Any]
    outside: Collection[str]

    @property
    def address(self) -> str:
        """Dict keys and prefix without wrappers: ``"state_dict.encoder_q."``."""
        return without_wrappers(join_keys(self.keys, self.prefix))

    @property
    def label(self) -> str:
        """The prefix that selects this ResNet, preceded by its keys if they add information."""
        keys = "" if self.prefix and self.keys in ("state_dict", "model") else self.keys
        return join_keys(keys, self.prefix)

    def own_name(self, name: str) -> str:
        """Return the file's name for torchvision's ``name``, such as ``module.encoder_q.conv1.weight``."""
        return self.prefix + (rename_child(name, CHILD_NUMBERS) if self.numbered else name)

    def answers_to(self, prefix: str) -> bool:
        """Return whether ``prefix`` refers to this ResNet, with or without keys and wrappers."""
        full = join_keys(self.keys, self.prefix)
        return with_dot(prefix) in {full, self.prefix, self.address, without_wrappers(self.prefix)}


@dataclass(frozen=True)
class Style:
    """A checkpoint layout. Patterns are regular expressions that match complete addresses or names.

    Attributes:
        name: description for users.
        encoder: address of the ResNet to transfer.
        companions: addresses of ResNets that belong to the method but are not transferred.
        sign: a name with the keys that lead to it, or only such keys, that the file must also contain.
        heads: beginnings of names within the encoder's address that do not belong to the ResNet.
        numbered: whether the ResNet's children are numbered (`NUMBERED_CHILDREN`); None accepts both.
    """

    name: str
    encoder: str
    companions: str = "(?!)"
    sign: str = ""
    heads: tuple[str, ...] = ()
    numbered: bool | None = False

    def fits(self, resnet: StoredResNet, names: Collection[str]) -> bool:
        """Return whether the style transfers this ResNet from a file with the given ``names`` and keys."""
        return (
            bool(re.fullmatch(self.encoder, resnet.address))
            and self.numbered in (None, resnet.numbered)
            and (not self.sign or any(re.fullmatch(self.sign, name) for name in names))
        )

    def knows(self, resnet: StoredResNet) -> bool:
        """Return whether the style expects this ResNet in addition to the one that it transfers."""
        return bool(re.fullmatch(self.companions, resnet.address))


# In order of preference: the first style that fits and accounts for every ResNet in the file is used. Each comment
# cites the public source of the names (repository: file) and, if a file contains two encoders, of the choice.
STYLES: tuple[Style, ...] = (
    # facebookresearch/moco: main_moco.py (nesting), main_lincls.py and detection/convert-pretrain-to-detectron2.py take
    # encoder_q. Ours: pretrain/methods (moco.py; dense.py has dense_head_q and dense_head_k beside the encoders).
    Style("MoCo query encoder, original format", r"state_dict\.encoder_q\.", r"state_dict\.encoder_k\."),
    Style("MoCo query encoder, mocodet format", r"model\.encoder_q\.", r"model\.encoder_k\."),
    Style("MoCo query encoder, bare state dict", r"encoder_q\.", r"encoder_k\."),
    # facebookresearch/moco-v3: moco/builder.py; main_lincls.py takes base_encoder.
    Style("MoCo v3 base encoder", r"(?:state_dict\.)?base_encoder\.", r"(?:state_dict\.)?momentum_encoder\."),
    # WXinlong/DenseCL: openselfsup/models/densecl.py (backbone is the module encoder_q[0] under a second name; two
    # queues); tools/extract_backbone_weights.py takes backbone.
    Style("DenseCL backbone", r"state_dict\.backbone\.", r"state_dict\.encoder_[qk]\.0\.", sign=r"state_dict\.queue2"),
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
    # nn.Sequential(*list(resnet.children())[:-1]); the package's old models (lightly/models/moco.py) are under "model".
    Style(
        "lightly backbone",
        r"(?:state_dict\.)?(?:model\.)?backbone\.",
        r"(?:state_dict\.)?(?:model\.)?(?:backbone_momentum|momentum_backbone)\.",
        numbered=None,
        sign=r"pytorch-lightning_version|(?:state_dict\.)?(?:model\.)?backbone\.4\.0\.conv1\.weight",
    ),
    # examples/pytorch_lightning/dino.py of lightly; DINO transfers the teacher (see below).
    Style(
        "lightly DINO teacher",
        r"(?:state_dict\.)?teacher_backbone\.",
        r"(?:state_dict\.)?student_backbone\.",
        numbered=None,
    ),
    # benchmarks/imagenet/resnet50/{mocov2,dino,byol}.py of lightly: "backbone" is the momentum copy in MoCo and DINO,
    # and the online network in BYOL. The styles take what the papers transfer: MoCo's query encoder, DINO's teacher,
    # BYOL's online network. (tico.py has DINO's two ResNets without its last_layer; the user must choose.)
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
    # sthalles/PyTorch-BYOL: models/resnet_base_network.py, trainer.py (also stores the online encoder separately).
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
    # Ours: pretrain/methods/supervised.py; the sign is added by its checkpointer, as by fvcore's.
    Style("mocodet classifier, mocodet format", r"model\.encoder\.", sign="iteration"),
    Style("encoder of a model", r"(?:state_dict\.|model\.)?encoder\."),
    Style("backbone of a model", r"(?:state_dict\.|model\.)?backbone\."),
    # torchvision, and all projects that publish with its names: timm (safetensors too), resnet50.pth of Barlow Twins
    # and VICReg, dino_resnet50_pretrain.pth, BYOL converted from JAX (ajtejankar/byol-convert: convert.py).
    Style("torchvision ResNet, bare state dict", r""),
    Style("torchvision ResNet in a checkpoint", r"(?:state_dict|model|model_state_dict)\."),
)
