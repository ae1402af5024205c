"""The parts of ``mocodet benchmark`` that time pre-training against a plain reference."""
