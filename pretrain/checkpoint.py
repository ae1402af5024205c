"""Checkpoints of pre-training: saving, resuming, and loading encoders and classifiers."""

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

# View settings assumed for checkpoints that do not record them.
VIEWS_BEFORE = {"augment": "pil", "cache_side": 0}

# Default for older checkpoints, which do not record the warnings that their run has logged.
SIGNS_BEFORE: dict[str, list[str]] = {"told": []}

# Parameters of a ResNet that can be initialised from a checkpoint. All other parameters belong to the head.
BACKBONE = re.compile(r"(?:conv1|bn1|layer\d)\.")

DIVERGED = (
    "Lower SOLVER.BASE_LR or set SOLVER.PRECISION float32, then continue with --resume from the last checkpoint, which"
    " contains only finite values"
)


class PretrainCheckpointer(AtomicSaveMixin, Checkpointer):
    """Saves and resumes a pre-training run. Every saved state must match the run, and loading never executes code.

    A checkpoint includes the random number generators of all processes, which makes `save` a collective operation.
    """

    def __init__(
        self, model: Method, save_dir: str, *, retention: Retention | None = None, **checkpointables: Any
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.retention = retention

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` from the main process. All processes must call this method.

        Raises:
            FloatingPointError: a parameter or buffer is not finite. No file is written.
        """
        check_state(self.model.state_dict(), kwargs.get("iteration"), DIVERGED)
        method = {"name": self.model.name, "encoder": self.model.encoder_name}  # identifies the encoder to transfer
        super().save(name, rng=comm.all_gather(rng_state()), method=method, **kwargs)

    def resume(self) -> None:
        """Load the latest checkpoint into the model, the other states, and this process's random generators.

        Raises:
            FileNotFoundError: the checkpoint does not exist. The message names the newest readable checkpoint.
            ValueError: the checkpoint is damaged (the message names the newest readable checkpoint), or it does not
                match the config, the data or the number of processes.
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
        """Check that a checkpoint matches the METHOD, the model and the number of processes of this run.

        Raises:
            ValueError: an entry is missing or does not match; the message names it.
        """
        name = recorded_method(checkpoint).get("name", self.model.name)  # not recorded in older files
        if name != self.model.name:
            raise ValueError(f"the checkpoint was trained with METHOD {name!r}, but this run uses {self.model.name!r}")
        checkpoint.setdefault("views", VIEWS_BEFORE)
        checkpoint.setdefault("signs", SIGNS_BEFORE)
        # Only float16 runs save a scaler, and they can be resumed in another precision.
        expected = ("model", *self.checkpointables, "rng")
        check_pieces(checkpoint, [name for name in expected if name != "scaler"])
        check_rng(checkpoint["rng"])
        if (written := len(checkpoint["rng"])) != comm.get_world_size():
            raise ValueError(
                f"the checkpoint was written by {written} process(es), but this run has {comm.get_world_size()}; "
                f"resume with --num-gpus x --num-machines (torchrun: --nproc-per-node x --nnodes) = {written}"
            )
        check_fits(self.model, checkpoint["model"])


def rng_state() -> dict[str, torch.Tensor]:
    """Return the state of PyTorch's random generators in this process."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def check_rng(states: Any) -> None:
    """Check that ``rng`` from a file is a list of states in the format of `rng_state`, one for each process.

    Raises:
        ValueError: ``rng`` has another format.
    """
    if not isinstance(states, list):
        raise ValueError(f"rng is a {type(states).__name__}, not a list; {EXPECTED}")
    mine = {"cpu": torch.get_rng_state()}
    for state in states:
        if fault := misfit(state, mine, "rng") or ("" if "cpu" in state else "rng has no state for the CPU generator"):
            raise ValueError(f"{fault}; {EXPECTED}")


def set_rng_state(states: Sequence[dict[str, torch.Tensor]]) -> None:
    """Restore this process's generators from the `rng_state` of all processes. Without CUDA, skip the CUDA state.

    Raises:
        ValueError: an entry is not a valid generator state.
    """
    state = states[comm.get_rank()]
    try:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"rng is not a valid random generator state ({error}); {EXPECTED}") from error


def load_encoder(network: nn.Module, path: str | PathLike) -> Encoder:
    """Initialise the backbone of ``network`` from the encoder in a checkpoint, leaving its head unchanged.

    Args:
        network: a ResNet with torchvision's parameter names, modified in place.
        path: any checkpoint that the converter supports: from pre-training (MoCo's query encoder is loaded), from
            supervised training, or from torchvision.

    Returns:
        the encoder that was loaded.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file contains no complete encoder, the encoder has values that are not finite, or its
            architecture or stem differs from that of ``network``.
    """
    with errors_about("MODEL.WEIGHTS"):
        encoder = read_encoder(path)
    head = {name: tensor for name, tensor in network.state_dict().items() if not BACKBONE.match(name)}
    if misfits := _fill(network, {**encoder.tensors, **head}):
        raise ValueError(
            f"MODEL.WEIGHTS {path} contains a {encoder.arch} that does not match this config's network:"
            f" {first_few(misfits)} differ; set MODEL.ARCH {encoder.arch} MODEL.SMALL_STEM {encoder.small_stem}"
        )
    return encoder


def load_classifier(network: nn.Module, path: str | PathLike) -> int:
    """Load a classifier from a supervised-training checkpoint or a torchvision checkpoint into ``network``.

    Batch counters are left unchanged because they are not used, and older torchvision files do not contain them.

    Returns:
        the number of training iterations that the checkpoint records, or 0 if it records none.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file contains no classifier, or its architecture or number of classes differs.
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
            f"MODEL.WEIGHTS {path} does not match this config's complete classifier: {first_few(misfits)} differ;"
            f" expected a checkpoint of METHOD supervised with {classes} classes and this MODEL.ARCH, such as"
            " OUTPUT_DIR/model_final.pth"
        )
    return content.get("iteration", -1) + 1


def _fill(network: nn.Module, tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Copy ``tensors`` into ``network`` if they match all of its tensors except the batch counters.

    Returns:
        names of the tensors that exist on only one side or differ in shape. If there are any, nothing is copied.
    """
    own = {name: tensor.shape for name, tensor in network.state_dict().items() if not name.endswith(BATCH_COUNTER)}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    misfits = [name for name in {**own, **found} if own.get(name) != found.get(name)]
    if not misfits:
        network.load_state_dict(tensors, strict=False)  # leaves the counters unchanged
    return misfits
