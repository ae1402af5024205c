"""Data sets on the disk as detectron2 and the pre-training expect them: downloaded, unpacked and laid out."""
