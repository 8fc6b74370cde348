"""A simulated CUDA device for a CPU build of torch: what would raise on a GPU raises here, the rest is computed on the CPU.

    with simulate() as report:           # torch.cuda.is_available() is True from here on
        x = torch.randn(3).to("cuda")    # x.device is cuda:0; its data is an ordinary tensor on the CPU
    print(report.table())                # waits for the device, copies and kernels, by line of the project

For C++ a `Cuda` tensor is on the CPU, so that autograd works in a build without CUDA; for Python it is on cuda:0. Every operation
is computed on the data that it holds, and the result is wrapped again.

Refused, as CUDA refuses it (`checks`): tensors of two devices in one operation, but for what may mix (CPU scalars, CPU indices
into CUDA tensors, copies); `numpy()` and `pin_memory()` of a CUDA tensor; a CPU generator for a CUDA draw; operations and types
without a CUDA kernel, or without a deterministic one where determinism is demanded; binary cross-entropy under autocast.

Counted, by line (`report`): waits, reads that overlap with work, copies that block the host, queued copies, kernels. Memory is
page-locked where it would be, so a copy from pageable memory blocks and one with `non_blocking=True` from page-locked memory
does not. A queued copy to the host arrives when the host waits for it: whoever reads earlier reads nonsense.

Refused, though a GPU would accept it and race (`streams`, `host_memory`): memory that a stream uses without waiting for the
stream that has written it; memory that is freed while another stream may still use it, without `record_stream`; page-locked
memory that is written to before the host has waited for the copy that reads it.

Limits: one device; streams run in the order of the calls; draws are those of the CPU, whatever the generator's device; no time,
no memory use, no CUDA graphs, no NCCL, no Triton; `torch.compile` does nothing. Results are rounded as on the CPU: TF32 and the
order of atomic additions are not simulated. An operation counts as one kernel, though some launch several. Gradients through a
copy between devices are not checked. In a custom backward and in torch's own Python a tensor that is made without a device counts
as CUDA's.
"""

from __future__ import annotations

from simulated_cuda.device import simulate
from simulated_cuda.report import Report
from simulated_cuda.tensors import Cuda

__all__ = ["Cuda", "Report", "simulate"]
