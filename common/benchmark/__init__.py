"""Shared code of ``mocodet benchmark``: alternating measurements, the limits of a device, tables and JSON."""
