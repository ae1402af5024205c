"""The C4 region head with the extra normalisation of the MoCo paper."""

from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from .basic import DEPTHS, build_basic_res5


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """``Res5ROIHeads`` with a norm after res5 (MoCo, Sec. 4.2: BN in the newly added layers).

    In pre-training, res5 is followed by global pooling. Here it is followed by a newly initialised box predictor (and,
    with ``MODEL.MASK_ON``, a mask head), and the norm provides features of a known scale. ``MODEL.RESNETS.NORM``
    specifies the type of the norm, whose parameters are ``roi_heads.res5.norm.*``.
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        """Return the block (R x 1024 x 14 x 14 -> R x 2048 x 7 x 7 for a ResNet-50) and its number of output channels.

        Raises:
            ValueError: ``MODEL.RESNETS.NORM`` does not specify a norm.
        """
        basic = cfg.MODEL.RESNETS.DEPTH in DEPTHS
        res5, out_channels = build_basic_res5(cfg) if basic else super()._build_res5_block(cfg)
        norm = get_norm(cfg.MODEL.RESNETS.NORM, out_channels)
        if norm is None:
            raise ValueError(
                f"{cls.__name__} adds a norm after res5, but MODEL.RESNETS.NORM is {cfg.MODEL.RESNETS.NORM!r};"
                " set it to 'SyncBN' or 'BN', or use MODEL.ROI_HEADS.NAME Res5ROIHeads"
            )
        res5.add_module("norm", norm)
        return res5, out_channels
