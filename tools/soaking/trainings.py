"""The training runs of a soak: pre-training and fine-tuning, which take a few minutes each."""

from collections.abc import Iterable
from dataclasses import dataclass

from mocodet.common.retention import PERIODIC

KEPT = 2  # checkpoints, in addition to the final one


@dataclass(frozen=True)
class Training:
    """A training run that takes a few minutes.

    Attributes:
        name: the name of the run and of its folder.
        words: the command without --resume and OUTPUT_DIR; ``{data}`` and ``{datasets}`` are filled in.
        period: the number of iterations between two checkpoints.
        iterations: the total number of iterations.
        processes: the number of training processes.
        loaders: whether the run has loader processes.
    """

    name: str
    words: tuple[str, ...]
    period: int
    iterations: int
    processes: int = 1
    loaders: bool = True

    def next_iteration(self, checkpoint: str) -> int:
        """Return the iteration at which ``--resume`` continues from a checkpoint, which is ``""`` if there is none."""
        if match := PERIODIC.fullmatch(checkpoint):
            return int(match[1]) + 1
        return self.iterations if checkpoint else 0

    def checkpoints(self, stopped: Iterable[str] = ()) -> set[str]:
        """Return the checkpoints in the folder at the end; ``stopped`` lists those that were written after signals."""
        periodic = {f"model_{done - 1:07d}.pth" for done in range(self.period, self.iterations + 1, self.period)}
        return {"model_final.pth", *sorted(periodic | set(stopped))[-KEPT:]}


def _pairs(**keys: object) -> tuple[str, ...]:
    """Return KEY VALUE pairs, in which each ``__`` of a name is replaced by a dot."""
    return tuple(text for name, value in keys.items() for text in (name.replace("__", "."), str(value)))


def _pretraining(name: str, epochs: int, processes: int = 1, **keys: object) -> Training:
    period, batch, images = 12, 32, 384
    pairs = _pairs(
        DATA__ROOT="{data}/unlabelled",
        DATA__MAX_UNREADABLE=0.05,
        DATA__NUM_WORKERS=1 if processes == 1 else 0,
        DATA__CACHE="none",
        AUGMENTATION__CROP_SIZE=24,
        MODEL__DEVICE="cpu",
        MODEL__BN_GROUPS=4 // processes,
        CONTRAST__QUEUE_SIZE=64,
        KNN__DATASET="{knn}",
        KNN__K=10,
        KNN__PERIOD=2 * period,
        SOLVER__IMS_PER_BATCH=batch,
        SOLVER__MAX_EPOCHS=epochs,
        SOLVER__WARMUP_ITERS=8,
        SOLVER__PRECISION="float32",
        SOLVER__CHECKPOINT_PERIOD=period,
        SOLVER__CHECKPOINTS_KEPT=KEPT,
        LOG_PERIOD=4,
        **keys,
    )
    flags = ("--num-gpus", str(processes)) if processes > 1 else ()
    words = ("pretrain", "--config-file", "pretrain/demo_moco_v2_R_18.yaml", *flags, *pairs)
    return Training(name, words, period, epochs * (images // batch), processes, processes == 1)


def _finetuning(name: str, iterations: int, *, loaders: bool, **keys: object) -> Training:
    period = 6
    pairs = _pairs(
        MOCO__DATASETS="{datasets}",
        MODEL__DEVICE="cpu",
        DATALOADER__NUM_WORKERS=int(loaders),
        SOLVER__IMS_PER_BATCH=4,
        SOLVER__MAX_ITER=iterations,
        SOLVER__STEPS=(iterations * 3 // 4,),
        SOLVER__WARMUP_ITERS=4,
        SOLVER__CHECKPOINT_PERIOD=period,
        SOLVER__CHECKPOINTS_KEPT=KEPT,
        TEST__EVAL_PERIOD=2 * period,
        TEST__PRECISE_BN__NUM_ITER=4,
        SEED=1,
        **keys,
    )
    words = ("train", "--config-file", "toy_R_18_FPN_random.yaml", *pairs)
    return Training(name, words, period, iterations, loaders=loaders)


TRAININGS = (
    _pretraining("pre-training", epochs=8),
    _finetuning("fine-tuning", 54, loaders=True),
    _pretraining("pre-training_in_2_processes", epochs=4, processes=2, COLLECTIVE_TIMEOUT=45),
    _finetuning("fine-tuning_in_bfloat16", 54, loaders=False, SOLVER__AMP__ENABLED=True),
)
