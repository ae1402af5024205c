"""Checkpointer for fine-tuning: reads unconverted encoders, never runs code from files, and checks every tensor."""

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

# Always unused when MSRA's R-50.pkl is loaded. The first convolution of Caffe's ResNet-50 has a bias, which
# detectron2's lacks and has always dropped. The batch norm that follows is loaded from the file.
CAFFE_SURPLUS = {"stem.conv1.bias"}

# Not with --resume, because the weights and momentum of the last checkpoint may already be diverging.
DIVERGED = "Start again with a lower SOLVER.BASE_LR or a longer warm-up (SOLVER.WARMUP_ITERS)"

# Key of the classes in a checkpoint.
CLASSES_KEY = "classes"

# Key of the ResNet's architecture in a checkpoint that is converted while loading.
ARCH_KEY = "__arch__"


class MocoDetCheckpointer(AtomicSaveMixin, DetectionCheckpointer):
    """detectron2's checkpointer with eight differences.

    * A run resumes from its complete last checkpoint, or an error identifies the part that is missing or invalid.
    * ``MODEL.WEIGHTS`` may be an unconverted pre-training checkpoint, which is recognised by its contents and converted
      while loading (see `extract_encoder` for the supported formats). detectron2's own files are read as usual. So are
      files that use the model's own parameter names, even if these resemble an encoder's.
    * Files cannot run code: ``.pth`` files are read with ``weights_only``, and ``.pkl`` files with an unpickler that
      accepts only arrays and plain containers.
    * A ResNet parameter that exists only in the model or only in the file is an error. Other parts of a detector
      (heads, FPN, added norms) may be missing and are then initialised at random, unless the file must provide the
      complete detector.
    * From a detector with different classes or a different head, all parameters that fit are loaded: the ResNet
      regardless of its position (a C4 detector has the last stage in the region head), and other parameters by name and
      shape. The log reports what is initialised at random and what is unused.
    * Weights are rejected if their bottlenecks have the stride in a different convolution than the model's (as in
      detectron2's default compared to torchvision's networks), or if they are known to be for images with different
      channels. Such weights would load, but compute different results. A different mean or deviation, or different
      channels that are only assumed, cause a warning, which is stored in ``mismatch``. mocodet's checkpoints record
      their image format.
    * Weights that are not finite are not saved.
    * A checkpoint records its classes, so a single file is sufficient to use the model (`from_checkpoint`).

    Args:
        model, save_dir, checkpointables: as in detectron2's checkpointer.
        classes: the classes that the model learns, which are saved with it.
        whole_detector: whether the file must provide every parameter of the model, as for an evaluation.
        retention: determines which older checkpoints are removed when a new one is saved; None removes none.
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
        """Resume from the last saved checkpoint if ``resume`` is set and one exists; otherwise `load` ``path``.

        Raises:
            FileNotFoundError, ValueError: the last checkpoint is missing or damaged (the message names an older one),
                or it is not a complete checkpoint of a run with this model.
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
            ValueError: a part of the checkpoint is missing or differs from what a run of this config writes.
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
        """Load ``path`` (a file, a URL (see `local_copy`), a name in detectron2's catalog, or ``""``) into the model.

        Raises:
            FileNotFoundError: ``path`` is a local file that does not exist.
            ConnectionError: the file could not be downloaded.
            ValueError: the file is damaged, would run code, or does not fit the model's ResNet; see the class.
        """
        if path and is_address(path):
            path = local_copy(path)
        local = urlparse(path)._replace(query="").geturl()
        if local and "://" not in local and not Path(local).is_file():
            raise FileNotFoundError(
                f"the checkpoint {local} does not exist; correct MODEL.WEIGHTS, or create the file first"
            )
        try:
            return super().load(path, *args, **kwargs)
        except URLError as error:
            address = path.replace(Detectron2Handler.PREFIX, Detectron2Handler.S3_DETECTRON2_PREFIX)
            raise ConnectionError(
                f"MODEL.WEIGHTS {path} could not be downloaded ({error.reason}); without network access, download"
                f" {address} on another machine and set MODEL.WEIGHTS to the file"
            ) from error
        finally:
            self._parsed_url_during_load = None  # detectron2 keeps it after an error, and then cannot load again

    def _load_file(self, filename: str) -> dict[str, Any]:
        """Read ``filename`` as ``{"model": name -> array or tensor, ...}``."""
        if filename.endswith(".pkl"):
            return self._read_pickle(filename)
        loaded = load_torch_file(filename)
        if holds_encoder(loaded) and not self._is_models_own(loaded):
            return self._converted(loaded, filename)
        if not isinstance(loaded, dict):
            raise ValueError(f"{filename} contains a {type(loaded).__name__}; expected a dict with tensors by name")
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
            raise ValueError(
                f"{url.geturl()}: unknown options {sorted(options)}; the only supported option is 'matching_heuristics'"
            )
        return loaded

    def _is_models_own(self, loaded: dict[str, Any]) -> bool:
        """Return whether a file contains parameters under this model's names, like the checkpoints of this training."""
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
        if "model" in data and "__author__" in data:  # detectron2's model zoo, and mocodet
            self.logger.info(f"Reading a file from '{data['__author__']}'")
            return data
        # Caffe2: detectors have their arrays under "blobs", and ImageNet models at the top level.
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
        mine = [name for name in self.model.state_dict() if not name.endswith(BATCH_COUNTER)]  # counters are unused
        self.logger.info(
            f"The file provides {sum(n not in lacking for n in mine)} of the model's {len(mine)} parameters and"
            f" buffers; {len(incompatible.unexpected_keys)} entries of the file are unused"
        )
        missing = sorted(lacking.intersection(mine))
        if missing and self._whole_detector:
            raise ValueError(
                "the file does not contain the complete detector; it has no matching value for"
                f" {first_few(missing, 10)}. To evaluate a fine-tuned detector, set MODEL.WEIGHTS to its checkpoint and"
                " use the config with which it was trained"
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
                f"missing in the file: {first_few(missing, 10)}; unused in the file: {first_few(surplus, 10)}."
                " Compare MODEL.RESNETS (DEPTH, NORM) and the backbone with the file in MODEL.WEIGHTS"
                + (f", whose {arch} requires {settings}" if arch else "")
            )
        return incompatible

    def _check_settings(self, theirs: Settings) -> None:
        """Compare this model with the settings with which the weights were trained, as far as they are known.

        Raises:
            ValueError: the strides are in different convolutions, or see `refuse_other_format`. Nothing has been
                loaded.
        """
        ours = _settings(self.model)
        different = [key for key, value in ours.items() if theirs.values.get(key) not in (None, value)]
        if STRIDE_KEY in different:
            theirs_in, ours_in = ("1x1", "3x3") if theirs.values[STRIDE_KEY] else ("3x3", "1x1")
            raise ValueError(
                f"the weights belong to a ResNet with the stride in the {theirs_in} convolutions, but the model has it"
                f" in the {ours_in} convolutions ({first_few([*_strided_blocks(self.model)])}) and would compute"
                f" different results; set {theirs.remedy}"
            )
        refuse_other_format(theirs, ours.get(FORMAT_KEY))
        if different:
            self.mismatch = (
                "The weights were trained on images with settings other than the model's"
                f" {', '.join(f'{key} {ours[key]}' for key in different)}. Unless this is intended, set {theirs.remedy}"
            )
            self.logger.warning(self.mismatch)

    def _in_place(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return a file's tensors, with a detector's ResNet renamed to this model's parameter names.

        A detector without FPN has its ResNet in ``backbone``, and a C4 detector has the last stage in ``roi_heads``.
        Other detectors have it in ``backbone.bottom_up``. Parameters that occur twice in the file, for example in a
        teacher and a student, keep their names, and so does a ResNet outside a detector.
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
                f"{len(moved)} tensors of the file's ResNet are renamed to match the model, such as {one} to {there}"
            )
        return {moved.get(name, name): value for name, value in state.items()}


def _strided_blocks(model: nn.Module) -> dict[str, BottleneckBlock | DeformBottleneckBlock]:
    """Return the bottlenecks of a model that have a stride in either convolution, by name."""
    bottlenecks = (BottleneckBlock, DeformBottleneckBlock)
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, bottlenecks)}
    return {name: block for name, block in blocks.items() if {*block.conv1.stride, *block.conv2.stride} != {1}}


def _settings(model: nn.Module) -> dict[str, Any]:
    """Return those settings in `REQUIRED_CONFIG` that can be read from a detectron2 model.

    For a ResNet without bottlenecks, there is no stride in a 1x1 convolution to compare.
    """
    found: dict[str, Any] = {"INPUT.FORMAT": getattr(model, "input_format", None)}
    for name in ("pixel_mean", "pixel_std"):
        if (per_channel := getattr(model, name, None)) is not None:
            found[f"MODEL.{name.upper()}"] = [round(value, 3) for value in per_channel.flatten().tolist()]
    for block in _strided_blocks(model).values():  # all blocks have the same stride
        found[STRIDE_KEY] = tuple(block.conv1.stride) != (1, 1)
    return {key: value for key, value in found.items() if value is not None}
