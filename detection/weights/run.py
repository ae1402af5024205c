"""The command ``mocodet convert``: converts an encoder for detectron2 or back, verifies it, and describes its use."""

import argparse
import warnings

from mocodet.common.encoders.reading import Encoder
from mocodet.common.errors import errors_in_one_line

from .convert import BATCH_NORM_EPSILON, TOLERANCE, Conversion, convert_file
from .convert_back import convert_back_file
from .settings import encoder_settings, required_config


def main(args: argparse.Namespace) -> None:
    """Convert in the direction given on the command line, and print the result."""
    with errors_in_one_line(), warnings.catch_warnings():
        # Hide torch's guess about a damaged file, because the error that follows is clearer.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        options = {"prefix": args.prefix, "check": args.verify}
        if args.to == "torchvision":
            conversion = convert_back_file(args.input, args.output, config_file=args.config_file, **options)
        else:
            conversion = convert_file(args.input, args.output, **options)
    print("\n".join(_report(conversion, args)))


def _report(conversion: Conversion, args: argparse.Namespace) -> list[str]:
    encoder = conversion.encoder
    back = args.to == "torchvision"
    progress = f" ({encoder.progress})" if encoder.progress else ""
    lines = [
        f"{args.input}: {encoder.arch}, {encoder.kind}{progress}, names '{encoder.prefix}*'",
        *(f"  {note}" for note in encoder.notes),
        f"written to {args.output}: {len(encoder.tensors)} tensors under {args.to}'s names{', without fc' * back}",
        *(f"  left out: {count} {reason}" for reason, count in encoder.left_out.items()),
        "",
    ]
    if conversion.differences:
        lines += [
            f"Verified: activations of {args.to}'s ResNet with the written weights (a) and of"
            f" {'detectron2' if back else 'torchvision'}'s",
            "ResNet with the original weights (b) on random images. Relative difference max|a-b| / max|b|:",
            *(f"  {stage}  {difference:.1e}" for stage, difference in conversion.differences.items()),
            f"  (at most {TOLERANCE:g} allowed)",
        ]
    else:
        lines.append("Not verified (--no-verify).")
    return lines if back else [*lines, "", *_settings(encoder)]


def _settings(encoder: Encoder) -> list[str]:
    """List the settings that a config requires, and the source of each."""
    assumed = encoder_settings(encoder).assumed
    lines = [
        f"  {key + ': ' + _yaml(value):<52}  # {'assumed' if key in assumed else 'known'}"
        for key, value in required_config(encoder).items()
    ]
    source = "recorded by mocodet" if encoder.is_ours else "determined from the tensors"
    remarks = [f"Known: {source}. The norms are batch norm, so MODEL.RESNETS.NORM can be FrozenBN, BN or SyncBN."]
    if assumed:
        remarks += [
            "Assumed: not recorded in the checkpoint. ImageNet's pixel mean and deviation and a batch norm epsilon of",
            f"{BATCH_NORM_EPSILON:g} are common. If the training used other values, set those. The strides must be",
            "torchvision's, because mocodet train refuses others.",
        ]
    overrides = " ".join(f"{key} {_word(value)}" for key, value in required_config(encoder).items())
    return [
        "A detectron2 model that starts from this file requires these settings:",
        *lines,
        *remarks,
        f"On the command line: {overrides}",
    ]


def _word(value: object) -> str:
    return f'"{value}"' if isinstance(value, list) else str(value)


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{number:.3f}" for number in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
