"""torch.autocast("cuda")'s casts as ordinary differentiable ones, on whatever device the tensors are: needs torch.

The CPU's autocast casts other operations; these are the lists of aten/src/ATen/autocast_mode.h, with the weight cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

F, T, L = torch.nn.functional, torch.Tensor, torch.linalg
LOWER = {
    F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.scaled_dot_product_attention, F.prelu,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.addbmm, torch.baddbmm, torch.einsum, torch.chain_matmul,
    torch.conv1d, torch.conv2d, torch.conv3d, T.matmul, T.__matmul__, T.__rmatmul__, T.mm, T.bmm, T.addmm, T.baddbmm,
}  # fmt: skip
FLOAT32 = {
    F.layer_norm, F.group_norm, F.softmax, F.log_softmax, F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss,
    F.softplus, F.normalize, F.cosine_similarity, F.kl_div, F.binary_cross_entropy_with_logits, torch.softmax,
    torch.log_softmax, torch.layer_norm, torch.group_norm, torch.pow, torch.exp, torch.log, torch.rsqrt, torch.norm,
    torch.sum, torch.prod, torch.cumsum, torch.cumprod, torch.expm1, torch.log1p, torch.reciprocal, T.softmax,
    T.log_softmax, T.pow, T.__pow__, T.__rpow__, T.exp, T.log, T.rsqrt, T.norm, T.sum, T.prod, T.cumsum, T.reciprocal,
    L.vector_norm, L.norm, F.interpolate,
}  # fmt: skip
WIDEST = {F.grid_sample}
# fp32_set_opt_dtype: where the caller names a dtype, nothing is cast (sum, prod and norms of that list are, here)
NAMED = {F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, T.softmax, T.log_softmax}


class CudaAutocast(TorchFunctionMode):
    """A trainable fp32 parameter is cast once; its copy is shared until the mode ends."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _lower(self, x: Any) -> Any:
        if not isinstance(x, torch.Tensor) or not x.is_floating_point() or x.dtype == self.dtype:
            return x
        if not (x.is_leaf and x.requires_grad and x.dtype == torch.float32):
            return x.to(self.dtype)
        if id(x) not in self.cache:
            self.cache[id(x)] = (x, x.to(self.dtype))
        return self.cache[id(x)][1]

    @staticmethod
    def _upper(x: Any) -> Any:
        half = isinstance(x, torch.Tensor) and x.dtype in (torch.bfloat16, torch.float16)
        return x.to(torch.float32) if half else x

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in NAMED and kwargs.get("dtype") is not None:
            return func(*args, **kwargs)
        if func in LOWER:
            args, kwargs = tree_map(self._lower, (args, kwargs))
        elif func in FLOAT32 or (func in WIDEST and any(getattr(x, "dtype", None) == torch.float32 for x in args)):
            args, kwargs = tree_map(self._upper, (args, kwargs))
        return func(*args, **kwargs)

    def __exit__(self, *exc: object) -> None:
        self.cache.clear()
        super().__exit__(*exc)
