import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from mocodet.pretrain.data.augment.pillow import GaussianBlur, PillowViews, build_view
from mocodet.pretrain.data.augment.recipes import RECIPES
from mocodet.pretrain.data.views import Views, normalize


@pytest.fixture
def image():
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (80, 100, 3), dtype=np.uint8))


def parameters(name: str) -> list:
    """Return the operation of each step of a recipe, in order."""
    described = []
    for step in build_view(RECIPES[name]).transforms:
        inner, p = (step.transforms[0], step.p) if isinstance(step, transforms.RandomApply) else (step, None)
        if isinstance(inner, transforms.RandomResizedCrop):
            described.append(("crop", inner.size, inner.scale))
        elif isinstance(inner, transforms.ColorJitter):
            described.append(("jitter", inner.brightness, inner.contrast, inner.saturation, inner.hue, p))
        elif isinstance(inner, GaussianBlur):
            described.append(("blur", inner.highest, p))
        else:
            described.append((type(inner).__name__, inner.p))
    return described


def test_build_view__v1():
    assert parameters("moco_v1") == [
        ("crop", (224, 224), (0.2, 1.0)),
        ("RandomGrayscale", 0.2),
        ("jitter", (0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.4, 0.4), None),
        ("RandomHorizontalFlip", 0.5),
    ]


def test_build_view__v2():
    assert parameters("moco_v2") == [
        ("crop", (224, 224), (0.2, 1.0)),
        ("jitter", (0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1), 0.8),
        ("RandomGrayscale", 0.2),
        ("blur", 2.0, 0.5),
        ("RandomHorizontalFlip", 0.5),
    ]


@pytest.mark.parametrize("highest", [2.0, 0.4])
def test_gaussian_blur__draws_sigma_from_its_range(image, highest, monkeypatch):
    drawn = []
    monkeypatch.setattr("PIL.ImageFilter.GaussianBlur", lambda radius: drawn.append(radius) or _identity())
    for _ in range(200):
        GaussianBlur(highest)(image)
    margin = (highest - 0.1) / 10
    assert 0.1 <= min(drawn) < 0.1 + margin
    assert highest - margin < max(drawn) <= highest


def _identity():
    from PIL import ImageFilter

    return ImageFilter.Kernel((3, 3), [0, 0, 0, 0, 1, 0, 0, 0, 0])


def test_two_views__differ_and_depend_on_seed_and_draw_alone(image):
    def sample(seed, draw):
        return Views([image], PillowViews(build_view(RECIPES["moco_v2"], 32)), seed)[0, draw]

    torch.manual_seed(1)
    first = sample(7, 100)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    again = sample(7, 100)
    assert first["query"].dtype == torch.uint8
    assert first["query"].shape == (3, 32, 32)
    assert torch.equal(first["query"], again["query"])
    assert torch.equal(first["key"], again["key"])
    assert not torch.equal(first["query"], first["key"])
    assert not torch.equal(first["query"], sample(7, 101)["query"])
    assert not torch.equal(first["query"], sample(8, 100)["query"])
    torch.set_rng_state(state)
    sample(7, 100)
    assert torch.equal(torch.get_rng_state(), state), "a sample must not disturb the process's generator"


def test_views__one_view_with_the_place_and_the_label_of_its_image(image):
    make = PillowViews(build_view(RECIPES["supervised"], 24))
    views = Views([None, image], make, 0, names=("image",), labels=torch.tensor([5, 3]))
    sample = views[1, 0]
    assert sample.keys() == {"image", "index", "label"}
    assert sample["image"].shape == (3, 24, 24)
    assert (sample["index"].item(), sample["label"].item()) == (1, 3)


def test_views__items_of_a_stream_have_no_place(image):
    make = PillowViews(build_view(RECIPES["moco_v1"], 24))
    assert Views({"shard": image}, make, 0)["shard", 9].keys() == {"query", "key"}


def test_supervised__is_crop_and_flip_only(image):
    torch.manual_seed(3)
    found = build_view(RECIPES["supervised"], 24, 0.08)(image)
    torch.manual_seed(3)
    reference = transforms.Compose([transforms.RandomResizedCrop(24), transforms.RandomHorizontalFlip()])
    assert found.tobytes() == reference(image).tobytes()


def test_normalize__equals_torchvision():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    reference = transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    torch.testing.assert_close(normalize(images), reference(images.float() / 255), atol=1e-5, rtol=1e-5)


def test_normalize__is_the_same_in_either_memory_format():
    images = torch.randint(256, (4, 3, 5, 7), dtype=torch.uint8)
    last = normalize(images.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, normalize(images))
    values = images.float()
    normalize(values.contiguous(memory_format=torch.channels_last))
    assert torch.equal(values, images.float()), "the input must not change"
