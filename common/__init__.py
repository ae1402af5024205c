"""What pre-training and detection share: commands, formats, studies, launch, files, checkpoints."""
