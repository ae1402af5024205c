"""Checkpoints of pre-training: saving, resuming, and reading encoders and classifiers from them."""

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import torch
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from mocodet.common.checkpoint import AtomicSaveMixin, check_fits, errors_about
from mocodet.common.divergence import check_state
from mocodet.common.encoders.find import recorded_method
from mocodet.common.encoders.reading import (
    BATCH_COUNTER,
    DISTRIBUTED_PREFIX,
    STATE_KEYS,
    Encoder,
    read_checkpoint,
    read_encoder,
)
from mocodet.common.recovery import load_last
from mocodet.common.retention import Retention
from mocodet.common.states import EXPECTED, check_pieces, misfit, take_up
from mocodet.common.text import first_few

from .methods import Method

# How views were made before checkpoints recorded it.
VIEWS_BEFORE = {"augment": "pil", "cache_side": 0}

# For checkpoints that do not record which signs their run warned of.
SIGNS_BEFORE: dict[str, list[str]] = {"told": []}

# The part of a ResNet that a checkpoint may start; the rest is a head.
BACKBONE = re.compile(r"(?:conv1|bn1|layer\d)\.")

DIVERGED = (
    "Lower SOLVER.BASE_LR or set SOLVER.PRECISION float32, and continue with --resume from the last checkpoint, whose"
    " numbers are all finite"
)


class PretrainCheckpointer(AtomicSaveMixin, Checkpointer):
    """Saves and resumes a pre-training run; every state must fit, and no code in a file is run.

    The random number generators of all processes are saved too, so `save` is collective.
    """

    def __init__(
        self, model: Method, save_dir: str, *, retention: Retention | None = None, **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.retention = retention

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` from the main process; all processes must call it.

        Raises:
            FloatingPointError: a parameter or buffer is not finite. Nothing is written.
        """
        check_state(self.model.state_dict(), kwargs.get("iteration"), DIVERGED)
        method = {"name": self.model.name, "encoder": self.model.encoder_name}  # so that others find the encoder
        super().save(name, rng=comm.all_gather(rng_state()), method=method, **kwargs)

    def resume(self) -> None:
        """Load the latest checkpoint into the model, the other states and this process's generators.

        Raises:
            FileNotFoundError: the checkpoint does not exist; the message names the newest one that can be read.
            ValueError: it is damaged (the message names the newest one that can be read), or it does not fit the
                config, the data or the number of processes.
        """
        path, checkpoint = load_last(self.save_dir)
        self.logger.info(f"resuming from {path}")
        with errors_about(path):
            self._check_pieces(checkpoint)
            self.model.load_state_dict(checkpoint["model"])
            for name, holder in self.checkpointables.items():
                if name in checkpoint:
                    take_up(name, holder, checkpoint[name])
            set_rng_state(checkpoint["rng"])

    def _check_pieces(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that is not of this run's METHOD, model and number of processes.

        Raises:
            ValueError: the message says which piece is missing or wrong.
        """
        name = recorded_method(checkpoint).get("name", self.model.name)  # older files do not record it
        if name != self.model.name:
            raise ValueError(f"the checkpoint is of METHOD {name!r}, this run is of {self.model.name!r}")
        checkpoint.setdefault("views", VIEWS_BEFORE)
        checkpoint.setdefault("signs", SIGNS_BEFORE)
        # Only float16 runs save a scaler, and they may be continued in another precision.
        expected = ("model", *self.checkpointables, "rng")
        check_pieces(checkpoint, [name for name in expected if name != "scaler"])
        check_rng(checkpoint["rng"])
        if (written := len(checkpoint["rng"])) != comm.get_world_size():
            raise ValueError(
                f"the checkpoint was written by {written} process(es), this run has {comm.get_world_size()}; "
                f"resume with --num-gpus x --num-machines (torchrun: --nproc-per-node x --nnodes) = {written}"
            )
        check_fits(self.model, checkpoint["model"])


def rng_state() -> dict[str, torch.Tensor]:
    """Return the state of this process's PyTorch generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def check_rng(states: Any) -> None:
    """Check that ``rng`` in a file holds states as `rng_state` returns them, for one process or several.

    Raises:
        ValueError: it holds something else.
    """
    if not isinstance(states, list):
        raise ValueError(f"rng is a {type(states).__name__}, not a list; {EXPECTED}")
    mine = {"cpu": torch.get_rng_state()}
    for state in states:
        if fault := misfit(state, mine, "rng") or ("" if "cpu" in state else "rng has no state of the CPU's generator"):
            raise ValueError(f"{fault}; {EXPECTED}")


def set_rng_state(states: Sequence[dict[str, torch.Tensor]]) -> None:
    """Restore this process's generators from the `rng_state` of all processes; without CUDA, ignore a CUDA state.

    Raises:
        ValueError: it is not the state of a generator.
    """
    state = states[comm.get_rank()]
    try:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"rng is not the state of a random generator ({error}); {EXPECTED}") from error


def load_encoder(network: nn.Module, path: str | PathLike) -> Encoder:
    """Initialise the backbone of ``network`` from the encoder in a checkpoint; its head or classifier is unchanged.

    Args:
        network: a ResNet with torchvision's names; changed in place.
        path: any checkpoint that the converter reads: from pre-training (the query encoder of MoCo), from supervised
            training, or torchvision's own.

    Returns:
        the encoder that was read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no complete and finite encoder, or one with another architecture or stem.
    """
    with errors_about("MODEL.WEIGHTS"):
        encoder = read_encoder(path)
    head = {name: tensor for name, tensor in network.state_dict().items() if not BACKBONE.match(name)}
    if misfits := _fill(network, {**encoder.tensors, **head}):
        raise ValueError(
            f"MODEL.WEIGHTS {path} holds a {encoder.arch}, which is not this config's network: {first_few(misfits)}"
            f" differ; set MODEL.ARCH {encoder.arch} MODEL.SMALL_STEM {encoder.small_stem}"
        )
    return encoder


def load_classifier(network: nn.Module, path: str | PathLike) -> int:
    """Fill ``network``, with its classifier, from a checkpoint of supervised training or one of torchvision's own.

    Batch counters are unchanged: nothing reads them, and torchvision's older files have none.

    Returns:
        the number of iterations after which the checkpoint was written; 0 if it does not record it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no classifier, or one with another architecture or number of classes.
    """
    with errors_about("MODEL.WEIGHTS"):
        checkpoint = read_checkpoint(path)
    content = checkpoint if isinstance(checkpoint, Mapping) else {}
    child = recorded_method(content).get("encoder", "encoder")
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    found = {
        str(name).removeprefix(DISTRIBUTED_PREFIX).removeprefix(f"{child}."): tensor
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor) and not str(name).endswith(BATCH_COUNTER)
    }
    if misfits := _fill(network, found):
        classes = network.get_parameter("fc.bias").numel()
        raise ValueError(
            f"MODEL.WEIGHTS {path} does not match this config's whole classifier: {first_few(misfits)} differ; expected"
            f" a checkpoint of METHOD supervised with {classes} classes and this MODEL.ARCH, such as"
            " OUTPUT_DIR/model_final.pth"
        )
    return content.get("iteration", -1) + 1


def _fill(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Copy ``tensors`` into ``network`` if they match all its tensors except the batch counters.

    Returns:
        names of the tensors that are on one side only or differ in shape; if there are any, nothing was copied.
    """
    own = {name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith(BATCH_COUNTER)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    misfits = [name for name in {**own, **found} if own.get(name) != found.get(name)]
    if not misfits:
        network.load_state_dict(tensors, strict=False)  # leaves the counters unchanged
    return misfits
