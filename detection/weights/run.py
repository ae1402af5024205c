"""The command ``mocodet convert``: convert an encoder for detectron2 or back, verify it, and say how to use it."""

import argparse
import warnings

from mocodet.common.encoders.reading import Encoder
from mocodet.common.errors import errors_in_one_line

from .convert import BATCH_NORM_EPSILON, TOLERANCE, Conversion, convert_file
from .convert_back import convert_back_file
from .settings import encoder_settings, required_config


def main(args: argparse.Namespace) -> None:
    """Convert in the direction that the command line asks for, and print the result."""
    with errors_in_one_line(), warnings.catch_warnings():
        # torch's guess about a damaged file; the error that follows is clearer.
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
            f"Verified: activations of {args.to}'s ResNet with the written weights (a) against"
            f" {'detectron2' if back else 'torchvision'}'s",
            "with the input's (b), on random images; relative difference max|a-b| / max|b|:",
            *(f"  {stage}  {difference:.1e}" for stage, difference in conversion.differences.items()),
            f"  (at most {TOLERANCE:g} allowed)",
        ]
    else:
        lines.append("Not verified (--no-verify).")
    return lines if back else [*lines, "", *_settings(encoder)]


def _settings(encoder: Encoder) -> list[str]:
    """List the settings that a config needs, and the source of each."""
    assumed = encoder_settings(encoder).assumed
    lines = [
        f"  {key + ': ' + _yaml(value):<52}  # {'assumed' if key in assumed else 'known'}"
        for key, value in required_config(encoder).items()
    ]
    source = "mocodet made the checkpoint" if encoder.is_ours else "the tensors show it"
    remarks = [f"Known: {source}. The norms are batch norm: MODEL.RESNETS.NORM may be FrozenBN, BN or SyncBN."]
    if assumed:
        remarks += [
            "Assumed: the checkpoint does not say it. ImageNet's pixels, torchvision's strides, and a batch norm that",
            f"adds {BATCH_NORM_EPSILON:g} to variances are usual. If its training differed, set its own values.",
        ]
    overrides = " ".join(f"{key} {_word(value)}" for key, value in required_config(encoder).items())
    return [
        "A detectron2 model that starts from this file needs these settings:",
        *lines,
        *remarks,
        f"On a command line: {overrides}",
    ]


def _word(value: object) -> str:
    return f'"{value}"' if isinstance(value, list) else str(value)


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{number:.3f}" for number in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
