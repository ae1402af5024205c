"""Fine-tuning on detectron2's engine, on GPUs and on CPU processes alike."""

import itertools
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase
from detectron2.engine.hooks import EvalHook, PreciseBN
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.utils.data import DataLoader, Sampler

from mocodet.common.divergence import DivergenceError
from mocodet.common.errors import without_logged_tracebacks
from mocodet.common.files import drop_half_line
from mocodet.common.launch import distribute
from mocodet.common.stopping import StopWhenAsked, leave_signals_to_parent

from .. import densepose
from ..data.classes import classes_of
from ..data.fraction import Record, training_records
from ..data.mapper import build_mapper
from ..evaluation.build import build_evaluator
from ..evaluation.complete import write_results
from ..modeling.build import build
from .checkpoint import DIVERGED, MocoDetCheckpointer
from .scaling import scale_to_processes, schedule_in_passes
from .step import AccumulatingTrainer

logger = logging.getLogger(__name__)

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class StartingSampler(Sampler[int]):
    """Another sampler's endless stream of indices from a later place on: where a resumed run stopped.

    Args:
        sampler: yields this process's indices; made with the same seed as in the run that stopped.
    """

    def __init__(self, sampler: Sampler[int]):
        self._sampler = sampler
        self.start = 0  # how many indices of this process's stream to pass over

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self._sampler), self.start, None)


class SharedPreciseBN(PreciseBN):
    """``PreciseBN`` after which all processes have the main process's batch-norm statistics.

    PreciseBN weights each batch's statistics, which are those of all processes, by the local number of values; with
    images of different sizes every process would end with other averages, and evaluate another model than is saved.
    """

    def update_stats(self) -> None:
        """Estimate ``running_mean`` and ``running_var`` of every norm, then overwrite them by the main process's."""
        super().update_stats()
        if comm.get_world_size() > 1:
            for norm in get_bn_modules(self._model):
                dist.broadcast(norm.running_mean, src=0)
                dist.broadcast(norm.running_var, src=0)


class EvalAfterGoodEnd(EvalHook):
    """``EvalHook`` that evaluates at the end of a training that came to it.

    detectron2's also evaluates where the last iteration failed, as when its weights are not finite.
    """

    def after_train(self) -> None:
        """Evaluate, unless an error ended the training."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


def _keep_signals_from_workers(loader: Any) -> None:
    """Have the processes of detectron2's training loader leave signals to this one; see `leave_signals_to_parent`."""
    workers: Any = loader if isinstance(loader, DataLoader) else loader.dataset  # which groups images by their shape
    workers.worker_init_fn = partial(_begin_worker, workers.worker_init_fn)


def _begin_worker(begin: Callable[[int], None], worker: int) -> None:
    leave_signals_to_parent()
    begin(worker)


class Trainer(DefaultTrainer):
    """detectron2's ``DefaultTrainer`` for this plugin's models and data sets.

    It differs in these points: it runs in several CPU processes; mixed precision works on a CPU and in bfloat16; an
    update may gather the gradients of ``MOCO.ACCUMULATION`` micro-batches; it learns from ``MOCO.TRAIN_FRACTION`` of
    the labels, for ``MOCO.PASSES`` if that is set; training images come as the task wants them (:mod:`.data.mapper`);
    norms that say ``SyncBN`` are synchronised on any device; checkpoints are written atomically, and none with numbers
    that are not finite; pre-trained weights that do not fit are refused; each data set chooses its evaluator; the
    results of the last evaluation are in ``OUTPUT_DIR/results.json``.
    """

    def __init__(self, cfg: CfgNode):
        # DefaultTrainer builds its parts in its own __init__, for CUDA; so the parts are built here instead.
        TrainerBase.__init__(self)
        cfg = cfg.clone()
        cfg.defrost()
        # Nothing more to do in these where the command has done it.
        scale_to_processes(cfg, comm.get_world_size())
        records = None if densepose.is_densepose(cfg) else training_records(cfg, announce=True)
        if records is not None:
            schedule_in_passes(cfg, len(records))
        cfg.freeze()
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._sampler, data_loader = self._build_resumable_loader(cfg, records)
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
                f"Each update gathers the gradients of {cfg.MOCO.ACCUMULATION} micro-batches. Batch norm takes its"
                f" statistics from one at a time: from {cfg.SOLVER.IMS_PER_BATCH // cfg.MOCO.ACCUMULATION} images where"
                f" it is synchronised, not from {cfg.SOLVER.IMS_PER_BATCH}"
            )
        self._asked = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        classes = classes_of(cfg, cfg.DATASETS.TRAIN[0])
        self.checkpointer = MocoDetCheckpointer(model, cfg.OUTPUT_DIR, classes=classes, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._last_eval_results: OrderedDict[str, Any] = OrderedDict()
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from the last checkpoint in ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS`` and start at iteration 0.

        A resumed run goes on with the images that come next, and with other crops and flips than the first ones: the
        generators are seeded anew by ``SEED`` and the iteration. It is not bit-identical to an uninterrupted one. Its
        rates, decay, momentum and steps are the config's, as in pre-training, whatever the checkpoint was trained with.
        """
        if resume and not self.checkpointer.has_checkpoint():
            logger.warning(f"--resume, but {self.cfg.OUTPUT_DIR} holds no checkpoint: starting at iteration 0")
        super().resume_or_load(resume)
        if self.start_iter == 0:
            return
        self._obey_config()
        if self._sampler is None:
            logger.warning("DensePose's loader cannot be continued: the resumed run begins with its first images again")
        else:
            self._sampler.start = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
        if self.cfg.SEED >= 0:
            seed_all_rng(self.cfg.SEED + self.start_iter + comm.get_rank())

    def _obey_config(self) -> None:
        """Give the optimizer the settings that the config asks for, in place of those that the checkpoint had."""
        groups = self.optimizer.param_groups
        found = {(group["initial_lr"], group["weight_decay"]) for group in groups}
        for group, asked in zip(groups, self._asked, strict=True):
            group.update(asked, initial_lr=asked["lr"])
        self.scheduler.base_lrs = [asked["lr"] for asked in self._asked]
        for group, rate in zip(groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = rate
        if (now := {(group["initial_lr"], group["weight_decay"]) for group in groups}) != found:
            logger.info(
                f"Goes on with the config's rates and decays {sorted(now)}; the checkpoint's are {sorted(found)}"
            )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        """Build the endless loader of this process's micro-batches, each a list of detectron2's dicts."""
        return cls._build_resumable_loader(cfg)[1]

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """Build the loader that evaluates each image of a data set once, in one of the processes."""
        if densepose.is_densepose(cfg):
            return densepose.trainer().build_test_loader(cfg, dataset_name)
        return build_detection_test_loader(cfg, dataset_name, mapper=build_mapper(cfg, training=False))

    @classmethod
    def _build_resumable_loader(
        cls, cfg: CfgNode, records: list[Record] | None = None
    ) -> tuple[StartingSampler | None, DataLoader]:
        """Build the loader, and the sampler in it by which a resumed run is told where to go on.

        ``records``, of `training_records`, are loaded where they are not given.
        """
        cfg = cfg.clone()
        cfg.defrost()
        cfg.SOLVER.IMS_PER_BATCH //= cfg.MOCO.ACCUMULATION
        if densepose.is_densepose(cfg):
            return None, densepose.trainer().build_train_loader(cfg)
        if cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
            # detectron2 gives this one SEED itself, and so one order of images to all runs where that is -1.
            cfg.SEED = comm.shared_random_seed()
        records = records or training_records(cfg)
        parts = build_detection_train_loader.from_config(cfg, mapper=build_mapper(cfg, training=True), dataset=records)
        sampler = StartingSampler(parts.pop("sampler"))
        loader = build_detection_train_loader(**parts, sampler=sampler)
        _keep_signals_from_workers(loader)
        return sampler, loader

    def train(self) -> OrderedDict[str, Any]:
        """Train, and return the results of the last evaluation (empty on other processes than the main one).

        Raises:
            DivergenceError: losses, proposals, parameters or buffers are not finite. No checkpoint has such weights.
        """
        try:
            with without_logged_tracebacks("detectron2.engine.train_loop"):
                super().train()
        except DivergenceError:
            raise
        except FloatingPointError as error:  # of detectron2, which names neither the iteration always nor a remedy
            raise DivergenceError(" ".join(str(error).split()).removesuffix("."), self.iter, DIVERGED) from error
        if self.checkpointer.mismatch:  # said before the training, hundreds of lines ago
            logger.warning(self.checkpointer.mismatch)
        return self._last_eval_results

    def build_hooks(self) -> list[HookBase | None]:
        """Make detectron2's hooks, with a PreciseBN by which all processes evaluate the same model.

        PreciseBN's loader yields micro-batches too, since whole batches may not fit; it takes so many more of them that
        it sees as many images.
        """
        iterations = self.cfg.TEST.PRECISE_BN.NUM_ITER * self.cfg.MOCO.ACCUMULATION
        built = super().build_hooks()
        for place, hook in enumerate(built):
            if isinstance(hook, PreciseBN):
                built[place] = SharedPreciseBN(hook._period, self.model, hook._data_loader, iterations)
            elif isinstance(hook, EvalHook):
                built[place] = EvalAfterGoodEnd(hook._period, hook._func)
        return [*built, StopWhenAsked(self.checkpointer)]

    def build_writers(self) -> list[EventWriter]:
        """Make detectron2's writers, after half a line at the end of ``metrics.json`` has been dropped."""
        drop_half_line(Path(self.cfg.OUTPUT_DIR, "metrics.json"))
        return super().build_writers()

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model with norms that work on its device and region pooling that keeps its precision."""
        model = build(cfg)
        logger.info(f"Model:\n{model}")
        return model

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator that the data set's metadata asks for."""
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> OrderedDict[str, Any]:
        """Evaluate on every data set of ``DATASETS.TEST`` and write ``OUTPUT_DIR/results.json``.

        Returns:
            ``{task: {metric: value}}`` of the one data set; with several, those by the name of the data set.
        """
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process() and results:
            names = cfg.DATASETS.TEST
            by_name = {names[0]: results} if len(names) == 1 else results
            write_results(by_name, Path(cfg.OUTPUT_DIR, "results.json"))
        return results
