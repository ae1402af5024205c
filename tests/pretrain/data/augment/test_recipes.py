import pytest

from mocodet.pretrain.data.augment.recipes import RECIPES, find_recipe


def test_find_recipe__by_name():
    assert all(find_recipe(name) is recipe for name, recipe in RECIPES.items())


def test_find_recipe__unknown():
    with pytest.raises(ValueError, match="unknown augmentation 'simclr'"):
        find_recipe("simclr")
