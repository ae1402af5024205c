"""Train linear classifiers on the frozen features of a checkpoint (MoCo, section 4.1).

As published: random crops and flips, 100 epochs, rate 30, no weight decay. The backbone is checked not to change.

  mocodet linear output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8 \\
      --state output/moco_v2/linear.pth --output output/moco_v2/linear.json

Faster, without augmentation: features are computed once, and all classifiers of a sweep train on them together.

  mocodet linear output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8 \\
      --cached --lr 30 3 0.3 0.03 --wd 0 1e-4

See docs/evaluation.md.
"""

import argparse

from .arguments import positive
from .features import add_feature_arguments, check_features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the features, and how classifiers are trained."""
    add_feature_arguments(parser, "images in a batch (default: 256)")
    add = parser.add_argument_group("linear classifiers").add_argument
    add("--cached", action="store_true", help="no augmentation: compute the training features once")
    rates = "learning rates, not scaled by the batch size (default: 30)"
    add("--lr", type=positive(float), nargs="+", default=[30.0], metavar="RATE", help=rates)
    decays = "weight decays, each combined with each rate (default: 0)"
    add("--wd", type=positive(float, or_zero=True), nargs="+", default=[0.0], metavar="DECAY", help=decays)
    add("--epochs", type=positive(int), default=100, metavar="N", help="passes over the training images (default: 100)")
    falls = "epochs after which the rate falls to a tenth, in rising order (default: 60 %% and 80 %% of --epochs)"
    add("--steps", type=positive(int), nargs="*", metavar="EPOCH", help=falls)
    add("--state", metavar="FILE", help="write the state to this file after each epoch, for --resume")
    add("--resume", action="store_true", help="continue from the file of --state, if it exists")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse --resume without --state, and steps that do not rise or come after the end."""
    check_features(parser, args)
    if args.resume and args.state is None:
        parser.error("--resume needs --state, the file to continue from")
    if args.steps and args.steps != sorted(set(args.steps)):
        parser.error(f"--steps {' '.join(map(str, args.steps))}; expected epochs in rising order")
    if late := [step for step in args.steps or () if step >= args.epochs]:
        parser.error(
            f"--steps {' '.join(map(str, late))} would do nothing: training ends after {args.epochs} epochs; give lower"
            " ones, or more --epochs"
        )
