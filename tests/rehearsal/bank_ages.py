"""``python -m tests.rehearsal.bank_ages CONFIG CHECKPOINT...``: does a memory bank tell images apart, or ages?

``CONFIG`` is the ``config.yaml`` of a run with METHOD ``memory_bank`` and ``DATA.ROOT``. For each checkpoint, the
script encodes the next batches of the run without training. It then averages the similarities of these queries to the
bank entries, separately for the entries of the queries' own images, which are the positives, and for all other entries.
Entries are grouped by their age, the number of iterations since their last update. The script prints a table and, with
``--output``, writes the values to a JSON file.
"""

import argparse
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from mocodet.common.config.merge import merge_config
from mocodet.common.files import write_json
from mocodet.pretrain.build import TrainingData, build_data
from mocodet.pretrain.config import get_cfg
from mocodet.pretrain.data.delivery import prepare
from mocodet.pretrain.data.loader import load_batches
from mocodet.pretrain.data.sampler import GlobalBatches
from mocodet.pretrain.data.views import collate
from mocodet.pretrain.methods.encoding import embed
from mocodet.pretrain.methods.memory_bank import MemoryBank

GROUPS = 5  # of equal length, in the last epoch


def main() -> None:
    """Analyse the checkpoints and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--batches", type=int, default=12, help="number of batches of queries, default 12")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    args = parser.parse_args()
    cfg = get_cfg()
    merge_config(cfg, args.config, ["DATA.CACHE", "none", "DATA.AUGMENT", "cpu", "MODEL.DEVICE", "cpu"])
    data = build_data(cfg)
    method = MemoryBank.from_config(cfg, data)
    found = [analyse(method, data, path, args.batches) for path in args.checkpoints]
    if args.output:
        write_json(args.output, found)
    print(table(found))


def analyse(method: MemoryBank, data: TrainingData, checkpoint: Path, batches: int) -> dict[str, Any]:
    """Return the mean similarities at a checkpoint by age, and that between queries of different images."""
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    method.load_state_dict(saved["model"])
    iteration = saved["iteration"] + 1
    ages = ages_of_entries(data.sampler, len(method.bank), iteration)
    queries, index = encode_next(data, method, iteration, batches)
    total = queries.sum(dim=0).square().sum()
    return {
        "iteration": iteration,
        "queries": ((total - len(queries)) / (len(queries) * (len(queries) - 1))).item(),
        **similarities(queries @ method.bank.T, index, ages, data.sampler.iterations_per_epoch),
    }


def ages_of_entries(sampler: GlobalBatches, entries: int, iteration: int) -> torch.Tensor:
    """Return the number of iterations since each entry was last updated before ``iteration``, int64.

    The age is 0 if the entry was not updated within the last epoch.
    """
    ages = torch.zeros(entries, dtype=torch.int64)
    sampler.start_iteration = max(0, iteration - sampler.iterations_per_epoch)
    steps = range(sampler.start_iteration, iteration)
    for step, batch in zip(steps, islice(sampler, len(steps)), strict=True):
        ages[[index for index, _ in batch]] = iteration - step
    return ages


@torch.no_grad()
def encode_next(
    data: TrainingData, method: MemoryBank, iteration: int, batches: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the queries of the batches from ``iteration`` on, N x C, and the indices of their images, N."""
    method.train()  # as in training, batch norm uses the statistics of the batch
    data.sampler.start_iteration = iteration
    loaded = load_batches(data.dataset, 0, batch_sampler=data.sampler, collate_fn=collate)
    taken = [prepare(batch, torch.device("cpu"), torch.contiguous_format) for batch in islice(loaded, batches)]
    queries = [embed(method.encoder_q, batch["query"]) for batch in taken]
    return torch.cat(queries), torch.cat([batch["index"] for batch in taken])


def similarities(
    similarity: torch.Tensor, index: torch.Tensor, ages: torch.Tensor, epoch: int
) -> dict[str, list[float]]:
    """Return the mean similarity of the queries to their own and to other entries, for each group of ages.

    Args:
        similarity: N x D.
        index: the queries' own entries, N.
        ages: ages of the entries in iterations, D; see `ages_of_entries`.
        epoch: number of iterations per epoch.
    """
    own = torch.zeros_like(similarity, dtype=torch.bool)
    own[torch.arange(len(index)), index] = True
    group = (ages - 1) * GROUPS // epoch  # D; negative if the age is unknown
    members = [group == number for number in range(GROUPS)]
    return {
        "own": [similarity[own & of].mean().item() for of in members],
        "others": [similarity[~own & of].mean().item() for of in members],
    }


def table(found: Iterable[dict[str, Any]]) -> str:
    """Return a Markdown table with two rows for each checkpoint; ages are in epochs."""
    kinds = ("own", "others")
    rows = [[row["iteration"], kind, *(f"{value:.2f}" for value in row[kind])] for row in found for kind in kinds]
    edges = [f"{number / GROUPS:.1f} to {(number + 1) / GROUPS:.1f}" for number in range(GROUPS)]
    return tabulate(rows, ["iteration", "entries", *edges], tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
