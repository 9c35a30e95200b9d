"""DeepSpeed's estimators of what ZeRO-2 and ZeRO-3 keep: parameters, gradients and optimizer states, no activations.

Source: DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py (estimate_zero2_model_states_mem_needs) and stage3.py
(estimate_zero3_model_states_mem_needs). GPU bytes are per GPU, CPU bytes per node. They assume 16-bit parameters and an
Adam in fp32, whatever the run says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.errors import fault
from memcalc.report import FormulaPart
from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.plan import Plan
    from memcalc.tensors import Tensor

BUFFERS = 1.5  # additional_buffer_factor
SOURCE = "DeepSpeed 0.19.8, runtime/zero/{0}, estimate_zero{1}_model_states_mem_needs"


def zero2(parameters: int, per_node: int, nodes: int, *, offload: bool, factor: float = BUFFERS) -> tuple[int, int]:
    """(GPU bytes, CPU bytes per node) of ZeRO-2, its optimizer states in host memory or not."""
    gpus = nodes * per_node
    if offload:
        return 2 * parameters, int(parameters * max(4 * gpus, 16) * factor)
    return 2 * parameters + int(18 * parameters / gpus), int(parameters * 4 * per_node * factor)


def zero3(parameters: int, largest: int, per_node: int, nodes: int, *, offload: bool, offload_params: bool,
          zero_init: bool = True, factor: float = BUFFERS) -> tuple[int, int]:  # fmt: skip
    """(GPU bytes, CPU bytes per node) of ZeRO-3; `largest` are the parameters of the largest layer.

    Without `zero_init` every process of a node first makes the whole model in host memory.
    """
    gpus, share = nodes * per_node, 1 / nodes
    if not offload:
        whole = largest if zero_init else parameters
        return 4 * largest + int(18 * parameters / gpus), int(whole * 4 * per_node * factor)
    kept, gpu = (18, 4 * largest) if offload_params else (16, 4 * largest + int(2 * parameters / gpus))
    if zero_init:
        return gpu, int(parameters * kept * share * factor)
    return gpu, int(parameters * max(4 * per_node, kept * share) * factor)


def formula(plan: Plan) -> FormulaPart:
    """The estimator's numbers for a run with ZeRO-2 or ZeRO-3; RunInvalid for other strategies, of which it says nothing."""
    sharding = plan.run.sharding
    strategy = sharding.strategy if sharding else "none"
    if strategy not in ("zero2", "zero3"):
        raise fault("sharding", f"DeepSpeed's estimators are of ZeRO-2 and ZeRO-3; this run's strategy is {strategy}: "
                                "say sharding: zero2 or zero3")  # fmt: skip
    per_node = min(plan.run.gpus, plan.gpu.per_node if plan.gpu else 8)
    nodes = -(-plan.run.gpus // per_node)
    parameters = plan.model.parameters + plan.added
    states, params = offloaded(plan)
    if strategy == "zero2":
        gpu, cpu = zero2(parameters, per_node, nodes, offload=states)
        return _part(gpu, cpu, {}, "stage_1_and_2.py", 2)
    largest = largest_layer(plan.tensors)
    gpu, cpu = zero3(parameters, largest, per_node, nodes, offload=states, offload_params=params)
    _, without = zero3(parameters, largest, per_node, nodes, offload=states, offload_params=params, zero_init=False)
    terms = {"largest_layer_parameters": largest, "cpu_bytes_without_zero_init": without}
    return _part(gpu, cpu, terms, "stage3.py", 3)


def _part(gpu: int, cpu: int, terms: dict[str, int], file: str, stage: int) -> FormulaPart:
    return FormulaPart(
        name="deepspeed", gpu_bytes=gpu, cpu_bytes=cpu, source=SOURCE.format(file, stage), terms=terms,
        says="parameters, gradients and Adam's states in mixed precision; no activations, no buffers. "
             "CPU bytes are per node, half as much again for buffers.",
    )  # fmt: skip


def offloaded(plan: Plan) -> tuple[bool, bool]:
    """Whether (optimizer states, parameters) are kept in host memory, by the run's own key or DeepSpeed's."""
    options = plan.run.sharding.options if plan.run.sharding else {}
    states = plan.run.offload.startswith("optimizer") or _device(options.get("offload_optimizer")) != "none"
    return states, plan.run.offload == "optimizer+params" or _device(options.get("offload_param")) != "none"


def _device(option: Any) -> str:  # noqa: ANN401 - a mapping of DeepSpeed's, or nothing
    return str(option.get("device", "none")) if isinstance(option, dict) else "none"


def largest_layer(tensors: Iterable[Tensor]) -> int:
    """Parameters that the largest module owns itself (stage3.py, model_to_params): a tied one counts where it is used."""
    modules: dict[str, int] = {}
    for tensor in tensors:
        if not tensor.buffer:
            module = next(expand(tensor.module)) if "{" in tensor.module else tensor.module
            modules[module] = modules.get(module, 0) + tensor.elements
    return max(modules.values(), default=0)
