"""`mocodet-convert`: rewrite a pre-training checkpoint for detectron2, prove the result, say how to use it."""

import argparse
import warnings
from collections.abc import Sequence

from mocodet.common.errors import errors_in_one_line

from .convert import STAGES, TOLERANCE, Conversion, convert_file, required_config


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    args = _parser().parse_args(argv)
    with errors_in_one_line(), warnings.catch_warnings():
        # torch's guess about a damaged file; the error that follows says it better.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        conversion = convert_file(args.input, args.output, prefix=args.prefix, check=args.verify)
    print(_report(conversion, args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mocodet-convert",
        description="Rewrite the encoder of a MoCo checkpoint (original format or mocodet's own, v1 or v2), of a"
        " supervised one of mocodet-pretrain, or a torchvision ResNet, as weights for detectron2. Which ResNet it is"
        " (depth, width, groups) is found out and printed with the settings that it needs.",
    )
    parser.add_argument("input", help="checkpoint to read: original .pth.tar, or .pth of mocodet-pretrain")
    parser.add_argument("output", help="file to write; must end in .pkl; one that exists is replaced on success")
    parser.add_argument(
        "--prefix",
        metavar="P",
        help="what stands before 'conv1.weight' in the checkpoint's names (default: found by itself), for example"
        " 'module.encoder_k.'",
    )
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="skip the comparison of detectron2's activations with the encoder's",
    )
    return parser


def _report(conversion: Conversion, args: argparse.Namespace) -> str:
    encoder = conversion.encoder
    lines = [
        f"{args.input}: {encoder.arch}, {encoder.kind}"
        + (f" ({encoder.progress})" if encoder.progress else "")
        + f", names '{encoder.prefix}*'",
        f"written to {args.output}: {len(conversion.names)} tensors",
        *(f"  left out: {count} {reason}" for reason, count in encoder.left_out.items()),
        "",
    ]
    if conversion.differences:
        lines.append("Verified: activations of detectron2's ResNet with the written weights (a) against torchvision's")
        lines.append("with the checkpoint's (b), on random images; relative difference max|a-b| / max|b|:")
        lines.extend(f"  {stage}  {conversion.differences[stage]:.1e}" for stage in STAGES)
        lines.append(f"  (at most {TOLERANCE:g} allowed)")
    else:
        lines.append("Not verified (--no-verify).")
    lines += ["", "A detectron2 model that starts from this file needs these settings:"]
    lines.extend(f"  {key}: {_yaml(value)}" for key, value in required_config(encoder).items())
    return "\n".join(lines)


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{number:.3f}" for number in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
