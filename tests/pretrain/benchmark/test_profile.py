"""The longest operations of a step."""

import torch

from mocodet.pretrain.benchmark.profile import LONGEST_NAME, WHOLE, longest_operations, shortened

CPU = torch.device("cpu")


def test_longest_operations__the_large_product_comes_before_the_small_sum():
    large, small = torch.ones(300, 300), torch.ones(3)
    seconds = longest_operations(lambda: (large @ large, small + small), CPU, steps=3, count=1)
    assert list(seconds) == [WHOLE, "aten::mm"]
    assert [len(values) for values in seconds.values()] == [3, 3]
    assert min(seconds["aten::mm"]) > 0


def test_shortened__keeps_both_ends():
    name = "void at::native::" + "x" * 100 + "|end"
    short = shortened(name)
    assert len(short) == LONGEST_NAME
    assert short.startswith("void at::native::")
    assert short.endswith("/end")
