"""Products of every shape in use, by every library and precision, against float64."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import sac_continuous as sac
from runtime import messages, products
from runtime.messages import Refused

import pytest
import torch
from conftest import newest, quick, resume, train

CPU = torch.device("cpu")
ROOT = Path(sac.__file__).parent
ONEDNN = products.onednn_error() < products.EXACT  # whether this machine has float32 products by oneDNN
SHAPES = [  # m, k, n: hidden, first and last layers of critic, policy and force, acting, and their gradients
    (256, 256, 256), (256, 14, 256), (256, 393, 256), (1, 256, 256), (6, 256, 256), (34, 256, 256), (3, 256, 256),
    (256, 3, 256), (256, 17, 32), (3, 32, 256), (1, 11, 256), (1, 17, 32), (17, 256, 256),
]  # fmt: skip


@pytest.fixture(autouse=True)
def plain_afterwards():
    yield
    products.half = False
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("library", ["default", "onednn", "bfloat16"])
@pytest.mark.parametrize("networks", [1, 2, 16])
def test_products_and_gradients(library, networks):
    """Value and both gradients within what rounding allows, transposed operands too; bfloat16 in wide ones alone."""
    products.half = library == "bfloat16"
    torch.set_float32_matmul_precision("medium" if library == "onednn" else "highest")
    if library == "onednn" and not ONEDNN:
        pytest.skip("no float32 products by oneDNN here")
    stream, rounded = torch.Generator().manual_seed(networks), 0
    for m, k, n in SHAPES:
        for flip in (False, True):
            x, w = torch.randn(networks, m, k, generator=stream), torch.randn(networks, k, n, generator=stream)
            w = torch.randn(networks, n, k, generator=stream).mT if flip else w
            probe = torch.randn(networks, m, n, generator=stream)
            results = []
            for dtype in (torch.float32, torch.float64):
                a, b = (t.to(dtype).requires_grad_() for t in (x, w))
                out = products.product(a, b) if dtype == torch.float32 else a @ b
                results.append([out, *torch.autograd.grad((out * probe.to(dtype)).sum(), [a, b])])
            for mine, exact in zip(*results):
                error = ((mine.double() - exact).abs().max() / exact.abs().max()).item()
                wide = products.half and min(m, k, n) >= products.WIDE
                rounded += error > products.EXACT
                assert error < (2e-2 if wide else products.EXACT), (m, k, n, error)
    assert (rounded > 0) == products.half


def test_the_rule(monkeypatch):
    """oneDNN where MKL leaves AVX-512 unused and oneDNN is exact, and nowhere else; a word wins over the rule."""
    for maker, wide, error, wanted, expected in (
        ("AuthenticAMD", True, 1e-7, "auto", "onednn"),
        ("GenuineIntel", True, 1e-7, "auto", "default"),
        ("AuthenticAMD", False, 1e-7, "auto", "default"),
        ("AuthenticAMD", True, 2e-3, "auto", "default"),
        ("AuthenticAMD", True, 1e-7, "default", "default"),
        ("GenuineIntel", True, 1e-7, "onednn", "onednn"),
    ):
        monkeypatch.setattr(products, "vendor", lambda maker=maker: maker)
        monkeypatch.setattr(products, "avx512", lambda wide=wide: wide)
        monkeypatch.setattr(products, "onednn_error", lambda error=error: error)
        assert products.choose("highest", wanted, CPU) == expected
        assert torch.get_float32_matmul_precision() == ("medium" if expected == "onednn" else "highest")
    monkeypatch.setattr(products, "onednn_error", lambda: float("inf"))
    with pytest.raises(Refused, match="--products onednn"):
        products.choose("highest", "onednn", CPU)


@pytest.mark.usefixtures("narrow")
def test_the_choice_is_kept(monkeypatch, capfd):
    """A resumed run computes with what it began with, whatever the rule says there; if it cannot, it says so."""
    monkeypatch.setattr(products, "avx512", lambda: True)
    monkeypatch.setattr(products, "onednn_error", lambda: 1e-7)
    for maker, expected in (("AuthenticAMD", "onednn"), ("GenuineIntel", "default")):
        monkeypatch.setattr(products, "vendor", lambda maker=maker: maker)
        before = set(Path("runs").glob("*"))
        assert train(sac, quick(sac, total_timesteps=50)) == 0
        folder = newest(before)
        other = "GenuineIntel" if maker == "AuthenticAMD" else "AuthenticAMD"
        monkeypatch.setattr(products, "vendor", lambda other=other: other)
        assert resume(sac, folder, "--total-timesteps", "60") == 0
        assert json.loads((folder / "config.json").read_text())["args"]["products"] == expected
    monkeypatch.setattr(products, "onednn_error", lambda: float("inf"))
    assert products.choose("highest", "onednn", CPU, resumed=True) == "default"
    assert "the run began with oneDNN's products, which are not exact here" in capfd.readouterr().err
    assert torch.get_float32_matmul_precision() == "highest"


def test_medium_rounds_where_that_is_faster_and_is_highest_elsewhere(monkeypatch, capfd):
    monkeypatch.setattr(messages, "NOTED", {})  # another test may have told it already, once in a process
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert products.choose("medium", "auto", CPU) == "default" and products.half
    x, w = torch.randn(2, 1, 256, 256).unbind()
    assert (products.product(x, w) - x @ w).abs().max() > 1e-2
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    as_highest = products.choose("highest", "auto", CPU), torch.get_float32_matmul_precision()
    for precision in ("medium", "high"):
        assert (products.choose(precision, "auto", CPU), torch.get_float32_matmul_precision()) == as_highest
        assert not products.half and torch.allclose(products.product(x, w), x @ w, atol=1e-4)
        messages.tell_notes()
        assert f"--matmul-precision {precision}: this processor" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler here")
def test_compiled_products():
    """As above with narrow products as sums, compiled, for every shape, with gradients."""
    stream = torch.Generator().manual_seed(5)

    @torch.compile(dynamic=False)
    def outcomes(given):  # of all shapes in one graph, which compiles several times faster than one a shape
        outs = [products.product(a, b) for a, b, _ in given]
        loss = sum((out * probe).sum() for out, (_, _, probe) in zip(outs, given))
        return outs, torch.autograd.grad(loss, [x for a, b, _ in given for x in (a, b)])

    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True, recompile_limit=64):
        given = [[torch.randn(2, *pair, generator=stream) for pair in ((m, k), (k, n), (m, n))] for m, k, n in SHAPES]
        outs, gradients = outcomes([(a.requires_grad_(), b.requires_grad_(), probe) for a, b, probe in given])
    for i, (shape, (x, w, probe)) in enumerate(zip(SHAPES, given)):
        a, b = (t.detach().double().requires_grad_() for t in (x, w))
        exact = [a @ b, *torch.autograd.grad(((a @ b) * probe.double()).sum(), [a, b])]
        for got, expected in zip([outs[i], *gradients[2 * i : 2 * i + 2]], exact):
            error = ((got.double() - expected).abs().max() / expected.abs().max()).item()
            assert error < products.EXACT, (shape, error)


@pytest.mark.slow
def test_an_older_processor_keeps_the_default():
    """PyTorch limited to AVX2, in a process of its own."""
    code = "import torch, runtime.products as p; print(p.choose('highest', 'auto', torch.device('cpu')))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "default"
