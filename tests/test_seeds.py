"""The seed axis: layers, first weights and Adam of several seeds against PyTorch's own, one seed at a time."""

import math

from runtime import products
from runtime.messages import Refused
from runtime.seeds import Adam, Linear, follow, initialise, number, rows, side_by_side, take

import pytest
import torch
import torch.nn as nn
from scipy import stats

CPU = torch.device("cpu")
SIZES = [(3, 256), (256, 256), (256, 1), (40, 32), (32, 6), (1, 4)]


def made(kind, *inputs, seeds=range(5, 8)):
    with side_by_side(seeds, CPU):
        return kind(*inputs)


def own(layer: Linear, seed: int, copy: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (out, in) and bias (out,) of one seed's layer, as PyTorch has them."""
    weight = layer.weight if layer.turned else layer.weight.mT
    place = seed if copy is None else (seed, copy)
    return weight[place], layer.bias[place][0]


@pytest.mark.parametrize("n_in, n_out", SIZES)
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("parts", [1, 2])
def test_linear_is_pytorchs_for_each_seed(n_in, n_out, copies, parts):
    """Values and gradients at float64, for one input or its parts, and for an input to each copy."""
    layer = made(Linear, n_in, n_out, copies).double()
    for apart in (False, True)[:copies]:
        x = torch.randn(3, *([copies] if apart else []), 7, n_in, dtype=torch.double, requires_grad=True)
        pieces = x.split([1, n_in - 1], dim=-1) if parts == 2 and n_in > 1 else [x]
        out = layer(*pieces)
        wanted = []
        for seed in range(3):
            each = [
                nn.functional.linear(x[seed, c] if apart else x[seed], *own(layer, seed, c if copies > 1 else None))
                for c in range(copies)
            ]
            wanted.append(torch.stack(each) if copies > 1 else each[0])
        wanted = torch.stack(wanted)
        assert out.shape == wanted.shape and torch.allclose(out, wanted, rtol=0, atol=1e-12)
        probe, sources = torch.randn_like(out), [x, layer.weight, layer.bias]
        ours, theirs = (torch.autograd.grad((y * probe).sum(), sources) for y in (out, wanted))
        assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in zip(ours, theirs))


def test_first_weights_are_a_seeds_own():
    """A seed draws the same first weights alone as in company, and two seeds or copies draw others."""
    company = made(Linear, 40, 30, 2)
    for i, seed in enumerate(range(5, 8)):
        alone = made(Linear, 40, 30, 2, seeds=[seed])
        assert torch.equal(company.weight[i], alone.weight[0]) and torch.equal(company.bias[i], alone.bias[0])
    flat = company.weight.flatten(0, 1).flatten(1)
    assert all(not torch.equal(flat[i], flat[j]) for i in range(6) for j in range(i))


def test_first_weights_are_pytorchs():
    """Uniform on ±1/√in by default (Kolmogorov's test), and what a script's own start sets, layer by layer."""
    layer = made(Linear, 100, 300)
    for values in (layer.weight, layer.bias):
        assert stats.kstest(values.detach().flatten().numpy() * 10, stats.uniform(-1, 2).cdf).pvalue > 1e-3

    def start(weight, bias, stream):
        nn.init.xavier_uniform_(weight, generator=stream)
        bias.fill_(weight.shape[0])

    with side_by_side(range(2), CPU):
        both = nn.Sequential(Linear(30, 50), Linear(50, 2))
        initialise(both, start)
    assert both[0].bias.unique().tolist() == [50] and both[1].bias.unique().tolist() == [2]
    for layer in both:
        weight = layer.weight.detach().flatten()
        bound = math.sqrt(6 / (layer.weight.shape[-1] + layer.weight.shape[-2]))
        assert stats.kstest(weight.numpy() / bound, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_no_seed_reaches_another():
    """The gradient of one seed's loss in another's parameters is zero."""
    net = made(lambda: nn.Sequential(Linear(4, 300, 2), nn.ReLU(), Linear(300, 1, 2)))
    losses = net(torch.randn(3, 9, 4)).square().mean((-3, -2, -1))
    for seed in range(3):
        for gradient in torch.autograd.grad(losses[seed], list(net.parameters()), retain_graph=True):
            others = [i for i in range(3) if i != seed]
            assert gradient[seed].abs().max() > 0 and gradient[others].abs().max() == 0


def test_minimise_is_pytorchs_adam():
    """Ten steps give the parameters of torch.optim.Adam to the bit, and `seen` what the loss saw."""
    net = made(Linear, 5, 8)
    twin = made(Linear, 5, 8)
    ours, theirs = Adam(net.parameters(), 1e-2), torch.optim.Adam(twin.parameters(), 1e-2, fused=True)

    def loss(x):
        value = net(x).square().mean((-2, -1))
        return value, {"value": value}

    for _ in range(10):
        x = torch.randn(3, 6, 5)
        seen = ours.minimise(loss, x)
        theirs.zero_grad()
        value = twin(x).square().mean((-2, -1))
        value.sum().backward()
        theirs.step()
        assert torch.equal(seen["value"], value) and not seen["value"].requires_grad
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters()))
    assert not torch.equal(net.weight, made(Linear, 5, 8).weight)
    for p, q in zip(net.parameters(), twin.parameters()):
        assert all(
            torch.equal(ours.state[p][name], theirs.state[q][name]) for name in ("step", "exp_avg", "exp_avg_sq")
        )


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_adam_counts_as_pytorchs_fused_adam(kind):
    """Whatever the default dtype: its kernel on a GPU takes the step counts for float32, and float64 ones gave NaN."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        net, twin = made(Linear, 5, 8), made(Linear, 5, 8)
        ours, theirs = Adam(net.parameters(), 1e-2), torch.optim.Adam(twin.parameters(), 1e-2, fused=True)
        x = torch.randn(3, 6, 5)
        for _ in range(3):
            ours.minimise(lambda: (net(x).square().mean((-2, -1)), {}))
            theirs.zero_grad()
            twin(x).square().mean((-2, -1)).sum().backward()
            theirs.step()
    finally:
        torch.set_default_dtype(before)
    for p, q in zip(net.parameters(), twin.parameters()):
        for name, value in theirs.state[q].items():
            assert ours.state[p][name].dtype == value.dtype and torch.equal(ours.state[p][name], value), name
        assert p.dtype == kind and ours.state[p]["step"].dtype == torch.float32 and torch.equal(p, q)


def test_a_gradient_may_lie_in_memory_as_it_likes():
    """Here transposed, as a convolution's may lie channels last: the fused kernel reads what it is given in a row."""
    net, scale = made(Linear, 3, 30), torch.randn(3, 30, 3)
    ours, before = Adam([net.weight], 1e-2), net.weight.detach().clone()
    ours.minimise(lambda: ((net.weight.mT * scale).sum((-2, -1)), {}))
    assert torch.allclose(net.weight, before - 1e-2 * scale.mT.sign(), rtol=0, atol=1e-5)


def test_only_gradients_that_are_asked_for_are_computed(monkeypatch):
    """∇_a Q through two layers is two products, and two forward: none for weights that nobody asks about."""
    net, count, plain = made(lambda: nn.Sequential(Linear(4, 300), nn.ReLU(), Linear(300, 100))), [], products.multiply
    monkeypatch.setattr(products, "multiply", lambda *factors: count.append(0) or plain(*factors))
    x = torch.randn(3, 9, 4, requires_grad=True)
    torch.autograd.grad(net(x).sum(), x)
    assert len(count) == 4
    torch.autograd.grad(net(x).sum(), [x, *net.parameters()])
    assert len(count) == 10


def test_take_and_follow_and_numbers():
    table, index = torch.randn(3, 11, 2), torch.randint(11, (3, 5))
    wanted = torch.stack([table[i, index[i]] for i in range(3)])
    assert torch.equal(take(table, index), wanted)
    net, target = made(Linear, 3, 30), made(Linear, 3, 30, seeds=range(3))
    expected = target.weight + 0.25 * (net.weight - target.weight)
    follow(target, net, 0.25)
    assert torch.allclose(target.weight, expected, rtol=0, atol=1e-7)
    assert made(number, 0.5).tolist() == [[0.5]] * 3 and not made(number, 0.5, False).requires_grad


def test_what_does_not_fit_is_refused():
    with pytest.raises(Refused, match=r"--buffer-size 9: .* GB for all seeds do not fit"):
        made(rows, "--buffer-size 9", 10**9, 10**9)
