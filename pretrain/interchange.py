"""Conversion of checkpoints from and to the format of the original MoCo code (docs/interchange.md).

The original code saves ``{"epoch", "arch", "state_dict", "optimizer"}``. Its parameters have DDP names
(``module.encoder_q.conv1.weight``), and its SGD covers both encoders, although the key encoder never has momentum.
A mocodet checkpoint stores the iteration, names without ``module.``, and an SGD over the query encoder only. State
that the original format does not cover (generators, the stream of images, the schedule) is stored under an additional
key, which the original scripts ignore. Exporting a mocodet checkpoint and importing it again is bit-exact.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torchvision
from detectron2.utils import comm
from torch import Tensor

from mocodet.common.checkpoint import check_fits, errors_about, load_torch_file
from mocodet.common.encoders.find import recorded_method
from mocodet.common.encoders.reading import BATCH_COUNTER, DISTRIBUTED_PREFIX, check_tensor, extract_encoder
from mocodet.common.files import atomic_open
from mocodet.common.states import take_up
from mocodet.common.text import first_few

from .checkpoint import VIEWS_BEFORE, PretrainCheckpointer, check_rng, set_rng_state

logger = logging.getLogger("mocodet.pretrain")

ORIGINAL_KEYS = ("epoch", "arch", "state_dict", "optimizer")

# Key in an exported file for the state that the original format does not cover.
OWN_KEY = "mocodet"

# Alternative to exporting, for checkpoints of METHODs that the original code does not support.
INSTEAD = "linear evaluation, kNN and the converter to detectron2 read mocodet's .pth files directly"


def to_original(checkpoint: Mapping[str, Any], arch: str, iterations_per_epoch: int) -> dict[str, Any]:
    """Convert a mocodet checkpoint to the original format. Tensors are shared, not copied.

    ``epoch`` is the number of completed epochs. The exact iteration is stored under `OWN_KEY`.

    Args:
        checkpoint: a checkpoint of a run with METHOD "moco".
        arch: name of the encoder. The original scripts only support torchvision's names.
        iterations_per_epoch: number of iterations per epoch in the run that saved the checkpoint.

    Raises:
        ValueError: the checkpoint has another METHOD, or contains values from which training cannot continue.
    """
    check_method(recorded_method(checkpoint).get("name", "moco"))  # not recorded in older files
    model = _model_state(checkpoint["model"], "")
    return {
        "epoch": (checkpoint["iteration"] + 1) // iterations_per_epoch,
        "arch": arch,
        "state_dict": OrderedDict((DISTRIBUTED_PREFIX + name, tensor) for name, tensor in model.items()),
        "optimizer": _optimizer_state(checkpoint["optimizer"], model, encoders=1, wanted=2),
        OWN_KEY: {key: value for key, value in checkpoint.items() if key not in ("model", "optimizer")},
    }


def from_original(original: Any, iterations_per_epoch: int) -> dict[str, Any]:
    """Convert a checkpoint in the original format to a mocodet checkpoint. Tensors are shared, not copied.

    This is the inverse of `to_original`. If the original code wrote the file, the result has no ``rng``, ``sampler``,
    ``shuffle`` and ``scaler``, and its iteration is the last one of the completed epochs.

    Args:
        original: the result of `load_torch_file`.
        iterations_per_epoch: number of iterations per epoch in the run to continue.

    Raises:
        ValueError: the file is not in the original format, is not from MoCo v1 or v2, is inconsistent, or contains
            values from which training cannot continue.
    """
    if not isinstance(original, Mapping):
        raise ValueError(f"contains a {type(original).__name__}; expected a dict with {', '.join(ORIGINAL_KEYS)}")
    if missing := [key for key in ORIGINAL_KEYS if key not in original]:
        raise ValueError(
            f"is not in the original format: {', '.join(missing)} missing, found {first_few(list(map(str, original)))};"
            f" expected {', '.join(ORIGINAL_KEYS)}"
        )
    for key in ("state_dict", "optimizer"):
        if not isinstance(original[key], Mapping):
            raise ValueError(f"{key} is a {type(original[key]).__name__}; expected a dict")
    model = _model_state(original["state_dict"], DISTRIBUTED_PREFIX)
    optimizer = _optimizer_state(original["optimizer"], model, encoders=2, wanted=1)
    if OWN_KEY in original:
        own = original[OWN_KEY]
        if not isinstance(own, Mapping) or "iteration" not in own:
            raise ValueError(f"{OWN_KEY!r} is not in the format that mocodet exports; remove the key or export again")
        return {"model": model, "optimizer": optimizer, **own}
    epoch = original["epoch"]
    if not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"epoch is {epoch!r}; expected the number of completed epochs")
    # Older PyTorch versions have fewer options, and newer ones do not always fill in defaults for missing options.
    defaults = torch.optim.SGD([torch.empty(0)]).defaults
    optimizer["param_groups"] = [{**defaults, **group} for group in optimizer["param_groups"]]
    iteration = epoch * iterations_per_epoch - 1
    return {
        "model": model,
        "optimizer": optimizer,
        "trainer": {"iteration": iteration, "hooks": {"LRScheduler": {"last_epoch": iteration + 1}}},
        "iteration": iteration,
    }


def load_original(path: str | PathLike, checkpointer: PretrainCheckpointer, iterations_per_epoch: int) -> None:
    """Load a file in the original format into the states of ``checkpointer`` and this process's random generators.

    States that are missing from the file keep the initial values derived from the seed. A log line lists them.

    Args:
        path: a file that was exported by mocodet or written by the original code (v1 or v2).
        checkpointer: the checkpointer of the run to continue.
        iterations_per_epoch: number of iterations per epoch in this run.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, in another format, or does not match the METHOD, the model, the data or the
            number of processes. No state is modified in this case.
    """
    check_method(checkpointer.model.name)
    original = load_torch_file(path)
    with errors_about(path):
        checkpoint = from_original(original, iterations_per_epoch)
        states = {name: state for name, state in checkpointer.checkpointables.items() if name in checkpoint}
        check_fits(checkpointer.model, checkpoint["model"])
        if "rng" in checkpoint:
            check_rng(checkpoint["rng"])
        if "rng" in checkpoint and len(checkpoint["rng"]) != comm.get_world_size():
            raise ValueError(
                f"exported from a run with {len(checkpoint['rng'])} process(es), but this run has"
                f" {comm.get_world_size()}; start the same number of processes, or remove the state that depends on it"
                " (docs/interchange.md)"
            )
        if "sampler" in checkpoint:
            checkpoint.setdefault("views", VIEWS_BEFORE)
        for name in {"sampler", "views"} & checkpoint.keys():  # loading these only compares settings
            take_up(name, states.pop(name, checkpointer.checkpointables[name]), checkpoint[name])
        if type(checkpoint["iteration"]) is not int or checkpoint["iteration"] < -1:
            raise ValueError(
                f"iteration is {checkpoint['iteration']!r:.60}; expected the number of the last completed iteration"
            )
        checkpointer.model.load_state_dict(checkpoint["model"])
        for name, state in states.items():
            take_up(name, state, checkpoint[name])
    done = checkpoint["iteration"] + 1
    if "rng" in checkpoint:
        set_rng_state(checkpoint["rng"])
        logger.info(f"{path}: exported by mocodet; continuing at iteration {done}")
    else:
        logger.warning(
            f"{path}: written by the original code; continuing at iteration {done} (epoch"
            f" {done / iterations_per_epoch:g}) with its encoders, queue, pointer and momentum. The file does not"
            " record the image order, augmentation, Shuffling BN and random generators, which start from SEED"
        )


def check_method(method: str) -> None:
    """Check that the original format supports checkpoints of a METHOD.

    Raises:
        ValueError: the METHOD is not "moco".
    """
    if method != "moco":
        raise ValueError(f"METHOD {method!r} cannot be exported: only 'moco' has an original format; {INSTEAD}")


def export_file(source: str | PathLike, output: str | PathLike) -> None:
    """Export a mocodet checkpoint to ``output`` in the original format. The file is written atomically.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: ``source`` is damaged, has another METHOD than "moco", has an incomplete encoder, or contains a
            value that is out of range or not finite; or ``output`` is a folder or the same file as ``source``.
    """
    if Path(output).resolve() == Path(source).resolve():
        raise ValueError(f"{output} is the checkpoint itself; export to another file, for example moco.pth.tar")
    if Path(output).is_dir():
        raise ValueError(f"{output} is a folder; expected an output file, for example {Path(output, 'moco.pth.tar')}")
    checkpoint = load_torch_file(source)
    with errors_about(source):
        keys = checkpoint.keys() if isinstance(checkpoint, Mapping) else ()
        if missing := [key for key in ("model", "optimizer", "iteration", "sampler") if key not in keys]:
            raise ValueError(f"is not a checkpoint of a pre-training run: {', '.join(missing)} missing")
        encoder = extract_encoder(checkpoint)
        match checkpoint["sampler"], checkpoint["iteration"]:
            case {"dataset_size": int(size), "batch_size": int(batch)}, int(iteration) if (
                size >= batch > 0 <= iteration
            ):
                original = to_original(checkpoint, encoder.arch, size // batch)
            case _:
                raise ValueError("is not a checkpoint of a pre-training run: it does not record the length of an epoch")
    if encoder.small_stem or not hasattr(torchvision.models, encoder.arch):
        logger.warning(
            f"the original scripts cannot load this file, because torchvision has no {encoder.arch}"
            f"{' with the small stem' if encoder.small_stem else ''}; mocodet pretrain --resume-from can load it"
        )
    with atomic_open(output, "wb") as handle:
        torch.save(original, handle)
    logger.info(f"exported {source} (iteration {checkpoint['iteration']}, epoch {original['epoch']}) to {output}")


def _model_state(tensors: Mapping[str, Any], prefix: str) -> OrderedDict[str, Tensor]:
    """Validate a MoCo state whose names start with ``prefix``; return it under mocodet's names, in the same order.

    Raises:
        ValueError: tensors are missing, a name is unknown, or a value or type is invalid.
    """
    names = [name for name in tensors if isinstance(name, str)]
    encoders = [f"{prefix}{part}" for part in ("encoder_q.", "encoder_k.")]
    missing = [f"{part}*" for part in encoders if not any(name.startswith(part) for name in names)]
    missing += [name for name in (f"{prefix}queue", f"{prefix}queue_ptr") if name not in tensors]
    if missing:
        groups = sorted({".".join(name.split(".")[: 1 + prefix.count(".")]) for name in names})
        raise ValueError(
            f"does not contain a state of MoCo v1 or v2 (METHOD 'moco'): {', '.join(missing)} missing, found"
            f" {first_few(groups)}. Other methods have no original format: {INSTEAD}"
        )
    if foreign := [name for name in tensors if not name.startswith(prefix)]:
        raise ValueError(f"contains names that do not start with {prefix!r}: {first_few(foreign)}")
    for name, tensor in tensors.items():
        counts = name.endswith(BATCH_COUNTER) or name == f"{prefix}queue_ptr"
        check_tensor(name, tensor, [torch.int64 if counts else torch.float32])
    model = OrderedDict((name.removeprefix(prefix), tensor) for name, tensor in tensors.items())
    queue, pointer = model["queue"], model["queue_ptr"]
    if queue.ndim != 2:
        raise ValueError(f"{prefix}queue has shape {tuple(queue.shape)}; expected C x K")
    if tuple(pointer.shape) != (1,) or not 0 <= pointer.item() < queue.shape[1]:
        raise ValueError(
            f"{prefix}queue_ptr is {pointer.tolist()}; expected one index into the queue, 0 to {queue.shape[1] - 1}"
        )
    return model


def _optimizer_state(
    optimizer: Mapping[str, Any], model: Mapping[str, Tensor], *, encoders: int, wanted: int
) -> dict[str, Any]:
    """Convert an SGD state between mocodet's form, which covers one encoder, and the original, which covers both.

    Args:
        optimizer: the state to convert. Its parameters are numbered in the order of ``parameters()``.
        model: tensors under mocodet's names. The order of a state dict is that of ``parameters()``.
        encoders: number of encoders that ``optimizer`` covers, starting with the query encoder.
        wanted: number of encoders that the result should cover.

    Raises:
        ValueError: the state belongs to another optimizer or covers other parameters, or its buffers do not match the
            parameters or are not finite.
    """
    buffers = (".running_mean", ".running_var", BATCH_COUNTER)
    names = [name for name in model if name.startswith("encoder_q.") and not name.endswith(buffers)]
    try:
        (group,) = optimizer["param_groups"]
        places = {number: place for place, number in enumerate(group["params"])}
        momentum = {places[number]: state for number, state in optimizer["state"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("optimizer is not the state of an SGD with one parameter group") from error
    if len(places) != encoders * len(names):
        raise ValueError(
            f"optimizer covers {len(places)} parameters; expected {encoders * len(names)} for"
            f" {'both encoders' if encoders == 2 else 'the query encoder'}"
        )
    for place, state in sorted(momentum.items()):
        if place >= len(names):
            raise ValueError("optimizer contains momentum for the key encoder, which MoCo does not train by gradients")
        if not isinstance(state, Mapping) or set(state) - {"momentum_buffer"}:
            raise ValueError(f"optimizer contains more state for {names[place]} than SGD's momentum_buffer")
        if (buffer := state.get("momentum_buffer")) is not None:
            check_tensor(f"momentum of {names[place]}", buffer, [torch.float32], tuple(model[names[place]].shape))
    return {"state": momentum, "param_groups": [{**group, "params": list(range(wanted * len(names)))}]}
