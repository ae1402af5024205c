"""The Triton kernels without a GPU: their results, in Triton's interpreter, and their compilation for CUDA."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mocodet.pretrain.methods import grouped_bn
from tests.pretrain.methods.grouped_bn import interpreted

pytest.importorskip("triton")  # installed with PyTorch for CUDA

# N, C, H, W and groups: less than a tile; two chunks, the first of two tiles, the last not full; 2 values a channel.
SHAPES = [(6, 5, 3, 3, 3), (8, 70, 9, 5, 2), (4, 3, 1, 1, 2)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
MOMENTUM, EPS = 0.1, 1e-5


def inputs(shape, dtype) -> list:
    *size, groups = shape
    generator = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(size, generator=generator) for _ in range(2))
    x = (3 * x + 20).to(dtype).contiguous(memory_format=torch.channels_last)  # far from 0: subtraction would cancel
    return [x, gradient.to(dtype), *torch.rand(4, size[1], generator=generator), groups, MOMENTUM, EPS]


def expected(x, gradient, weight, bias, mean, var, groups, momentum, eps) -> list[torch.Tensor]:
    """One layer of PyTorch for each group, in float64."""
    x = x.double().requires_grad_()
    layers = []
    for _ in range(groups):
        layers.append(nn.BatchNorm2d(len(weight), eps=eps, momentum=momentum).double())
        layers[-1].load_state_dict(
            {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}, strict=False
        )
    normalised = torch.cat([layer(part) for layer, part in zip(layers, x.chunk(groups), strict=True)])
    normalised.backward(gradient.double())

    def over_groups(name: str) -> torch.Tensor:
        return torch.stack([getattr(layer, name) for layer in layers]).detach()

    by_affine = [torch.stack([getattr(layer, name).grad for layer in layers]).sum(0) for name in ("weight", "bias")]
    statistics = [over_groups(name).mean(0) for name in ("running_mean", "running_var")]
    return [normalised.detach(), x.grad, *by_affine, *statistics]


@pytest.fixture(scope="module")
def interpreted_results(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("interpreted")
    cases = [(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    torch.save([inputs(*case) for case in cases], folder / "cases.pt")
    source = Path(grouped_bn.__file__).with_name("fused.py")
    command = [sys.executable, interpreted.__file__, source, folder / "cases.pt", folder / "results.pt"]
    subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, check=True)
    return dict(zip(cases, torch.load(folder / "results.pt", weights_only=True), strict=True))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_batch_norm__equals_one_batch_norm_per_group(shape, dtype, interpreted_results):
    found = interpreted_results[shape, dtype]
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert [tensor.dtype for tensor in found] == [dtype, dtype, *[torch.float32] * 4]
    # The interpreter truncates where a GPU rounds, so outputs may differ by one unit in the last place.
    steps = [torch.finfo(dtype).eps] * 2 + [0] * 4
    for tensor, reference, step in zip(found, expected(*inputs(shape, dtype)), steps, strict=True):
        torch.testing.assert_close(tensor.double(), reference, rtol=1e-4 + step, atol=1e-4)


def test_fused_batch_norm__compiles_for_cuda(tmp_path, monkeypatch):
    """Compile to machine code with Triton's own assembler, for an Ampere GPU that this machine lacks."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from mocodet.pretrain.methods.grouped_bn import fused

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    activations = {"x": "*bf16", "normalised": "*bf16", "gradient": "*bf16", "by_x": "*bf16"}
    scalars = dict.fromkeys(("rows", "channels", "length", "groups", "chunks"), "i32")
    types = activations | scalars | {"momentum": "fp32", "eps": "fp32"}
    for kernel in (
        fused.chunk_statistics,
        fused.combine_statistics,
        fused.normalise,
        fused.chunk_gradients,
        fused.combine_gradients,
        fused.input_gradient,
    ):
        source = ASTSource(kernel, {name: types.get(name, "*fp32") for name in kernel.arg_names}, {})
        assert compile(source, target=GPUTarget("cuda", 80, 32)).asm["cubin"]
