"""Runs the Triton kernels in Triton's interpreter, on the CPU: ``python interpreted.py FUSED.PY CASES RESULTS``.

It runs in a new process with TRITON_INTERPRET=1, which must be set before Triton is imported. Only the file of the
kernels is loaded, since the package would take seconds more.
"""

import importlib.util
import sys

import torch


def main(source: str, cases: str, results: str) -> None:
    spec = importlib.util.spec_from_file_location("fused", source)
    fused = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fused)
    fused.PROGRAMS = 8  # so that small batches have chunks of several tiles, like large ones
    found = []
    for x, gradient, weight, bias, mean, var, *settings in torch.load(cases, weights_only=True):
        leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
        normalised = fused.fused_batch_norm(*leaves, mean, var, *settings)
        found.append([normalised.detach(), *torch.autograd.grad(normalised, leaves, gradient), mean, var])
    torch.save(found, results)


if __name__ == "__main__":
    main(*sys.argv[1:])
