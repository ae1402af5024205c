"""The distribution of views is that of torchvision, whose transforms are observed."""

from collections import Counter, defaultdict
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.stats import chi2_contingency, ks_2samp
from torchvision.transforms import functional as TF

from mocodet.pretrain.data.augment.parameters import Crop, Operation, ViewParameters, draw_crop, draw_view
from mocodet.pretrain.data.augment.pillow import build_view
from mocodet.pretrain.data.augment.recipes import RECIPES, Recipe

HEIGHT, WIDTH = 60, 90
VIEWS = 1500

# A smaller p-value arises by chance once in ten thousand times; the seeds are fixed.
SIGNIFICANT = 1e-4


@pytest.fixture
def watched(monkeypatch) -> list:
    """Return a list in which torchvision's transforms record their operations and parameters."""
    done = []

    def watch(where, name, operation):
        does = getattr(where, name)

        def record(*args, **kwargs):
            amount = args[1] if operation in AMOUNTS else kwargs.get("radius", 0.0)
            done.append((operation, Crop(*args[1:5]) if operation == "crop" else amount))
            return does(*args, **kwargs)

        monkeypatch.setattr(where, name, record)

    watch(TF, "resized_crop", "crop")
    watch(TF, "adjust_brightness", Operation.BRIGHTNESS)
    watch(TF, "adjust_contrast", Operation.CONTRAST)
    watch(TF, "adjust_saturation", Operation.SATURATION)
    watch(TF, "adjust_hue", Operation.HUE)
    watch(TF, "rgb_to_grayscale", Operation.GREY)
    watch(TF, "hflip", Operation.FLIP)
    watch(ImageFilter, "GaussianBlur", Operation.BLUR)
    return done


AMOUNTS = (Operation.BRIGHTNESS, Operation.CONTRAST, Operation.SATURATION, Operation.HUE)


def reference_views(recipe: Recipe, watched: list) -> list[ViewParameters]:
    view, image = build_view(recipe, 4), Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 60))
    torch.manual_seed(0)
    views = []
    for _ in range(VIEWS):
        watched.clear()
        view(image)
        (_, crop), *steps = watched
        views.append(ViewParameters(crop, tuple(steps)))
    return views


def our_views(recipe, min_scale: float = 0.2) -> list[ViewParameters]:
    rng = Random(1)
    views = [draw_view(recipe, HEIGHT, WIDTH, min_scale, rng) for _ in range(VIEWS)]
    return [view._replace(steps=tuple(step for step in view.steps if step[0] != Operation.NONE)) for view in views]


def p_values(ours: list[ViewParameters], reference: list[ViewParameters]) -> dict[str, float]:
    """Compare crops and amounts with a Kolmogorov-Smirnov test, operations and their order with a chi-squared test."""
    samples, orders, occurrences = [], [], []
    for views in (ours, reference):
        numbers = defaultdict(list)
        for crop, steps in views:
            for name, value in (*crop._asdict().items(), ("area", crop.height * crop.width)):
                numbers[name].append(value)
            numbers["ratio"].append(crop.width / crop.height)
            for operation, amount in steps:
                numbers[operation.name].append(amount)
        samples.append(numbers)
        names = [[operation.name for operation, _ in steps] for _, steps in views]
        orders.append(Counter("-".join(name for name in steps if Operation[name] in AMOUNTS) for steps in names))
        occurrences.append(Counter("-".join(sorted(steps)) for steps in names))
    found = {name: ks_2samp(samples[0][name], samples[1].get(name, [np.inf])).pvalue for name in samples[0]}
    for name, (one, other) in {"order": orders, "occurrence": occurrences}.items():
        kinds = sorted(one | other)
        table = [[counts[kind] for kind in kinds] for counts in (one, other)]
        found[name] = chi2_contingency(table).pvalue if len(kinds) > 1 else 1.0
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_draw_view__is_torchvisions_distribution(name, watched):
    found = p_values(our_views(RECIPES[name]), reference_views(RECIPES[name], watched))
    assert min(found.values()) > SIGNIFICANT, found
    assert {"moco_v1": 14, "moco_v2": 15, "supervised": 9}[name] == len(found), "an operation was never seen"


def test_draw_view__blurs_as_far_as_the_recipe_says(watched):
    recipe = RECIPES["moco_v2"]._replace(blur_sigma=0.4)
    found = p_values(our_views(recipe), reference_views(recipe, watched))
    assert found["BLUR"] > SIGNIFICANT


def test_p_values__tell_other_distributions(watched):
    recipe = RECIPES["moco_v2"]
    reference = reference_views(recipe, watched)
    others = {
        "area": our_views(recipe, min_scale=0.35),
        "BRIGHTNESS": our_views(recipe._replace(jitter=(0.5, 0.4, 0.4, 0.1))),
        "HUE": our_views(recipe._replace(jitter=(0.4, 0.4, 0.4, 0.14))),
        "occurrence": our_views(recipe._replace(blur_probability=0.65)),
        "BLUR": our_views(recipe._replace(blur_sigma=1.5)),
    }
    for name, views in others.items():
        assert p_values(views, reference)[name] < SIGNIFICANT, name
    sorted_steps = [view._replace(steps=tuple(sorted(view.steps))) for view in our_views(recipe)]
    assert p_values(sorted_steps, reference)["order"] < SIGNIFICANT


@pytest.mark.parametrize(("height", "width"), [(2, 100), (100, 2), (1, 1)])
def test_draw_crop__of_a_narrow_image_is_torchvisions_central_one(height, width):
    from torchvision.transforms import RandomResizedCrop

    reference = RandomResizedCrop.get_params(torch.zeros(3, height, width), [0.9, 1.0], [3 / 4, 4 / 3])
    assert draw_crop(height, width, 0.9, Random(0)) == Crop(*reference)


@pytest.mark.parametrize("name", RECIPES)
def test_draw_view__steps_stand_at_fixed_places(name):
    rng = Random(0)
    places = defaultdict(set)
    for _ in range(300):
        for place, (operation, _) in enumerate(draw_view(RECIPES[name], HEIGHT, WIDTH, 0.2, rng).steps):
            places[place].add(operation)
    jitter = set(AMOUNTS)
    sets = {
        "moco_v1": [{Operation.GREY}, *[jitter] * 4, {Operation.FLIP}],
        "moco_v2": [*[jitter] * 4, {Operation.GREY}, {Operation.BLUR}, {Operation.FLIP}],
        "supervised": [{Operation.FLIP}],
    }[name]
    assert [places[place] - {Operation.NONE} for place in range(len(sets))] == sets
    assert len(places) == len(sets)
