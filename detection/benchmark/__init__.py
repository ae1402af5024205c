"""Parts of ``mocodet benchmark`` that detection has: what it does beside detectron2."""
