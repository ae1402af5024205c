"""The hooks of a fine-tuning that differ from detectron2's."""

from collections.abc import Sequence

import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook, PeriodicWriter, PreciseBN
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.utils.data import DataLoader

from mocodet.common.seeds import seed_generators

from ..seeds import Purpose, seed_for


class SeedSteps(HookBase):
    """Seeds the global generators before each step by the run's seed, the iteration and the process.

    What a step draws, such as the anchors and proposals that losses are computed on, then depends on no step before it:
    a checkpoint needs no state of generators, and one written on a GPU fits a CPU. Register it before other hooks.

    Args:
        seed: of the run; not negative.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        """Seed Python's, NumPy's and PyTorch's generators."""
        seed_generators(seed_for(self._seed, Purpose.STEP, self.trainer.iter, comm.get_rank()))


class ResumablePreciseBN(PreciseBN):
    """``PreciseBN`` that a stop changes nothing about, and after which all processes have the same statistics.

    detectron2's goes on with its own stream of images, from the first one in a resumed run. Here it sees the batches
    that the training comes to next, and draws proposals by the iteration.

    It weights each batch's statistics, which are those of all processes, by the local number of values; with images of
    different sizes every process would end with other averages, and evaluate another model than is saved. So all take
    the main process's.

    Args:
        period, model, num_iter: as detectron2's.
        loader: as the training's, with a `TrainingOrder` of its own.
        seed: of the run; not negative.
        micro_batches: of ``loader`` that the training takes in an iteration.
    """

    def __init__(
        self, period: int, model: nn.Module, loader: DataLoader, num_iter: int, *, seed: int, micro_batches: int
    ) -> None:
        super().__init__(period, model, loader, num_iter)
        self._seed = seed
        self._micro_batches = micro_batches

    def update_stats(self) -> None:
        """Estimate ``running_mean`` and ``running_var`` of every norm, then overwrite them by the main process's."""
        following = self.trainer.iter + 1
        self._data_loader.batch_sampler.start = following * self._micro_batches
        self._data_iter = None  # of an earlier estimate
        seed_generators(seed_for(self._seed, Purpose.PRECISE_BN, following, comm.get_rank()))
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
            self.trainer.storage.iter = self.trainer.max_iter  # one more where nothing was left to train
            super().after_train()


class ValuesWriter(PeriodicWriter):
    """``PeriodicWriter`` that also writes right after an evaluation, and nothing twice.

    detectron2's writes the results of an evaluation when its period ends the next time, so a run that is killed before
    loses them.

    Args:
        writers, period: as detectron2's.
        evaluation_period: iterations from an evaluation to the next; 0: there is none before the end.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int, evaluation_period: int) -> None:
        super().__init__(writers, period)
        self._periods = [period, *([evaluation_period] if evaluation_period > 0 else [])]
        self._written = -1

    def after_step(self) -> None:
        """Write when the period, the run or the time between two evaluations ends with this iteration."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            for writer in self._writers:
                writer.write()
            self._written = self.trainer.iter

    def after_train(self) -> None:
        """Write what is new, and close the files."""
        if self.trainer.iter != self._written:
            super().after_train()
            return
        for writer in self._writers:  # an error came after the last write; the next would divide by no iterations
            writer.close()
