"""What pre-training and detection share because both stand on detectron2's engine: launch, files, checkpoints."""
