"""Removes the checkpoints of a run that newer ones supersede."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

PERIODIC = re.compile(r"model_(\d{7,})\.pth")  # fvcore's file names, with the number of the last iteration

AT_ONCE = 2  # maximum that one save supersedes: one checkpoint, and one that a killed run did not remove

logger = logging.getLogger(__name__)


@dataclass
class Retention:
    """Removes all periodic checkpoints except the newest, milestones, and the one from which ``--resume`` continues.

    Attributes:
        newest: the number of newest checkpoints to keep.
        milestone: a number of iterations; checkpoints at its multiples are also kept. 0 disables milestones.
        spared: file names of checkpoints that an earlier run kept under another setting, and that are not removed.
    """

    newest: int
    milestone: int = 0
    spared: set[str] = field(default_factory=set)

    def superseded(self, names: list[str], last: str) -> list[str]:
        """Return which of the file names in a folder to remove; ``last`` is the name of the last checkpoint."""
        periodic = {int(match[1]): name for name in names if (match := PERIODIC.fullmatch(name))}
        older = sorted(periodic)[: -self.newest]
        return [periodic[number] for number in older if periodic[number] != last and not self._is_milestone(number)]

    def _is_milestone(self, number: int) -> bool:
        return self.milestone > 0 and (number + 1) % self.milestone == 0

    def apply(self, folder: str | Path, last: str) -> None:
        """Remove superseded checkpoints from ``folder``, and log a warning for each one that cannot be removed."""
        found = self.superseded([path.name for path in Path(folder).iterdir()], last)
        found = [name for name in found if name not in self.spared]
        if len(found) > AT_ONCE:
            logger.warning(
                "%s contains %d older checkpoints of a run with another SOLVER.CHECKPOINTS_KEPT, which are kept; remove"
                " those that you do not need",
                *(folder, len(found)),
            )
            self.spared.update(found)
            return
        for name in found:
            try:
                Path(folder, name).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("the superseded checkpoint %s could not be removed: %s", name, error)
            else:
                logger.info("removed the superseded checkpoint %s", name)
