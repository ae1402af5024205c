"""Convert the ResNet of a pre-training checkpoint to weights for detectron2.

  mocodet convert output/moco_v2/model_final.pth output/moco_v2.pkl
  mocodet convert --to torchvision output/voc/model_final.pth output/resnet.pth

Checkpoints of MoCo v1 to v3, mocodet, SimSiam, BYOL, Barlow Twins, VICReg, SwAV, DINO, DenseCL, PixPro, VISSL,
solo-learn, lightly, mmselfsup, timm and torchvision are recognised by their content (see docs/converter.md). The
command detects the ResNet variant (depth, width and groups) and prints the config settings that the variant requires.
With --to torchvision, the command converts the ResNet of a detector to weights for torchvision.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the input, the output, and the direction of the conversion."""
    add = parser.add_argument
    source = "checkpoint to convert, saved by torch.save or safetensors; with --to torchvision, that of a detector"
    add("input", help=source)
    add(
        "output",
        help="output file, with the extension .pkl for detectron2 or any other for torchvision; an existing file is"
        " replaced if the conversion succeeds",
    )
    library = "library to convert the weights for (default: detectron2)"
    add("--to", choices=("detectron2", "torchvision"), default="detectron2", help=library)
    add(
        "--prefix",
        metavar="P",
        help="prefix of 'conv1.weight' in the parameter names of the checkpoint, such as 'module.encoder_k.', or of"
        " 'stem.conv1.weight' for a detector (default: detected automatically)",
    )
    config = "with --to torchvision: config of the detector (default: config.yaml in the input's folder, if it exists)"
    add("--config-file", metavar="FILE", help=config)
    skip = "do not verify that detectron2 and torchvision compute the same activations"
    add("--no-verify", dest="verify", action="store_false", help=skip)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if ``--config-file`` would not be used, or if a file name does not match the format."""
    if args.config_file and args.to != "torchvision":
        parser.error("--config-file describes a detector and can only be used with --to torchvision")
    if args.input.startswith("moco://"):
        parser.error(f"{args.input} is a name for MODEL.WEIGHTS, which is converted automatically; pass a file instead")
    if args.to == "detectron2" and not args.output.endswith(".pkl"):
        parser.error(f"{args.output}: the output must end in .pkl, by which detectron2 recognises the format")
    if args.to == "torchvision" and args.output.endswith(".pkl"):
        parser.error(
            f"{args.output}: the output must not end in .pkl, which is detectron2's own format; use a name such as"
            " resnet.pth"
        )
