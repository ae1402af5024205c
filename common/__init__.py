"""Code shared by pre-training and detection: commands, formats, studies, launching, files and checkpoints."""
