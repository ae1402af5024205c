"""The checkpointer of fine-tuning: also reads unconverted encoders, runs no code from files, checks every tensor."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qs, urlparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock
from detectron2.utils.file_io import Detectron2Handler
from torch import nn

from mocodet.common.checkpoint import AtomicSaveMixin, check_fits, errors_about, load_torch_file
from mocodet.common.divergence import check_state
from mocodet.common.encoders.find import holds_encoder
from mocodet.common.encoders.reading import BATCH_COUNTER, DISTRIBUTED_PREFIX, extract_encoder
from mocodet.common.recovery import load_last
from mocodet.common.retention import Retention
from mocodet.common.states import EXPECTED, check_pieces, misfit, take_up
from mocodet.common.text import first_few

from ..data.classes import Classes, to_checkpoint
from ..weights.addresses import is_address, local_copy
from ..weights.arrays import load_array_pickle
from ..weights.convert import ENCODER_PART, to_detectron2
from ..weights.settings import (
    ASSUMED_KEY,
    FORMAT_KEY,
    SETTINGS_KEY,
    STRIDE_KEY,
    Settings,
    refuse_other_format,
    resnet_config,
    stored_settings,
)

# Left over whenever MSRA's R-50.pkl is loaded: the first convolution of Caffe's ResNet-50 has a bias. detectron2's has
# none and has always dropped it; the batch norm that follows comes from the file.
CAFFE_SURPLUS = {"stem.conv1.bias"}

# Not by --resume: the weights and momentum of the last checkpoint may already be diverging.
DIVERGED = "Start again with a lower SOLVER.BASE_LR or a longer warm-up (SOLVER.WARMUP_ITERS)"

# Key of a checkpoint's classes.
CLASSES_KEY = "classes"

# Key of the ResNet's architecture in a checkpoint that was converted while loading.
ARCH_KEY = "__arch__"


class MocoDetCheckpointer(AtomicSaveMixin, DetectionCheckpointer):
    """detectron2's checkpointer with eight differences.

    * A run resumes from its complete last checkpoint, or the error says which part is not as a run writes it.
    * ``MODEL.WEIGHTS`` may name an unconverted pre-training checkpoint. Its contents identify it, and it is converted
      while loading (`extract_encoder` says what is accepted). detectron2's own files are read as usual, and so is a
      file that uses the model's own parameter names, even if they look like an encoder's.
    * No file runs code: ``.pth`` is read with ``weights_only``, ``.pkl`` by an unpickler that accepts only arrays and
      plain containers.
    * A ResNet parameter that only the model or only the file has is an error. The rest of a detector (heads, FPN,
      added norms) may be missing and is then initialised at random, unless the file must give the whole detector.
    * A detector with other classes or another head gives what fits: the ResNet wherever it is (a C4 detector has its
      last stage in the region head), and the rest by name and shape. The log says what is initialised at random and
      what is left over.
    * Weights are refused if their bottlenecks have the stride in the other convolution than the model's (detectron2's
      default and torchvision's networks differ in this), or if they are known to be for images with other channels:
      they would load, but compute something else. Another mean or deviation, or other channels that are only assumed,
      give a warning, which ``mismatch`` keeps. Our checkpoints record their image format.
    * Weights that are not finite are not saved.
    * A checkpoint records its classes, so that one file is enough to use the model (`from_checkpoint`).

    Args:
        model, save_dir, checkpointables: as detectron2's.
        classes: the classes that the model learns; saved with it.
        whole_detector: every parameter of the model must come from the file, as for an evaluation.
        retention: which older checkpoints are removed when a new one is saved; None removes none.
    """

    _parsed_url_during_load: Any

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        classes: Classes | None = None,
        whole_detector: bool = False,
        retention: Retention | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.retention = retention
        self._classes = classes
        self._whole_detector = whole_detector
        self.mismatch = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` from the main process.

        Raises:
            DivergenceError: a parameter or buffer is not finite. Nothing is written.
        """
        if self.save_to_disk:
            check_state(self.model.state_dict(), kwargs.get("iteration"), DIVERGED)
        classes = {} if self._classes is None else {CLASSES_KEY: to_checkpoint(self._classes)}
        super().save(name, **{SETTINGS_KEY: _settings(self.model), **classes}, **kwargs)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With ``resume``, continue from the last saved checkpoint if there is one; else `load` ``path``.

        Raises:
            FileNotFoundError, ValueError: the last checkpoint is gone or damaged (the message names an older one), or
                it is not a complete checkpoint of a run with this model.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        last, checkpoint = load_last(self.save_dir)
        self.logger.info(f"Resuming from {last}")
        with errors_about(last):
            self._take_up(checkpoint)
        return checkpoint

    def _take_up(self, checkpoint: dict[str, Any]) -> None:
        """Restore the model and the other states from a complete checkpoint of a run.

        Raises:
            ValueError: the message says which part is missing, or is not as a run of this config writes it.
        """
        check_pieces(checkpoint, ("model", *self.checkpointables))
        check_fits(self.model, checkpoint["model"])
        if fault := misfit(checkpoint.get(SETTINGS_KEY, {}), _settings(self.model), SETTINGS_KEY):
            raise ValueError(f"{fault}; {EXPECTED}")
        self._check_settings(stored_settings(checkpoint))
        self.model.load_state_dict(checkpoint["model"])
        for name, holder in self.checkpointables.items():
            take_up(name, holder, checkpoint[name])

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load ``path`` (a file, an address, see `local_copy`, a name that detectron2 knows, or ``""``) into the model.

        Raises:
            FileNotFoundError: ``path`` names a local file that does not exist.
            ConnectionError: it could not be downloaded.
            ValueError: the file is damaged, would run code, or does not fit the model's ResNet; see the class.
        """
        if path and is_address(path):
            path = local_copy(path)
        local = urlparse(path)._replace(query="").geturl()
        if local and "://" not in local and not Path(local).is_file():
            raise FileNotFoundError(f"no checkpoint at {local}; correct MODEL.WEIGHTS, or make the file first")
        try:
            return super().load(path, *args, **kwargs)
        except URLError as error:
            address = path.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX)
            raise ConnectionError(
                f"MODEL.WEIGHTS {path} could not be downloaded ({error.reason}); without a network, fetch"
                f" {address} elsewhere and give the file as MODEL.WEIGHTS"
            ) from error
        finally:
            self._parsed_url_during_load = None  # detectron2 keeps it after an error, and then refuses to load again

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read ``filename`` into ``{"model": name -> array or tensor, ...}``."""
        if filename.endswith(".pkl"):
            return self._read_pickle(filename)
        loaded = load_torch_file(filename)
        if holds_encoder(loaded) and not self._is_models_own(loaded):
            return self._converted(loaded, filename)
        if not isinstance(loaded, dict):
            raise ValueError(f"{filename} holds a {type(loaded).__name__}; expected a dict with tensors by name")
        if "model_state" in loaded:  # pycls
            model = {name: value for name, value in loaded["model_state"].items() if "num_batches_tracked" not in name}
            return {"model": model, "__author__": "pycls", "matching_heuristics": True}
        if "model" not in loaded:
            loaded = {"model": loaded}
        url = self._parsed_url_during_load
        options = parse_qs(url.query)
        if options.pop("matching_heuristics", []) == ["True"]:
            loaded["matching_heuristics"] = True
        if options:
            raise ValueError(f"{url.geturl()}: unknown options {sorted(options)}; known: 'matching_heuristics'")
        return loaded

    def _is_models_own(self, loaded: dict[str, Any]) -> bool:
        """Tell whether a file holds parameters under this model's names, as a checkpoint of this training does."""
        own = {name for name, _ in self.model.named_parameters()}
        state = loaded["model"] if isinstance(loaded.get("model"), dict) else loaded
        return any(str(name).removeprefix(DISTRIBUTED_PREFIX) in own for name in state)

    def _converted(self, loaded: Any, filename: str) -> dict[str, Any]:
        with errors_about(filename):
            encoder = extract_encoder(loaded)
            weights = to_detectron2(encoder)
        self.logger.info(f"Converting the {encoder.kind} ({encoder.arch}) in '{filename}' for detectron2")
        for note in encoder.notes:
            self.logger.info(f"  {note}")
        return {**weights, ARCH_KEY: encoder.arch}

    def _read_pickle(self, filename: str) -> dict[str, Any]:
        data = load_array_pickle(filename)
        if "model" in data and "__author__" in data:  # detectron2's model zoo, and ours
            self.logger.info(f"Reading a file from '{data['__author__']}'")
            return data
        # Caffe2: a detector keeps its arrays under "blobs", an ImageNet model at the top level.
        blobs = data.get("blobs", data)
        model = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
        return {"model": model, "__author__": "Caffe2", "matching_heuristics": True}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        author, arch = checkpoint.get("__author__"), checkpoint.pop(ARCH_KEY, None)
        self._check_settings(stored_settings(checkpoint))
        for key in (SETTINGS_KEY, ASSUMED_KEY):
            checkpoint.pop(key, None)
        if not checkpoint.get("matching_heuristics"):
            checkpoint["model"] = self._in_place(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        lacking = {*incompatible.missing_keys, *(name for name, *_ in incompatible.incorrect_shapes)}
        mine = [name for name in self.model.state_dict() if not name.endswith(BATCH_COUNTER)]  # nothing reads these
        self.logger.info(
            f"Of the model's {len(mine)} parameters and buffers the file gives {sum(n not in lacking for n in mine)};"
            f" {len(incompatible.unexpected_keys)} of the file are left over"
        )
        missing = sorted(lacking.intersection(mine))
        if missing and self._whole_detector:
            raise ValueError(
                f"the file does not hold this whole detector: left without a fitting value: {first_few(missing, 10)}."
                " To evaluate a fine-tuned detector, set MODEL.WEIGHTS to its checkpoint and give the config that it"
                " was trained with"
            )
        missing = [name for name in missing if ENCODER_PART.search(name)]
        ignored = CAFFE_SURPLUS if author == "Caffe2" else ()
        surplus = sorted(
            name
            for name in incompatible.unexpected_keys
            if ENCODER_PART.search(name) and not name.endswith(BATCH_COUNTER) and name not in ignored
        )
        if missing or surplus:
            settings = " ".join(f"{key} {value}" for key, value in resnet_config(arch).items()) if arch else ""
            raise ValueError(
                "the weights do not fit the model's ResNet: "
                f"left without a value in the model: {first_few(missing, 10)}; left over in the file:"
                f" {first_few(surplus, 10)}."
                " Compare MODEL.RESNETS (DEPTH, NORM) and the backbone with the file named by MODEL.WEIGHTS"
                + (f"; the {arch} in it needs {settings}" if arch else "")
            )
        return incompatible

    def _check_settings(self, theirs: Settings) -> None:
        """Compare this model with the settings that the weights were trained with, as far as they are known.

        Raises:
            ValueError: the strides are in other convolutions, or see `refuse_other_format`. Nothing has been loaded.
        """
        ours = _settings(self.model)
        different = [key for key, value in ours.items() if theirs.values.get(key) not in (None, value)]
        if STRIDE_KEY in different:
            theirs_in, ours_in = ("1x1", "3x3") if theirs.values[STRIDE_KEY] else ("3x3", "1x1")
            raise ValueError(
                f"the weights are of a ResNet with the stride in the {theirs_in} convolutions; the model has it in the"
                f" {ours_in} convolutions ({first_few([*_strided_blocks(self.model)])}) and would compute something"
                f" else; set {theirs.remedy}"
            )
        refuse_other_format(theirs, ours.get(FORMAT_KEY))
        if different:
            self.mismatch = (
                f"The weights were trained on images with other settings than the model's"
                f" {', '.join(f'{key} {ours[key]}' for key in different)}. Unless this is intended, set {theirs.remedy}"
            )
            self.logger.warning(self.mismatch)

    def _in_place(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a file's tensors, with a detector's ResNet renamed to this model's parameter names.

        A detector without FPN has its ResNet in ``backbone``, and a C4 detector the last stage in ``roi_heads``; others
        have it in ``backbone.bottom_up``. A part that occurs twice in the file, such as in a teacher and a student,
        keeps its name, and so does a ResNet outside a detector.
        """
        mine = self.model.state_dict().keys()
        place = {match[1]: name for name in mine if (match := ENCODER_PART.search(name))}
        names = {name: name.removeprefix(DISTRIBUTED_PREFIX) for name in state}
        part_of = {name: match[1] for name in state if (match := ENCODER_PART.search(names[name])) and match.start(1)}
        once = {part for part, times in Counter(part_of.values()).items() if times == 1}
        moved = {
            name: place[part]
            for name, part in part_of.items()
            if part in once and part in place and names[name] not in mine
        }
        if moved:
            one, there = next(iter(moved.items()))
            self.logger.info(
                f"{len(moved)} tensors of the file's ResNet have other names in the model: {one} becomes {there}"
            )
        return {moved.get(name, name): value for name, value in state.items()}


def _strided_blocks(model: nn.Module) -> dict[str, BottleneckBlock | DeformBottleneckBlock]:
    """Return by name those bottlenecks of a model that have a stride in either convolution."""
    bottlenecks = (BottleneckBlock, DeformBottleneckBlock)
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, bottlenecks)}
    return {name: block for name, block in blocks.items() if {*block.conv1.stride, *block.conv2.stride} != {1}}


def _settings(model: nn.Module) -> dict[str, Any]:
    """Return the settings, of those in `REQUIRED_CONFIG`, that a detectron2 model has.

    A ResNet without bottlenecks has no stride in a 1x1 convolution to compare.
    """
    found: dict[str, Any] = {"INPUT.FORMAT": getattr(model, "input_format", None)}
    for name in ("pixel_mean", "pixel_std"):
        if (per_channel := getattr(model, name, None)) is not None:
            found[f"MODEL.{name.upper()}"] = [round(value, 3) for value in per_channel.flatten().tolist()]
    for block in _strided_blocks(model).values():  # all have the same
        found[STRIDE_KEY] = tuple(block.conv1.stride) != (1, 1)
    return {key: value for key, value in found.items() if value is not None}
