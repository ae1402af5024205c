"""Which checkpoints of a run are kept."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

PERIODIC = re.compile(r"model_(\d{7,})\.pth")  # fvcore's names, with the number of the last iteration

AT_ONCE = 2  # the most checkpoints that one save supersedes: one, and one that a killed run did not remove

logger = logging.getLogger(__name__)


@dataclass
class Retention:
    """Removes periodic checkpoints except the newest, milestones, and the one from which ``--resume`` continues.

    Attributes:
        newest: number of newest checkpoints to keep.
        milestone: iterations; a checkpoint after a multiple of these is kept, too. 0: none.
        spared: file names of checkpoints that an earlier run kept by another rule; they are kept.
    """

    newest: int
    milestone: int = 0
    spared: set[str] = field(default_factory=set)

    def superseded(self, names: list[str], last: str) -> list[str]:
        """Return the file names in a folder to remove; ``last`` is the name of the last checkpoint."""
        periodic = {int(match[1]): name for name in names if (match := PERIODIC.fullmatch(name))}
        older = sorted(periodic)[: -self.newest]
        return [periodic[number] for number in older if periodic[number] != last and not self._is_milestone(number)]

    def _is_milestone(self, number: int) -> bool:
        return self.milestone > 0 and (number + 1) % self.milestone == 0

    def apply(self, folder: str | Path, last: str) -> None:
        """Remove superseded checkpoints in ``folder``; one that cannot be removed gives a warning, not an error."""
        found = self.superseded([path.name for path in Path(folder).iterdir()], last)
        found = [name for name in found if name not in self.spared]
        if len(found) > AT_ONCE:
            logger.warning(
                "%s holds %d older checkpoints of a run with another SOLVER.CHECKPOINTS_KEPT; they are kept: remove"
                " those that you do not need",
                *(folder, len(found)),
            )
            self.spared.update(found)
            return
        for name in found:
            try:
                Path(folder, name).unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s, which newer checkpoints supersede, could not be removed: %s", name, error)
            else:
                logger.info("removed %s, which newer checkpoints supersede", name)
