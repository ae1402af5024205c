"""What the parts of ``mocodet benchmark`` share: measuring in turn, the limits of a device, tables and JSON."""
