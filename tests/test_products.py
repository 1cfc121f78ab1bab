"""Products of every shape in use, by every library and precision, against float64."""

import json
import os
import subprocess
import sys
from pathlib import Path

import sac_continuous as sac
from runtime import products

import numpy as np
import pytest
import torch
from conftest import newest, quick, resume, train

CPU = torch.device("cpu")
ROOT = Path(sac.__file__).parent
ONEDNN = products.measure(2)[0] < products.EXACT  # whether this machine has float32 products by oneDNN
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


@pytest.mark.skipif(not ONEDNN, reason="no float32 products by oneDNN here")
def test_the_choice_is_kept(monkeypatch, capfd):
    """What config.json says is what a resumed run computes with, whatever a measurement would say there."""
    for gain, expected in ((2.0, "onednn"), (0.5, "default")):
        monkeypatch.setattr(products, "measure", lambda networks, gain=gain: (1e-7, gain))
        assert train(sac, quick(sac)) == 0
        folder = newest()
        assert json.loads((folder / "config.json").read_text())["products"] == expected
        assert torch.get_float32_matmul_precision() == ("medium" if expected == "onednn" else "highest")
        monkeypatch.setattr(products, "measure", lambda networks, gain=gain: (1e-7, 1 / gain))
        assert resume(sac, folder, "--total-timesteps", "130") == 0
        assert json.loads((folder / "config.json").read_text())["products"] == expected
    monkeypatch.setattr(products, "measure", lambda networks: (float("inf"), 1.0))
    assert products.choose("highest", CPU, kept="onednn") == "default"
    assert "the run began with oneDNN's products, which are not exact here" in capfd.readouterr().err
    assert torch.get_float32_matmul_precision() == "highest"


def test_rounded_products_are_refused(monkeypatch):
    """A processor whose oneDNN rounds to bfloat16 keeps the default however fast that is."""
    monkeypatch.setattr(products, "measure", lambda networks: (2e-3, 9.0))
    assert products.choose("highest", CPU) == "default" and torch.get_float32_matmul_precision() == "highest"


def test_medium_rounds(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert products.choose("medium", CPU) == "default" and products.half
    x, w = torch.randn(2, 1, 256, 256).unbind()
    assert (products.product(x, w) - x @ w).abs().max() > 1e-2
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    products.choose("medium", CPU)
    assert not products.half


@pytest.mark.slow
def test_an_older_processor_keeps_the_default():
    """oneDNN limited to AVX2, in a process of its own: still exact, whichever library is chosen."""
    code = "import torch, runtime.products as p; print(p.choose('highest', torch.device('cpu')), p.measure(2)[0])"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    choice, error = done.stdout.split()
    assert choice == "default" or float(error) < products.EXACT
    assert np.isfinite(float(error)) or choice == "default"
