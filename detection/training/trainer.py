"""Fine-tuning with detectron2's engine, on GPUs or CPU processes."""

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer, PeriodicWriter, PreciseBN
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.utils.data import DataLoader

from mocodet.common.divergence import DivergenceError
from mocodet.common.files import drop_half_line
from mocodet.common.launch import collective_timeout, distribute
from mocodet.common.logs import tracebacks_in_log_file
from mocodet.common.mishaps import mishaps_told
from mocodet.common.retention import Retention
from mocodet.common.status import StatusFile
from mocodet.common.stopping import StopWhenAsked

from .. import densepose
from ..data.classes import classes_of
from ..data.fraction import Record, training_records
from ..data.loader import begin_worker, build_training_loader
from ..data.mapper import build_mapper
from ..evaluation.build import build_evaluator
from ..evaluation.complete import write_results
from ..modeling.build import build
from .checkpoint import DIVERGED, MocoDetCheckpointer
from .hooks import EvalAfterGoodEnd, ResumablePreciseBN, SeedSteps, ValuesWriter
from .resuming import DRAWS_KEY, draws_of, other_draws, seed_of_run
from .scaling import scale_to_processes, schedule_in_passes
from .step import AccumulatingTrainer

logger = logging.getLogger(__name__)

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` for this plugin's models and data sets.

    It differs from ``DefaultTrainer`` in the following ways:

    * It runs in multiple CPU processes.
    * Mixed precision works on a CPU and in bfloat16.
    * An update can accumulate the gradients of ``MOCO.ACCUMULATION`` micro-batches.
    * It trains on ``MOCO.TRAIN_FRACTION`` of the labels, for ``MOCO.PASSES`` passes if that is set.
    * The mapper of training images depends on the task (:mod:`.data.mapper`).
    * Random draws (the order of images, their augmentation, anchors and proposals) depend only on ``SEED`` and the
      iteration, so a resumed run gives the same result as an uninterrupted one.
    * ``SyncBN`` norms are synchronised on any device.
    * Checkpoints are written atomically, and never with values that are not finite.
    * Pre-trained weights that do not fit raise an error.
    * The metadata of each data set determines its evaluator.
    * The results of the last evaluation are written to ``OUTPUT_DIR/results.json``.

    If ``SEED`` is negative, the seed of the run in ``OUTPUT_DIR`` is used if there is one, or else a random seed.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer.__init__ builds its components for CUDA, so they are built here instead.
        TrainerBase.__init__(self)
        cfg = cfg.clone()
        cfg.defrost()
        # These calls have no further effect if the command has already made them.
        scale_to_processes(cfg, comm.get_world_size())
        records = None if densepose.is_densepose(cfg) else training_records(cfg, announce=True)
        if records is not None:
            schedule_in_passes(cfg, len(records))
        if cfg.SEED < 0:
            cfg.SEED = seed_of_run(cfg)
        cfg.freeze()
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg, records)
        model = distribute(model)
        self._trainer = AccumulatingTrainer(
            model,
            data_loader,
            optimizer,
            micro_batches=cfg.MOCO.ACCUMULATION,
            device_type=torch.device(cfg.MODEL.DEVICE).type,
            dtype=AMP_DTYPES[cfg.MOCO.AMP_DTYPE] if cfg.SOLVER.AMP.ENABLED else None,
        )
        if cfg.MOCO.ACCUMULATION > 1:
            logger.info(
                f"Each update accumulates the gradients of {cfg.MOCO.ACCUMULATION} micro-batches. Batch norm computes"
                " its statistics over one micro-batch at a time: over"
                f" {cfg.SOLVER.IMS_PER_BATCH // cfg.MOCO.ACCUMULATION} images if it is synchronised, instead of"
                f" {cfg.SOLVER.IMS_PER_BATCH}"
            )
        self._asked = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        classes = classes_of(cfg, cfg.DATASETS.TRAIN[0])
        milestone = cfg.SOLVER.CHECKPOINTS_KEPT_EVERY * cfg.SOLVER.CHECKPOINT_PERIOD
        self.checkpointer = MocoDetCheckpointer(
            *(model, cfg.OUTPUT_DIR),
            classes=classes,
            retention=Retention(cfg.SOLVER.CHECKPOINTS_KEPT, milestone),
            trainer=weakref.proxy(self),
        )
        self.status = StatusFile(cfg.OUTPUT_DIR, cfg.SOLVER.IMS_PER_BATCH)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._last_eval_results: OrderedDict[str, Any] = OrderedDict()
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint in ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS`` and start at iteration 0.

        A resumed run is bit-identical to an uninterrupted one (on a CPU, in float32 and bfloat16) if the config, the
        images and the number of processes are the same. A warning reports any difference. As in pre-training, learning
        rates, weight decay, momentum and steps are taken from the config, not from the checkpoint.
        """
        if resume and not self.checkpointer.has_checkpoint():
            logger.warning(
                f"--resume is set, but {self.cfg.OUTPUT_DIR} contains no checkpoint: starting at iteration 0"
            )
        super().resume_or_load(resume)
        if self.start_iter == 0:
            return
        self._obey_config()
        self.data_loader.batch_sampler.start = self.start_iter * self.cfg.MOCO.ACCUMULATION

    def _obey_config(self) -> None:
        """Apply the config's optimizer settings instead of those in the checkpoint."""
        groups = self.optimizer.param_groups
        found = {(group.get("initial_lr", group["lr"]), group["weight_decay"]) for group in groups}
        for group, asked in zip(groups, self._asked, strict=True):
            group.update(asked, initial_lr=asked["lr"])
        self.scheduler.base_lrs = [asked["lr"] for asked in self._asked]
        self.scheduler.last_epoch = min(self.start_iter, self.max_iter)  # the schedule defines no rate beyond its end
        for group, rate in zip(groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate
        if (now := {(group["initial_lr"], group["weight_decay"]) for group in groups}) != found:
            logger.info(
                f"Using the config's learning rates and weight decays {sorted(now)} instead of the checkpoint's"
                f" {sorted(found)}"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return detectron2's state, and the settings that determine the random draws of an iteration."""
        return {**super().state_dict(), DRAWS_KEY: draws_of(self.cfg, self.data_loader.dataset.identity)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of ``state_dict``, and warn if the run will differ from an uninterrupted one.

        The schedule is not restored, because it is determined by the config and the iteration, and a state from a file
        could replace its methods.
        """
        super().load_state_dict({**state_dict, "hooks": {}})
        if different := other_draws(state_dict.get(DRAWS_KEY), self.state_dict()[DRAWS_KEY]):
            logger.warning(f"The resumed run will differ from an uninterrupted one: {different}")

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, records: list[Record] | None = None) -> DataLoader:
        """Build the endless loader of this process's micro-batches, each of which is a list of detectron2's dicts.

        Args:
            cfg: the config of the run.
            records: the result of `training_records`; loaded if None.
        """
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.IMS_PER_BATCH //= cfg.MOCO.ACCUMULATION
        if cfg.SEED < 0:
            cfg.SEED = comm.shared_random_seed()
        if densepose.is_densepose(cfg):
            return build_training_loader(cfg, *densepose.training_data(cfg))
        return build_training_loader(cfg, records or training_records(cfg), build_mapper(cfg, training=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """Build the evaluation loader, which yields each image of a data set once, in one of the processes."""
        if densepose.is_densepose(cfg):
            return densepose.build_test_loader(cfg, dataset_name)
        loader = build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, training=False))
        loader.worker_init_fn = begin_worker
        return loader

    def train(self) -> OrderedDict[str, Any]:
        """Train, and return the results of the last evaluation (empty except on the main process).

        Raises:
            DivergenceError: losses, proposals, parameters or buffers are not finite. No checkpoint contains such
                weights.
            OSError: see `mishaps_told`.
        """
        with self.status.watched(), tracebacks_in_log_file(), mishaps_told():
            return self._train()

    def _train(self) -> OrderedDict[str, Any]:
        try:
            super().train()
        except DivergenceError:
            raise
        except FloatingPointError as error:  # detectron2's error suggests no remedy and may lack the iteration
            raise DivergenceError(" ".join(str(error).split()).removesuffix("."), self.iter, DIVERGED) from error
        finally:
            self._trainer.end_loader()
        if self.checkpointer.mismatch:  # repeated, because the first warning is hundreds of lines above
            logger.warning(self.checkpointer.mismatch)
        return self._last_eval_results

    def build_hooks(self) -> list[HookBase | None]:
        """Build detectron2's hooks, replacing some of them with those of :mod:`.hooks`.

        PreciseBN's loader also yields micro-batches, because complete batches may not fit into memory. PreciseBN reads
        more of them to use the same number of images. An iteration's checkpoint is saved after its evaluation results
        have been written, so a run that is killed in between repeats both.
        """
        seed, micro_batches = self.cfg.SEED, self.cfg.MOCO.ACCUMULATION
        built = super().build_hooks()
        for place, hook in enumerate(built):
            if isinstance(hook, PreciseBN):
                iterations = hook._num_iter * micro_batches
                built[place] = ResumablePreciseBN(
                    *(hook._period, self.model, hook._data_loader, iterations), seed=seed, micro_batches=micro_batches
                )
            elif isinstance(hook, EvalHook):
                built[place] = EvalAfterGoodEnd(hook._period, hook._func)
            elif isinstance(hook, PeriodicWriter):
                built[place] = ValuesWriter(hook._writers, hook._period, self.cfg.TEST.EVAL_PERIOD)
        built.sort(key=lambda hook: isinstance(hook, PeriodicCheckpointer))
        return [SeedSteps(seed), *built, self.status, StopWhenAsked(self.checkpointer, collective_timeout(self.cfg))]

    def build_writers(self) -> list[EventWriter]:
        """Remove an incomplete last line from ``metrics.json``, then build detectron2's writers."""
        drop_half_line(Path(self.cfg.OUTPUT_DIR, "metrics.json"))
        return super().build_writers()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model, with norms that support its device and region pooling that preserves precision."""
        model = build(cfg)
        logger.info(f"Model:\n{model}")
        return model

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator for the ``evaluator_type`` in the data set's metadata."""
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict[str, Any]:
        """Evaluate on every data set in ``DATASETS.TEST``, and write ``OUTPUT_DIR/results.json``.

        Returns:
            ``{task: {metric: value}}`` for one data set, or a dict of these by data set for multiple data sets.
        """
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process() and results:
            names = cfg.DATASETS.TEST
            by_name = {names[0]: results} if len(names) == 1 else results
            write_results(by_name, Path(cfg.OUTPUT_DIR, "results.json"))
        return results
