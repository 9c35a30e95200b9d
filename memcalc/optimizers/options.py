"""The options of an optimizer preset: what may be said, checked; every fault with its place and the nearest valid thing.

A preset declares an option by its default (`amsgrad: false`), or by a mapping: `{default: 128, min: 1}`, with `choices`,
`min`, `max`, `type: dtype` or `int`, `optional: true` where null is allowed too; `from_model` names the dimension of the
model that sets it where the user doesn't.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memcalc.dtypes import dtype_name
from memcalc.errors import Fault, nearest_names, shorten

if TYPE_CHECKING:
    from memcalc.optimizers.values import Option

# Arguments that change how an optimizer trains and not what it keeps; every optimizer takes them unless it declares them.
HYPERPARAMETERS = frozenset({
    "lr", "learning_rate", "max_lr", "eps", "eps1", "eps2", "betas", "beta1", "beta2", "beta3", "weight_decay", "maximize",
    "dampening", "nesterov", "rho", "alpha", "gamma", "scale", "warmup_steps", "decouple_lr", "decouple_wd", "weight_decouple",
    "update_proj_gap", "adam_w_mode", "bias_correction", "scale_parameter", "relative_step", "warmup_init", "clip_threshold",
    "decay_rate", "beta2_decay", "d", "d0", "d_coef", "growth_rate", "safeguard_warmup", "use_bias_correction", "t_alpha",
    "t_beta3", "r", "weight_lr_power", "ns_steps", "ns_coefficients", "adjust_lr_fn", "precondition_frequency", "shampoo_beta",
    "alpha_init", "lamb", "grokking_signal_decay_rate", "momentum_decay",
    "decoupled_weight_decay", "etas", "step_sizes", "lambd", "t0", "differentiable", "trust_coefficient", "skip_zeros", "args",
    "percentile_clipping", "block_wise", "no_deprecation_warning", "cautious", "kappa", "xi", "nus", "nu", "delta", "wd_ratio",
    "gradient_clipping", "clip_grad_norm", "clip_grad_value", "loss_scale",
})  # fmt: skip


def defaults(declared: Mapping[str, Any]) -> dict[str, Option]:
    """Every declared option at its default."""
    return {key: _value(spec["default"] if isinstance(spec, Mapping) else spec) for key, spec in declared.items()}


def settle(
    declared: Mapping[str, Any], given: Mapping[str, Any], where: str = "optimizer"
) -> tuple[dict[str, Option], list[Fault]]:
    """The options as they stand, and what is wrong with those given."""
    settled, faults = defaults(declared), []
    for key, value in _spelt_out(declared, given).items():
        if key in declared:
            spec = declared[key] if isinstance(declared[key], Mapping) else {"default": declared[key]}
            wrong = _wrong(value, spec)
            if wrong:
                faults.append(Fault(f"{where}.{key}", f"{shorten(repr(value))} is not {wrong}"))
            else:
                settled[key] = _normal(value, spec)
        elif key not in HYPERPARAMETERS:
            faults.append(Fault(f"{where}.{key}", _unknown(key, declared)))
    return settled, faults


def _spelt_out(declared: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """`betas: [0.9, …]` says `beta1` too, where an optimizer asks for that."""
    betas = given.get("betas")
    if "beta1" in declared and "beta1" not in given and isinstance(betas, (list, tuple)) and betas:
        return {**given, "beta1": betas[0]}
    return given


def _unknown(key: str, declared: Mapping[str, Any]) -> str:
    near = nearest_names(key, [*declared, "library", "implementation", "bytes_per_parameter"]) or sorted(declared)
    return f"this optimizer has no such option; {'nearest' if near else 'it has none'}{': ' if near else ''}{', '.join(near)}"


def _value(value: Any) -> Option:  # noqa: ANN401
    return tuple(_value(part) for part in value) if isinstance(value, list) else value


def _normal(value: Any, spec: Mapping[str, Any]) -> Option:  # noqa: ANN401
    if spec.get("type") == "dtype" and value is not None and value != "param":
        return dtype_name(value)
    if isinstance(spec["default"], int) and isinstance(value, float):
        return int(value)
    return _value(value)


def _wrong(value: Any, spec: Mapping[str, Any]) -> str:  # noqa: ANN401 - one line per kind of option
    """What the value should have been, or '' where it is right."""
    default = spec["default"]
    if value is None and (default is None or spec.get("optional")):
        return ""
    if "choices" in spec:
        return (
            ""
            if value in spec["choices"] and _same_kind(value, spec["choices"])
            else f"one of {_words(spec['choices'])}"
        )
    if spec.get("type") == "dtype":
        return _wrong_dtype(value)
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, (int, float)) or "min" in spec:
        return _wrong_number(value, spec)
    if isinstance(default, str):
        return "" if isinstance(value, (str, list)) else "a text"
    return ""


def _same_kind(value: Any, choices: list[Any]) -> bool:  # noqa: ANN401
    """1 is not true, though Python says they are equal."""
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices)


def _wrong_dtype(value: Any) -> str:  # noqa: ANN401
    if value == "param":
        return ""
    try:
        dtype_name(value)
    except ValueError:
        return "a dtype such as fp32, bf16, fp16"
    return ""


def _wrong_number(value: Any, spec: Mapping[str, Any]) -> str:  # noqa: ANN401
    default, least, most = spec["default"], spec.get("min", 0), spec.get("max", 10**12)
    whole = isinstance(default, int) or spec.get("type") == "int"
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number and least <= value <= most and (not whole or float(value).is_integer()):
        return ""
    kind = "a whole number" if whole else "a number"
    return f"{kind} from {least:g}{f' to {most:g}' if 'max' in spec else ''}"


def _words(choices: list[Any]) -> str:
    return ", ".join("null" if choice is None else str(choice).lower() for choice in choices)
