"""One reader for each format of images and annotations; what it finds is told by loader, evaluator and check alike."""
