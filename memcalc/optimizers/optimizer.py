"""Optimizer: a preset with its options settled; pure functions from parameters to bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from memcalc.dataclass import dataclass
from memcalc.optimizers.rules import Rule, apply
from memcalc.optimizers.step import StepRules, StepTemporaries, Turn, peak
from memcalc.optimizers.terms import holds
from memcalc.optimizers.values import Advice, Option, Parameter, Scene, StateTensor

if TYPE_CHECKING:
    from collections.abc import Iterable

Condition = Mapping[str, Any]
Facts = tuple[tuple[int, ...], str, str, str]  # of a Parameter
NO_ADVICE = Advice()


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer keeps and needs, by the rules of its preset.

    `name` is the preset's id. `keeps_master`: it holds fp32 copies of the parameters itself, among its states.
    `frees_gradients`: a gradient is used and freed during the backward pass, as soon as it is there. `given`: the options
    that the user named.
    """

    name: str
    library: str = ""
    version: str = ""
    implementation: str = ""
    options: dict[str, Option] = field(default_factory=dict, hash=False)
    state_rules: tuple[Rule, ...] = field(default=(), hash=False, repr=False)
    group_rules: tuple[Rule, ...] = field(default=(), hash=False, repr=False)
    shared_rules: tuple[Rule, ...] = field(default=(), hash=False, repr=False)
    step_rules: StepRules = field(default=StepRules(), hash=False, repr=False)
    sizes: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    conditions: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    accepts: Condition = field(default_factory=dict, hash=False, repr=False)
    from_model: dict[str, str] = field(default_factory=dict, hash=False, repr=False)
    keeps_master: bool = False
    frees_gradients: bool = False
    bytes_per_parameter: float | None = None
    advice: Advice = NO_ADVICE
    source: str = ""
    given: frozenset[str] = frozenset()
    _states: dict[Facts, tuple[StateTensor, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _temporaries: dict[Facts, StepTemporaries] = field(default_factory=dict, init=False, repr=False, compare=False)

    def states(self, shape: Iterable[int], dtype: str, role: str = "linear", name: str = "") -> tuple[StateTensor, ...]:
        """What is kept for one parameter tensor, whose module is a `role` and whose full name is `name`."""
        facts = (tuple(shape), dtype, role, name)
        if facts not in self._states:
            self._states[facts] = tuple(self._kept(Parameter(*facts)))
        return self._states[facts]

    def _kept(self, parameter: Parameter) -> Iterable[StateTensor]:
        if self.bytes_per_parameter is not None:
            nominal = round(self.bytes_per_parameter * parameter.elements)
            return [StateTensor("nominal", "uint8", (nominal,), nominal)] if nominal else []
        return apply(self.state_rules, self._scene(parameter))

    def _scene(self, parameter: Parameter | None) -> Scene:
        return Scene(parameter, self.options, self.sizes, self.conditions, self.implementation)

    def shared(self) -> tuple[StateTensor, ...]:
        """What is kept once per optimizer: quantisation tables, flags of the kernels."""
        return self._once(self.shared_rules, "optimizer")

    def group(self) -> tuple[StateTensor, ...]:
        """What is kept once per parameter group."""
        return self._once(self.group_rules, "group")

    def _once(self, rules: tuple[Rule, ...], scope: Any) -> tuple[StateTensor, ...]:  # noqa: ANN401
        if self.bytes_per_parameter is not None:
            return ()
        return tuple(apply(rules, self._scene(None), scope))

    def temporaries(self, shape: Iterable[int], dtype: str, role: str = "linear", name: str = "") -> StepTemporaries:
        """What a step allocates for one parameter tensor and frees again."""
        facts = (tuple(shape), dtype, role, name)
        if facts not in self._temporaries:
            self._temporaries[facts] = self.step_rules.of(self._scene(Parameter(*facts)))
        return self._temporaries[facts]

    def step_peak(self, group: Iterable[tuple[Parameter, int]]) -> int:
        """Most bytes of temporaries at once while one parameter group steps: (parameter, how many in a row), in order.

        Parameters of several dtypes step one dtype after the other where they step together (torch's `foreach`); the
        names of one dtype's temporaries last until they are given to the next one's (_multi_tensor_adam). Those that
        step one by one beside them have another optimizer, which has returned by then (Muon's matrices, AdamW's others).
        """
        by_dtype: dict[str, list[Turn]] = {}
        for parameter, count in group:
            turn = self.turn(parameter, count)
            by_dtype.setdefault(parameter.dtype if turn.temporaries.together else "", []).append(turn)
        alone = peak(by_dtype.pop("", ()))
        peaks = [peak(members) for members in by_dtype.values()]
        return max(alone, *(sum(pair) for pair in zip([0, *peaks], peaks, strict=False)), 0)

    def turn(self, parameter: Parameter, count: int) -> Turn:
        """What `count` parameters like this one need when it is their turn."""
        found = self.temporaries(parameter.shape, parameter.dtype, parameter.role, parameter.name)
        layer, vector = parameter.name[: parameter.name.rfind("}") + 1], len(parameter.shape) < 2
        return Turn(found, count, layer, vector=vector)

    def for_model(self, dimensions: Mapping[str, Any]) -> Optimizer:
        """The same for a model of these dimensions: they set the options that stand for them and were not given."""
        found = {option: dimensions[key] for option, key in self.from_model.items() if key in dimensions}
        found = {option: value for option, value in found.items() if option not in self.given}
        return replace(self, options={**self.options, **found}) if found else self

    def supports(self, shape: Iterable[int], dtype: str, role: str = "linear", name: str = "") -> bool:
        """Whether the library would step such a tensor, rather than refuse it."""
        return holds(self.accepts, self._scene(Parameter(tuple(shape), dtype, role, name)))
