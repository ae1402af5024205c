"""``python -m tests.rehearsal.small_scale OUTPUT --train FOLDER --val FOLDER``: compares short pre-training runs.

Each run has a fixed time, for which the number of epochs is calculated from the measured duration of a step. Its
encoder is then evaluated with ``mocodet knn`` and ``mocodet linear``. The command skips completed stages and resumes
the others, so it can be run again after an interruption. ``--runs`` selects runs, for example one half for each core.
The command writes the results of all completed runs in ``OUTPUT`` to ``OUTPUT/results.json``. It prints a table of
them, a table of the methods with their means over seeds, and a table of MoCo's K and m for two durations.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from tabulate import tabulate

from mocodet.common.config.merge import merge_config
from mocodet.common.files import read_json, read_json_lines, write_json
from mocodet.common.report.logs import LOG_FILE, curve
from mocodet.pretrain.config import check_config, get_cfg
from mocodet.pretrain.costs.measure import measure_run
from mocodet.pretrain.data.folders import ImageFolder

RECIPE, BASELINE = "pretrain/own_images_R_18.yaml", "pretrain/toy_moco_v2_R_18.yaml"
FEATURES = ["--size", "96", "--precision", "bfloat16"]
# Commands that evaluate an encoder, and their options.
EVALUATIONS = {
    "knn": ["--k", "200"],
    "linear": ["--cached", "--lr", "3", "1", "0.3", "0.1", "0.03", "0.01", "0.003", "--wd", "0", "1e-3"],
}
MEASURED_STEPS = 100
# Keys of the results, and digits after the decimal point.
COLUMNS = {"images_per_second": 0, "epochs": 0, "minutes": 0, "knn": 1, "linear": 1}


class Run(NamedTuple):
    """A pre-training run.

    Attributes:
        minutes: its time on this machine, not including evaluations.
        overrides: settings that replace those of the config.
        seed: its ``SEED``.
        config: the name of the config.
    """

    minutes: int
    overrides: str = ""
    seed: int = 0
    config: str = RECIPE


METHODS = {
    "moco": "",
    "dense": "METHOD dense CONTRAST.DENSE_NEGATIVES cells",
    "end_to_end": "METHOD end_to_end",
    "memory_bank": "METHOD memory_bank CONTRAST.NUM_NEGATIVES 512",
    "supervised": "METHOD supervised AUGMENTATION.NAME supervised AUGMENTATION.MIN_SCALE 0.08 SOLVER.BASE_LR 0.025",
}
OTHER_SETTINGS = {
    "K_128": "CONTRAST.QUEUE_SIZE 128",
    "K_2048": "CONTRAST.QUEUE_SIZE 2048",
    "m_0.9": "CONTRAST.MOMENTUM 0.9",
    "m_0.999": "CONTRAST.MOMENTUM 0.999",
}
RUNS = {
    "recipe_30": Run(30, "AUGMENTATION.CROP_SIZE 64 AUGMENTATION.BLUR_SIGMA 0.57"),  # fewer than 20 epochs with 96
    **{f"recipe_{minutes}": Run(minutes) for minutes in (60, 180)},
    **{f"baseline_{minutes}": Run(minutes, config=BASELINE) for minutes in (30, 60, 180)},
    **{f"{name}_seed_{seed}": Run(45, keys, seed) for seed in (0, 1) for name, keys in METHODS.items()},
    **{f"{name}_45": Run(45, keys) for name, keys in OTHER_SETTINGS.items()},
    **{f"{name}_90": Run(90, keys) for name, keys in {"moco": "", **OTHER_SETTINGS}.items()},
}
RANDOM = {f"random_seed_{seed}": seed for seed in (0, 1)}
# AP on VOC of Faster R-CNN C4 with a ResNet-50 pre-trained by each method, in the paper's tables 2 and 3.
PAPER = {
    "random": "33.8",
    "supervised": "53.5",
    "end_to_end": "54.6",
    "memory_bank": "54.9",
    "moco": "55.9",
    "dense": "",
}
# The runs of 45 and 90 minutes with each K and m, in the order of the paper's accuracies.
PAIRS = {
    "K 128": ("K_128_45", "K_128_90"),
    "K 512, m 0.99": ("moco_seed_0", "moco_90"),
    "K 2048": ("K_2048_45", "K_2048_90"),
    "m 0.9": ("m_0.9_45", "m_0.9_90"),
    "m 0.999": ("m_0.999_45", "m_0.999_90"),
}


def main() -> None:
    """Run and evaluate the selected runs, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", required=True, metavar="FOLDER", help="folder of class folders for pre-training")
    parser.add_argument("--val", required=True, metavar="FOLDER", help="folder of the same classes for the evaluation")
    names = [*RANDOM, *RUNS]
    parser.add_argument("--runs", nargs="+", choices=names, default=names, metavar="NAME", help=" ".join(names))
    args = parser.parse_args()
    splits = ["--train", args.train, "--val", args.val, "--cache", str(args.output / "features"), *FEATURES]
    for name in args.runs:
        folder = args.output / name
        folder.mkdir(parents=True, exist_ok=True)
        if name in RANDOM:
            encoder = ["--random", "resnet18", "--seed", str(RANDOM[name])]
        else:
            encoder = [str(pretrain(RUNS[name], folder, args.train))]
        for evaluation, options in EVALUATIONS.items():
            found = folder / f"{evaluation}.json"
            if not found.exists():
                mocodet(evaluation, *encoder, *splits, *options, "--output", str(found))
    results = collect(args.output)
    write_json(args.output / "results.json", results)
    print(f"\n{table(results)}\n\n{table_of_means(results)}\n\n{table_of_pairs(results)}")


def mocodet(*arguments: str) -> None:
    """Run a command of mocodet in a separate process."""
    subprocess.run([sys.executable, "-m", "mocodet", *arguments], check=True)


def pretrain(run: Run, folder: Path, images: str) -> Path:
    """Complete the run in ``folder`` and return its checkpoint."""
    last, plan = folder / "model_final.pth", folder / "plan.json"
    if not last.exists():
        settings = settings_of(run, images, folder)
        if not plan.exists():
            write_json(plan, plan_run(run, settings, images))
        epochs = read_json(plan)["epochs"]
        mocodet("pretrain", "--resume", "--config-file", run.config, *settings, "SOLVER.MAX_EPOCHS", str(epochs))
    return last


def settings_of(run: Run, images: str, folder: Path) -> list[str]:
    """Return the settings of a run, except for its length."""
    given = ["DATA.ROOT", images, "DATA.NUM_WORKERS", "0", "SEED", str(run.seed), "OUTPUT_DIR", str(folder)]
    return [*given, *run.overrides.split()]


def plan_run(run: Run, settings: Iterable[str], images: str) -> dict[str, float]:
    """Measure the duration of a step and return the number of epochs for the time of the run."""
    cfg = get_cfg()
    merge_config(cfg, run.config, [*settings])
    check_config(cfg)
    count = len(ImageFolder(images).paths)
    rate = cfg.SOLVER.IMS_PER_BATCH / measure_run(cfg, 1, count, MEASURED_STEPS).seconds
    return {"images_per_second": rate, "epochs": max(1, round(60 * run.minutes * rate / count))}


def collect(output: Path) -> dict[str, dict[str, Any]]:
    """Return the plan, the time of the steps and the accuracies of each completed run, without its paths."""
    results = {}
    for name in [*RANDOM, *RUNS]:
        folder = output / name
        if not all((folder / f"{evaluation}.json").exists() for evaluation in EVALUATIONS):
            continue
        (nearest,) = read_json(folder / "knn.json")["results"]
        best = next(row for row in read_json(folder / "linear.json")["results"] if row["best"])
        results[name] = {"knn": nearest["top1"], "linear": best["top1"]}
        if name in RUNS:
            results[name] |= {**read_json(folder / "plan.json"), "minutes": minutes_of(folder)}
    return results


def minutes_of(folder: Path) -> float:
    """Return the time of all steps of a completed run, which may have been interrupted, from its logged values."""
    durations = curve(read_json_lines(folder / LOG_FILE), "time")
    return fmean(seconds for _, seconds in durations) * durations[-1][0] / 60


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row for each run."""
    rows = [
        [name, *("" if key not in found else f"{found[key]:.{digits}f}" for key, digits in COLUMNS.items())]
        for name, found in results.items()
    ]
    return tabulate(rows, ["run", *COLUMNS], tablefmt="github", disable_numparse=True)


def table_of_means(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of the methods in the paper's order: mean accuracies, and those of the seeds."""
    rows = []
    for method, paper in PAPER.items():
        seeds = [found for name, found in results.items() if name.startswith(f"{method}_seed_")]
        columns = [[found[key] for found in seeds] for key in EVALUATIONS]
        if seeds:
            rows.append([method, *(f"{fmean(c):.1f} ({', '.join(f'{v:.1f}' for v in c)})" for c in columns), paper])
    return tabulate(rows, ["method", *EVALUATIONS, "AP in the paper"], tablefmt="github", disable_numparse=True)


def table_of_pairs(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table with the accuracies for each K and m after 45 and after 90 minutes."""
    rows = [
        [setting, *(f"{results[run][key]:.1f}" if run in results else "" for key in EVALUATIONS for run in pair)]
        for setting, pair in PAIRS.items()
        if not results.keys().isdisjoint(pair)
    ]
    columns = [f"{key}, {minutes} min" for key in EVALUATIONS for minutes in (45, 90)]
    return tabulate(rows, ["setting", *columns], tablefmt="github", disable_numparse=True)


if __name__ == "__main__":
    main()
