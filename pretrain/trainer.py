"""The pre-training loop, based on detectron2's `TrainerBase`, hooks, `EventStorage` and writers."""

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

from mocodet.common.checkpoint import holds_checkpoint, name_of_last, refuse_other_run
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
    """Trains the encoder described by a config on images from a folder or from shards.

    Call `resume_or_start` first, then `train`.

    Args:
        cfg: a validated config with a non-negative SEED; see `mocodet.pretrain.config`.
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

        # All processes build the same model, because DDP would broadcast the parameters but not the queue.
        torch.manual_seed(cfg.SEED)
        self.method = METHODS[cfg.METHOD].from_config(cfg, data).to(self.device).to(memory_format=memory_format(cfg))
        self.optimizer = build_optimizer(cfg, self.method)
        self.scheduler = RecipeLR(cfg, self.optimizer, self.sampler.iterations_per_epoch)
        self.model = distribute(self.method)

        torch.backends.cudnn.benchmark = self.device.type == "cuda"  # all training batches have the same shape
        self.dtype = amp_dtype(cfg, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

        self._loaders = ExitStack()  # stops the loader processes; if they were killed, files would remain in TMPDIR
        self.start_iter = 0
        self.batches_to_fill = 0  # batches used before the first iteration; see `start_from`
        self.max_iter = max_iterations(cfg, self.sampler.iterations_per_epoch)
        if (warmup := warmup_iterations(cfg)) >= self.max_iter:
            logger.warning(
                f"the learning-rate warm-up takes {warmup} iterations, but the run has only {self.max_iter} and never"
                f" reaches SOLVER.BASE_LR {cfg.SOLVER.BASE_LR:g}: lower SOLVER.WARMUP_ITERS or train longer"
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
            # Omitted in other precisions, so that a run can be continued in any precision.
            **({"scaler": self.scaler} if self.scaler.is_enabled() else {}),
        )
        self.register_hooks(self.build_hooks())
        logger.info(
            f"{data.size} images of {cfg.DATA.ROOT or cfg.DATA.SHARDS}, {self.sampler.iterations_per_epoch} iterations"
            f" per epoch, {self.max_iter} in total; device {self.device.type}, encoders in {self.dtype}"
        )

    def build_hooks(self) -> list[HookBase]:
        """Build the hooks for timing, schedule, checkpoints and logging, in the order of detectron2's trainer."""
        evaluators = self.build_evaluators()
        built = [
            hooks.IterationTimer(),
            Throughput(self.cfg.SOLVER.IMS_PER_BATCH),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            # Evaluators and writers run before the checkpoint of the same iteration: a run that is killed before their
            # results are written repeats that iteration.
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
        """Number of iterations between checkpoints."""
        return self.cfg.SOLVER.CHECKPOINT_PERIOD or self.sampler.iterations_per_epoch

    def build_evaluators(self) -> list[Evaluator]:
        """Build the hooks that periodically evaluate the encoder on labelled images."""
        cfg, epoch, built = self.cfg, self.sampler.iterations_per_epoch, []
        if cfg.KNN.TRAIN_ROOT or cfg.KNN.DATASET:
            built.append(KNNMonitor(cfg, epoch))
        if cfg.DATA.VAL_ROOT:
            split = open_validation(cfg, self.classes)
            built.append(ClassificationEvaluator(cfg, self.method.encoder_to_transfer, split, epoch))
        return built

    def resume_or_start(self, resume: bool, original: str = "") -> None:
        """Continue from the last checkpoint in OUTPUT_DIR, or start at iteration 0 (from MODEL.WEIGHTS, if set).

        The optimizer uses the learning rate, momentum and weight decay of the config, even if the checkpoint has
        others. See `start_from` for MODEL.WEIGHTS.

        Args:
            resume: whether to continue if there is a checkpoint.
            original: a file in the original MoCo format to continue from if OUTPUT_DIR contains no checkpoint.

        Raises:
            FileExistsError: ``resume`` is false, but OUTPUT_DIR contains the checkpoints of another run.
            ValueError: the checkpoint does not match the config, the data or the number of processes.
        """
        found = comm.all_gather(self.checkpointer.has_checkpoint())
        if len(set(found)) > 1:
            raise ValueError(
                f"only some processes can read the checkpoint in {self.cfg.OUTPUT_DIR}; use a folder shared by all"
            )
        if not resume:
            refuse_other_run(self.cfg.OUTPUT_DIR)
        if found[0]:
            self.checkpointer.resume()
        elif original:
            load_original(original, self.checkpointer, self.sampler.iterations_per_epoch)
        else:
            if resume:
                logger.warning(
                    f"--resume was given, but {self.cfg.OUTPUT_DIR} contains no checkpoint: starting at iteration 0"
                )
            if self.cfg.MODEL.WEIGHTS:
                self.start_from(self.cfg.MODEL.WEIGHTS)
            return
        self.start_iter = self.iter + 1  # the checkpoint records the number of the last completed iteration
        self._apply_config()

    def start_from(self, path: str) -> None:
        """Initialise all encoders with the backbone from a checkpoint of any kind that the converter supports.

        Heads keep their initial values, which depend on the seed. Before training, the queue or bank is filled with
        vectors of real images, from the batches that precede the first training batch in the stream.

        Raises:
            FileNotFoundError, ValueError: see `load_encoder` and `Method.check_copies`.
        """
        self.method.check_copies()
        encoder = load_encoder(self.method.encoder_to_transfer, path)
        self.method.copy_encoder()
        entries = max(self.method.to_fill().values(), default=0)
        self.batches_to_fill = -(-entries // self.cfg.SOLVER.IMS_PER_BATCH)
        started = ", ".join((self.method.encoder_name, *self.method.encoder_copies))
        told = "; ".join([f"{started} initialised from {path} ({encoder.kind})", *encoder.notes, "random head"])
        logger.log(logging.WARNING if encoder.signs else logging.INFO, told)

    def _apply_config(self) -> None:
        """Set the optimizer and the schedule to the values of this config instead of those in the checkpoint."""
        solver = self.cfg.SOLVER
        for group in self.optimizer.param_groups:
            group.update(initial_lr=solver.BASE_LR, momentum=solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY)
        self.scheduler.base_lrs = [solver.BASE_LR] * len(self.optimizer.param_groups)
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_lr(), strict=True):
            group["lr"] = lr

    def train(self) -> None:
        """Train from the iteration after the last checkpoint to the end of the run."""
        with self.status.watched(), tracebacks_in_log_file(), mishaps_told():
            self._train()

    def _train(self) -> None:
        if self.start_iter >= self.max_iter:
            logger.info(f"nothing to train: {self.start_iter} of {self.max_iter} iterations are already completed")
            # A run may have been stopped between its last periodic checkpoint and the final one. If the run was
            # extended, the final one of its earlier end exists.
            final = Path(self.cfg.OUTPUT_DIR, "model_final.pth")
            if not comm.all_gather(final.is_file() and name_of_last(final.parent) == final.name)[0]:
                self.checkpointer.save("model_final", iteration=self.iter)
            return
        with self._loaders:
            super().train(self.start_iter, self.max_iter)

    def before_train(self) -> None:
        """Open the stream of batches at this run's first iteration, or earlier to fill a queue or bank."""
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
        """Replace the initial noise in the queue or bank with vectors of real images from the preceding batches."""
        what = ", ".join(f"{name} ({entries} entries)" for name, entries in self.method.to_fill().items())
        batches = range(self.batches_to_fill)
        logger.info(f"filling {what} with vectors of real images from {len(batches)} batches")
        began = time.perf_counter()
        for _ in progress(batches, "batch", len(batches)) if comm.is_main_process() else batches:
            batch = self.delivery.next()
            with self.autocast():
                self.method.fill(batch)
            self.delivery.fetch_ahead()
        logger.info(f"filling took {duration(time.perf_counter() - began)}")

    def autocast(self) -> torch.autocast:
        """Return the autocast context for the encoders."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def run_step(self) -> None:
        """Run one training step: load a batch, compute the loss, and update the parameters.

        Raises:
            ValueError: more images are unreadable than DATA.MAX_UNREADABLE allows. The message contains the path of the
                list of these images.
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
            self.delivery.fetch_ahead()  # before logging, which may have to wait for the step

        self.log({name: value.detach() for name, value in outputs.items()}, batch, data_time)

    def log(self, outputs: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], data_time: float) -> None:
        """Store the outputs of the step and `image_std`, averaged over all processes, and check the loss.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        if self.device.type == "cuda" and not self.writes_log():
            return  # reading a value from the GPU in every step would stall it
        outputs = {**outputs, "image_std": image_std(batch[self.method.views[0]])}
        means = torch.stack([value.float() for value in outputs.values()])
        if comm.get_world_size() > 1:
            dist.all_reduce(means)
            means /= comm.get_world_size()
        values = dict(zip(outputs, means.tolist(), strict=True))
        check_losses(values, self.iter, DIVERGED)
        self.storage.put_scalars(data_time=data_time, **values)

    def writes_log(self) -> bool:
        """Return whether the log is written after this iteration."""
        done = self.iter + 1
        return done % self.cfg.LOG_PERIOD == 0 or done == self.max_iter
