import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mocodet.pretrain.methods import losses
from mocodet.pretrain.methods.losses import contrast_accuracy, info_nce, queue_info_nce


def test_info_nce__equation_1_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, -1.0]])
    by_hand = [
        -math.log(math.exp(2) / (math.exp(2) + 1 + math.exp(1))),
        -math.log(1 / (1 + math.exp(3) + math.exp(-1))),
    ]
    assert info_nce(logits).item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)


def test_info_nce__positive_in_another_column_of_each_row():
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 3.0, -1.0]])
    by_hand = [math.log1p(math.exp(-2) + math.exp(-1)), math.log1p(math.exp(1) + math.exp(4))]
    assert info_nce(logits, torch.tensor([1, 2])).item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)
    assert contrast_accuracy(logits, torch.tensor([1, 2])).item() == pytest.approx(0.5)


def test_contrast_accuracy__share_of_rows_whose_positive_wins():
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.5], [4.0, 3.9]])
    assert contrast_accuracy(logits).item() == pytest.approx(0.75)


# Similarities in one block, in blocks that divide N and K, in blocks that do not, and singly.
BLOCKS = [(100, 100), (3, 7), (4, 5), (1, 1)]


def whole_matrix(q, k, queue, temperature) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition of `queue_info_nce`: all N x (1+K) logits, the positive in column 0, cross-entropy, argmax."""
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue], dim=1) / temperature
    loss = F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))
    return loss, (logits.argmax(dim=1) == 0).double().mean()


def contrast_inputs(n: int = 6, width: int = 5, negatives: int = 21) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, queue = (
        torch.randn(*shape, generator=generator).double() for shape in ((n, width), (n, width), (width, negatives))
    )
    return q.requires_grad_(), (k + 0.5 * q.detach()).requires_grad_(), queue


@pytest.mark.parametrize(("rows", "columns"), BLOCKS)
def test_queue_info_nce__equals_cross_entropy_of_the_whole_matrix(rows, columns, monkeypatch):
    monkeypatch.setattr(losses, "CPU_ROWS", rows)
    monkeypatch.setattr(losses, "CPU_COLUMNS", columns)
    q, k, queue = contrast_inputs()
    expected, expected_accuracy = whole_matrix(q, k, queue, 0.07)
    gradients = torch.autograd.grad(3 * expected, (q, k))
    found, accuracy = queue_info_nce(q, k, queue, 0.07)
    queue.fill_(torch.nan)  # the enqueue comes before backward
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, (q, k)), gradients)
    assert 0 < expected_accuracy < 1
    assert accuracy.item() == pytest.approx(expected_accuracy.item())
    assert not accuracy.requires_grad


def test_queue_info_nce__numeric_gradient():
    q, k, queue = contrast_inputs()
    assert torch.autograd.gradcheck(lambda q, k: queue_info_nce(q, k, queue, 0.5)[0], (q, k))


def test_queue_info_nce__large_logits_do_not_overflow(monkeypatch):
    monkeypatch.setattr(losses, "CPU_COLUMNS", 2)
    q, k, queue = (tensor.detach() for tensor in contrast_inputs())
    for sign in (1, -1):  # the largest is the positive in one case, a negative in the other
        arguments = 100 * q, sign * k, queue, 0.01
        torch.testing.assert_close(queue_info_nce(*arguments)[0], whole_matrix(*arguments)[0])


def test_queue_info_nce__ties_are_found_as_argmax_finds_them():
    q = torch.eye(3)
    queue = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.5, 0.0]])
    # Equal to the best negative, below it, above it.
    assert queue_info_nce(q, q, queue, 0.5)[1].item() == pytest.approx(2 / 3)
    assert whole_matrix(q, q, queue, 0.5)[1].item() == pytest.approx(2 / 3)


def test_queue_info_nce__float32_under_autocast():
    q, k, queue = (tensor.detach().float() for tensor in contrast_inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = queue_info_nce(q, k, queue, 0.07)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, whole_matrix(q, k, queue, 0.07)[0])


def test_queue_info_nce__shapes_that_do_not_belong_together():
    with pytest.raises(ValueError, match=r"keys \(4, 2\) and the queue \(2, 5\); expected N x C, N x C and C x K"):
        queue_info_nce(torch.ones(3, 2), torch.ones(4, 2), torch.ones(2, 5), 0.1)


def test_queue_info_nce__no_tensor_as_large_as_the_logits_beside_one_block():
    """On the CPU no tensor that an operation returns is larger than a block; the matrix here is eight blocks."""
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            sizes.extend(
                tensor.untyped_storage().nbytes() for tensor in tree_leaves(found) if isinstance(tensor, torch.Tensor)
            )
            return found

    q = torch.ones(4, 2, requires_grad=True)
    queue = torch.ones(2, 8 * losses.CPU_COLUMNS)
    known = queue.untyped_storage().nbytes()
    with Sizes():
        queue_info_nce(q, q.detach(), queue, 0.1)[0].backward()
    assert max(size for size in sizes if size != known) == 4 * losses.CPU_COLUMNS * 4
