"""Rewrite the ResNet of a pre-training checkpoint as weights for detectron2.

  mocodet convert output/moco_v2/model_final.pth output/moco_v2.pkl
  mocodet convert --to torchvision output/voc/model_final.pth output/resnet.pth

Checkpoints of MoCo v1 to v3, mocodet, SimSiam, BYOL, Barlow Twins, VICReg, SwAV, DINO, DenseCL, PixPro, VISSL,
solo-learn, lightly, mmselfsup, timm and torchvision are recognised by their content (docs/converter.md). The command
finds out which ResNet it is (depth, width, groups) and prints the settings that it needs. With --to torchvision it
writes the ResNet of a detector as weights for torchvision's ResNet.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add input, output and direction."""
    add = parser.add_argument
    add("input", help="checkpoint to read, a file of torch.save or safetensors; with --to torchvision a detector's")
    add(
        "output",
        help="file to write: .pkl for detectron2, any other suffix for torchvision; an existing file is replaced on"
        " success",
    )
    add("--to", choices=("detectron2", "torchvision"), default="detectron2", help="whose parameter names to write")
    add(
        "--prefix",
        metavar="P",
        help="prefix of 'conv1.weight' in the checkpoint's names, such as 'module.encoder_k.', or of"
        " 'stem.conv1.weight' in a detector's (default: detected)",
    )
    config = "with --to torchvision: the detector's config (default: config.yaml beside the input, if it exists)"
    add("--config-file", metavar="FILE", help=config)
    skip = "skip the comparison of detectron2's activations with torchvision's"
    add("--no-verify", dest="verify", action="store_false", help=skip)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse a config for the direction that reads none, and file names that do not fit the formats."""
    if args.config_file and args.to != "torchvision":
        parser.error("--config-file describes a detector; give it with --to torchvision only")
    if args.input.startswith("moco://"):
        parser.error(f"{args.input} is a name for MODEL.WEIGHTS, which converts the file by itself; give a file here")
    if args.to == "detectron2" and not args.output.endswith(".pkl"):
        parser.error(f"{args.output}: the output must end in .pkl, which tells detectron2 the format")
    if args.to == "torchvision" and args.output.endswith(".pkl"):
        parser.error(f"{args.output}: detectron2 reads a .pkl as its own format; give a name such as resnet.pth")
