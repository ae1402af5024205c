"""Which of a run's checkpoints stay."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

PERIODIC = re.compile(r"model_(\d{7,})\.pth")  # as fvcore names them, by the iteration that just ended

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Removes periodic checkpoints, but not the newest, nor milestones, nor the one that ``--resume`` goes on from.

    Attributes:
        newest: how many stay.
        milestone: iterations; a checkpoint after a multiple of so many stays, too. 0: none.
    """

    newest: int
    milestone: int = 0

    def superseded(self, names: list[str], last: str) -> list[str]:
        """Return those of a folder's file names that are to be removed; ``last`` is that of the last checkpoint."""
        periodic = {int(match[1]): name for name in names if (match := PERIODIC.fullmatch(name))}
        older = sorted(periodic)[: -self.newest]
        return [periodic[number] for number in older if periodic[number] != last and not self._is_milestone(number)]

    def _is_milestone(self, number: int) -> bool:
        return self.milestone > 0 and (number + 1) % self.milestone == 0

    def apply(self, folder: str | Path, last: str) -> None:
        """Remove what is superseded in ``folder``; a file that cannot be removed is warned of, and ends no training."""
        for name in self.superseded([path.name for path in Path(folder).iterdir()], last):
            try:
                Path(folder, name).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s, which newer checkpoints supersede, stays: %s", name, error)
            else:
                logger.info("removed %s, which newer checkpoints supersede", name)
