"""Shared code for ``mocodet benchmark``: alternating measurements, device limits, tables and JSON output."""
