"""The keys that the plugin adds to a detectron2 config."""

from detectron2.config import CfgNode


def add_moco_config(cfg: CfgNode) -> None:
    """Add the plugin's keys, with their defaults, to a detectron2 config (in place)."""
    cfg.MODEL.DILATED_C5 = CfgNode()
    # Channels of the 3x3 convolution that the dilated-C5 backbone appends to res5.
    cfg.MODEL.DILATED_C5.OUT_CHANNELS = 512

    cfg.MOCO = CfgNode()
    # Data sets to register, a list of mappings. Pascal VOC layout:
    #   {NAME: ..., KIND: voc, ROOT: folder that holds Annotations/ ImageSets/ JPEGImages/, SPLIT: file name in
    #    ImageSets/Main without .txt, CLASSES: [...], YEAR: 2007 or 2012 (which AP to compute; default 2007)}
    # COCO JSON:
    #   {NAME: ..., KIND: coco, JSON: annotation file, IMAGES: folder, CLASSES: [...] (optional; checked against
    #    the categories of the file in the order of their ids)}
    # On the command line: MOCO.DATASETS "[{'NAME': 'mine_train', 'KIND': 'voc', 'ROOT': ..., ...}]"
    cfg.MOCO.DATASETS = []
    # What to compute in when SOLVER.AMP.ENABLED: "bfloat16" (CPU and GPU) or "float16" (GPU; scales the loss).
    cfg.MOCO.AMP_DTYPE = "bfloat16"
