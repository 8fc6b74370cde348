"""What CUDA lacks and what waits for it, by names of aten operations. Source: torch's operator files for CUDA, version 2.13."""

from __future__ import annotations

import torch


def _names(text: str) -> set[str]:
    return set(text.split())


COPYING = {"copy_", "_to_copy"}
"""Operations that copy from one device to another."""

INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool}
HALVES = {torch.float16, torch.bfloat16}

UNSUPPORTED: dict[str, set[torch.dtype]] = {
    name: types
    for names, types in (
        ("mm bmm addmm baddbmm addmv mv dot addbmm vdot convolution avg_pool2d max_pool2d_with_indices", INTEGERS),
        ("native_layer_norm upsample_bilinear2d upsample_bicubic2d", INTEGERS),
        ("_upsample_bilinear2d_aa _upsample_bicubic2d_aa", INTEGERS),
        ("upsample_nearest2d _upsample_nearest_exact2d", INTEGERS - {torch.uint8}),
        ("topk cumsum_ cumprod_", {torch.bool}),
        ("_cdist_forward _linalg_eigh _linalg_svd linalg_qr linalg_cholesky_ex histc", HALVES),
        ("_histogramdd_bin_edges histogram _histogramdd_from_bin_cts", INTEGERS | HALVES | {torch.float32}),
    )
    for name in names.split()
}
"""Types of the first tensor for which an operation has no CUDA kernel."""

NONDETERMINISTIC = _names(
    """histc kthvalue median nll_loss2d_forward upsample_bilinear2d_backward grid_sampler_2d_backward
    adaptive_avg_pool2d_backward _embedding_bag_dense_backward max_pool3d_with_indices_backward"""
)
"""Operations that raise under `torch.use_deterministic_algorithms(True)`."""

WAITS = _names(
    """_local_scalar_dense nonzero masked_select bincount _unique _unique2 unique_dim unique_consecutive equal
    is_nonzero histc repeat_interleave _linalg_eigh _linalg_svd multinomial isin"""
)
"""Operations that read something on the host: `nonzero_static` and `repeat_interleave` with `output_size` do not."""

CHECKED_ON_CPU = {"one_hot", "quantile", "nanquantile"}
"""Functions that read their arguments to check them, on the CPU alone."""

INDEXING = _names("index index_put index_put_ _index_put_impl_ _unsafe_index")
"""Operations whose second argument is a list of indices, which may lie on the CPU and are copied then."""

SCALARS = _names(
    """where fill_ masked_fill masked_fill_ lerp clamp clamp_ index_put_ _foreach_mul_ _fused_adamw_ _fused_adam_
    linspace _amp_foreach_non_finite_check_and_unscale_"""
)
"""Operations that take CPU tensors without dimensions, beside the pointwise ones."""

WITHOUT_KERNEL = _names("empty empty_strided empty_like new_empty new_empty_strided set_ resize_ _local_scalar_dense")
"""Operations that start nothing on the device."""

FLOAT32_UNDER_AUTOCAST = _names(
    """layer_norm softmax log_softmax cross_entropy nll_loss group_norm norm normalize cosine_similarity sum prod
    cumsum cumprod exp expm1 log log10 log2 log1p pow __pow__ rsqrt cdist reciprocal acos asin cosh sinh tan
    erfinv dist pdist renorm logsumexp softplus mse_loss l1_loss smooth_l1_loss kl_div
    binary_cross_entropy_with_logits"""
)
"""Functions that CUDA's autocast runs in float32."""
