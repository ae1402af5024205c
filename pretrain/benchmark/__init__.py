"""Parts of ``mocodet benchmark`` that pre-training has: what it does beside a plain reference."""
