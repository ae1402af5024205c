import pytest

from mocodet.pretrain.build import build_views
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.data.augment.pillow import GaussianBlur


@pytest.mark.parametrize("augment", ["pil", "cpu", "device"])
def test_build_views__blur_as_the_config_says(augment):
    cfg = get_cfg()
    cfg.DATA.AUGMENT = augment
    cfg.AUGMENTATION.BLUR_SIGMA = 0.4
    views = build_views(cfg)
    if augment == "pil":
        (found,) = (
            step.transforms[0].highest
            for step in views.transform.transforms
            if isinstance(getattr(step, "transforms", [None])[0], GaussianBlur)
        )
    else:
        found = views.recipe.blur_sigma
    assert found == 0.4
