import pytest
import torch
from torch import nn

from mocodet.pretrain.methods.grouped_bn import GroupedBatchNorm2d

STATISTICS = ("running_mean", "running_var")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_grouped_batch_norm__equals_one_batch_norm_per_group(memory_format, dtype):
    torch.manual_seed(0)
    x = torch.randn(12, 4, 5, 5, dtype=dtype).to(memory_format=memory_format).requires_grad_()
    parameters = torch.float64 if dtype == torch.float64 else torch.float32  # as under autocast
    grouped = GroupedBatchNorm2d(4, num_groups=3).to(parameters)
    nn.init.uniform_(grouped.weight)
    nn.init.uniform_(grouped.bias)
    singles = [nn.BatchNorm2d(4).to(parameters) for _ in range(3)]
    for single in singles:
        single.load_state_dict(grouped.state_dict())

    found = grouped(x)
    expected = torch.cat([single(part) for single, part in zip(singles, x.split(4), strict=True)])

    torch.testing.assert_close(found, expected)
    assert found.stride() == x.stride()
    for name in STATISTICS:
        mean = torch.stack([getattr(single, name) for single in singles]).mean(0)
        torch.testing.assert_close(getattr(grouped, name), mean)
    assert grouped.num_batches_tracked == 1
    weights = torch.randn_like(found)
    by_x, *by_affine = torch.autograd.grad((found * weights).sum(), (x, grouped.weight, grouped.bias))
    affine = [(single.weight, single.bias) for single in singles]
    by_x_expected, *each = torch.autograd.grad((expected * weights).sum(), (x, *sum(affine, ())))
    torch.testing.assert_close(by_x, by_x_expected)
    torch.testing.assert_close(by_affine, [sum(each[0::2]), sum(each[1::2])])


def test_grouped_batch_norm__numeric_gradient():
    torch.manual_seed(0)
    grouped = GroupedBatchNorm2d(2, num_groups=2).double()
    inputs = [torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((4, 2, 2, 1), (2,), (2,))]
    names = ("weight", "bias")
    assert torch.autograd.gradcheck(
        lambda x, *affine: torch.func.functional_call(grouped, dict(zip(names, affine, strict=True)), x), inputs
    )


def test_grouped_batch_norm__evaluates_as_batch_norm():
    grouped, plain = GroupedBatchNorm2d(4, num_groups=3), nn.BatchNorm2d(4)
    grouped(torch.randn(6, 4, 2, 2) * 3 + 1)
    plain.load_state_dict(grouped.state_dict())
    x = torch.randn(5, 4, 2, 2)  # 5 is not divisible by 3 groups, and need not be
    torch.testing.assert_close(grouped.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((7, 4, 2, 2), "batch of 7 cannot be divided into 2"),
        ((2, 4, 1, 1), r"\(2, 4, 1, 1\) has fewer than two values per channel in each of 2 batch-norm groups"),
        ((4, 4), "expected 4D input"),
    ],
)
def test_grouped_batch_norm__batch_that_it_cannot_normalise(shape, message):
    with pytest.raises(ValueError, match=message):
        GroupedBatchNorm2d(4, num_groups=2)(torch.randn(shape))
