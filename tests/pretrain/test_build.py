import pytest
from torchvision import transforms

from mocodet.pretrain.build import build_views
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.data.augment.opencv import DeviceViews, OpenCVViews
from mocodet.pretrain.data.augment.pillow import PillowViews


@pytest.mark.parametrize(("augment", "kind"), [("pil", PillowViews), ("cpu", OpenCVViews), ("device", DeviceViews)])
def test_build_views__blur_as_the_config_says(augment, kind):
    cfg = get_cfg()
    cfg.DATA.AUGMENT = augment
    cfg.AUGMENTATION.BLUR_SIGMA = 0.4
    views = build_views(cfg)
    assert type(views) is kind
    if augment == "pil":
        *_, blur = (step for step in views.transform.transforms if isinstance(step, transforms.RandomApply))
        assert blur.transforms[0].highest == 0.4
    else:
        assert views.recipe.blur_sigma == 0.4
