"""The pre-training loop, on detectron2's engine: `TrainerBase`, its hooks, `EventStorage` and writers."""

import datetime
import logging
import time
import weakref
from collections.abc import Iterator

import torch
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter, get_event_storage
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from mocodet.common.checkpoint import AtomicSaveMixin, load_torch_file
from mocodet.common.launch import distribute

from .build import amp_dtype, build_model, build_optimizer, resolve_device
from .data import EpochSampler, ImageFolder, TwoViews, build_view
from .data.views import normalize
from .schedules import build_lr_scheduler

logger = logging.getLogger("mocodet.pretrain")


class PretrainCheckpointer(AtomicSaveMixin, Checkpointer):
    """Saves and resumes a pre-training run; every state must fit, and nothing in a file is run.

    The random number generators of all processes are saved with it: `save` is collective.
    """

    def save(self, name: str, **kwargs) -> None:
        """Write ``<save_dir>/<name>.pth`` from the main process; all processes must call it."""
        super().save(name, rng=comm.all_gather(rng_state()), **kwargs)

    def _load_file(self, path: str) -> dict:
        return load_torch_file(path)

    def _load_model(self, checkpoint: dict):
        incompatible = super()._load_model(checkpoint)
        # fvcore drops tensors of a wrong shape before it looks for missing ones: each would be told twice.
        misshapen = {name for name, *_ in incompatible.incorrect_shapes}
        faults = [f"{name} of shape {found}, not {mine}" for name, found, mine in incompatible.incorrect_shapes]
        faults += [f"missing {name}" for name in incompatible.missing_keys if name not in misshapen]
        faults += [f"unexpected {name}" for name in incompatible.unexpected_keys]
        if faults:
            shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
            raise ValueError(f"the checkpoint does not fit this config's model: {shown}")
        return incompatible


def rng_state() -> dict[str, torch.Tensor]:
    """Return the state of this process's PyTorch generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Continue from a state returned by `rng_state`; a CUDA state is ignored on a machine without CUDA."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class PretrainTrainer(TrainerBase):
    """Pre-trains the encoder that a config describes, from the images of a folder.

    Call `resume_or_start`, then `train`.

    Args:
        cfg: see `mocodet.pretrain.config`; validated.
        seed: the run's seed, the same in all processes.
    """

    def __init__(self, cfg: CfgNode, seed: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.device = resolve_device(cfg)
        images = ImageFolder(cfg.DATA.ROOT)
        view = build_view(cfg.AUGMENTATION.NAME, cfg.AUGMENTATION.CROP_SIZE, cfg.AUGMENTATION.MIN_SCALE)
        self.dataset = TwoViews(images, view, seed)
        self.sampler = EpochSampler(len(images), cfg.SOLVER.IMS_PER_BATCH, seed)

        # All processes build the same model: DDP would spread parameters, but not the queue.
        torch.manual_seed(seed)
        model = build_model(cfg, seed).to(self.device)
        self.memory_format = torch.channels_last if cfg.MODEL.CHANNELS_LAST else torch.contiguous_format
        model.to(memory_format=self.memory_format)
        self.optimizer = build_optimizer(cfg, model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer, self.sampler.iterations_per_epoch)
        self.model = distribute(model)

        self.dtype = amp_dtype(cfg, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_EPOCHS * self.sampler.iterations_per_epoch
        self.checkpointer = PretrainCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            save_to_disk=comm.is_main_process(),
            optimizer=self.optimizer,
            scaler=self.scaler,
            shuffle=model.shuffle,
            sampler=self.sampler,
            trainer=weakref.proxy(self),
        )
        self.register_hooks(self.build_hooks())
        self._batches: Iterator[dict[str, torch.Tensor]] | None = None
        logger.info(
            f"{len(images)} images of {cfg.DATA.ROOT}, {self.sampler.iterations_per_epoch} iterations an epoch, "
            f"{self.max_iter} in all; {self.device.type}, encoders in {self.dtype}"
        )

    def build_hooks(self) -> list[HookBase]:
        """Make the hooks: timing, schedule, checkpoints, log; the order matters as in detectron2's trainer."""
        period = self.cfg.SOLVER.CHECKPOINT_PERIOD or self.sampler.iterations_per_epoch
        built = [
            hooks.IterationTimer(),
            Throughput(self.cfg.SOLVER.IMS_PER_BATCH),
            hooks.LRScheduler(self.optimizer, self.scheduler),
            hooks.PeriodicCheckpointer(self.checkpointer, period, max_to_keep=self.cfg.SOLVER.CHECKPOINTS_KEPT),
        ]
        if comm.is_main_process():
            writers = [
                PretrainPrinter(self.max_iter, self.sampler.iterations_per_epoch),
                JSONWriter(f"{self.cfg.OUTPUT_DIR}/metrics.json"),
                TensorboardXWriter(self.cfg.OUTPUT_DIR),
            ]
            built.append(hooks.PeriodicWriter(writers, period=self.cfg.LOG_PERIOD))
        return built

    def resume_or_start(self, resume: bool) -> None:
        """Continue from the last checkpoint of OUTPUT_DIR, or begin at iteration 0.

        Args:
            resume: continue when there is a checkpoint; without one, begin.

        Raises:
            FileExistsError: not ``resume``, and OUTPUT_DIR holds the checkpoints of another run.
            ValueError: the checkpoint does not fit the config, the data or the number of processes.
        """
        if not self.checkpointer.has_checkpoint():
            return
        if not resume:
            raise FileExistsError(
                f"{self.cfg.OUTPUT_DIR} already holds a run's checkpoints; continue it with --resume, or give another"
                " OUTPUT_DIR"
            )
        rest = self.checkpointer.load(self.checkpointer.get_checkpoint_file())
        states = rest["rng"]
        if len(states) != comm.get_world_size():
            raise ValueError(
                f"the checkpoint was written by {len(states)} process(es), this run has {comm.get_world_size()}; "
                f"resume with --num-gpus x --num-machines = {len(states)}"
            )
        set_rng_state(states[comm.get_rank()])
        # The checkpoint holds the number of the iteration that just ended.
        self.start_iter = self.iter + 1

    def train(self) -> None:
        """Run from the iteration after the last checkpoint to the end."""
        if self.start_iter >= self.max_iter:
            logger.info(f"nothing to do: {self.start_iter} of {self.max_iter} iterations are done")
            return
        super().train(self.start_iter, self.max_iter)

    def before_train(self) -> None:
        """Open the stream of batches at the first iteration of this run."""
        self.sampler.start_iteration = self.start_iter
        workers = self.cfg.DATA.NUM_WORKERS
        loader = DataLoader(
            self.dataset,
            batch_sampler=self.sampler,
            num_workers=workers,
            pin_memory=self.device.type == "cuda",
            # The loader draws a seed for its workers; the process's own generator must go on as if it did not.
            generator=torch.Generator(),
            # Workers compute on one thread each and never touch the parent's OpenMP pool.
            worker_init_fn=_one_thread if workers else None,
        )
        self._batches = iter(loader)
        self.model.train()
        super().before_train()

    def run_step(self) -> None:
        """Take one step: load, encode, contrast, update."""
        began = time.perf_counter()
        batch = {name: self.prepare(views) for name, views in next(self._batches).items()}
        data_time = time.perf_counter() - began

        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            outputs = self.model(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(outputs["loss"]).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

        self.log({name: value.detach() for name, value in outputs.items()}, data_time)

    def prepare(self, views: torch.Tensor) -> torch.Tensor:
        """Move uint8 views (N x 3 x H x W) to the device and normalise them, in the model's memory format."""
        views = views.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
        return normalize(views)

    def log(self, outputs: dict[str, torch.Tensor], data_time: float) -> None:
        """Store the step's outputs, means over all processes; refuse a loss that is not finite.

        Raises:
            FloatingPointError: the loss is NaN or infinite.
        """
        if self.iter % self.cfg.LOG_PERIOD and self.iter + 1 < self.max_iter and self.device.type == "cuda":
            return  # reading a value from the GPU would stall it at every step
        values = comm.reduce_dict(outputs) if comm.get_world_size() > 1 else outputs
        if not comm.is_main_process():
            return
        values = {name: float(value) for name, value in values.items()}
        if not all(map(torch.isfinite, map(torch.tensor, values.values()))):
            raise FloatingPointError(
                f"iteration {self.iter}: {values}; training diverged. Lower SOLVER.BASE_LR or set SOLVER.PRECISION "
                "float32; the last checkpoint is intact"
            )
        self.storage.put_scalars(data_time=data_time, **values)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


class Throughput(HookBase):
    """Logs ``images_per_second``, over all processes."""

    def __init__(self, images_per_batch: int) -> None:
        self.images_per_batch = images_per_batch

    def after_step(self) -> None:
        """Turn the last iteration's time into a rate."""
        latest = self.trainer.storage.histories().get("time")
        if latest is not None:
            self.trainer.storage.put_scalar("images_per_second", self.images_per_batch / latest.latest())


class PretrainPrinter(EventWriter):
    """Prints a line: progress, time left, images/s, loss, (K+1)-way accuracy, learning rate.

    Args:
        max_iter: iterations of the whole run.
        iterations_per_epoch: to show the epoch.
        window: iterations that the printed medians are taken over.
    """

    def __init__(self, max_iter: int, iterations_per_epoch: int, window: int = 20) -> None:
        self.max_iter = max_iter
        self.iterations_per_epoch = iterations_per_epoch
        self.window = window

    def write(self) -> None:
        """Log one line from the current `EventStorage`."""
        storage = get_event_storage()
        histories = storage.histories()
        fields = [f"epoch {storage.iter / self.iterations_per_epoch:.2f}", f"iter {storage.iter}/{self.max_iter}"]
        if "time" in histories:
            left = histories["time"].median(self.window) * max(0, self.max_iter - 1 - storage.iter)
            fields.append(f"eta {datetime.timedelta(seconds=int(left))}")
            fields.append(f"{histories['images_per_second'].median(self.window):.1f} img/s")
        for name, form in (("loss", ".3f"), ("accuracy", ".1%"), ("lr", ".4g"), ("data_time", ".3f")):
            if name in histories:
                value = histories[name].latest() if name == "lr" else histories[name].median(self.window)
                fields.append(f"{name} {value:{form}}")
        if torch.cuda.is_available():
            fields.append(f"mem {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
        logger.info("  ".join(fields))
