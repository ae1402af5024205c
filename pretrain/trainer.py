"""The pre-training loop, on detectron2's engine: `TrainerBase`, its hooks, `EventStorage` and writers."""

import logging
import time
import weakref
from contextlib import ExitStack, closing
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import JSONWriter
from fvcore.common.config import CfgNode

from mocodet.common.checkpoint import holds_checkpoint, refuse_other_run
from mocodet.common.divergence import check_losses
from mocodet.common.files import drop_half_line
from mocodet.common.launch import collective_timeout, distribute
from mocodet.common.logs import tracebacks_in_log_file
from mocodet.common.mishaps import mishaps_told
from mocodet.common.progress import duration, progress
from mocodet.common.retention import Retention
from mocodet.common.status import StatusFile
from mocodet.common.stopping import StopWhenAsked

from .build import build_data, build_optimizer
from .checkpoint import DIVERGED, PretrainCheckpointer, load_encoder
from .data.delivery import Delivery
from .data.exclusion import keep_exclusion
from .data.loader import load_batches
from .data.skipped import SkippedImages
from .data.views import collate
from .device import amp_dtype, memory_format, resolve_device
from .evaluation.accuracy import Evaluator
from .evaluation.classification import ClassificationEvaluator, open_validation
from .evaluation.monitor import KNNMonitor
from .interchange import load_original
from .log import LogWriter, PretrainPrinter, TensorboardWriter, Throughput
from .methods import METHODS
from .methods.base import DataFacts
from .schedules import RecipeLR, max_iterations, warmup_iterations
from .signs import SignRecord, SignWatch, image_std

logger = logging.getLogger("mocodet.pretrain")


class PretrainTrainer(TrainerBase):
    """Trains the encoder that a config describes, from the images of a folder or of shards.

    Call `resume_or_start`, then `train`.

    Args:
        cfg: see `mocodet.pretrain.config`; validated, with a SEED that is not negative.
        allow_pipe: see `build_data`.
    """

    def __init__(self, cfg: CfgNode, *, allow_pipe: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        self.device = resolve_device(cfg)
        data = build_data(cfg, resuming=holds_checkpoint(cfg.OUTPUT_DIR), allow_pipe=allow_pipe)
        self.facts: DataFacts = data
        self.dataset, self.sampler, self.classes = data.dataset, data.sampler, data.classes
        self.exclusion = data.exclusion
        self.skipped = SkippedImages(cfg.OUTPUT_DIR, cfg.DATA.ROOT, data.size, cfg.DATA.MAX_UNREADABLE)

        # All processes build the same model: DDP would broadcast parameters, but not the queue.
        torch.manual_seed(cfg.SEED)
        self.method = METHODS[cfg.METHOD].from_config(cfg, data).to(self.device).to(memory_format=memory_format(cfg))
        self.optimizer = build_optimizer(cfg, self.method)
        self.scheduler = RecipeLR(cfg, self.optimizer, self.sampler.iterations_per_epoch)
        self.model = distribute(self.method)

        torch.backends.cudnn.benchmark = self.device.type == "cuda"  # all training batches have one shape
        self.dtype = amp_dtype(cfg, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

        self._loaders = ExitStack()  # ends their processes: if killed at exit, they would leave files in TMPDIR
        self.start_iter = 0
        self.batches_to_fill = 0  # before the first iteration; see `start_from`
        self.max_iter = max_iterations(cfg, self.sampler.iterations_per_epoch)
        if (warmup := warmup_iterations(cfg)) >= self.max_iter:
            logger.warning(
                f"the learning rate rises for {warmup} iterations but the run has {self.max_iter}, so it never reaches"
                f" SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:g}: lower SOLVER.WARMUP_ITERS or train longer"
            )
        self.signs = SignRecord()
        self.status = StatusFile(cfg.OUTPUT_DIR, cfg.SOLVER.IMS_PER_BATCH)
        self.checkpointer = PretrainCheckpointer(
            self.method,
            cfg.OUTPUT_DIR,
            retention=Retention(
                cfg.SOLVER.CHECKPOINTS_KEPT, cfg.SOLVER.CHECKPOINTS_KEPT_EVERY * self.checkpoint_period
            ),
            optimizer=self.optimizer,
            sampler=self.sampler,
            views=self.dataset,
            signs=self.signs,
            trainer=weakref.proxy(self),
            **self.method.extra_state(),
            # Absent in other precisions, so that a run may be continued in any of them.
            **({"scaler": self.scaler} if self.scaler.is_enabled() else {}),
        )
        self.register_hooks(self.build_hooks())
        logger.info(
            f"{data.size} images of {cfg.DATA.ROOT or cfg.DATA.SHARDS}, {self.sampler.iterations_per_epoch} iterations"
            f" an epoch, {self.max_iter} in all; {self.device.type}, encoders in {self.dtype}"
        )

    def build_hooks(self) -> list[HookBase]:
        """Make the hooks: timing, schedule, checkpoints, log; the order matters as in detectron2's trainer."""
        evaluators = self.build_evaluators()
        built = [
            hooks.IterationTimer(),
            Throughput(self.cfg.SOLVER.IMS_PER_BATCH),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            # Before the checkpoint of the same iteration, like the log: if a run is killed before it has written them,
            # it repeats the iteration.
            *evaluators,
        ]
        chance = type(self.method).chance(self.cfg, self.facts)
        if comm.is_main_process():
            built.append(SignWatch(self.cfg, self.facts, chance, self.signs))
            metrics = Path(self.cfg.OUTPUT_DIR, "metrics.json")
            drop_half_line(metrics)
            writers = [
                PretrainPrinter(self.max_iter, self.sampler.iterations_per_epoch, chance),
                JSONWriter(str(metrics)),
                TensorboardWriter(self.cfg.OUTPUT_DIR, chance, self.max_iter),
            ]
            built.append(LogWriter(writers, self.cfg.LOG_PERIOD, evaluators, chance))
        built.append(hooks.PeriodicCheckpointer(self.checkpointer, self.checkpoint_period))
        return [*built, self.status, StopWhenAsked(self.checkpointer, collective_timeout(self.cfg))]

    @property
    def checkpoint_period(self) -> int:
        """Iterations between two checkpoints."""
        return self.cfg.SOLVER.CHECKPOINT_PERIOD or self.sampler.iterations_per_epoch

    def build_evaluators(self) -> list[Evaluator]:
        """Make the hooks that measure the encoder on labelled images periodically."""
        cfg, epoch, built = self.cfg, self.sampler.iterations_per_epoch, []
        if cfg.KNN.TRAIN_ROOT or cfg.KNN.DATASET:
            built.append(KNNMonitor(cfg, epoch))
        if cfg.DATA.VAL_ROOT:
            split = open_validation(cfg, self.classes)
            built.append(ClassificationEvaluator(cfg, self.method.encoder_to_transfer, split, epoch))
        return built

    def resume_or_start(self, resume: bool, original: str = "") -> None:
        """Continue from the last checkpoint of OUTPUT_DIR, or begin at iteration 0; see `start_from` for MODEL.WEIGHTS.

        The rates and decays of the optimizer are those of the config, even if the checkpoint has others.

        Args:
            resume: continue if there is a checkpoint, otherwise begin.
            original: if OUTPUT_DIR holds no checkpoint, continue from this file in the original MoCo format.

        Raises:
            FileExistsError: not ``resume``, and OUTPUT_DIR holds the checkpoints of another run.
            ValueError: the checkpoint does not fit the config, the data or the number of processes.
        """
        found = comm.all_gather(self.checkpointer.has_checkpoint())
        if len(set(found)) > 1:
            raise ValueError(
                f"only some processes see a checkpoint in {self.cfg.OUTPUT_DIR}; it must be a shared folder"
            )
        if not resume:
            refuse_other_run(self.cfg.OUTPUT_DIR)
        if found[0]:
            self.checkpointer.resume()
        elif original:
            load_original(original, self.checkpointer, self.sampler.iterations_per_epoch)
        else:
            if resume:
                logger.warning(f"--resume, but {self.cfg.OUTPUT_DIR} holds no checkpoint: starting at iteration 0")
            if self.cfg.MODEL.WEIGHTS:
                self.start_from(self.cfg.MODEL.WEIGHTS)
            return
        self.start_iter = self.iter + 1  # the checkpoint holds the number of the iteration that just ended
        self._apply_config()

    def start_from(self, path: str) -> None:
        """Initialise all encoders with the backbone in a checkpoint of any kind that the converter reads.

        Heads keep their initial values from the seed. When training begins, the batches before the first one in the
        stream fill the queue or bank with vectors of real images.

        Raises:
            FileNotFoundError, ValueError: see `load_encoder` and `Method.check_copies`.
        """
        self.method.check_copies()
        encoder = load_encoder(self.method.encoder_to_transfer, path)
        self.method.copy_encoder()
        entries = max(self.method.to_fill().values(), default=0)
        self.batches_to_fill = -(-entries // self.cfg.SOLVER.IMS_PER_BATCH)
        started = ", ".join((self.method.encoder_name, *self.method.encoder_copies))
        logger.info("; ".join([f"{started} started from {path} ({encoder.kind})", *encoder.notes, "the head is new"]))

    def _apply_config(self) -> None:
        """Replace values of the checkpoint's config in the optimizer and the schedule by those of this config."""
        solver = self.cfg.SOLVER
        for group in self.optimizer.param_groups:
            group.update(initial_lr=solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY)
        self.scheduler.base_lrs = [solver.BASE_LR] * len(self.optimizer.param_groups)
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = lr

    def train(self) -> None:
        """Train from the iteration after the last checkpoint to the end."""
        with self.status.watched(), tracebacks_in_log_file(), mishaps_told():
            self._train()

    def _train(self) -> None:
        if self.start_iter >= self.max_iter:
            logger.info(f"nothing to train: {self.start_iter} of {self.max_iter} iterations are done")
            # A run may have ended between its last periodic checkpoint and the final one.
            if not comm.all_gather(Path(self.cfg.OUTPUT_DIR, "model_final.pth").is_file())[0]:
                self.checkpointer.save("model_final", iteration=self.iter)
            return
        with self._loaders:
            super().train(self.start_iter, self.max_iter)

    def before_train(self) -> None:
        """Open the stream of batches at the first iteration of this run, or earlier to fill a queue or bank."""
        resuming = self.start_iter > 0
        if comm.is_main_process():
            self.skipped.begin(self.exclusion.since, self.cfg.DATA.MAX_PIXELS, resuming=resuming)
            if not resuming:
                keep_exclusion(self.exclusion, self.cfg.OUTPUT_DIR)
        comm.synchronize()
        self.sampler.start_iteration = self.start_iter - self.batches_to_fill
        loaded = load_batches(
            self.dataset,
            self.cfg.DATA.NUM_WORKERS,
            batch_sampler=self.sampler,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
        )
        batches = self._loaders.enter_context(closing(self.skipped.watch(loaded, self.sampler.start_iteration)))
        self.delivery = Delivery(batches, self.device, memory_format(self.cfg))
        self.model.train()
        if self.batches_to_fill:
            self.fill()
        super().before_train()

    @torch.no_grad()
    def fill(self) -> None:
        """Let the method replace noise by vectors of real images, from the batches before the first iteration."""
        what = ", ".join(f"{name} ({entries} entries)" for name, entries in self.method.to_fill().items())
        batches = range(self.batches_to_fill)
        logger.info(f"filling with vectors of real images, {len(batches)} batches: {what}")
        began = time.perf_counter()
        for _ in progress(batches, "batch", len(batches)) if comm.is_main_process() else batches:
            batch = self.delivery.next()
            with self.autocast():
                self.method.fill(batch)
            self.delivery.fetch_ahead()
        logger.info(f"filled in {duration(time.perf_counter() - began)}")

    def autocast(self) -> torch.autocast:
        """Return the context in which encoders compute."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def run_step(self) -> None:
        """Take one step: load, encode, contrast, update.

        Raises:
            ValueError: more images are unreadable than DATA.MAX_UNREADABLE allows; the message names their list.
            FloatingPointError: see `log`.
        """
        self.method.begin_step(self.iter, self.max_iter)
        batch = self.delivery.next()
        data_time = self.delivery.waited
        with self.autocast():
            outputs = self.model(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(outputs["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

        if self.iter + 1 < self.max_iter:
            self.delivery.fetch_ahead()  # before the log, which may wait for the step

        self.log({name: value.detach() for name, value in outputs.items()}, batch, data_time)

    def log(self, outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], data_time: float) -> None:
        """Store the step's outputs and `image_std` as means over all processes; check that the loss is finite.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        if self.device.type == "cuda" and not self.writes_log():
            return  # reading a value from the GPU would stall it at every step
        outputs = {**outputs, "image_std": image_std(batch[self.method.views[0]])}
        means = torch.stack([value.float() for value in outputs.values()])
        if comm.get_world_size() > 1:
            dist.all_reduce(means)
            means /= comm.get_world_size()
        values = dict(zip(outputs, means.tolist(), strict=True))
        check_losses(values, self.iter, DIVERGED)
        self.storage.put_scalars(data_time=data_time, **values)

    def writes_log(self) -> bool:
        """Return whether the writers run after this iteration."""
        done = self.iter + 1
        return done % self.cfg.LOG_PERIOD == 0 or done == self.max_iter
