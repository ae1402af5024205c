"""Detection benchmarks of ``mocodet benchmark``, which compare mocodet with detectron2."""
