"""Rates: operations and bytes over the time of the quickest run."""

import itertools

import pytest
import torch

from mocodet.common.benchmark import rates
from mocodet.common.benchmark.alternate import Clock

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _eighth_of_a_second(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(rates, "clock_of", lambda device: Clock("fake", lambda: next(ticks) / 8))
    measured = rates.matmul_rate, rates.conv_rate, rates.copy_bandwidth
    for rate in measured:
        rate.cache_clear()
    yield
    for rate in measured:  # of a false clock
        rate.cache_clear()


def test_rates__multiply_adds_are_two_operations():
    assert rates.matmul_rate(CPU, torch.float32, side=4) == 8 * 2 * 4 * 4 * 4
    # Each of 2 x 5 x 6 x 6 outputs sums 5 x 3 x 3 products.
    assert rates.conv_rate(CPU, torch.float32, channels=5, side=6, images=2) == 8 * 2 * (2 * 5 * 6 * 6) * (5 * 3 * 3)


def test_copy_bandwidth__counts_reading_and_writing():
    assert rates.copy_bandwidth(CPU, nbytes=1000) == 8 * 2000


def test_peak_rate__is_the_higher_one(monkeypatch):
    monkeypatch.setattr(rates, "matmul_rate", lambda device, dtype: 3.0)
    monkeypatch.setattr(rates, "conv_rate", lambda device, dtype: 5.0)
    assert rates.peak_rate(CPU, torch.float32) == 5.0
