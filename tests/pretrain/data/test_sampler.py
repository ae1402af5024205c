from itertools import islice

import pytest

from mocodet.pretrain.data.sampler import EpochSampler


def take(sampler, count, start=0):
    sampler.start_iteration = start
    return list(islice(iter(sampler), count))


def test_epoch_sampler__each_image_at_most_once_an_epoch_in_a_new_order():
    sampler = EpochSampler(dataset_size=23, batch_size=4, seed=1)
    assert sampler.iterations_per_epoch == 5
    epochs = [[index for batch in take(sampler, 5, 5 * epoch) for index, _ in batch] for epoch in range(3)]
    for order in epochs:
        assert len(order) == len(set(order)) == 20
        assert set(order) <= set(range(23))
    assert epochs[0] != epochs[1] != epochs[2]
    assert {index for order in epochs for index in order} == set(range(23)), "left-over images come in later epochs"


def test_epoch_sampler__resumes_anywhere_and_begins_before_the_first_iteration():
    sampler = EpochSampler(dataset_size=23, batch_size=4, seed=1)
    stream = take(sampler, 27, -7)
    for start in range(-7, 12):
        assert take(sampler, 5, start) == stream[start + 7 : start + 12]
    assert [draw for batch in stream for _, draw in batch] == list(range(-7 * 4, 20 * 4))


def test_epoch_sampler__draws_are_never_repeated():
    stream = take(EpochSampler(dataset_size=23, batch_size=4, seed=1), 50)
    draws = [draw for batch in stream for _, draw in batch]
    assert draws == list(range(200))


def test_epoch_sampler__processes_share_the_global_batch(monkeypatch):
    whole = take(EpochSampler(23, 4, seed=1), 12)
    monkeypatch.setattr("mocodet.pretrain.data.sampler.comm.get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr("mocodet.pretrain.data.sampler.comm.get_rank", lambda rank=rank: rank)
        parts.append(take(EpochSampler(23, 4, seed=1), 12))
    assert [left + right for left, right in zip(*parts, strict=True)] == whole


def test_epoch_sampler__too_small_or_uneven(monkeypatch):
    with pytest.raises(ValueError, match="3 images, fewer than one batch"):
        EpochSampler(3, 4, seed=0)
    monkeypatch.setattr("mocodet.pretrain.data.sampler.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match="is not divisible by the number of processes, 3"):
        EpochSampler(23, 4, seed=0)


def test_load_state_dict__other_data():
    state = EpochSampler(23, 4, seed=1).state_dict()
    EpochSampler(23, 4, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"written with {'dataset_size': 23}, .* resume with the same data"):
        EpochSampler(24, 4, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"written with {'images': ''}, but this run has {'images': 'others'}"):
        EpochSampler(23, 4, seed=1, identity="others").load_state_dict(state)
