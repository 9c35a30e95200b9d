"""What DeepSpeed's stages have in common: dtypes, and what its engine makes of precision.

Source: DeepSpeed 0.19.8, runtime/engine.py (get_data_types, communication_data_type).
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS
from memcalc.sharding.strategy import Strategy
from memcalc.sharding.zero_options import Settings
from memcalc.tape.values import FLOATS

if TYPE_CHECKING:
    from memcalc.precision import Recipe
    from memcalc.tape.setting import Setting
    from memcalc.tensors import Tensor

PINNED = "each pinned tensor of the offload takes the next power of two of host memory, as PyTorch allocates it"


@dataclass(frozen=True)
class Zero(Strategy):
    """A stage over `ranks` ranks.

    `dtype` is the model's, the same for all its parameters; `accumulating` where a step has several micro batches, `divided`
    where tensor-parallel ranks share the model.
    """

    stage: int = 0
    dtype: str = "bf16"
    settings: Settings = field(default_factory=Settings)
    accumulating: bool = False
    divided: bool = False
    masters = True

    @property
    def alone(self) -> bool:  # type: ignore[override]
        """Whether anything is offloaded, which ZeRO does on a single GPU, too."""
        sections = (self.settings.offload_optimizer, self.settings.offload_param)
        return any(section.device != "none" for section in sections)

    @property
    def gradient_dtype(self) -> str:
        """What gradients are accumulated in: data_types.grad_accum_dtype, else the model's (get_data_types)."""
        return self.settings.grad_accum_dtype or self.dtype

    @property
    def sent_dtype(self) -> str:
        """What gradients are reduced in: communication_data_type, else the model's."""
        return self.settings.communication_data_type or self.dtype

    @property
    def overlaps(self) -> bool:
        """overlap_comm, on by default at stage 3 alone (overlap_comm_valid)."""
        return self.stage == 3 if self.settings.overlap_comm is None else self.settings.overlap_comm

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """The model in one dtype, with a separate copy in fp32 of what is trained, whatever its own dtype.

        That stage 3 would share fp32 weights with it is never true on a GPU: a device is compared with its name.
        """
        return replace(recipe, weights=self.dtype, master="fp32", master_gradients="", gradients=self.gradient_dtype)

    def setting_of(self, setting: Setting) -> Setting:
        """Gradients of earlier micro batches are not where autograd would look for them, but in stages 0 and 1."""
        return replace(setting, gradients=self.dtype, accumulating=setting.accumulating and self.keeps_gradients)

    @property
    def keeps_gradients(self) -> bool:
        """Whether parameters keep their gradients until the last micro batch."""
        return self.stage < 2

    def gathered(self, tensor: Tensor, stored: str, setting: Setting) -> str:  # noqa: ARG002
        """The engine casts every floating-point parameter, adapters in fp32 included (engine.py, module.bfloat16())."""
        return stored if tensor.buffer or stored not in FLOATS else self.dtype

    def cast(self, tensor: Tensor) -> Tensor:
        """A parameter as the engine keeps it."""
        plain = tensor.buffer or (tensor.dtype and tensor.dtype not in FLOATS)
        return tensor if plain else replace(tensor, dtype=self.dtype)

    @property
    def item(self) -> int:
        """Bytes of one element of the model's dtype."""
        return BITS[self.dtype] // 8

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not as the sizes of tensors say."""
        sections = (self.settings.offload_optimizer, self.settings.offload_param)
        pins = any(section.device == "nvme" or (section.device == "cpu" and section.pin_memory) for section in sections)
        return (PINNED,) if pins else ()

    @property
    def leaves_out(self) -> str:
        """Nothing of the allocator's."""
        return ""
