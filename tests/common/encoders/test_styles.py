"""The encoder that is taken from the checkpoints of each project, and the choices left to the user."""

import re

import pytest
import torch
from torch import nn

from mocodet.common.encoders.find import MAX_DEPTH, holds_encoder
from mocodet.common.encoders.reading import extract_encoder
from mocodet.common.encoders.resnet import build_resnet
from mocodet.common.encoders.styles import STYLES
from tests.encoders import FOREIGN, backbone, checkpoint_of, encoder, lightly_moco, lightning, moco_v3, numbered


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return encoder("resnet18")


def assert_is(found: dict[str, torch.Tensor], model: nn.Module, offset: float = 0) -> None:
    """``found`` is the whole of ``model`` without ``fc``, bit by bit."""
    expected = {n: v for n, v in backbone(model, "", offset).items() if not n.endswith("num_batches_tracked")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize("style", FOREIGN)
def test_extract_encoder__foreign(resnet18: nn.Module, style: str) -> None:
    expected = FOREIGN[style]
    content = expected.make(resnet18)
    assert holds_encoder(content)
    found = extract_encoder(content)
    assert (found.kind, found.prefix) == (expected.kind, expected.prefix)
    assert_is(found.tensors, resnet18)
    told = [name for note in found.notes if note.startswith("passed over") for name in re.findall(r"'(.*?)'", note)]
    assert sorted(told) == sorted(expected.passed_over)


@pytest.mark.parametrize("style", [style for style in FOREIGN if FOREIGN[style].passed_over])
def test_extract_encoder__what_is_passed_over_can_be_chosen(resnet18: nn.Module, style: str) -> None:
    content = FOREIGN[style].make(resnet18)
    for prefix in FOREIGN[style].passed_over:
        found = extract_encoder(content, prefix)
        assert (found.kind, found.prefix) == ("encoder named by prefix", prefix)
        same = torch.equal(found.tensors["conv1.weight"], resnet18.conv1.weight)
        # Some files name the encoder twice; other ones were made by adding 1.
        assert_is(found.tensors, resnet18, 0 if same else 1)


def test_styles__each_is_found_somewhere(resnet18: nn.Module) -> None:
    own = {"MoCo query encoder, mocodet format": checkpoint_of(resnet18, "ours")}
    own["mocodet classifier, mocodet format"] = checkpoint_of(resnet18, "supervised")
    own["MoCo query encoder, bare state dict"] = checkpoint_of(resnet18, "original")["state_dict"]
    own["encoder of a model"] = {"state_dict": backbone(resnet18, "encoder.")}
    own["backbone of a model"] = {"state_dict": backbone(resnet18, "backbone.")}
    for kind, content in own.items():
        assert extract_encoder(content).kind == kind
    assert {style.name for style in STYLES} == {foreign.kind for foreign in FOREIGN.values()} | own.keys()


@pytest.mark.parametrize("where", ["front", "inside", "stage"])
@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_extract_encoder__wrappers(resnet18: nn.Module, where: str, wrapper: str) -> None:
    content = moco_v3(resnet18)
    replaced = {
        "front": lambda name: wrapper + name,
        "inside": lambda name: name.replace("base_encoder.", f"base_encoder.{wrapper}"),
        "stage": lambda name: re.sub(r"(layer[34]|downsample)\.", rf"\1.{wrapper}", name),
    }[where]
    content["state_dict"] = {replaced(n.removeprefix("module.")): v for n, v in content["state_dict"].items()}
    found = extract_encoder(content)
    assert found.kind == "MoCo v3 base encoder"
    assert_is(found.tensors, resnet18)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_extract_encoder__wrapped_numbered_children(resnet18: nn.Module, wrapper: str) -> None:
    content = lightly_moco(resnet18)
    content["state_dict"] = {wrapper + name: value for name, value in content["state_dict"].items()}
    assert_is(extract_encoder(content).tensors, resnet18)


def test_extract_encoder__numbered_children_are_named_as_in_the_file(resnet18: nn.Module) -> None:
    state = numbered(resnet18, "backbone.")
    del state["backbone.5.0.bn1.running_mean"], state["backbone.1.bias"]
    with pytest.raises(ValueError, match=r"missing backbone\.1\.bias, backbone\.5\.0\.bn1\.running_mean$"):
        extract_encoder(state)


@pytest.mark.parametrize(
    "arch", ["resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnext50_32x4d", "resnet50w2"]
)
def test_extract_encoder__numbered_children_of_other_architectures(arch: str) -> None:
    with torch.device("meta"):
        state = numbered(build_resnet(arch), "backbone.")
    constants = {name: torch.ones((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}
    found = extract_encoder({"state_dict": constants})
    assert (found.kind, found.arch, found.small_stem) == ("lightly backbone", arch, False)


@pytest.mark.parametrize("name", ["encoder.", "backbone."])
def test_extract_encoder__says_no_more_of_the_origin_than_it_knows(resnet18: nn.Module, name: str) -> None:
    """Many projects save ``{"model": {"encoder.*"}}``; ours has the iteration besides."""
    content = {"model": backbone(resnet18, name), "optimizer": {}, "epoch": 3}
    assert extract_encoder(content).kind == f"{name[:-1]} of a model"
    assert extract_encoder(lightning(backbone(resnet18, name))).kind.startswith("Lightning module's backbone")


def test_extract_encoder__lightlys_tico_is_left_to_the_user(resnet18: nn.Module) -> None:
    """Its two ResNets have the names of DINO's."""
    content = lightning({**backbone(resnet18, "backbone."), **backbone(resnet18, "student_backbone.", 1)})
    with pytest.raises(ValueError, match=r"contains 2 ResNets, .*: 'backbone\.', 'student_backbone\.'; choose"):
        extract_encoder(content)


def two_resnets(model: nn.Module, layout: str) -> tuple[dict, list[str]]:
    """A checkpoint with two encoders that are equally eligible, and the prefixes that its error is to name."""
    first, second = backbone(model), backbone(model, "", 1)
    if layout == "student and teacher":
        content = {"state_dict": {**backbone(model, "student."), **backbone(model, "teacher.", 1)}}
        return content, ["student.", "teacher."]
    if layout == "encoder and its moving average":
        return {"model": first, "model_ema": second}, ["model.", "model_ema."]
    if layout == "two dicts":
        return {"state_dict": first, "model": second}, ["state_dict.", "model."]
    if layout == "an unknown one beside MoCo's":
        content = checkpoint_of(model, "original")
        content["state_dict"] |= backbone(model, "module.expert.", 1)
        return content, ["module.encoder_q.", "module.encoder_k.", "module.expert."]
    if layout == "with and without a wrapper":
        return {**backbone(model), **backbone(model, "module.", 1)}, ["", "module."]
    return {**backbone(model, "image."), **numbered(model, "depth.", 1)}, ["image.", "depth."]


@pytest.mark.parametrize(
    "layout",
    [
        "student and teacher",
        "encoder and its moving average",
        "two dicts",
        "an unknown one beside MoCo's",
        "with and without a wrapper",
        "named and numbered",
    ],
)
def test_extract_encoder__ambiguous(resnet18: nn.Module, layout: str) -> None:
    content, prefixes = two_resnets(resnet18, layout)
    listed = ", ".join(f"{prefix!r}" for prefix in prefixes)
    with pytest.raises(
        ValueError, match=rf"contains {len(prefixes)} ResNets, .*: {re.escape(listed)}; choose .*--prefix"
    ):
        extract_encoder(content)
    offsets = [0, 1] if len(prefixes) == 2 else [0, 1, 1]
    for prefix, offset in zip(prefixes, offsets, strict=True):
        found = extract_encoder(content, prefix)
        assert found.prefix == prefix
        assert_is(found.tensors, resnet18, offset)


def test_extract_encoder__prefix_of_several(resnet18: nn.Module) -> None:
    content = {"student": backbone(resnet18, "backbone."), "expert": backbone(resnet18, "backbone.", 1)}
    with pytest.raises(
        ValueError, match=r"2 ResNets named 'backbone': 'student\.backbone\.', 'expert\.backbone\.'; specify"
    ):
        extract_encoder(content, "backbone")
    assert_is(extract_encoder(content, "expert.backbone").tensors, resnet18, 1)


def test_extract_encoder__unknown_layout(resnet18: nn.Module) -> None:
    content = {"weights": {"net": backbone(resnet18, "visual.trunk.")}}
    assert holds_encoder(content)
    with pytest.raises(ValueError, match=r"no encoder in a known layout.*'weights\.net\.visual\.trunk\.'.*--pre"):
        extract_encoder(content)
    for prefix in ("weights.net.visual.trunk.", "visual.trunk"):
        assert_is(extract_encoder(content, prefix).tensors, resnet18)
    with pytest.raises(
        ValueError, match=r"no encoder named 'trunk\.conv1\.\*', but does contain ResNets at 'weights\.net"
    ):
        extract_encoder(content, "trunk")


def test_extract_encoder__swav_by_prefix_leaves_its_heads(resnet18: nn.Module) -> None:
    assert_is(extract_encoder(FOREIGN["SwAV"].make(resnet18), "module.").tensors, resnet18)


def test_extract_encoder__dicts_in_themselves(resnet18: nn.Module) -> None:
    """A damaged or hostile file may hold one dict many times over, or in itself."""
    content: dict = {"state_dict": backbone(resnet18)}
    content["again"] = content
    content["twice"] = content["state_dict"]
    assert_is(extract_encoder(content).tensors, resnet18)
    many: dict = {"a": torch.ones(1)}
    for _ in range(60):
        many = {"left": many, "right": many}
    with pytest.raises(ValueError, match="contains no encoder"):
        extract_encoder(many)
    deep: dict = backbone(resnet18)
    for _ in range(MAX_DEPTH + 1):
        deep = {"in": deep}
    with pytest.raises(ValueError, match="contains no encoder"):
        extract_encoder(deep)


def test_extract_encoder__a_projector_called_layer_is_no_resnet(resnet18: nn.Module) -> None:
    state = backbone(resnet18, "backbone.")
    state |= {f"projector.layer{i}.0.weight": torch.ones(4, 4) for i in (1, 2, 3, 4)}
    assert_is(extract_encoder({"state_dict": state}).tensors, resnet18)


def test_extract_encoder__a_name_belongs_to_the_longest_prefix(resnet18: nn.Module) -> None:
    content = {**backbone(resnet18), **backbone(resnet18, "expert.", 1)}
    with pytest.raises(ValueError, match=r"contains 2 ResNets, .*: '', 'expert\.'; choose"):
        extract_encoder(content)
    for prefix, offset in (("", 0), ("expert", 1)):
        assert_is(extract_encoder(content, prefix).tensors, resnet18, offset)


def test_extract_encoder__a_name_is_not_replaced_by_its_wrapped_copy(resnet18: nn.Module) -> None:
    state = backbone(resnet18)
    found = extract_encoder({**state, "module.bn1.bias": state["bn1.bias"] + 1})
    assert_is(found.tensors, resnet18)
    assert found.left_out["outside the encoder (key encoder, queue, ...)"] == 1
