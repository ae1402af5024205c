import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from mocodet.detection.modeling.pooling import pool_in_float32


def test_pool_in_float32__autocast_does_not_move_boxes():
    torch.manual_seed(0)
    features = torch.randn(1, 4, 64, 128)
    boxes = [Boxes(torch.tensor([[1027.0, 500.0, 1100.0, 560.0]]))]  # bfloat16 would make it [1024, 500, 1104, 560]
    pooler = ROIPooler(7, scales=(1 / 16,), sampling_ratio=2, pooler_type="ROIAlignV2")
    exact = features.bfloat16().float()
    expected = pooler([exact], boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moved = pooler([features.bfloat16()], boxes).float()
        found = pool_in_float32(pooler)([features.bfloat16()], boxes)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert (moved - expected).abs().max() > 0.1, "the boxes were not moved without the hook: the test proves nothing"
