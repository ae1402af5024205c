"""The base class of all pre-training methods, which defines their interface."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from fvcore.common.config import CfgNode
from torch import nn

from ..keys import Key

# Maps values of METHOD to methods. Each class registers itself when its module is imported.
METHODS: dict[str, type["Method"]] = {}


@dataclass(kw_only=True)
class DataFacts:
    """Properties of the data that a method needs when it is built.

    Attributes:
        size: number of images in the data set.
        classes: names of the classes, if the images are labelled.
    """

    size: int
    classes: tuple[str, ...] = ()


class Method(nn.Module, ABC):
    """A pre-training method: a module that computes a loss from a batch and declares its requirements.

    A subclass declares its name, which becomes a value of ``METHOD``: ``class MomentumContrast(Method, name="moco")``.
    Subclasses without a name are base classes. The trainer updates all parameters that require a gradient, and saves
    and resumes the complete state dict.

    Attributes:
        views: names of the image views that a batch must contain, each N x 3 x H x W.
        keys: config keys that the method uses in addition to the common ones, by name. Methods may share keys.
        needs_index: whether a batch must contain ``"index"``, the index of each image in the data set. This is not
            available for streams.
        classifies: whether the method trains a classifier. If so, batches contain ``"label"`` (N, int64), the data must
            be in class folders, and the encoder ends in a classifier, which is evaluated on ``DATA.VAL_ROOT``.
        encoder_name: name of the child module to evaluate and convert, a ResNet whose ``fc`` is its head. Checkpoints
            record this name, and ``MODEL.WEIGHTS`` initialises its backbone.
        encoder_copies: names of the child modules that start as exact copies of the encoder, including its head.

    Raises:
        ValueError: two subclasses have the same name.
    """

    name: ClassVar[str]
    views: ClassVar[tuple[str, ...]]
    keys: ClassVar[Mapping[str, Key]] = {}
    needs_index: ClassVar[bool] = False
    classifies: ClassVar[bool] = False
    encoder_name: ClassVar[str] = "encoder_q"
    encoder_copies: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if name is None:
            return
        known = METHODS.get(name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):  # equal after a reload
            raise ValueError(
                f"METHOD {name!r} is already used by {known.__module__}.{known.__qualname__}; choose another name"
            )
        cls.name = name
        METHODS[name] = cls

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, data: DataFacts) -> "Method":
        """Build the method described by ``cfg`` for the given data."""

    @classmethod
    def check_config(cls, cfg: CfgNode) -> None:
        """Raise ``ValueError`` if config values are inconsistent. Each value has already been checked separately."""

    @classmethod
    def check_length(cls, cfg: CfgNode, max_iter: int) -> None:
        """Raise ``ValueError`` if a run of ``max_iter`` iterations is too short for the config."""

    @classmethod
    def bytes_per_image(cls, cfg: CfgNode) -> int:
        """Return the number of bytes by which each image in the data set increases the state of the method."""
        return 0

    @classmethod
    def chance(cls, cfg: CfgNode, data: DataFacts) -> dict[str, float]:
        """Return the chance levels of the outputs of `forward`, by name. Not every output has a chance level."""
        return {}

    def begin_step(self, iteration: int, max_iter: int) -> None:
        """Set values that change during a run. They must depend only on the arguments, so that a run resumes exactly.

        Args:
            iteration: the current iteration, starting at 0.
            max_iter: number of iterations in the run.
        """

    @abstractmethod
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute one training step, excluding the optimizer.

        Args:
            batch: normalised images and other entries; see ``views``, ``needs_index`` and ``classifies``.

        Returns:
            ``"loss"``, a differentiable scalar, and other scalars to log, such as ``"accuracy"``.
        """

    @property
    def encoder_to_transfer(self) -> nn.Module:
        """The encoder to evaluate and convert."""
        return self.get_submodule(self.encoder_name)

    def check_copies(self) -> None:
        """Check that the method declares all copies of its encoder. Call this before the encoder is modified.

        Raises:
            ValueError: a child module equals the encoder but is not listed in ``encoder_copies``.
        """
        encoder = self.encoder_to_transfer.state_dict()
        for name, child in self.named_children():
            own = child.state_dict()
            known = name in (self.encoder_name, *self.encoder_copies)
            if not known and own.keys() == encoder.keys() and all(map(torch.equal, own.values(), encoder.values())):
                raise ValueError(
                    f"MODEL.WEIGHTS would initialise {self.encoder_name} but not its copy {name}: add {name!r} to"
                    f" encoder_copies of {type(self).__name__}"
                )

    def copy_encoder(self) -> None:
        """Copy the encoder, including its buffers, to all ``encoder_copies``. Call this after loading weights."""
        for name in self.encoder_copies:
            self.get_submodule(name).load_state_dict(self.encoder_to_transfer.state_dict())

    def to_fill(self) -> Mapping[str, int]:
        """Return the names and lengths of the buffers that `fill` fills with vectors of real images, such as a queue.

        These buffers are initialised with noise. This does not affect a random encoder, but a pre-trained encoder would
        learn to distinguish images from noise in its first steps.
        """
        return {}

    def fill(self, batch: dict[str, torch.Tensor]) -> None:
        """Store vectors of the images in a batch in the buffers listed by `to_fill`, without changing parameters.

        All processes call this method in training mode and without gradients. The default implementation runs a full
        step. The encoders are still equal, so a momentum update has no effect, but all running statistics are updated.

        Args:
            batch: see `forward`.
        """
        self(batch)

    def extra_state(self) -> dict[str, Any]:
        """Return state to save in checkpoints in addition to the state dict, as objects with a state dict, by name."""
        return {}
