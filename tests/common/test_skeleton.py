import torch
from torch import nn

from mocodet.common.skeleton import NoDraws, skeletons


def build() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5))
    nn.init.kaiming_normal_(network[0].weight)
    nn.init.normal_(network[2].weight)
    return network


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def test_networks__draw_nothing_and_have_all_shapes():
    before = torch.get_rng_state()
    with NoDraws():
        network = build()
    with skeletons():
        skeleton = build()
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes_of(network) == shapes_of(skeleton) == shapes_of(build())
    assert {tensor.device.type for tensor in skeleton.state_dict().values()} == {"meta"}
    assert network[1].weight.tolist() == [1, 1, 1, 1]  # values that are set, not drawn
    assert not torch.equal(torch.get_rng_state(), before)  # and outside the block it is drawn
