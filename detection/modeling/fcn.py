"""The fully convolutional network (FCN-16s) of the MoCo paper for semantic segmentation (Appendix)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from .conv import conv3x3_norm_relu


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(nn.Module):
    """Dilated 3x3 convolutions with norm and ReLU, then a 1x1 pixel classifier, upsampled to the size of the image.

    In detectron2's ``SemanticSegmentor``, on a ResNet whose res5 has dilation 2 and stride 1, this is the paper's
    FCN-16s: two convolutions with 256 channels, BN, ReLU and dilation 6, and a total stride of 16. The head upsamples
    by the stride of its input, so ``MODEL.SEM_SEG_HEAD.COMMON_STRIDE``, which is intended for FPN's head, has no
    effect.

    The paper does not specify how to upsample. Every convolution of stride 2 in a ResNet is padded such that its first
    output is centred on its first input, so feature ``i`` is at pixel ``16 i``. The bilinear interpolation in this
    class preserves this position for images of any size: it uses ``align_corners=True`` between the first and the last
    feature, and repeats the last feature for the pixels beyond it. A crop of 16 k + 1 pixels, such as the paper's 513
    and 769, ends on a feature. Half-pixel centres (``align_corners=False``) would shift every logit by 7.5 pixels.

    Args:
        cfg: a config in which ``MODEL.SEM_SEG_HEAD`` specifies the feature map to classify (``IN_FEATURES``), the
            number of classes (including background if it is a class), the 3x3 convolutions (``NUM_CONVS``,
            ``CONVS_DIM``, ``DILATION``, ``NORM``), the loss weight and the label of ignored pixels.
        input_shape: the shapes of the backbone's outputs.

    Raises:
        ValueError: ``IN_FEATURES`` is not exactly one output of the backbone.
    """

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]):
        super().__init__()
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.IN_FEATURES) != 1 or head.IN_FEATURES[0] not in input_shape:
            raise ValueError(
                f"{type(self).__name__} classifies a single feature map: MODEL.SEM_SEG_HEAD.IN_FEATURES must contain"
                f" exactly one of the backbone's outputs {', '.join(input_shape)}, found {head.IN_FEATURES}"
            )
        (self.in_feature,) = head.IN_FEATURES
        self.stride = input_shape[self.in_feature].stride
        self.loss_weight, self.ignore_value = head.LOSS_WEIGHT, head.IGNORE_VALUE
        channels = [input_shape[self.in_feature].channels, *head.NUM_CONVS * [head.CONVS_DIM]]
        self.convs = nn.Sequential(
            *(conv3x3_norm_relu(before, after, head.NORM, head.DILATION) for before, after in pairwise(channels))
        )
        self.predictor = Conv2d(channels[-1], head.NUM_CLASSES, kernel_size=1)
        # As in detectron2's box classifier, all classes are initially about equally probable.
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(
        self, features: dict[str, torch.Tensor], targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Classify every pixel.

        Args:
            features: outputs of the backbone, of which the head uses one: N x C x h x w with h = ceil(H / stride).
            targets: in training, the pixel labels (N x H x W).

        Returns:
            In training, None and the loss. In evaluation, the logits (N x classes x (stride h) x (stride w)) and no
            loss. The logits are at least as large as the images, and ``SemanticSegmentor`` crops them to each image.
        """
        scores = self.predictor(self.convs(features[self.in_feature])).float()  # in float32 even under autocast
        if self.training and targets is not None:
            return None, {"loss_sem_seg": self.loss_weight * self._loss(scores, targets)}
        return self._enlarge(scores, *(self.stride * side for side in scores.shape[-2:])), {}

    def _enlarge(self, scores: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Interpolate N x K x h x w to N x K x height x width, with feature ``i`` at pixel ``stride * i``."""
        rows, columns = (self.stride * (side - 1) + 1 for side in scores.shape[-2:])
        spanned = F.interpolate(scores, size=(rows, columns), mode="bilinear", align_corners=True)
        return F.pad(spanned, (0, width - columns, 0, height - rows), mode="replicate")

    def _loss(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy over the labelled pixels of the batch, or 0 if no pixels are labelled."""
        logits = self._enlarge(scores, *targets.shape[-2:])
        total = F.cross_entropy(logits, targets, ignore_index=self.ignore_value, reduction="sum")
        # The mean of cross_entropy is nan without labelled pixels, so a single such batch would stop the run.
        return total / (targets != self.ignore_value).sum().clamp(min=1)
