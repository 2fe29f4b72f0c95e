"""Operations of an optimizer's step."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from groundup.account.time import newton_schulz_flops, optimizer_flops, step_flops
from groundup.config import ModelConfig, OptimConfig
from groundup.optim.muon import orthogonalize

MODEL = ModelConfig(vocab_size=100, context_length=16, d_model=32, num_layers=2, num_heads=4, d_ff=48)


def test_the_products_of_newton_and_schulz_are_those_that_torch_counts():
    for rows, columns in ((8, 8), (8, 20), (20, 8)):
        with FlopCounterMode(display=False) as counter:
            orthogonalize(torch.randn(1, rows, columns), 5)
        assert newton_schulz_flops(rows, columns, 5) == counter.get_total_flops()


def test_adamw_costs_fourteen_an_element():
    assert optimizer_flops(MODEL, OptimConfig()) == 14 * (2 * 100 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 48 + 64) + 32)


def test_muon_adds_its_products_for_the_matrices_between_embedding_and_head():
    muon = OptimConfig(optimizer="muon")
    products = 2 * (4 * newton_schulz_flops(32, 32, 5) + 3 * newton_schulz_flops(32, 48, 5))
    rest = 14 * (2 * 100 * 32 + 2 * 64 + 32)
    elements = 2 * (4 * 32 * 32 + 3 * 32 * 48)
    assert products < optimizer_flops(MODEL, muon) - rest < products + 14 * elements


def test_a_step_is_forward_backward_and_update():
    step = step_flops(MODEL, OptimConfig(), 6)
    assert step.model == 3 * step.forward
    assert step.total == step.model + optimizer_flops(MODEL, OptimConfig())
