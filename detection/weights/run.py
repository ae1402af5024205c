"""The command ``mocodet convert``: rewrite an encoder for detectron2 and back, prove it, say how to use it."""

import argparse
import warnings
from collections.abc import Mapping

from mocodet.common.encoders.reading import Encoder
from mocodet.common.errors import errors_in_one_line

from .convert import STAGES, TOLERANCE, Conversion, convert_file, required_config
from .convert_back import BackConversion, convert_back_file


def main(args: argparse.Namespace) -> None:
    """Convert in the direction that the command line asks for, and print what was done."""
    with errors_in_one_line(), warnings.catch_warnings():
        # torch's guess about a damaged file; the error that follows says it better.
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        if args.to == "torchvision":
            back = convert_back_file(
                args.input, args.output, prefix=args.prefix, config_file=args.config_file, check=args.verify
            )
            report = _back_report(back, args)
        else:
            report = _report(convert_file(args.input, args.output, prefix=args.prefix, check=args.verify), args)
    print(report)


def _report(conversion: Conversion, args: argparse.Namespace) -> str:
    encoder = conversion.encoder
    progress = f" ({encoder.progress})" if encoder.progress else ""
    lines = [
        f"{args.input}: {encoder.arch}, {encoder.kind}{progress}, names '{encoder.prefix}*'",
        *(f"  {note}" for note in encoder.notes),
        f"written to {args.output}: {len(conversion.names)} tensors",
        *_left_out(encoder),
        "",
        *_proof(
            conversion.differences,
            "Verified: activations of detectron2's ResNet with the written weights (a) against torchvision's\n"
            "with the checkpoint's (b), on random images; relative difference max|a-b| / max|b|:",
        ),
        "",
        "A detectron2 model that starts from this file needs these settings:",
        *(f"  {key}: {_yaml(value)}" for key, value in required_config(encoder).items()),
    ]
    return "\n".join(lines)


def _back_report(conversion: BackConversion, args: argparse.Namespace) -> str:
    encoder = conversion.encoder
    lines = [
        f"{args.input}: {encoder.arch} of a detectron2 model, names '{conversion.prefix}*'",
        *(f"  {note}" for note in (*conversion.notes, *encoder.notes)),
        f"written to {args.output}: {len(encoder.tensors)} tensors under torchvision's names, without fc",
        *_left_out(encoder),
        "",
        *_proof(
            conversion.differences,
            "Verified: activations of torchvision's ResNet with the written weights (a) against detectron2's\n"
            "with the detector's (b), on random images; relative difference max|a-b| / max|b|:",
        ),
    ]
    return "\n".join(lines)


def _left_out(encoder: Encoder) -> list[str]:
    return [f"  left out: {count} {reason}" for reason, count in encoder.left_out.items()]


def _proof(differences: Mapping[str, float], heading: str) -> list[str]:
    if not differences:
        return ["Not verified (--no-verify)."]
    figures = [f"  {stage}  {differences[stage]:.1e}" for stage in STAGES]
    return [heading, *figures, f"  (at most {TOLERANCE:g} allowed)"]


def _yaml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{number:.3f}" for number in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
