"""Fine-tuning hooks that differ from detectron2's."""

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
    """Seeds the global generators before each step with the run's seed, the iteration and the process rank.

    The random choices of a step, such as the anchors and proposals on which losses are computed, therefore do not
    depend on earlier steps. A checkpoint requires no generator state, and one written on a GPU can be resumed on a CPU.
    Register this hook before the others.

    Args:
        seed: the seed of the run; not negative.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        """Seed the generators of Python, NumPy and PyTorch."""
        seed_generators(seed_for(self._seed, Purpose.STEP, self.trainer.iter, comm.get_rank()))


class ResumablePreciseBN(PreciseBN):
    """``PreciseBN`` that gives the same result in a resumed run, and the same statistics on all processes.

    detectron2's hook reads a separate stream of images, which starts over in a resumed run. This hook uses the next
    batches of the training, and the iteration determines the seed of the proposals.

    ``PreciseBN`` weights each batch's statistics, which are computed over all processes, by the local number of values.
    With images of different sizes, each process would get different averages and evaluate a model that differs from the
    saved one. All processes therefore use the averages of the main process.

    Args:
        period, model, num_iter: as in detectron2's hook.
        loader: a loader like that of the training, with its own `TrainingOrder`.
        seed: the seed of the run; not negative.
        micro_batches: number of micro-batches of ``loader`` in a training iteration.
    """

    def __init__(
        self, period: int, model: nn.Module, loader: DataLoader, num_iter: int, *, seed: int, micro_batches: int
    ) -> None:
        super().__init__(period, model, loader, num_iter)
        self._seed = seed
        self._micro_batches = micro_batches

    def update_stats(self) -> None:
        """Estimate ``running_mean`` and ``running_var`` of every norm, then use those of the main process."""
        following = self.trainer.iter + 1
        self._data_loader.batch_sampler.start = following * self._micro_batches
        self._data_iter = None  # discard the iterator of an earlier estimate
        seed_generators(seed_for(self._seed, Purpose.PRECISE_BN, following, comm.get_rank()))
        super().update_stats()
        if comm.get_world_size() > 1:
            for norm in get_bn_modules(self._model):
                dist.broadcast(norm.running_mean, src=0)
                dist.broadcast(norm.running_var, src=0)


class EvalAfterGoodEnd(EvalHook):
    """``EvalHook`` that evaluates after the last iteration only if that iteration succeeded.

    detectron2's hook also evaluates if the last iteration failed, for example because weights are not finite.
    """

    def after_train(self) -> None:
        """Evaluate, unless the training ended with an error."""
        if self.trainer.iter >= self.trainer.max_iter:
            self.trainer.storage.iter = self.trainer.max_iter  # one higher if no iteration was left to train
            super().after_train()


class ValuesWriter(PeriodicWriter):
    """``PeriodicWriter`` that also writes immediately after an evaluation, and never writes the same values twice.

    detectron2's hook writes the results of an evaluation at the end of its next period, so a run that is killed before
    then loses them.

    Args:
        writers, period: as in detectron2's hook.
        evaluation_period: number of iterations between two evaluations; 0 means none before the end.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int, evaluation_period: int) -> None:
        super().__init__(writers, period)
        self._periods = [period, *([evaluation_period] if evaluation_period > 0 else [])]
        self._written = -1

    def after_step(self) -> None:
        """Write if the period, the run or the interval between two evaluations ends with this iteration."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            for writer in self._writers:
                writer.write()
            self._written = self.trainer.iter

    def after_train(self) -> None:
        """Write new values, and close the files."""
        if self.trainer.iter != self._written:
            super().after_train()
            return
        for writer in self._writers:  # an error followed the last write; writing again would divide by zero iterations
            writer.close()
