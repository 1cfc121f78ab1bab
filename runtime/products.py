"""Matrix products: which library computes them, and how precisely.

On a CPU PyTorch hands float32 products to MKL, which leaves AVX-512 unused on an AMD processor. PyTorch also has
oneDNN, which does not, and goes there once `torch.set_float32_matmul_precision` allows bfloat16. oneDNN then rounds to
bfloat16 only on a processor with AMX, and not even there if told to leave AMX alone. So float32 products by oneDNN are
had by asking for less precision than one gets, and `choose` measures both the error and the time before it does.
"""

import os
import time

from runtime.messages import tell

import torch

SIZE = 256  # of the products that are measured
EXACT = 4e-6  # largest error over largest value of such a product in float32; bfloat16's is a thousand times larger
WIDE = 64  # smallest side of a product worth rounding to bfloat16
half = False  # round wide products to bfloat16 on a CPU: --matmul-precision medium


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight, (N, m, k), (N, k, n) -> (N, m, n), by the library that `choose` chose."""
    if x.shape[-2] == 1:  # a weighted sum, which compilation fuses with what made the weight
        return (x.mT * weight).sum(-2, keepdim=True)
    if half and min(*x.shape[-2:], weight.shape[-1]) >= WIDE:
        return torch.bmm(x.bfloat16(), weight.bfloat16()).float()
    return torch.bmm(x, weight)


def choose(precision: str, device: torch.device, networks: int = 2, kept: str | None = None) -> str:
    """Sets how products are computed and returns "onednn" or "default", PyTorch's own choice.

    `precision` is PyTorch's highest, high or medium; on a CPU medium rounds wide products to bfloat16, if there are
    instructions for it. `kept` is the choice of the run that is resumed: it stays, or a line says that it cannot.
    """
    global half
    half = precision == "medium" and device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    torch.set_float32_matmul_precision(precision)
    if device.type != "cpu" or precision != "highest":
        return "default"
    error, gain = measure(networks)
    if kept == "onednn" and error > EXACT:
        tell("the run began with oneDNN's products, which are not exact here: it goes on with PyTorch's default ones")
    if error > EXACT or (kept or ("onednn" if gain > 1.1 else "default")) == "default":
        return "default"
    torch.set_float32_matmul_precision("medium")
    return "onednn"


def measure(networks: int) -> tuple[float, float]:
    """oneDNN's largest error over the largest value of products, infinite where it is not in use; the default's time
    over oneDNN's. Takes some milliseconds; leaves the precision at highest."""
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")  # AMX would round; read at the first product
    stream = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(networks, SIZE, SIZE, generator=stream) for _ in range(2))
    exact, outcomes, times = torch.bmm(x.double(), weight.double()), {}, {}
    for precision in ("highest", "medium") * 4:
        torch.set_float32_matmul_precision(precision)
        start = time.perf_counter()
        outcomes[precision] = torch.bmm(x, weight)
        times.setdefault(precision, []).append(time.perf_counter() - start)
    torch.set_float32_matmul_precision("highest")
    if torch.equal(outcomes["highest"], outcomes["medium"]):  # one library made both
        return float("inf"), 1.0
    error = ((outcomes["medium"] - exact).abs().max() / exact.abs().max()).item()
    return error, min(times["highest"]) / min(times["medium"])
