import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from torch import nn

from mocodet import configs
from mocodet.detection.modeling.fcn import FCNHead
from mocodet.detection.modeling.norm import adapt_norms_to_device
from mocodet.detection.training.checkpoint import MocoDetCheckpointer
from mocodet.detection.weights.convert import convert_file
from tests.detection.tiny import empty_config
from tests.encoders import checkpoint_of, encoder

VOC_LEAF = "pascal_voc_R_50_FCN_30k_moco.yaml"


@pytest.fixture(scope="module")
def fcn() -> nn.Module:
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path(VOC_LEAF)))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    return adapt_norms_to_device(build_model(cfg)).eval()


def small_head(**keys: object) -> FCNHead:
    made = {"IN_FEATURES": ["res5"], "NUM_CLASSES": 3, "CONVS_DIM": 4, "NORM": "BN"} | keys
    cfg = empty_config(**{f"MODEL__SEM_SEG_HEAD__{key}": value for key, value in made.items()})
    return FCNHead(cfg, {"res5": ShapeSpec(channels=5, stride=16)})


def resnet50_parameters() -> int:
    """Count the parameters of a ResNet-50 without its fc, from He et al., table 1; no convolution has a bias."""
    count = 7 * 7 * 3 * 64 + 2 * 64
    channels = 64
    for blocks, width in zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True):
        for block in range(blocks):
            count += channels * width + 2 * width
            count += 3 * 3 * width * width + 2 * width
            count += width * 4 * width + 2 * 4 * width
            if block == 0:
                count += channels * 4 * width + 2 * 4 * width  # the projection
            channels = 4 * width
    return count


def test_fcn__number_of_parameters_follows_the_paper(fcn):
    classes = 21
    added = 3 * 3 * 2048 * 256 + 2 * 256  # two extra 3x3 convolutions of 256 channels, with BN
    added += 3 * 3 * 256 * 256 + 2 * 256
    added += 256 * classes + classes  # a 1x1 convolution
    assert sum(p.numel() for p in fcn.backbone.parameters()) == resnet50_parameters()
    assert sum(p.numel() for p in fcn.parameters()) == resnet50_parameters() + added
    assert all(p.requires_grad for p in fcn.parameters())


def test_fcn__head_names_and_shapes(fcn):
    assert {name: tuple(p.shape) for name, p in fcn.sem_seg_head.named_parameters()} == {
        "convs.0.weight": (256, 2048, 3, 3),
        "convs.0.norm.weight": (256,),
        "convs.0.norm.bias": (256,),
        "convs.1.weight": (256, 256, 3, 3),
        "convs.1.norm.weight": (256,),
        "convs.1.norm.bias": (256,),
        "predictor.weight": (21, 256, 1, 1),
        "predictor.bias": (21,),
    }


def test_fcn__strides_and_dilations(fcn):
    def of(conv: nn.Conv2d) -> tuple:
        return (conv.kernel_size[0], conv.stride[0], conv.dilation[0], conv.padding[0])

    stages = [fcn.backbone.res2, fcn.backbone.res3, fcn.backbone.res4, fcn.backbone.res5]
    assert of(fcn.backbone.stem.conv1) == (7, 2, 1, 3)
    assert [[of(block.conv2) for block in stage] for stage in stages] == [
        [(3, 1, 1, 1)] * 3,
        [(3, 2, 1, 1)] + [(3, 1, 1, 1)] * 3,
        [(3, 2, 1, 1)] + [(3, 1, 1, 1)] * 5,
        [(3, 1, 2, 2)] * 3,  # dilation 2 and stride 1, the first block included
    ]
    pointwise = [conv for stage in stages for block in stage for conv in (block.conv1, block.conv3)]
    assert {of(conv) for conv in pointwise} == {(1, 1, 1, 0)}
    assert [of(stage[0].shortcut) for stage in stages] == [(1, s, 1, 0) for s in (1, 2, 2, 1)]
    assert [of(conv) for conv in fcn.sem_seg_head.convs] == [(3, 1, 6, 6)] * 2
    assert of(fcn.sem_seg_head.predictor) == (1, 1, 1, 0)
    assert fcn.backbone.output_shape()["res5"].stride == fcn.sem_seg_head.stride == 16


def test_fcn__supervised_variant_has_the_same_total_stride():
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path(VOC_LEAF.replace("_moco", ""))))
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1
    with torch.device("meta"):
        cfg.merge_from_list(["MODEL.DEVICE", "meta"])
        res5 = build_model(cfg).backbone.res5
    assert {m.stride for m in res5.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
    assert [block.conv2.dilation for block in res5] == [(2, 2)] * 3


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97), (50, 33)])
def test_fcn__one_score_for_every_pixel_and_class(fcn, height, width):
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    with torch.no_grad():
        features = fcn.backbone(image[None].float())["res5"]
        (output,) = fcn([{"image": image, "height": height, "width": width}])
    assert features.shape == (1, 2048, -(-height // 16), -(-width // 16))
    assert output["sem_seg"].shape == (21, height, width)


def test_fcn__scores_at_the_size_of_the_file(fcn):
    with torch.no_grad():
        (output,) = fcn([{"image": torch.zeros(3, 40, 56, dtype=torch.uint8), "height": 80, "width": 112}])
    assert output["sem_seg"].shape == (21, 80, 112)


def test_fcn__converted_weights_load_without_left_overs(fcn, tmp_path):
    model = encoder("resnet50")
    torch.save(checkpoint_of(model, "original"), tmp_path / "moco.pth.tar")
    convert_file(tmp_path / "moco.pth.tar", tmp_path / "moco.pkl", check=False)
    # With this checkpointer, left-over values and missing values of the ResNet are errors.
    MocoDetCheckpointer(fcn, str(tmp_path)).load(str(tmp_path / "moco.pkl"))
    weights = pickle.loads((tmp_path / "moco.pkl").read_bytes())["model"]
    state = {name: value for name, value in fcn.backbone.state_dict().items() if "num_batches" not in name}
    assert state.keys() == weights.keys()
    assert all(np.array_equal(value.numpy(), weights[name]) for name, value in state.items())


def test_head__is_two_dilated_convolutions_and_a_classifier():
    head = small_head().eval()
    for norm in (conv.norm for conv in head.convs):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.weight)
    x = torch.randn(2, 5, 7, 9)
    expected = x
    for conv in head.convs:
        expected = torch.relu(conv.norm(F.conv2d(expected, conv.weight, padding=6, dilation=6)))
    expected = F.conv2d(expected, head.predictor.weight, head.predictor.bias)
    with torch.no_grad():
        scores, losses = head({"res5": x})
    assert losses == {}
    # A feature lies on every sixteenth pixel.
    assert torch.allclose(scores[:, :, ::16, ::16], expected, atol=1e-5)


def lerp(values: list[float], place: float) -> float:
    """Interpolate between values at 0, 1, 2, ...; the last one repeats without end."""
    place = min(place, len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


@pytest.mark.parametrize(("height", "width"), [(33, 49), (32, 48), (20, 41), (16, 1)])
def test_head__enlarges_bilinearly_with_feature_i_on_pixel_16_i(height, width):
    rows, columns = -(-height // 16), -(-width // 16)
    scores = torch.randn(1, 1, rows, columns, dtype=torch.float64)
    found = small_head()._enlarge(scores, height, width)
    assert found.shape == (1, 1, height, width)
    for y, x in itertools.product(range(height), range(width)):
        along = [lerp(row, x / 16) for row in scores[0, 0].tolist()]
        assert found[0, 0, y, x].item() == pytest.approx(lerp(along, y / 16), abs=1e-9)


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_backbone__feature_i_lies_on_pixel_16_i(stride_in_1x1, monkeypatch):
    # The assumption behind the head's geometry. In a narrow network with positive weights every pixel has influence if
    # its pooling uses every pixel: a mean over the same windows as the maximum's.
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    cfg = empty_config()
    cfg.merge_from_file(str(configs.path(VOC_LEAF)))
    narrow = {"STEM_OUT_CHANNELS": 2, "WIDTH_PER_GROUP": 1, "RES2_OUT_CHANNELS": 4, "NORM": ""}
    narrow["STRIDE_IN_1X1"] = stride_in_1x1
    cfg.merge_from_list([word for key, value in narrow.items() for word in (f"MODEL.RESNETS.{key}", value)])
    backbone = build_backbone(cfg).double()
    for parameter in backbone.parameters():
        parameter.data.fill_(0.1)
    image = torch.ones(1, 3, 513, 513, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(backbone(image)["res5"][0, :, 16, 16].sum(), image)
    field = gradient[0].sum(0).nonzero()  # P x 2
    first, last = field.amin(0), field.amax(0)
    assert first.min() > 0
    assert last.max() < 512
    assert ((first + last) / 2).tolist() == [256, 256]


def test_loss__is_the_mean_over_labelled_pixels():
    head = small_head(LOSS_WEIGHT=0.5).train()
    features = torch.randn(2, 5, 3, 4)
    targets = torch.randint(0, 3, (2, 33, 49))
    targets[0, :20] = 255
    _, losses = head({"res5": features}, targets)
    # The same norms, in training mode too, so the same statistics.
    logits = head._enlarge(head.predictor(head.convs(features)), 33, 49)
    terms = [
        -F.log_softmax(logits[n, :, y, x], dim=0)[targets[n, y, x]]
        for n, y, x in itertools.product(range(2), range(33), range(49))
        if targets[n, y, x] != 255
    ]
    assert set(losses) == {"loss_sem_seg"}
    assert losses["loss_sem_seg"].item() == pytest.approx(0.5 * torch.stack(terms).mean().item(), rel=1e-4)


def test_loss__without_a_labelled_pixel():
    head = small_head()
    _, losses = head({"res5": torch.randn(1, 5, 2, 2)}, torch.full((1, 17, 17), 255))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in head.parameters())


def test_loss__starts_near_that_of_equal_probabilities():
    head = small_head(NUM_CLASSES=10)
    _, losses = head({"res5": torch.randn(2, 5, 3, 3)}, torch.randint(0, 10, (2, 33, 33)))
    assert losses["loss_sem_seg"].item() == pytest.approx(torch.tensor(10.0).log().item(), abs=0.05)


def test_head__without_norm_has_biases():
    assert [conv.bias is not None for conv in small_head(NORM="").convs] == [True, True]


@pytest.mark.parametrize("features", [["res4"], ["res4", "res5"], []])
def test_head__wants_one_output_of_the_backbone(features):
    with pytest.raises(ValueError, match=r"must contain exactly one of the backbone's outputs res5, found \["):
        small_head(IN_FEATURES=features)
