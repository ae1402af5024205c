"""The checkpointer with real detectors, built on the CPU; nothing here runs an image through them."""

import os
import pickle
import re
from pathlib import Path
from urllib.error import URLError

import detectron2
import numpy as np
import pytest
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils.file_io import Detectron2Handler
from torch import nn

from mocodet import configs
from mocodet.common.encoders.resnet import build_resnet
from mocodet.detection import add_moco_config
from mocodet.detection.training.checkpoint import MocoDetCheckpointer
from mocodet.detection.weights.convert import convert_file
from mocodet.detection.weights.settings import REQUIRED_CONFIG
from tests.detection.tiny import resnet_config
from tests.encoders import encoder as trained_encoder


def config(depth: int, fpn: bool, norm: str = "BN") -> CfgNode:
    cfg = resnet_config(depth, norm)
    if fpn:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.FPN.NORM = "BN"
        cfg.MODEL.FPN.OUT_CHANNELS = 16
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
        cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
        cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    return cfg


@pytest.fixture(scope="module")
def c4() -> nn.Module:
    """A Faster R-CNN R50-C4 whose head has the extra norm; tests load into it and leave it loaded."""
    cfg = config(50, fpn=False)
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeadsExtraNorm"
    return build_model(cfg)


def dilated_c5() -> nn.Module:
    cfg = config(50, fpn=True)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_dilated_c5_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    cfg.MODEL.RPN.IN_FEATURES = ["c5"]
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["c5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64]]
    return build_model(cfg)


def fpn18(norm: str = "BN") -> nn.Module:
    return build_model(config(18, fpn=True, norm=norm))


def encoder(depth: int) -> dict[str, torch.Tensor]:
    """The state of a torchvision ResNet in which no two tensors are equal."""
    torch.manual_seed(depth)
    state = getattr(torchvision.models, f"resnet{depth}")(num_classes=16).state_dict()
    for name, value in state.items():
        if value.dim() == 1:
            value.uniform_(0.5, 1.5)
        assert value.dtype == torch.float32 or name.endswith("num_batches_tracked")
    return state


@pytest.fixture(scope="module")
def resnet18() -> dict[str, torch.Tensor]:
    return encoder(18)


@pytest.fixture(scope="module")
def resnet50() -> dict[str, torch.Tensor]:
    return encoder(50)


def original(state: dict[str, torch.Tensor]) -> dict:
    return {"epoch": 1, "arch": "r", "state_dict": {f"module.encoder_q.{name}": value for name, value in state.items()}}


def ours(state: dict[str, torch.Tensor]) -> dict:
    return {"model": {f"encoder_q.{name}": value for name, value in state.items()}, "iteration": 7}


def save(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def dump(content: object, path: Path, protocol: int = 2) -> str:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


def wipe(model: nn.Module) -> dict[str, torch.Tensor]:
    """Overwrite every parameter and statistic with a value that is in no file; return the state, not a copy."""
    state = model.state_dict()
    for value in state.values():
        value.fill_(-7)
    return state


def assert_encoder_loaded(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """The backbone (and C4's res5) holds ``state``, paired by hand-written names; everything else is untouched."""
    found = model.state_dict()
    seen = 0
    for name, value in found.items():
        inner = re.sub(r"^(backbone\.bottom_up|backbone|roi_heads)\.", "", name)
        match = re.fullmatch(r"(stem|res([2-5])\.(\d+))\.(conv\d|shortcut)(\.norm)?\.(\w+)", inner)
        if not match or match[6] == "num_batches_tracked":
            if match is None and name not in ("pixel_mean", "pixel_std"):
                assert (value == -7).all(), name
            continue
        where = "" if match[1] == "stem" else f"layer{int(match[2]) - 1}.{match[3]}."
        if match[4] == "shortcut":
            what = "downsample.1" if match[5] else "downsample.0"
        else:
            what = match[4].replace("conv", "bn") if match[5] else match[4]
        assert torch.equal(value, state[f"{where}{what}.{match[6]}"]), name
        seen += 1
    assert seen == len([name for name in state if not name.startswith("fc.") and "num_batches" not in name])


@pytest.mark.parametrize("layout", [original, ours], ids=["original", "ours"])
def test_load__c4_unconverted(c4: nn.Module, resnet50: dict, tmp_path: Path, layout, caplog) -> None:
    wipe(c4)
    with caplog.at_level("INFO"):
        MocoDetCheckpointer(c4).load(save(layout(resnet50), tmp_path / "moco.pth.tar"))
    assert_encoder_loaded(c4, resnet50)
    assert "Converting the MoCo query encoder" in caplog.text


def test_load__resnext_unconverted(c4: nn.Module, tmp_path: Path, caplog) -> None:
    """Another architecture fits a model that is configured for it; for others, the error says what to set."""
    state = trained_encoder("resnext50_32x4d").state_dict()
    path = save(ours(state), tmp_path / "moco.pth")
    with pytest.raises(
        ValueError,
        match=r"do not fit the model's ResNet.*whose resnext50_32x4d requires MODEL\.RESNETS\.DEPTH 50 .*"
        r"MODEL\.RESNETS\.NUM_GROUPS 32 MODEL\.RESNETS\.WIDTH_PER_GROUP 4$",
    ):
        MocoDetCheckpointer(c4).load(path)

    cfg = config(50, fpn=False)
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeadsExtraNorm"
    cfg.MODEL.RESNETS.NUM_GROUPS = 32
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    model = build_model(cfg)
    wipe(model)
    with caplog.at_level("INFO"):
        MocoDetCheckpointer(model).load(path)
    assert_encoder_loaded(model, state)
    assert "Converting the MoCo query encoder, mocodet format (resnext50_32x4d)" in caplog.text


@pytest.mark.parametrize("converted", [False, True])
def test_load__stride_in_1x1(resnet50: dict, tmp_path: Path, converted: bool) -> None:
    """detectron2's default: all names and shapes fit, and the network computes something else."""
    path = save(original(resnet50), tmp_path / "moco.pth.tar")
    if converted:
        convert_file(path, tmp_path / "moco.pkl", check=False)
        path = str(tmp_path / "moco.pkl")
    cfg = config(50, fpn=True)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = True
    model = build_model(cfg)
    wipe(model)
    with pytest.raises(
        ValueError, match=r"\(backbone\.bottom_up\.res3\.0, .*set INPUT\.FORMAT RGB, .*RESNETS\.STRIDE_IN_1X1 False$"
    ):
        MocoDetCheckpointer(model).load(path)
    assert all((value == -7).all() for value in model.state_dict().values()), "refused before anything is loaded"
    # Caffe's networks are meant for such a model.
    MocoDetCheckpointer(model).load(dump(caffe_blobs(resnet50), tmp_path / "R-50.pkl"))
    assert_encoder_loaded(model, resnet50)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ((), ""),
        (("INPUT.FORMAT", "BGR"), "INPUT.FORMAT BGR. Unless"),
        (("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675]), "MODEL.PIXEL_MEAN [103.53, 116.28, 123.675]. Unless"),
        (("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]), "MODEL.PIXEL_STD [1.0, 1.0, 1.0]. Unless"),
    ],
)
def test_load__warns_of_another_kind_of_images(resnet18: dict, tmp_path: Path, caplog, keys, told) -> None:
    cfg = config(18, fpn=True)
    required = {key: value for key, value in REQUIRED_CONFIG.items() if "STRIDE" not in key}
    cfg.merge_from_list([*(item for pair in required.items() for item in pair), *keys])
    checkpointer = MocoDetCheckpointer(build_model(cfg))
    checkpointer.load(save(original(resnet18), tmp_path / "moco.pth.tar"))
    warnings = [record.getMessage() for record in caplog.records if "settings other than" in record.getMessage()]
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)
    assert checkpointer.mismatch == "".join(warnings)  # for the end of a training
    if "INPUT.FORMAT" in keys:  # it is known for our own encoders
        path = save({**ours(resnet18), "method": {"name": "moco", "encoder": "encoder_q"}}, tmp_path / "ours.pth")
        convert_file(path, tmp_path / "ours.pkl", check=False)
        with pytest.raises(
            ValueError, match=r"images of INPUT\.FORMAT RGB, but the config has BGR; set INPUT\.FORMAT RGB, "
        ):
            checkpointer.load(str(tmp_path / "ours.pkl"))


def test_load__without_a_network(resnet18: dict, tmp_path: Path, monkeypatch) -> None:
    def offline(handler: Detectron2Handler, path: str, **options: object) -> str:
        raise URLError("Name or service not known")

    monkeypatch.setattr(Detectron2Handler, "_get_local_path", offline)
    with pytest.raises(
        ConnectionError, match=r"^MODEL.WEIGHTS detectron2://a/b.pkl .*download https://\S+/detectron2/a/b.pkl "
    ):
        MocoDetCheckpointer(fpn18()).load("detectron2://a/b.pkl")


def test_load__classifier(resnet18: dict, tmp_path: Path) -> None:
    model = fpn18()
    wipe(model)
    state = {f"encoder.{name}": value for name, value in resnet18.items()}
    MocoDetCheckpointer(model).load(save({"model": state, "iteration": 1}, tmp_path / "supervised.pth"))
    assert_encoder_loaded(model, resnet18)


def test_load__small_stem(tmp_path: Path) -> None:
    path = save(ours(build_resnet("resnet18", small_stem=True).state_dict()), tmp_path / "moco.pth")
    with pytest.raises(ValueError, match=r"moco\.pth: this resnet18 has the small stem.*for detectors, pre-train with"):
        MocoDetCheckpointer(fpn18()).load(path)


def test_load__c4_converted(c4: nn.Module, resnet50: dict, tmp_path: Path) -> None:
    convert_file(save(original(resnet50), tmp_path / "moco.pth"), tmp_path / "moco.pkl", check=False)
    wipe(c4)
    MocoDetCheckpointer(c4).load(str(tmp_path / "moco.pkl"))
    assert_encoder_loaded(c4, resnet50)


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN"])
def test_load__fpn(resnet18: dict, tmp_path: Path, norm: str) -> None:
    model = fpn18(norm)
    wipe(model)
    MocoDetCheckpointer(model).resume_or_load(save(ours(resnet18), tmp_path / "moco.pth"), resume=False)
    assert_encoder_loaded(model, resnet18)


def test_load__dilated_c5(resnet50: dict, tmp_path: Path) -> None:
    model = dilated_c5()
    wipe(model)
    MocoDetCheckpointer(model).load(save(original(resnet50), tmp_path / "moco.pth.tar"))
    assert_encoder_loaded(model, resnet50)


def test_load__distributed(resnet18: dict, tmp_path: Path) -> None:
    model = fpn18()
    wipe(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        MocoDetCheckpointer(wrapped).load(save(ours(resnet18), tmp_path / "moco.pth"))
    finally:
        torch.distributed.destroy_process_group()
    assert_encoder_loaded(model, resnet18)


def test_load__does_not_touch_the_generator(resnet18: dict, tmp_path: Path) -> None:
    """A variant that starts from converted weights and one that starts from a .pkl draw the same numbers."""
    model, path = fpn18(), save(ours(resnet18), tmp_path / "moco.pth")
    before = torch.get_rng_state()
    MocoDetCheckpointer(model).load(path)
    assert torch.equal(torch.get_rng_state(), before)


def caffe_blobs(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """MSRA's layout as detectron2 hosts it: ``res2_0_branch2a_w``, ``res2_0_branch2a_bn_gamma``, a bias in conv1."""
    branches = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "bn1": "branch2a", "bn2": "branch2b"}
    branches |= {"bn3": "branch2c", "downsample.0": "branch1", "downsample.1": "branch1"}
    statistics = {"weight": "bn_gamma", "bias": "bn_beta", "running_mean": "bn_running_mean"}
    statistics["running_var"] = "bn_running_var"
    blobs = {"conv1_b": np.ones(64, np.float32), "fc1000_w": np.ones((4, 4), np.float32), "lr_momentum": np.ones(1)}
    for name, value in state.items():
        module, _, last = name.rpartition(".")
        if last == "num_batches_tracked" or name.startswith("fc."):
            continue
        suffix = "w" if value.dim() == 4 else statistics[last]
        if module in ("conv1", "bn1"):
            blobs["conv1_w" if suffix == "w" else f"res_conv1_{suffix}"] = value.numpy()
            continue
        layer, block, inner = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", module).groups()
        blobs[f"res{int(layer) + 1}_{block}_{branches[inner]}_{suffix}"] = value.numpy()
    return blobs


def test_load__msra(c4: nn.Module, resnet50: dict, tmp_path: Path) -> None:
    wipe(c4)
    MocoDetCheckpointer(c4).load(dump(caffe_blobs(resnet50), tmp_path / "R-50.pkl"))
    assert_encoder_loaded(c4, resnet50)


def test_load__caffe_with_folded_norms(resnet18: dict, tmp_path: Path) -> None:
    """Folded statistics only suit frozen norms; in trainable norms they would be wrong, and are refused."""
    renamed = {
        name.replace("bn_gamma", "bn_s").replace("bn_beta", "bn_b"): v for name, v in caffe_blobs(resnet18).items()
    }
    folded = {name: value for name, value in renamed.items() if "running" not in name}
    path = dump({"blobs": folded}, tmp_path / "folded.pkl")
    MocoDetCheckpointer(fpn18("FrozenBN")).load(path)
    with pytest.raises(ValueError, match=r"missing in the file: .*norm\.running_mean"):
        MocoDetCheckpointer(fpn18("BN")).load(path)


def test_load__missing_encoder_tensor(resnet18: dict, tmp_path: Path) -> None:
    convert_file(save(ours(resnet18), tmp_path / "moco.pth"), tmp_path / "moco.pkl", check=False)
    content = pickle.loads((tmp_path / "moco.pkl").read_bytes())
    del content["model"]["res3.1.conv2.norm.running_var"]
    checkpointer = MocoDetCheckpointer(fpn18())
    with pytest.raises(
        ValueError, match=r"missing in the file: backbone\.bottom_up\.res3\.1\.conv2\.norm\.running_var; unused"
    ):
        checkpointer.load(dump(content, tmp_path / "moco.pkl"))
    # The checkpointer still works after the error.
    checkpointer.load(save(ours(resnet18), tmp_path / "moco.pth"))


def test_load__surplus_encoder_tensor(resnet18: dict, tmp_path: Path) -> None:
    convert_file(save(ours(resnet18), tmp_path / "moco.pth"), tmp_path / "moco.pkl", check=False)
    content = pickle.loads((tmp_path / "moco.pkl").read_bytes())
    content["model"]["stem.conv1.bias"] = np.zeros(64, np.float32)  # allowed only in Caffe's files
    with pytest.raises(ValueError, match=r"missing in the file: nothing; unused .*: stem\.conv1\.bias"):
        MocoDetCheckpointer(fpn18()).load(dump(content, tmp_path / "moco.pkl"))


def test_load__wrong_depth(resnet50: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"do not fit the model's ResNet.*unused in the file: res2\.0\.conv1.*MODEL"):
        MocoDetCheckpointer(fpn18()).load(save(ours(resnet50), tmp_path / "moco.pth"))


def test_load__c4_head_without_res5(c4: nn.Module, resnet50: dict, tmp_path: Path) -> None:
    res5 = c4.roi_heads.res5
    try:
        c4.roi_heads.res5 = nn.Identity()
        with pytest.raises(ValueError, match=r"unused in the file: res5\.0"):
            MocoDetCheckpointer(c4).load(save(ours(resnet50), tmp_path / "moco.pth"))
    finally:
        c4.roi_heads.res5 = res5


@pytest.mark.parametrize("layout", ["unknown", "two", "two dicts"])
def test_load__unconverted_and_not_known_which(resnet18: dict, tmp_path: Path, layout: str) -> None:
    student, teacher, visual = (
        {f"{place}.{name}": value for name, value in resnet18.items()} for place in ("student", "teacher", "visual")
    )
    content, found = {
        "unknown": ({"weights": visual}, r"no encoder in a known layout, .*'weights\.visual\.'"),
        "two": ({**student, **teacher}, r"contains 2 ResNets, .*'student\.', 'teacher\.'"),
        "two dicts": (
            {"state_dict": resnet18, "model": dict(resnet18)},
            r"contains 2 ResNets, .*'state_dict\.', 'model\.'",
        ),
    }[layout]
    how = r"choose one with the option --prefix of mocodet convert$"
    with pytest.raises(ValueError, match=rf"moco\.pth: .*{found}.*{how}"):
        MocoDetCheckpointer(fpn18()).load(save(content, tmp_path / "moco.pth"))


def test_load__incomplete_unconverted(resnet18: dict, tmp_path: Path) -> None:
    state = {name: value for name, value in resnet18.items() if name != "layer4.1.bn2.weight"}
    with pytest.raises(ValueError, match=r"moco\.pth: .*missing encoder_q\.layer4\.1\.bn2\.weight"):
        MocoDetCheckpointer(fpn18()).load(save(ours(state), tmp_path / "moco.pth"))


def test_load__detectron2_checkpoint(tmp_path: Path) -> None:
    source, target = fpn18(), fpn18()
    wipe(target)
    MocoDetCheckpointer(source, str(tmp_path)).save("model_0000003", iteration=3)
    extra = MocoDetCheckpointer(target).load(str(tmp_path / "model_0000003.pth"))
    assert extra["iteration"] == 3
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in target.state_dict().items())


def test_load__other_number_of_classes(tmp_path: Path) -> None:
    """Heads may differ, as when a detector is fine-tuned on other classes; only the ResNet must fit."""
    source, target = fpn18(), fpn18()
    source.roi_heads.box_predictor.cls_score = nn.Linear(16, 81)
    wipe(target)
    MocoDetCheckpointer(target).load(save({"model": source.state_dict()}, tmp_path / "coco.pth"))
    assert (target.roi_heads.box_predictor.cls_score.weight == -7).all()
    assert torch.equal(target.backbone.fpn_lateral5.weight, source.backbone.fpn_lateral5.weight)


# Overrides that make a ResNet-50 detector small, without changing names or differences of shape.
SMALL = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 8),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
]
PREDICTOR = r"roi_heads\.box_predictor\.(cls_score|bbox_pred)\.(weight|bias)"
NORM = r"norm\.(weight|bias|running_mean|running_var)"
RPN = r"proposal_generator\.rpn_head\.(conv\.(weight|bias)|(objectness_logits|anchor_deltas)\.weight)"
# The tensors that a detector of the zoo leaves without a value: their number and names.
ANEW = {
    "pascal_voc_R_50_C4_24k_coco": (4 + 4, rf"{PREDICTOR}|roi_heads\.res5\.{NORM}"),
    # The zoo's has no layer after res5, whose 2,048 channels its RPN and its first hidden layer take.
    "pascal_voc_R_50_DC5_24k_coco": (
        4 + 5 + 4 + 1,
        rf"{PREDICTOR}|backbone\.conv\.(weight|{NORM})|{RPN}|roi_heads\.box_head\.fc1\.weight",
    ),
    "cityscapes_R_50_FPN_24k_coco": (
        4 + 2 + 8 * 4,
        rf"{PREDICTOR}|roi_heads\.mask_head\.predictor\.(weight|bias)|backbone\.fpn_(lateral|output)[2-5]\.{NORM}",
    ),
}


@pytest.mark.parametrize("leaf", ANEW)
def test_load__a_detector_of_the_zoo_gives_all_that_fits(tmp_path: Path, caplog, leaf: str) -> None:
    cfg = leaf_config(leaf)
    zoo = re.search(r"//([\w-]+/\w+)/", cfg.MODEL.WEIGHTS)[1]
    theirs = get_cfg()
    theirs.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / f"{zoo}.yaml"))
    theirs.merge_from_list(SMALL)
    content = {name: value.numpy() for name, value in build_model(theirs).state_dict().items()}
    file = dump({"model": content, "__author__": "Detectron2 Model Zoo"}, tmp_path / "zoo.pkl")

    model = build_model(cfg)
    state = {name: value for name, value in wipe(model).items() if not name.endswith("num_batches_tracked")}
    with caplog.at_level("INFO"):
        MocoDetCheckpointer(model).load(file)
    anew = {name for name, value in state.items() if (value == -7).all()}
    count, names = ANEW[leaf]
    assert [name for name in anew if not re.fullmatch(names, name)] == []
    assert len(anew) == count
    for name in state.keys() - anew:
        found = content.get(name, content.get(name.replace("backbone.bottom_up.", "backbone.")))
        assert torch.equal(state[name], torch.from_numpy(found)), name
    # The log names tensors without a value and left-over tensors; detectron2 groups the names of a module.
    for name in anew:
        module, _, last = name.rpartition(".")
        assert re.search(rf"{re.escape(module)}\.(\S*{{.*)?{last}", caplog.text), name
    assert f"The file provides {len(state) - len(anew)} of" in caplog.text
    if "FPN" in leaf:  # with a norm, a convolution has no bias
        assert re.search(r"not used by the model:\s.*fpn_lateral2", caplog.text, flags=re.DOTALL)


def leaf_config(leaf: str, *opts: object) -> CfgNode:
    cfg = get_cfg()
    add_moco_config(cfg)
    cfg.merge_from_file(str(configs.path(f"{leaf}.yaml")))
    cfg.merge_from_list([*SMALL, "MODEL.DILATED_C5.OUT_CHANNELS", 8, *opts])
    return cfg


def test_load__our_detector_of_other_classes_and_of_another_model(tmp_path: Path, caplog) -> None:
    """From a C4 detector to an FPN detector with 80 classes: its ResNet, whose stage 5 is in its region head."""
    trained = build_model(leaf_config("pascal_voc_R_50_C4_24k"))
    with torch.no_grad():
        for value in trained.parameters():
            value.uniform_()
    MocoDetCheckpointer(trained, str(tmp_path)).save("model_final", iteration=3)
    source, file = trained.state_dict(), str(tmp_path / "model_final.pth")

    model = build_model(leaf_config("pascal_voc_R_50_C4_24k", "MODEL.ROI_HEADS.NUM_CLASSES", 7))
    state = wipe(model)
    MocoDetCheckpointer(model).resume_or_load(file, resume=False)
    assert {name for name in state if not torch.equal(state[name], source[name])} == {
        f"roi_heads.box_predictor.{layer}.{kind}" for layer in ("cls_score", "bbox_pred") for kind in ("weight", "bias")
    }
    model = build_model(leaf_config("coco_R_50_FPN_1x"))
    state = wipe(model)
    MocoDetCheckpointer(model).load(file)
    resnet = [name for name in state if name.startswith("backbone.bottom_up.")]
    assert len(resnet) == 318  # 53 convolutions, and five tensors of the norm of each
    for name in resnet:
        place = "roi_heads." if ".res5." in name else "backbone."
        assert torch.equal(state[name], source[name.replace("backbone.bottom_up.", place)]), name

    # It records its image format, and the place of its strides.
    with pytest.raises(
        ValueError, match=r"on images of INPUT\.FORMAT BGR, but the config has RGB; set INPUT\.FORMAT BGR, "
    ):
        MocoDetCheckpointer(build_model(leaf_config("pascal_voc_R_50_C4_24k", "INPUT.FORMAT", "RGB"))).load(file)
    with pytest.raises(ValueError, match=r"the stride in the 1x1 convolutions, .* in the 3x3 .*STRIDE_IN_1X1 True$"):
        MocoDetCheckpointer(build_model(leaf_config("pascal_voc_R_50_C4_24k_moco"))).load(file)


def test_load__query(tmp_path: Path) -> None:
    model = fpn18()
    backbone = {name: value.clone() for name, value in model.backbone.bottom_up.state_dict().items()}
    path = save(backbone, tmp_path / "backbone.pth")
    wipe(model)
    MocoDetCheckpointer(model).load(f"{path}?matching_heuristics=True")
    assert torch.equal(model.backbone.bottom_up.stem.conv1.weight, backbone["stem.conv1.weight"])
    with pytest.raises(ValueError, match="do not fit"):
        MocoDetCheckpointer(model).load(path)
    with pytest.raises(ValueError, match="unknown options"):
        MocoDetCheckpointer(model).load(f"{path}?heuristics=True")


def test_load__pycls(tmp_path: Path) -> None:
    model = fpn18()
    backbone = {name: value.clone() for name, value in model.backbone.bottom_up.state_dict().items()}
    wipe(model)
    MocoDetCheckpointer(model).load(save({"model_state": backbone}, tmp_path / "model.pyth"))
    assert torch.equal(model.backbone.bottom_up.stem.conv1.weight, backbone["stem.conv1.weight"])


def test_load__nothing_and_nowhere(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    assert MocoDetCheckpointer(model).load("") == {}
    with pytest.raises(FileNotFoundError, match=r"the checkpoint .*absent\.pth does not exist; correct MODEL\.WEIGHTS"):
        MocoDetCheckpointer(model).load(str(tmp_path / "absent.pth"))


class Malicious:
    """Makes a folder when an unpickler runs its code."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth", "pth.tar"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_load__malicious(tmp_path: Path, suffix: str, protocol: int) -> None:
    trap = tmp_path / "trap"
    content = {"model": {"weight": np.ones(2), "bias": Malicious(trap)}, "__author__": "eve"}
    path = tmp_path / f"model.{suffix}"
    dump(content, path, protocol)
    pickle.loads(path.read_bytes())  # the trap works ...
    trap.rmdir()
    with pytest.raises(ValueError, match=r"cannot be read"):  # ... and is not stepped on
        MocoDetCheckpointer(nn.Linear(2, 2)).load(str(path))
    if suffix != "pkl":
        save(content, path)
        with pytest.raises(ValueError, match=r"cannot be read"):
            MocoDetCheckpointer(nn.Linear(2, 2)).load(str(path))
    assert not trap.exists()


class TinyTrainer(DefaultTrainer):
    """detectron2's trainer, hooks and schedule, around a model of one layer."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        hooked = self.checkpointer
        self.checkpointer = MocoDetCheckpointer(self.model, cfg.OUTPUT_DIR, trainer=self)
        for hook in self._hooks:
            if getattr(hook, "checkpointer", None) is hooked:
                hook.checkpointer = self.checkpointer

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(3, 1)

            def forward(self, data: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"loss": self.layer(data).square().mean()}

        return Model()

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> list[torch.Tensor]:
        return [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in range(20)]

    def test(self, cfg: CfgNode, model: nn.Module) -> dict[str, float]:
        return {}


def test_resume(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.SOLVER.MAX_ITER = 6
    cfg.SOLVER.STEPS = (4,)
    cfg.SOLVER.WARMUP_ITERS = 2
    cfg.SOLVER.CHECKPOINT_PERIOD = 3
    trainer = TinyTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"

    # After three of six iterations: everything the file holds arrives, read without running code.
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    saved = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    resumed = TinyTrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.start_iter == 3
    assert resumed.scheduler.last_epoch == saved["trainer"]["hooks"]["LRScheduler"]["last_epoch"]
    assert torch.equal(resumed.model.layer.weight, saved["model"]["layer.weight"])
    momentum = resumed._trainer.optimizer.state_dict()
    expected = saved["trainer"]["_trainer"]["optimizer"]
    assert momentum["param_groups"] == expected["param_groups"]
    assert torch.equal(momentum["state"][0]["momentum_buffer"], expected["state"][0]["momentum_buffer"])
    assert momentum["state"][0]["momentum_buffer"].abs().sum() > 0

    # Without --resume the same file gives the model only.
    fresh = TinyTrainer(cfg)
    fresh.cfg = cfg.clone()
    fresh.cfg.MODEL.WEIGHTS = str(tmp_path / "model_0000002.pth")
    fresh.resume_or_load(resume=False)
    assert fresh.start_iter == 0
    assert torch.equal(fresh.model.layer.weight, saved["model"]["layer.weight"])
    assert fresh._trainer.optimizer.state_dict()["state"] == {}

    # A damaged last checkpoint, and one that is gone: the message names the newest intact one.
    whole = re.escape(f"newest intact checkpoint is {tmp_path / 'model_0000002.pth'}, saved after 3 iterations; to ")
    for path in (tmp_path / "model_0000005.pth", tmp_path / "model_final.pth"):
        path.write_bytes(path.read_bytes()[:500])
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")
    with pytest.raises(ValueError, match=rf"model_0000005\.pth cannot be read .*{whole}"):
        TinyTrainer(cfg).resume_or_load(resume=True)
    (tmp_path / "model_0000005.pth").unlink()
    with pytest.raises(FileNotFoundError, match=rf"model_0000005\.pth does not exist, .*{whole}"):
        TinyTrainer(cfg).resume_or_load(resume=True)
