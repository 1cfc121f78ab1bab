"""Matrix products: which library computes them, and how precisely.

On a CPU PyTorch hands float32 products to MKL, which uses AVX-512 on Intel's processors alone. PyTorch also has oneDNN,
which uses it on all, and goes there once `torch.set_float32_matmul_precision` allows bfloat16. oneDNN then rounds to
bfloat16 only on a processor with AMX, and not even there if told to leave AMX alone. So float32 products by oneDNN are
had by asking for less precision than one gets, and `choose` makes sure of that by a product whose error it measures.
"""

import os
from pathlib import Path

from runtime.messages import fail, note, tell

import torch

SIZE = 256  # of the product that is tried
EXACT = 4e-6  # largest error of such a product in float32, over its largest value; bfloat16 makes a thousand times it
WIDE = 64  # smallest side of a product worth rounding to bfloat16
NARROW = 2
SHALLOW = 24  # largest number of terms that makes it so
half = False  # round wide products to bfloat16 on a CPU: --matmul-precision medium


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight, (.., m, k), (.., k, n) -> (.., m, n), by the library that `choose` chose."""
    return Product.apply(x, weight)


class Product(torch.autograd.Function):
    """A product whose gradients are products of the same kind."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return multiply(x, weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        to_x, to_weight = ctx.needs_input_grad if torch.compiler.is_compiling() else wanted(ctx)
        return multiply(grad, weight.mT) if to_x else None, multiply(x.mT, grad) if to_weight else None


def wanted(ctx) -> list[bool]:
    """Which gradients are asked for. A compiled graph drops what nobody reads; outside of one autograd would compute
    the critics' weights' wherever an action's is meant. Of a leaf it does not tell."""
    functions = [function for function, _ in ctx.next_functions]
    leaf = torch._C._functions.AccumulateGrad
    return [f is not None and (isinstance(f, leaf) or torch._C._will_engine_execute_node(f)) for f in functions]


def multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`torch.bmm`. Compiled for a CPU, a narrow product is a sum instead, which is fused with the passes before and
    after it: up to 15% of an update with one seed (docs/speed.md)."""
    (m, k), n = x.shape[-2:], weight.shape[-1]
    if torch.compiler.is_compiling() and x.device.type == "cpu" and (k <= SHALLOW or min(m, n) <= NARROW):
        if k <= SHALLOW:
            return (x[..., None] * weight[..., None, :, :]).sum(-2)
        return (x[..., None, :] * weight.mT[..., None, :, :]).sum(-1)
    shape, x, weight = (*x.shape[:-1], n), x.flatten(0, -3), weight.flatten(0, -3)
    if half and min(m, k, n) >= WIDE:
        return torch.bmm(x.bfloat16(), weight.bfloat16()).float().view(shape)
    return torch.bmm(x, weight).view(shape)


def choose(precision: str, wanted: str, device: torch.device, resumed: bool = False) -> str:
    """Sets how products are computed; returns "onednn", or "default" for PyTorch's own choice.

    `precision` is PyTorch's highest, high or medium; on a CPU medium rounds wide products to bfloat16 if there are
    instructions for it, and is highest if not, as high is: never slower. `wanted` may also be "auto", a rule and no
    timing, so that a command gives the same run twice: oneDNN for full precision where there is AVX-512 that MKL would
    not use. A resumed run wants what it began with.
    """
    global half
    half = precision == "medium" and device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    if precision != "highest" and device.type == "cpu" and not half:
        quiet = resumed and precision == "high"  # of an agent that a GPU trained
        why = "has no bfloat16 instructions" if precision == "medium" else "knows no TensorFloat32"
        if not quiet:
            note(f"--matmul-precision {precision}: this processor {why}, so products are as with highest")
        precision = "highest"
    torch.set_float32_matmul_precision(precision)
    if device.type != "cpu" or precision != "highest":
        if wanted == "onednn" and not resumed:
            fail("--products onednn is for float32 products of a CPU, with --matmul-precision highest: leave it out")
        return "default"
    if wanted == "default" or (wanted == "auto" and not (vendor() != "GenuineIntel" and avx512())):
        return "default"
    if onednn_error() > EXACT:
        if wanted == "onednn" and not resumed:
            fail("--products onednn: oneDNN's products are not used here, or not exact; leave it out")
        if resumed:
            tell("the run began with oneDNN's products, which are not exact here: it goes on with PyTorch's default")
        return "default"
    torch.set_float32_matmul_precision("medium")
    return "onednn"


def vendor() -> str:
    """The processor's maker as it names itself, "GenuineIntel" or "AuthenticAMD"; "" where that is not told."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def onednn_error() -> float:
    """The largest error over the largest value of a product by oneDNN; infinite where PyTorch does not go there. Leaves
    the precision at highest."""
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # without AMX; read at the first product
    stream = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 1, SIZE, SIZE, generator=stream).unbind()
    exact = torch.bmm(x.double(), weight.double())
    torch.set_float32_matmul_precision("medium")
    ours = torch.bmm(x, weight)
    torch.set_float32_matmul_precision("highest")
    if torch.equal(ours, torch.bmm(x, weight)):  # one library made both
        return float("inf")
    return ((ours - exact).abs().max() / exact.abs().max()).item()
