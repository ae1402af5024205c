"""The fully convolutional network of the MoCo paper's semantic segmentation (Appendix): FCN-16s."""

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
    """Dilated 3x3 convolutions with norm and ReLU, then a 1x1 classifier of pixels, enlarged to the size of the image.

    In detectron2's ``SemanticSegmentor``, on a ResNet whose res5 has dilation 2 and stride 1, this is the paper's
    FCN-16s: two convolutions of 256 channels with BN and ReLU, dilation 6, and a total stride of 16. The head enlarges
    by the stride of its input, so ``MODEL.SEM_SEG_HEAD.COMMON_STRIDE``, which is for FPN's head, has no effect.

    The paper does not say how to enlarge. Every convolution of stride 2 in a ResNet is padded so that its first output
    is centred on its first input: feature ``i`` is at pixel ``16 i``. Bilinear interpolation here puts it back there
    (``align_corners=True`` between the first and the last feature; the pixels beyond the last one repeat it), at
    every size. A crop of 16 k + 1 pixels, such as the paper's 513 and 769, ends on a feature. Half-pixel centres
    (``align_corners=False``) would move every logit by 7.5 pixels.

    Args:
        cfg: ``MODEL.SEM_SEG_HEAD`` gives the one feature map to classify (``IN_FEATURES``), the classes, including
            background if it is one, the 3x3 convolutions (``NUM_CONVS``, ``CONVS_DIM``, ``DILATION``, ``NORM``), the
            weight of the loss and the label of ignored pixels.
        input_shape: the outputs of the backbone.

    Raises:
        ValueError: ``IN_FEATURES`` is not exactly one output of the backbone.
    """

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]):
        super().__init__()
        head = cfg.MODEL.SEM_SEG_HEAD
        if len(head.IN_FEATURES) != 1 or head.IN_FEATURES[0] not in input_shape:
            raise ValueError(
                f"{type(self).__name__} classifies one feature map: MODEL.SEM_SEG_HEAD.IN_FEATURES must name one of the"
                f" backbone's outputs {', '.join(input_shape)}, found {head.IN_FEATURES}"
            )
        (self.in_feature,) = head.IN_FEATURES
        self.stride = input_shape[self.in_feature].stride
        self.loss_weight, self.ignore_value = head.LOSS_WEIGHT, head.IGNORE_VALUE
        channels = [input_shape[self.in_feature].channels, *head.NUM_CONVS * [head.CONVS_DIM]]
        self.convs = nn.Sequential(
            *(conv3x3_norm_relu(before, after, head.NORM, head.DILATION) for before, after in pairwise(channels))
        )
        self.predictor = Conv2d(channels[-1], head.NUM_CLASSES, kernel_size=1)
        # As in detectron2's box classifier: at first all classes are about equally probable.
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.zeros_(self.predictor.bias)

    def forward(
        self, features: dict[str, torch.Tensor], targets: torch.Tensor | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Classify every pixel.

        Args:
            features: maps of the backbone; the head's is N x C x h x w with h = ceil(H / stride).
            targets: in training, the labels of the pixels, N x H x W.

        Returns:
            In training, None and the loss. In evaluation, the logits, N x classes x (stride h) x (stride w), at least
            as large as the images (``SemanticSegmentor`` crops them to each image), and no loss.
        """
        scores = self.predictor(self.convs(features[self.in_feature])).float()  # also under autocast
        if self.training and targets is not None:
            return None, {"loss_sem_seg": self.loss_weight * self._loss(scores, targets)}
        return self._enlarge(scores, *(self.stride * side for side in scores.shape[-2:])), {}

    def _enlarge(self, scores: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Interpolate N x K x h x w to N x K x height x width, with feature ``i`` at pixel ``stride * i``."""
        rows, columns = (self.stride * (side - 1) + 1 for side in scores.shape[-2:])
        spanned = F.interpolate(scores, size=(rows, columns), mode="bilinear", align_corners=True)
        return F.pad(spanned, (0, width - columns, 0, height - rows), mode="replicate")

    def _loss(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy over the labelled pixels of the batch; 0 if no pixels are labelled."""
        logits = self._enlarge(scores, *targets.shape[-2:])
        total = F.cross_entropy(logits, targets, ignore_index=self.ignore_value, reduction="sum")
        # cross_entropy's own mean is nan without labelled pixels; one such batch would end the run.
        return total / (targets != self.ignore_value).sum().clamp(min=1)
