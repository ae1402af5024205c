"""A rehearsal, which trains with every config for three iterations, resumes and evaluates, on small data and a CPU."""

from tests.rehearsal.report import summary, table
from tests.rehearsal.run import Outcome, leaf_configs, rehearse
from tests.rehearsal.stand_ins import make_stand_ins

__all__ = ["Outcome", "leaf_configs", "make_stand_ins", "rehearse", "summary", "table"]
