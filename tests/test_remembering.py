"""The penalty on moving weights that mattered to earlier phases."""

import torch
import torch.nn.functional as F
from tiny import tiny

from nat_lib import files, machine
from nat_lib.arch import Space
from nat_lib.cells import open_cell
from nat_lib.samplers import uniform
from nat_lib.studies import eps, remembering
from nat_lib.supernet import Supernet

SPACE = Space("EE_D", (16, 20), (1.0,), (8,) * 6)


def batches(epoch, n=3):
    for i in range(n):
        g = torch.Generator().manual_seed(i)
        yield torch.randn(6, 3, 16, 16, generator=g), torch.randint(0, 5, (6,), generator=g)


def test_what_matters_is_the_mean_squared_gradient_and_leaves_no_trace(tmp_path):
    net = Supernet(SPACE, 1.0, 5, dropout=0.2).train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    cell = open_cell(tmp_path, "a", "b", {"seed": 3})
    found = remembering.importance(net, SPACE.choices, batches, cell)
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    again = remembering.importance(net, None, None, cell)  # of the file
    assert all(torch.equal(again[name], t) for name, t in found.items())

    squares = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for step, (x, y) in enumerate(batches(0)):
        rng = machine.stream(3, "what matters", step)
        [arch] = uniform(SPACE, SPACE.choices, 1.0, 16, rng, 1)
        net.zero_grad()
        F.cross_entropy(net(x, arch), y).backward()
        for name, p in net.named_parameters():
            squares[name] += 0 if p.grad is None else p.grad.square()
    mean = sum(s.sum() for s in squares.values()) / sum(s.numel() for s in squares.values())
    for name, square in squares.items():
        torch.testing.assert_close(found[name], square / mean, rtol=1e-4, atol=1e-6)


def test_the_penalty_is_zero_where_nothing_moved_and_pulls_back_what_did():
    net = torch.nn.Linear(3, 2)
    matters = {name: torch.rand_like(p) for name, p in net.named_parameters()}

    def losses(x, y, step):
        yield torch.tensor(0.5), "logits"
        yield torch.tensor(0.25), "logits"

    pulled = remembering.pulled_back(losses, net, matters, 4.0)
    assert [loss.item() for loss, _ in pulled(None, None, 0)] == [0.5, 0.25]
    before = net.weight.detach().clone()
    with torch.no_grad():
        net.weight += 0.1
    first, second = (loss for loss, _ in pulled(None, None, 0))
    assert second.item() == 0.25 and first.item() > 0.5
    first.backward()
    n = sum(p.numel() for p in net.parameters())
    wanted = 4.0 * matters["weight"] * (net.weight.detach() - before) / n
    torch.testing.assert_close(net.weight.grad, wanted)
    assert torch.count_nonzero(net.bias.grad) == 0


def test_a_phase_moves_less_the_more_it_remembers(tmp_path):
    moved = []
    for i, strength in enumerate((0.0, 1e6)):
        params = tiny("ofav2_eps", remember=strength, recipe="short")
        data = eps.load_data(params)
        full, kernel = eps.chain(params, "BASE", 1.0, "fixed", 0, data, tmp_path / str(i))[:2]
        eps.run_phase(full, data)
        eps.run_phase(kernel, data)
        old, new = (files.load_weights(k.cell.path("best.safetensors")) for k in (full, kernel))
        name = "stages.0.levels.0.irb.project.weight"
        moved.append((new[f"body.{name}"] - old[name]).norm().item())
        assert not kernel.cell.path("importance.safetensors").exists()
    assert moved[1] < moved[0] and moved[0] > 0
