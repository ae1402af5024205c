from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import default_collate

from mocodet.pretrain.data.augment import STEPS, batched
from mocodet.pretrain.data.augment.opencv import encode_steps
from mocodet.pretrain.data.augment.parameters import Operation
from mocodet.pretrain.data.delivery import Delivery, prepare
from mocodet.pretrain.data.views import collate, normalize


def sample(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(256, (12, 12, 3), dtype=torch.uint8, generator=generator)
    steps = [(Operation.BRIGHTNESS, 0.7 + 0.1 * seed), (Operation.FLIP if seed % 2 else Operation.NONE, 0.0)]
    return {"query": rows.permute(2, 0, 1), f"query{STEPS}": encode_steps(steps), "index": torch.tensor(seed)}


BATCHES = [[sample(seed) for seed in range(first, first + 4)] for first in (0, 4)]


def test_collate__is_the_usual_one_with_channels_innermost():
    found, expected = collate(BATCHES[0]), default_collate(BATCHES[0])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert found["query"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_prepare__finishes_and_normalises_the_views(memory_format):
    batch = collate(BATCHES[0])
    found = prepare(batch, torch.device("cpu"), memory_format)
    finished = batched.apply_steps(batch["query"].float(), batch[f"query{STEPS}"])
    assert found.keys() == {"query", "index"}
    assert torch.equal(found["query"], normalize(finished))
    assert found["query"].is_contiguous(memory_format=memory_format)
    assert found["index"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_delivery__gives_the_batches_in_order_whether_fetched_ahead_or_not(device):
    where = torch.device(device)
    batches = [collate(batch) for batch in BATCHES]
    if device == "cuda":
        batches = [{name: value.pin_memory() for name, value in batch.items()} for batch in batches]
    for ahead in (False, True):
        delivery = Delivery(iter(batches), where, torch.channels_last)
        for batch in BATCHES:
            found = delivery.next()
            if ahead and batch is BATCHES[0]:
                delivery.fetch_ahead()
            expected = prepare(collate(batch), torch.device("cpu"), torch.channels_last)
            assert delivery.waited >= 0
            torch.testing.assert_close(found["query"].cpu(), expected["query"], rtol=0, atol=1e-3)
            assert torch.equal(found["index"].cpu(), expected["index"])


class FakeStream:
    """Replaces a CUDA stream, and the current one; it waits for itself."""

    def wait_stream(self, other: "FakeStream") -> None:
        pass


def test_delivery__ahead_of_the_device_raises_when_the_batch_is_asked_for(monkeypatch):
    def batches():
        taken.append(0)
        yield collate(BATCHES[0])
        taken.append(1)
        raise ValueError("a.jpg cannot be read")

    taken: list[int] = []
    delivery = Delivery(batches(), torch.device("cpu"), torch.channels_last)
    delivery.stream = FakeStream()
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    delivery.next()
    assert taken == [0]
    delivery.fetch_ahead()
    assert taken == [0, 1], "while the device trains on the first batch"
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        delivery.next()


def test_delivery__on_a_cpu_fetches_nothing_ahead():
    batches = iter([collate(BATCHES[0])])
    delivery = Delivery(batches, torch.device("cpu"), torch.channels_last)
    delivery.fetch_ahead()
    assert len(list(batches)) == 1
