"""Which of a run's checkpoints stay."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

PERIODIC = re.compile(r"model_(\d{7,})\.pth")  # as fvcore names them, by the iteration that just ended

AT_ONCE = 2  # checkpoints that one save supersedes at most: one, and one of a run that was killed before it removed it

logger = logging.getLogger(__name__)


@dataclass
class Retention:
    """Removes periodic checkpoints, but not the newest, nor milestones, nor the one that ``--resume`` goes on from.

    Attributes:
        newest: how many stay.
        milestone: iterations; a checkpoint after a multiple of so many stays, too. 0: none.
        spared: file names of checkpoints that an earlier run kept by another rule; they stay.
    """

    newest: int
    milestone: int = 0
    spared: set[str] = field(default_factory=set)

    def superseded(self, names: list[str], last: str) -> list[str]:
        """Return those of a folder's file names that are to be removed; ``last`` is that of the last checkpoint."""
        periodic = {int(match[1]): name for name in names if (match := PERIODIC.fullmatch(name))}
        older = sorted(periodic)[: -self.newest]
        return [periodic[number] for number in older if periodic[number] != last and not self._is_milestone(number)]

    def _is_milestone(self, number: int) -> bool:
        return self.milestone > 0 and (number + 1) % self.milestone == 0

    def apply(self, folder: str | Path, last: str) -> None:
        """Remove what is superseded in ``folder``; a file that cannot be removed is warned of, and ends no training."""
        found = self.superseded([path.name for path in Path(folder).iterdir()], last)
        found = [name for name in found if name not in self.spared]
        if len(found) > AT_ONCE:
            logger.warning(
                "%s holds %d older checkpoints that a run with another SOLVER.CHECKPOINTS_KEPT left; they stay: remove"
                " those that you do not need",
                *(folder, len(found)),
            )
            self.spared.update(found)
            return
        for name in found:
            try:
                Path(folder, name).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s, which newer checkpoints supersede, stays: %s", name, error)
            else:
                logger.info("removed %s, which newer checkpoints supersede", name)
