"""`mocodet-convert`: rewrite a pre-training checkpoint for detectron2 and back, prove the result, say how to use it."""

import argparse
import warnings
from collections.abc import Mapping, Sequence

from mocodet.common.encoder_file import Encoder
from mocodet.common.errors import errors_in_one_line

from .convert import STAGES, TOLERANCE, Conversion, convert_file, required_config
from .convert_back import BackConversion, convert_back_file
from .weights import PREFIX


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.config_file and args.to != "torchvision":
        parser.error("--config-file says what a detector is: it goes with --to torchvision")
    if args.input.startswith(PREFIX):
        parser.error(f"{args.input} is a name for MODEL.WEIGHTS, which converts what it stands for; here give a file")
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mocodet-convert",
        description="Rewrite the ResNet of a pre-training checkpoint as weights for detectron2. Checkpoints of MoCo v1"
        " to v3, mocodet, SimSiam, BYOL, Barlow Twins, VICReg, SwAV, DINO, DenseCL, PixPro, VISSL, solo-learn, lightly,"
        " mmselfsup, timm and torchvision are recognised by what they hold (docs/converter.md). Which ResNet it is"
        " (depth, width, groups) is found out and printed with the settings that it needs. With --to torchvision the"
        " way back: the ResNet of a detector as weights for torchvision's.",
    )
    parser.add_argument(
        "input", help="checkpoint to read: a file of torch.save or safetensors; a detector's, to go back"
    )
    parser.add_argument(
        "output",
        help="file to write; must end in .pkl for detectron2, and must not for torchvision; one that exists is replaced"
        " on success",
    )
    parser.add_argument(
        "--to", choices=("detectron2", "torchvision"), default="detectron2", help="whose names to write"
    )
    parser.add_argument(
        "--prefix",
        metavar="P",
        help="what stands before 'conv1.weight' in the checkpoint's names (default: found by itself), for example"
        " 'module.encoder_k.'; before 'stem.conv1.weight' in a detector's",
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="with --to torchvision: the detector's config (default: config.yaml beside the input, if it is there)",
    )
    parser.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="skip the comparison of detectron2's activations with torchvision's",
    )
    return parser


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
