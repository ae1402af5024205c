import itertools
import os
import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.models import resnet18

from mocodet.common.encoders.reading import read_encoder
from mocodet.common.progress import progress
from mocodet.pretrain.data.labelled import read_class_folders
from mocodet.pretrain.evaluation import features as module
from mocodet.pretrain.evaluation.features import (
    FeatureSettings,
    cached_features,
    central_crops,
    exact_convolutions,
    extract_features,
    listing_digest,
    random_backbone,
    state_digest,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    generator = np.random.default_rng(0)
    for number in range(7):
        noise = generator.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        (root / f"class{number % 3}").mkdir(exist_ok=True)
        Image.fromarray(noise).resize((60, 48)).save(root / f"class{number % 3}" / f"{number}.png")
    return read_class_folders(root)


@pytest.fixture(scope="module")
def backbone():
    return random_backbone("resnet18", seed=3)


def test_extract_features__equals_torchvision_step_by_step(data, backbone):
    found = extract_features(backbone, data, FeatureSettings(size=35, batch_size=4))
    reference = resnet18()
    reference.load_state_dict(backbone.state_dict(), strict=False)  # except fc
    parts = nn.Sequential(*list(reference.eval().children())[:-1])  # to avgpool
    view = transforms.Compose(
        [
            transforms.Resize(40),  # 35 * 256 / 224
            transforms.CenterCrop(35),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        expected = torch.cat([parts(view(image)[None]).flatten(1) for image in data.images])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_extract_features__some_places_in_another_precision_and_storage(data, backbone):
    whole = extract_features(backbone, data, FeatureSettings(size=32))
    part = extract_features(
        backbone, data, FeatureSettings(size=32, dtype=torch.bfloat16, storage=torch.float16), places=[5, 1]
    )
    assert part.dtype == torch.float16
    assert part.shape == (2, 512)
    difference = (part.float() - whole[[5, 1]]).abs().max() / whole.abs().max()
    assert 0 < difference < 0.05, "bfloat16 is near float32, but not equal to it"


@pytest.mark.parametrize("workers", [0, 1])
def test_extract_features__leaves_no_trace(data, backbone, workers):
    torch.manual_seed(1)
    before, state = state_digest(backbone), torch.get_rng_state()
    extract_features(backbone, data, FeatureSettings(size=32, num_workers=workers))
    assert state_digest(backbone) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_extract_features__training_mode_and_bad_numbers_are_refused(data):
    network = random_backbone("resnet18", seed=0)
    with pytest.raises(ValueError, match="training mode"):
        extract_features(network.train(), data, FeatureSettings(size=32))
    network.eval().layer4[1].bn2.bias.data[0] = torch.inf
    with pytest.raises(FloatingPointError, match="not finite"):
        extract_features(network, data, FeatureSettings(size=32))
    network.layer4[1].bn2.bias.data[0] = 1e6
    with pytest.raises(FloatingPointError, match=r"are outside the range of torch\.float16"):
        extract_features(network, data, FeatureSettings(size=32, storage=torch.float16))


def test_pooled_features__without_tf32(data, backbone):
    """The switches exist on a machine without CUDA too."""
    flags = torch.backends.cudnn
    seen = []
    handle = backbone.conv1.register_forward_hook(lambda *_: seen.append((flags.allow_tf32, flags.benchmark)))
    flags.benchmark = True
    try:
        extract_features(backbone, data, FeatureSettings(size=32))
        after = flags.allow_tf32, flags.benchmark
        with pytest.raises(KeyError), exact_convolutions():
            raise KeyError
        assert (flags.allow_tf32, flags.benchmark) == after == (True, True)
    finally:
        flags.benchmark = False
        handle.remove()
    assert seen == [(False, False)]


def test_central_crops__labels_of_some_places(data):
    batches = list(central_crops(data, FeatureSettings(size=32, batch_size=2), [5, 1, 3]))
    assert [labels.tolist() for _, labels in batches] == [[2, 0], [1]]
    whole = torch.cat([images for images, _ in central_crops(data, FeatureSettings(size=32), range(7))])
    assert torch.equal(torch.cat([images for images, _ in batches]), whole[[5, 1, 3]])


def test_central_crops__show_progress(data, monkeypatch, capsys):
    """The clock advances by a minute at each reading."""
    seconds = itertools.count(0, 60)
    monkeypatch.setattr(module, "progress", partial(progress, clock=lambda: next(seconds)))
    list(central_crops(data, FeatureSettings(size=32, batch_size=2), range(7)))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"image batch 1 of 4, about \d+ min left", lines[0])


def test_random_backbone__depends_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    digest = state_digest(random_backbone("resnet18", 0))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert state_digest(random_backbone("resnet18", 0)) == digest
    assert state_digest(random_backbone("resnet18", 1)) != digest


@pytest.mark.parametrize(
    ("container", "prefix"), [("model", "encoder_q."), ("state_dict", "module.encoder_q."), ("model", "encoder.")]
)
def test_read_encoder__finds_the_encoder(tmp_path, backbone, container, prefix):
    state = {prefix + name: tensor for name, tensor in backbone.state_dict().items()}
    state[prefix + "fc.weight"] = torch.zeros(10, 512)
    torch.save({container: state, "epoch": 1}, tmp_path / "checkpoint.pth")
    encoder = read_encoder(tmp_path / "checkpoint.pth")
    found = encoder.build()
    assert encoder.arch == "resnet18"
    assert not found.training
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(images), backbone(images))


def test_read_encoder__refuses_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        read_encoder(tmp_path / "nothing.pth")
    (tmp_path / "converted.pkl").write_bytes(b"")
    with pytest.raises(ValueError, match="is already converted for detectron2"):
        read_encoder(tmp_path / "converted.pkl")
    torch.save({"model": {"other": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: contains no encoder"):
        read_encoder(tmp_path / "other.pth")


def test_cached_features__read_again_only_if_nothing_changed(data, backbone, tmp_path, monkeypatch):
    made = []
    original = extract_features
    monkeypatch.setattr(module, "extract_features", lambda *args: made.append(1) or original(*args))
    settings = FeatureSettings(size=32)
    first = cached_features(backbone, data, settings, tmp_path)
    second = cached_features(backbone, data, settings, tmp_path)
    assert len(made) == 1
    assert torch.equal(first, second)
    cached_features(backbone, data, FeatureSettings(size=33), tmp_path)
    assert len(made) == 2, "another crop"
    cached_features(random_backbone("resnet18", 4), data, settings, tmp_path)
    assert len(made) == 3, "other weights"
    cached_features(backbone, data, FeatureSettings(size=32, batch_size=2), tmp_path)
    assert len(made) == 3, "the batch size changes nothing"


def test_listing_digest__changes_with_files_and_labels(tmp_path):
    for name in ("a/1.png", os.fsdecode(b"b/caf\xe9.png")):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    first = listing_digest(read_class_folders(tmp_path))
    assert listing_digest(read_class_folders(tmp_path)) == first
    other = read_class_folders(tmp_path)
    assert listing_digest(other._replace(labels=other.labels.flip(0))) != first
    Image.new("RGB", (9, 8)).save(tmp_path / "a/1.png")
    assert listing_digest(read_class_folders(tmp_path)) != first


def test_state_digest__sees_buffers_and_names():
    norm = nn.BatchNorm2d(2)
    first = state_digest(norm)
    norm.running_mean[1] = 1e-30
    assert state_digest(norm) != first
    assert state_digest(nn.Sequential(norm)) != state_digest(norm)
