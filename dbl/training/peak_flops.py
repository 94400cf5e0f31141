"""The most floating-point operations a second that a device can do, to which those of a training are compared."""

import time
from typing import Literal, NamedTuple

import torch

Source = Literal["given", "published", "measured", "unknown"]

# TFLOP/s of dense matrix products in bfloat16, TF32 and float32, from NVIDIA's data sheets, which quote twice as much
# for sparse ones. By the names of devices; one that is not here, such as a slice of a device, is unknown.
_H100_SXM = (989.4, 494.7, 66.9)
_H100_NVL = (835.5, 417.5, 60.0)
_A100 = (312.0, 156.0, 19.5)
_PUBLISHED = {
    "NVIDIA B200": (2250.0, 1125.0, 75.0),
    "NVIDIA GH200 480GB": _H100_SXM,
    "NVIDIA H200": _H100_SXM,
    "NVIDIA H200 NVL": _H100_NVL,
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 NVL": _H100_NVL,
    "NVIDIA H100 PCIe": (756.5, 378.0, 51.2),
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA L40S": (362.0, 183.2, 91.6),
    "NVIDIA L4": (121.0, 60.0, 30.3),
    "NVIDIA A40": (149.7, 74.8, 37.4),
    "NVIDIA A10": (125.0, 62.5, 31.2),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6, 82.6),
    "NVIDIA GeForce RTX 3090": (71.0, 35.6, 35.6),
}
# Side of the matrices of the measured product, and the number of products, of which the fastest counts.
_SIDE, _PRODUCTS = 1024, 12


class Peak(NamedTuple):
    """TFLOP/s of a device, None if unknown, and where the number is from."""

    tflops: float | None
    source: Source


def device_peak(device: str, precision: str, matmul_precision: str, given: float | None = None) -> Peak:
    """Find the peak of the device that a training would use.

    Args:
        device: `cpu`, whose peak is measured by a matrix product, or `cuda`, whose peak is a published one.
        precision: precision of the trainer, `32-true` or `bf16-mixed`.
        matmul_precision: precision of float32 matrix products on CUDA, as in `torch.set_float32_matmul_precision`.
        given: TFLOP/s that replace both.
    """
    if given is not None:
        return Peak(given, "given")
    if device == "cpu":
        return Peak(measured_tflops(torch.bfloat16 if precision == "bf16-mixed" else torch.float32), "measured")
    return published_peak(torch.cuda.get_device_name(), precision, matmul_precision)


def published_peak(name: str, precision: str, matmul_precision: str) -> Peak:
    """Look up a device by its name, such as `NVIDIA H100 80GB HBM3`; other arguments as in `device_peak`."""
    if name not in _PUBLISHED:
        return Peak(None, "unknown")
    in_bf16, in_tf32, in_float32 = _PUBLISHED[name]
    if precision == "bf16-mixed":
        return Peak(in_bf16, "published")
    return Peak(in_float32 if matmul_precision == "highest" else in_tf32, "published")


def measured_tflops(dtype: torch.dtype) -> float:
    """TFLOP/s of the fastest of some matrix products on the CPU, with the threads that torch has now."""
    first, second = torch.ones(_SIDE, _SIDE, dtype=dtype), torch.ones(_SIDE, _SIDE, dtype=dtype)
    fastest = float("inf")
    for _ in range(_PRODUCTS):
        start = time.perf_counter()
        first @ second
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * _SIDE**3 / fastest / 1e12
