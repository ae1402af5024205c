"""Rewrite the ResNet of a pre-training checkpoint as weights for detectron2.

  mocodet convert output/moco_v2/model_final.pth output/moco_v2.pkl
  mocodet convert --to torchvision output/voc/model_final.pth output/resnet.pth

Checkpoints of MoCo v1 to v3, mocodet, SimSiam, BYOL, Barlow Twins, VICReg, SwAV, DINO, DenseCL, PixPro, VISSL,
solo-learn, lightly, mmselfsup, timm and torchvision are recognised by what they hold (docs/converter.md). Which ResNet
it is (depth, width, groups) is found out and printed with the settings that it needs. With --to torchvision the way
back: the ResNet of a detector as weights for torchvision's.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add input, output and direction."""
    add = parser.add_argument
    add("input", help="checkpoint to read: a file of torch.save or safetensors; a detector's, to go back")
    add(
        "output",
        help="file to write; must end in .pkl for detectron2, and must not for torchvision; one that exists is replaced"
        " on success",
    )
    add("--to", choices=("detectron2", "torchvision"), default="detectron2", help="whose names to write")
    add(
        "--prefix",
        metavar="P",
        help="what stands before 'conv1.weight' in the checkpoint's names (default: found by itself), for example"
        " 'module.encoder_k.'; before 'stem.conv1.weight' in a detector's",
    )
    config = "with --to torchvision: the detector's config (default: config.yaml beside the input, if it is there)"
    add("--config-file", metavar="FILE", help=config)
    skip = "skip the comparison of detectron2's activations with torchvision's"
    add("--no-verify", dest="verify", action="store_false", help=skip)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a config without the direction that reads it, and names that do not stand for what they should."""
    if args.config_file and args.to != "torchvision":
        parser.error("--config-file says what a detector is: it goes with --to torchvision")
    if args.input.startswith("moco://"):
        parser.error(f"{args.input} is a name for MODEL.WEIGHTS, which converts what it stands for; here give a file")
    if args.to == "detectron2" and not args.output.endswith(".pkl"):
        parser.error(f"{args.output}: the output must end in .pkl, by which detectron2 recognises the format")
    if args.to == "torchvision" and args.output.endswith(".pkl"):
        parser.error(f"{args.output}: detectron2 takes a .pkl for its own; give a name such as resnet.pth")
