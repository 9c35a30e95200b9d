"""Record training steps of real models: `python -m tests.reference.record RUNS.jsonl [--device cuda]`.

Each line of RUNS.jsonl is {"model": a name, "run": the run in the vocabulary of a run file, "config": a config.json};
a line of bytes for each goes to standard output, in the form of steps.json's "steps". Without a GPU nothing is
computed: the real model, the real autograd graph and the real optimizer run on fake tensors, and every storage is
counted from birth to death. On a GPU the same steps run for real and CUDA's own counters are read.

Needs the extra `record` (torch, transformers, peft); memcalc itself never imports them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
import transformers.masking_utils
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from memcalc.freezing import patterns
from tests.reference.cuda_autocast import CudaAutocast
from tests.reference.live_bytes import LiveBytes
from tests.reference.shard import mesh_of, options, sharded, unsynchronised

if TYPE_CHECKING:
    from collections.abc import Iterator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WEIGHTS = {"bf16": "bf16", "fp16": "fp16", "bf16-autocast": "bf16"}  # by precision; fp32 otherwise
AUTOCAST = {"bf16-autocast": "bf16", "amp-bf16": "bf16", "amp-fp16": "fp16"}
Run = dict[str, Any]


def main() -> None:
    """Record every run of the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--device", choices=("fake", "cuda"), default="fake")
    asked = parser.parse_args()
    record = record_on_gpu if asked.device == "cuda" else record_fake
    for line in asked.runs.read_text("utf-8").splitlines():
        case = json.loads(line)
        row = {"model": case["model"], "run": case["run"], **record(case["run"], case["config"])}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def record_fake(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """The bytes of the second step on one rank, on fake tensors; on real ones under DDP, whose reducer reads them."""
    found: dict[str, Any] = {}
    mesh, how = mesh_of(run), options(run)
    with contextlib.ExitStack() as stack:
        buckets = how.get("strategy") == "ddp"
        if not buckets:
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(patched(packing=run.get("packing", False)))
        model, inputs, count = build(run, config, "cpu"), make_inputs(run, config, "cpu"), LiveBytes()
        model = model if buckets else sharded(model, run, mesh)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = make_optimizer(run["optimizer"], trained)
        with count:
            register(count, model, inputs)
            model = sharded(model, run, mesh) if buckets else model  # its buckets stay
            for _ in range(2):  # the first step makes the optimizer's states
                for _ in range(run.get("grad_accum", 1) - 1 and 1):
                    with unsynchronised(model, run):
                        loss, outputs = forward(model, inputs, run)
                        loss.backward()
                        del loss
                count.restart()
                loss, outputs = forward(model, inputs, run)
                found["after_forward"] = count.total
                count.enter("backward")
                loss.backward()
                del loss
                for p in trained:
                    if p.grad is not None:
                        count.add(p.grad, "gradients")
                found["after_backward"] = count.total
                count.enter("optimizer")
                step(optimizer, count)
                found |= {kind: count.live[kind] for kind in ("weights", "gradients", "optimizer_states")}
                for p in trained:
                    p.grad = None
            del outputs
        phases = dict(count.phases)
    highest = max(phases, key=lambda phase: phases[phase])
    peak, reserved = phases[highest], count.allocator.reserved
    return {**found, "phases": phases, "peak": peak, "peak_phase": highest, "reserved": reserved}


def record_on_gpu(run: Run, config: dict[str, Any]) -> dict[str, Any]:
    """What CUDA's counters say of the third step, on the GPU that is there."""
    model, inputs = build(run, config, "cuda"), make_inputs(run, config, "cuda")
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, after_forward = make_optimizer(run["optimizer"], trained), 0
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        loss, outputs = forward(model, inputs, run)
        after_forward = torch.cuda.memory_allocated()
        loss.backward()
        del loss
        if optimizer:
            optimizer.step()
        for p in trained:
            p.grad = None
    del outputs
    properties = torch.cuda.get_device_properties(0)
    return {
        "after_forward": after_forward,
        "peak": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.max_memory_reserved(),
        "gpu": properties.name,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.version.cuda},
    }


def build(run: Run, config: dict[str, Any], device: str) -> torch.nn.Module:
    """The model with random weights, its adapters, and its checkpoints."""
    settings = {"decoder_start_token_id": 0, **{key: value for key, value in config.items() if key != "model_type"}}
    made = getattr(transformers, CONFIG_MAPPING_NAMES[config["model_type"]])(**settings)
    made._attn_implementation = run["attention"]  # noqa: SLF001 - the class has no public way to say it
    torch.set_default_dtype(DTYPES[WEIGHTS.get(run["precision"], "fp32")])
    try:
        with torch.device(device):
            model = getattr(transformers, config["architectures"][0])(made)
    finally:
        torch.set_default_dtype(torch.float32)
    model.train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad &= learns(name, run)  # what the library freezes stays frozen
    if run.get("lora"):
        model = adapted(model, run["lora"])
    mode = run["checkpointing"] if isinstance(run["checkpointing"], dict) else {"mode": run["checkpointing"]}
    if mode["mode"] == "full":
        model.activation_checkpointing_enable(checkpoint_options(run, mode), every_n_layers=mode.get("every", 1))
        if run.get("lora"):
            model.enable_input_require_grads()
    return model  # type: ignore[no-any-return]


def learns(name: str, run: Run) -> bool:
    """Whether a parameter is among those that the run trains."""
    train, freeze = patterns(run.get("train", ()), run.get("freeze", ()))
    wanted = not train or any(pattern.matches(name) for pattern in train)
    return wanted and not any(pattern.matches(name) for pattern in freeze)


def adapted(model: torch.nn.Module, lora: Run) -> Any:
    """The model with LoRA adapters."""
    import peft  # noqa: PLC0415 - only where it is asked for

    options = peft.LoraConfig(
        r=lora["rank"], target_modules=list(lora["targets"]), lora_dropout=lora.get("dropout", 0.0),
        layers_to_transform=lora.get("layers"), use_dora=lora.get("dora", False),
    )  # fmt: skip
    return peft.get_peft_model(model, options, autocast_adapter_dtype=lora.get("dtype", "fp32") == "fp32")  # type: ignore[arg-type]


def checkpoint_options(run: Run, mode: Run) -> dict[str, Any]:
    """torch re-enters autocast for the recomputation; so does this."""
    options: dict[str, Any] = {"use_reentrant": mode.get("reentrant", False)}
    if run["precision"] in AUTOCAST:
        options["context_fn"] = lambda: (contextlib.nullcontext(), autocast(run))
    return options


def autocast(run: Run) -> Any:
    """CUDA's autocast where the precision has one."""
    lower = AUTOCAST.get(run["precision"])
    return CudaAutocast(DTYPES[lower]) if lower else contextlib.nullcontext()


def make_inputs(run: Run, config: dict[str, Any], device: str) -> dict[str, torch.Tensor]:
    """Tokens, pixels or sound, and labels."""
    name, batch, length = config["architectures"][0], run["batch_size"], run.get("seq_len", 0)
    dtype = DTYPES[WEIGHTS.get(run["precision"], "fp32")]
    with torch.device(device):
        labels = torch.randint(0, 1000, (batch, run.get("target_len", length)))
        if "Image" in name:
            size = config.get("image_size", 224)
            return {
                "pixel_values": torch.randn(batch, 3, size, size, dtype=dtype),
                "labels": torch.zeros(batch, dtype=torch.long),
            }
        if "Whisper" in name:
            frames = 2 * config.get("max_source_positions", 1500)
            return {
                "input_features": torch.randn(batch, config.get("num_mel_bins", 80), frames, dtype=dtype),
                "labels": labels,
            }
        ids = torch.randint(0, 1000, (1, batch * length) if run.get("packing") else (batch, length))
        if run.get("packing"):
            return {"input_ids": ids, "labels": ids, "position_ids": torch.arange(length).repeat(batch)[None]}
    return {"input_ids": ids, "labels": labels if "Conditional" in name else ids}


def make_optimizer(optimizer: str | Run, trained: list[torch.nn.Parameter]) -> torch.optim.Optimizer | None:
    """The real one of its library."""
    spec = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
    how = {
        "foreach": spec.get("implementation", "foreach") == "foreach",
        "fused": spec.get("implementation") == "fused",
    }
    match spec["name"], spec.get("library"):
        case "none", _:
            return None
        case "adamw", _:
            return torch.optim.AdamW(trained, lr=1e-4, **how)
        case "sgd", _:
            return torch.optim.SGD(trained, lr=1e-4, **how)
        case "sgd-momentum", _:
            return torch.optim.SGD(trained, lr=1e-4, momentum=0.9, **how)
        case "adafactor", "torch":
            return torch.optim.Adafactor(trained, lr=1e-4)
        case "adafactor", _:
            return transformers.optimization.Adafactor(trained, scale_parameter=True, relative_step=True)
        case "lion", _:
            import lion_pytorch  # noqa: PLC0415

            return lion_pytorch.Lion(trained, lr=1e-4)  # type: ignore[no-any-return]
        case name, _:
            raise SystemExit(f"no optimizer {name!r} here: add its constructor")


def forward(model: torch.nn.Module, inputs: dict[str, torch.Tensor], run: Run) -> tuple[torch.Tensor, Any]:
    """(loss, the outputs where the loop keeps them)."""
    with autocast(run):
        outputs = model(**inputs, **({"use_cache": False} if "ForMaskedLM" not in type(model).__name__ and "labels" in inputs
                                     and "input_ids" in inputs else {}))  # fmt: skip
    return outputs.loss, outputs if run.get("keep_outputs") else None


def step(optimizer: torch.optim.Optimizer | None, count: LiveBytes) -> None:
    """The optimizer's step; what it keeps is told apart."""
    if optimizer is None:
        return
    optimizer.step()
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                count.add(value, "optimizer_states")


def register(count: LiveBytes, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> None:
    """What is there before the first step."""
    for parameter in model.parameters():
        count.add(parameter.data, "weights")
    for buffer in model.buffers():
        count.add(buffer, "buffers")
    for value in inputs.values():
        count.add(value, "inputs")


@contextlib.contextmanager
def patched(*, packing: bool = False) -> Iterator[None]:
    """What fake tensors cannot do: be swapped into a module, be read as a number, say whether they are packed."""
    before = torch.nn.Module._apply, torch.Tensor.item, torch.Tensor.__bool__  # noqa: SLF001
    packed = transformers.masking_utils.find_packed_sequence_indices
    torch.nn.Module._apply = _apply_by_replacing  # type: ignore[method-assign,assignment]  # noqa: SLF001
    torch.Tensor.item = lambda _: 1.0  # type: ignore[method-assign,assignment,misc]
    torch.Tensor.__bool__ = lambda _: True  # type: ignore[method-assign,assignment,misc]
    transformers.masking_utils.find_packed_sequence_indices = _belongs if packing else lambda _: None
    torch.nn.init._no_grad_trunc_normal_ = lambda tensor, *_, **__: tensor
    try:
        yield
    finally:
        torch.nn.Module._apply, torch.Tensor.item, torch.Tensor.__bool__ = before  # type: ignore[method-assign]  # noqa: SLF001
        transformers.masking_utils.find_packed_sequence_indices = packed


def _belongs(positions: torch.Tensor) -> torch.Tensor:
    """find_packed_sequence_indices of positions that do begin anew."""
    steps = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1)
    return (steps != 1).cumsum(-1)


def _apply_by_replacing(self: torch.nn.Module, fn: Any, recurse: bool = True) -> torch.nn.Module:
    """nn.Module._apply that makes each parameter anew instead of swapping tensors."""
    for child in self.children() if recurse else ():
        child._apply(fn)  # noqa: SLF001
    for store in (self._parameters, self._buffers):
        for name, tensor in store.items():
            if tensor is not None:
                new = fn(tensor.detach())
                store[name] = torch.nn.Parameter(new, tensor.requires_grad) if store is self._parameters else new
    return self


if __name__ == "__main__":
    main()
