"""The command ``mocodet evaluate``: computes the metrics of saved predictions."""

import argparse
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from mocodet.common.errors import errors_in_one_line
from mocodet.common.imports import import_modules

from ..config import add_moco_config, merged_config
from ..data.registration import CocoDataset, VocDataset, register_datasets
from .build import predictions_folder
from .coco_results import predicted_tasks
from .complete import check_metrics, format_results, write_results
from .kinds import KINDS, kind_of


def main(args: argparse.Namespace) -> None:
    """Evaluate the predictions given on the command line, and print the results."""
    with errors_in_one_line(RuntimeError):
        import_modules(args.imports)
        cfg, name = resolve_dataset(args)
        kind = kind_of(name)
        if kind.evaluate_saved is None:
            raise ValueError(
                f"data set {name} has the evaluator type {kind.evaluator_type!r}; saved predictions can be evaluated"
                f" only for {', '.join(sorted(name for name, other in KINDS.items() if other.evaluate_saved))}"
            )
        if not {*args.tasks} <= {*kind.tasks}:
            raise ValueError(
                f"--tasks {' '.join(args.tasks)}: data set {name} supports"
                f" {', '.join(kind.tasks) or 'no choice of tasks'}"
            )
        tasks = args.tasks or (predicted_tasks(cfg) if "config_file" in args else None)
        evaluator = kind.build(cfg, name, tasks, None)
        results, count = kind.evaluate_saved(evaluator, predictions_folder(args.predictions, name))
        results = check_metrics(results, name, num_predictions=count)
        print(f"{count} predictions on {name}\n\n{format_results(results)}")
        if args.output:
            write_results({name: results}, args.output)


def resolve_dataset(args: argparse.Namespace) -> tuple[CfgNode, str]:
    """Register the data set given on the command line if necessary; return the config and the data set's name.

    Raises:
        FileNotFoundError: the config does not exist.
        ValueError: the config is malformed, or the data set is unknown.
    """
    if "config_file" in args:
        cfg, _ = merged_config(args.config_file, args.opts)
        register_datasets(cfg)
    else:
        cfg = get_cfg()
        add_moco_config(cfg)
    if args.json:
        # The images themselves are not required.
        return cfg, _register(CocoDataset(name=args.json, json=args.json, images=str(Path(args.json).parent)))
    if args.voc_root:
        split = args.split or "test"
        name = f"{args.voc_root} {split}"
        return cfg, _register(VocDataset(name, args.voc_root, split, tuple(args.classes), args.year or 2007))
    name = args.dataset or _name_from_config(cfg, Path(args.predictions))
    if name not in DatasetCatalog.list():
        raise ValueError(f"neither detectron2 nor --config-file defines a data set named {name}")
    return cfg, name


def _name_from_config(cfg: CfgNode, predictions: Path) -> str:
    test = list(cfg.DATASETS.TEST)
    if found := [folder.name for folder in (predictions, predictions.parent) if folder.name in test]:
        return found[0]
    if len(test) != 1:
        raise ValueError(
            f"--config-file evaluates on {', '.join(test) or 'no data set'}; specify one data set with --dataset NAME"
        )
    return test[0]


def _register(dataset: CocoDataset | VocDataset) -> str:
    if dataset.name in DatasetCatalog.list():  # from an earlier call of main in this process
        DatasetCatalog.remove(dataset.name)
        MetadataCatalog.remove(dataset.name)
    dataset.register()
    return dataset.name
