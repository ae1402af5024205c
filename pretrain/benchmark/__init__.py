"""The parts of ``mocodet benchmark`` that compare pre-training with a plain reference implementation."""
