"""Exchange of checkpoints with the original MoCo code (docs/interchange.md).

A file of the original code is ``{"epoch", "arch", "state_dict", "optimizer"}``. Its names are those of DDP
(``module.encoder_q.conv1.weight``), and its SGD covers the parameters of both encoders; those of the key encoder never
have momentum. Our checkpoint has the iteration, names without ``module.`` and an SGD over the query encoder alone.
Whatever the original has no place for (generators, the stream of images, the schedule) goes under one more key, which
its scripts ignore. A checkpoint of ours that is exported and imported again is bit-identical.
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

# An exported file holds the states that only we have under this key.
OWN_KEY = "mocodet"

# What to do with checkpoints of METHODs that the original code does not have.
INSTEAD = "linear evaluation, kNN and the converter to detectron2 read our own .pth directly"


def to_original(checkpoint: Mapping[str, Any], arch: str, iterations_per_epoch: int) -> dict[str, Any]:
    """Return a checkpoint of ours in the original format; tensors are shared, not copied.

    ``epoch`` is the number of completed epochs; the exact iteration is under `OWN_KEY`.

    Args:
        checkpoint: a checkpoint of a run with METHOD "moco".
        arch: name of the encoder; for the original scripts, one of torchvision's.
        iterations_per_epoch: those of the run that saved it.

    Raises:
        ValueError: the checkpoint is of another METHOD, or has values from which no run could continue.
    """
    check_method(recorded_method(checkpoint).get("name", "moco"))  # older files do not record it
    model = _model_state(checkpoint["model"], "")
    return {
        "epoch": (checkpoint["iteration"] + 1) // iterations_per_epoch,
        "arch": arch,
        "state_dict": OrderedDict((DISTRIBUTED_PREFIX + name, tensor) for name, tensor in model.items()),
        "optimizer": _optimizer_state(checkpoint["optimizer"], model, encoders=1, wanted=2),
        OWN_KEY: {key: value for key, value in checkpoint.items() if key not in ("model", "optimizer")},
    }


def from_original(original: Any, iterations_per_epoch: int) -> dict[str, Any]:
    """Return a checkpoint in the original format as one of ours; tensors are shared, not copied.

    This inverts `to_original`. A file of the original code has no ``rng``, ``sampler``, ``shuffle`` and ``scaler``; its
    iteration is the last one of its epochs.

    Args:
        original: the result of `load_torch_file`.
        iterations_per_epoch: those of the run that continues.

    Raises:
        ValueError: it is not in the original format, not MoCo v1 or v2, its parts contradict each other, or it has
            values from which no run could continue.
    """
    if not isinstance(original, Mapping):
        raise ValueError(f"holds a {type(original).__name__}; expected a dict with {', '.join(ORIGINAL_KEYS)}")
    if missing := [key for key in ORIGINAL_KEYS if key not in original]:
        raise ValueError(
            f"is not in the original format: it has no {', '.join(missing)}, but {first_few(list(map(str, original)))};"
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
            raise ValueError(f"{OWN_KEY!r} is not what mocodet exports there; remove the key or export again")
        return {"model": model, "optimizer": optimizer, **own}
    epoch = original["epoch"]
    if not isinstance(epoch, int) or epoch < 0:
        raise ValueError(f"epoch is {epoch!r}; expected the number of completed epochs")
    # An older PyTorch had fewer options, and a newer one does not always use its default for a missing option.
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
    """Load a file in the original format into the states of ``checkpointer`` and this process's generators.

    States that the file lacks keep their initial values from the seed; a line of the log names them.

    Args:
        path: an export of ours, or a file of the original code (v1 or v2).
        checkpointer: that of the run that continues.
        iterations_per_epoch: those of this run.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged or in another format, or does not fit the METHOD, the model, the data or the number of
            processes. Nothing has changed then.
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
                f"exported from a run of {len(checkpoint['rng'])} process(es), this run has {comm.get_world_size()};"
                " start the same number, or remove what depends on it (docs/interchange.md)"
            )
        if "sampler" in checkpoint:
            checkpoint.setdefault("views", VIEWS_BEFORE)
        for name in {"sampler", "views"} & checkpoint.keys():  # they compare and change nothing
            take_up(name, states.pop(name, checkpointer.checkpointables[name]), checkpoint[name])
        if type(checkpoint["iteration"]) is not int or checkpoint["iteration"] < -1:
            raise ValueError(f"iteration is {checkpoint['iteration']!r:.60}; expected the number of the last iteration")
        checkpointer.model.load_state_dict(checkpoint["model"])
        for name, state in states.items():
            take_up(name, state, checkpoint[name])
    done = checkpoint["iteration"] + 1
    if "rng" in checkpoint:
        set_rng_state(checkpoint["rng"])
        logger.info(f"{path}: an export of mocodet, continued at iteration {done}")
    else:
        logger.warning(
            f"{path}: written by the original code, continued at iteration {done} (epoch"
            f" {done / iterations_per_epoch:g}) with its encoders, queue, pointer and momentum; it does not record the"
            " order of images, augmentation, Shuffling BN and random generators, so they start from this run's SEED"
        )


def check_method(method: str) -> None:
    """Refuse a METHOD whose checkpoints the original code could not hold.

    Raises:
        ValueError: it is not "moco".
    """
    if method != "moco":
        raise ValueError(f"METHOD {method!r} has no original format, only 'moco' has; {INSTEAD}")


def export_file(source: str | PathLike, output: str | PathLike) -> None:
    """Write a checkpoint of ours to ``output`` in the original format, atomically.

    Raises:
        FileNotFoundError: ``source`` does not exist.
        ValueError: it is damaged or not of METHOD "moco", its encoder is incomplete, or a value is not finite or out of
            range; or ``output`` is a folder or the same file.
    """
    if Path(output).resolve() == Path(source).resolve():
        raise ValueError(f"{output} is the checkpoint itself; export it to another file, for example moco.pth.tar")
    if Path(output).is_dir():
        raise ValueError(f"{output} is a folder; expected a file to write, for example {Path(output, 'moco.pth.tar')}")
    checkpoint = load_torch_file(source)
    with errors_about(source):
        keys = checkpoint.keys() if isinstance(checkpoint, Mapping) else ()
        if missing := [key for key in ("model", "optimizer", "iteration", "sampler") if key not in keys]:
            raise ValueError(f"is not a checkpoint of a pre-training run: it has no {', '.join(missing)}")
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
            f"the original scripts build networks of torchvision, which has no {encoder.arch}"
            f"{' with the small stem' if encoder.small_stem else ''}: they cannot load this file; --resume-from can"
        )
    with atomic_open(output, "wb") as handle:
        torch.save(original, handle)
    logger.info(
        f"{source}, after iteration {checkpoint['iteration']} (epoch {original['epoch']}), exported to {output}"
    )


def _model_state(tensors: Mapping[str, Any], prefix: str) -> OrderedDict[str, Tensor]:
    """Check a state of MoCo with ``prefix`` before its names; return it under our names, in the same order.

    Raises:
        ValueError: parts are missing, a name is foreign, or no run could have written a value or a type.
    """
    names = [name for name in tensors if isinstance(name, str)]
    encoders = [f"{prefix}{part}" for part in ("encoder_q.", "encoder_k.")]
    missing = [f"{part}*" for part in encoders if not any(name.startswith(part) for name in names)]
    missing += [name for name in (f"{prefix}queue", f"{prefix}queue_ptr") if name not in tensors]
    if missing:
        groups = sorted({".".join(name.split(".")[: 1 + prefix.count(".")]) for name in names})
        raise ValueError(
            f"does not hold a state of MoCo v1 or v2 (METHOD 'moco'): no {', '.join(missing)}, but {first_few(groups)};"
            f" other methods have no original format: {INSTEAD}"
        )
    if foreign := [name for name in tensors if not name.startswith(prefix)]:
        raise ValueError(f"has names that do not begin with {prefix!r}: {first_few(foreign)}")
    for name, tensor in tensors.items():
        counts = name.endswith(BATCH_COUNTER) or name == f"{prefix}queue_ptr"
        check_tensor(name, tensor, [torch.int64 if counts else torch.float32])
    model = OrderedDict((name.removeprefix(prefix), tensor) for name, tensor in tensors.items())
    queue, pointer = model["queue"], model["queue_ptr"]
    if queue.ndim != 2:
        raise ValueError(f"{prefix}queue has shape {tuple(queue.shape)}; expected C x K")
    if tuple(pointer.shape) != (1,) or not 0 <= pointer.item() < queue.shape[1]:
        raise ValueError(
            f"{prefix}queue_ptr is {pointer.tolist()}; expected one place in the queue, from 0 to {queue.shape[1] - 1}"
        )
    return model


def _optimizer_state(
    optimizer: Mapping[str, Any], model: Mapping[str, Tensor], *, encoders: int, wanted: int
) -> dict[str, Any]:
    """Convert the state of an SGD between our form, over one encoder, and the original's, over both.

    Args:
        optimizer: the state to convert; it numbers parameters in the order of ``parameters()``.
        model: tensors under our names; a state dict has the same order.
        encoders: number of encoders that ``optimizer`` covers, the query encoder first.
        wanted: number of encoders that the result covers.

    Raises:
        ValueError: the state is of another optimizer or covers other parameters, or buffers do not fit the parameters
            or are not finite.
    """
    buffers = (".running_mean", ".running_var", BATCH_COUNTER)
    names = [name for name in model if name.startswith("encoder_q.") and not name.endswith(buffers)]
    try:
        (group,) = optimizer["param_groups"]
        places = {number: place for place, number in enumerate(group["params"])}
        momentum = {places[number]: state for number, state in optimizer["state"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("optimizer is not the state of an SGD with one group of parameters") from error
    if len(places) != encoders * len(names):
        raise ValueError(
            f"optimizer covers {len(places)} parameters; expected {encoders * len(names)}, those of"
            f" {'both encoders' if encoders == 2 else 'the query encoder'}"
        )
    for place, state in sorted(momentum.items()):
        if place >= len(names):
            raise ValueError("optimizer holds momentum of the key encoder, which MoCo does not train by gradients")
        if not isinstance(state, Mapping) or set(state) - {"momentum_buffer"}:
            raise ValueError(f"optimizer holds more for {names[place]} than SGD's momentum_buffer")
        if (buffer := state.get("momentum_buffer")) is not None:
            check_tensor(f"momentum of {names[place]}", buffer, [torch.float32], tuple(model[names[place]].shape))
    return {"state": momentum, "param_groups": [{**group, "params": list(range(wanted * len(names)))}]}
