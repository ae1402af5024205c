import math

import pytest
import torch
from torch import nn

from mocodet.common.divergence import check_losses, check_state

REMEDY = "Lower the rate"


def test_check_losses__names_iteration_values_and_remedy():
    check_losses({"a": 1e30, "b": -2.0}, 3, REMEDY)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(FloatingPointError, match=rf"^training diverged at iteration 3: a 1, b {bad}\. Lower the"):
            check_losses({"a": 1.0, "b": bad}, 3, REMEDY)


@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])  # a parameter, a buffer
def test_check_state__finds_one_number(name):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4))
    state = model.state_dict()
    check_state(state, 7, REMEDY)
    state[name].view(-1)[-1] = math.inf
    with pytest.raises(
        FloatingPointError, match=rf"diverged at iteration 7: 1 of 10 tensors .* \({name}\), so no checkpoint .*Lower"
    ):
        check_state(state, 7, REMEDY)
    state["2.weight"][0] = math.nan
    with pytest.raises(FloatingPointError, match=r"^training diverged: 2 of 10"):
        check_state(state, None, REMEDY)


def test_check_state__whole_numbers_alone():
    check_state({"count": torch.tensor(3)}, 0, REMEDY)
