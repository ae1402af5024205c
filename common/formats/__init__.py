"""One reader for each format of images and annotations; loaders, evaluators and checks report its findings."""

# Pixels above which Pillow suspects an image of exhausting the memory; the user must allow larger ones.
MAX_PIXELS = 178_956_970
