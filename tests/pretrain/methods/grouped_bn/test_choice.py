import sys
import types
from types import SimpleNamespace

import pytest
import torch

from mocodet.pretrain.methods.grouped_bn import choice
from mocodet.pretrain.methods.grouped_bn.by_parts import batch_norm_by_parts

CPU = torch.device("cpu")
FUSED = "mocodet.pretrain.methods.grouped_bn.fused"


def batch(*, is_cuda: bool = True, dtype: torch.dtype = torch.float32, channels_last: bool = True) -> SimpleNamespace:
    """A batch that claims to be on CUDA, with the attributes that the choice reads; the CPU computes."""
    return SimpleNamespace(
        is_cuda=is_cuda, device=CPU, dtype=dtype, is_contiguous=lambda *, memory_format: channels_last
    )


def offer(implementation, monkeypatch) -> None:
    """Replace the Triton kernels by ``implementation``."""
    module = types.ModuleType(FUSED)
    module.fused_batch_norm = implementation
    monkeypatch.setitem(sys.modules, FUSED, module)


@pytest.fixture(autouse=True)
def nothing_known():
    choice._fused.cache_clear()
    yield
    choice._fused.cache_clear()


@pytest.fixture
def log(caplog) -> pytest.LogCaptureFixture:
    return caplog


def correct(*arguments):
    return batch_norm_by_parts(*arguments)


def slightly_off(x, weight, bias, mean, var, *settings):
    return batch_norm_by_parts(x, weight, bias, mean, var, *settings) * 1.1


def statistics_forgotten(x, weight, bias, mean, var, *settings):
    return batch_norm_by_parts(x, weight, bias, mean.clone(), var.clone(), *settings)


def does_not_compile(*_):
    raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")


@pytest.mark.parametrize("dtype", choice.TOLERANCES)
def test_choose__what_agrees_with_pytorch_on_cuda(dtype, monkeypatch, log):
    offer(correct, monkeypatch)
    assert choice.choose(batch(dtype=dtype), torch.ones(1)) is correct
    assert log.messages == []


@pytest.mark.parametrize(
    ("implementation", "reason"),
    [
        (slightly_off, "AssertionError: Tensor-likes are not close!"),
        (statistics_forgotten, "AssertionError: Tensor-likes are not close!"),
        (does_not_compile, "RuntimeError: Failed to find C compiler. Please specify via CC"),
    ],
)
def test_choose__one_warning_and_the_parts_where_it_does_not(implementation, reason, monkeypatch, log):
    offer(implementation, monkeypatch)
    for _ in range(3):
        assert choice.choose(batch(), torch.ones(1)) is batch_norm_by_parts
    assert len(log.messages) == 1
    assert reason in log.messages[0]


def test_choose__the_parts_where_triton_is_absent(monkeypatch, log):
    monkeypatch.delitem(sys.modules, FUSED, raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    assert choice.choose(batch(), torch.ones(1)) is batch_norm_by_parts
    assert "ModuleNotFoundError" in log.messages[0]


@pytest.mark.parametrize(
    ("x", "weight"),
    [
        (batch(is_cuda=False), torch.ones(1)),
        (batch(dtype=torch.float64), torch.ones(1)),
        (batch(channels_last=False), torch.ones(1)),
        (batch(), torch.ones(1, dtype=torch.bfloat16)),
    ],
)
def test_choose__the_parts_where_the_kernels_do_not_fit(x, weight, monkeypatch, log):
    offer(correct, monkeypatch)
    assert choice.choose(x, weight) is batch_norm_by_parts
    assert log.messages == []
