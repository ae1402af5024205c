"""One reader for each format of images and annotations; what it finds is told by loader, evaluator and check alike."""

# Pixels from where on Pillow takes an image for one that is made to fill the memory; larger ones have to be asked for.
MAX_PIXELS = 178_956_970
