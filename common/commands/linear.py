"""Train linear classifiers on the frozen features of a checkpoint (MoCo, section 4.1).

By default, training follows the paper: random crops and flips, 100 epochs, a learning rate of 30 and no weight decay.
The command verifies that the backbone does not change.

  mocodet linear output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8 \\
      --state output/moco_v2/linear.pth --output output/moco_v2/linear.json

With --cached, training is faster: features are computed once, without augmentation, and all classifiers of a sweep are
trained on them together.

  mocodet linear output/moco_v2/model_final.pth --train imagenet/train --val imagenet/val --workers 8 \\
      --cached --lr 30 3 0.3 0.03 --wd 0 1e-4

See docs/evaluation.md.
"""

import argparse

from .arguments import positive
from .features import add_feature_arguments, check_features


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the shared arguments of feature evaluations, and those for training the linear classifiers."""
    add_feature_arguments(parser, "batch size (default: 256)")
    add = parser.add_argument_group("linear classifiers").add_argument
    add("--cached", action="store_true", help="compute the training features only once, without augmentation")
    rates = "learning rates, which are not scaled with the batch size (default: 30)"
    add("--lr", type=positive(float), nargs="+", default=[30.0], metavar="RATE", help=rates)
    decays = "weight decays, each of which is combined with every learning rate (default: 0)"
    add("--wd", type=positive(float, or_zero=True), nargs="+", default=[0.0], metavar="DECAY", help=decays)
    epochs = "number of passes over the training images (default: 100)"
    add("--epochs", type=positive(int), default=100, metavar="N", help=epochs)
    falls = (
        "epochs after which the learning rate is divided by 10, in increasing order (default: 60 %% and 80 %% of"
        " --epochs)"
    )
    add("--steps", type=positive(int), nargs="*", metavar="EPOCH", help=falls)
    add("--state", metavar="FILE", help="save the training state to this file after each epoch, for use with --resume")
    add("--resume", action="store_true", help="resume from the file given by --state, if it exists")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error if --resume lacks --state, or if --steps are not increasing or come after --epochs."""
    check_features(parser, args)
    if args.resume and args.state is None:
        parser.error("--resume requires --state, the file to resume from")
    if args.steps and args.steps != sorted(set(args.steps)):
        parser.error(f"--steps {' '.join(map(str, args.steps))}: expected epochs in increasing order")
    if late := [step for step in args.steps or () if step >= args.epochs]:
        parser.error(
            f"--steps {' '.join(map(str, late))} has no effect, because training ends after {args.epochs} epochs; use"
            " earlier steps or increase --epochs"
        )
