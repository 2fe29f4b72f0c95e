"""What a step of Muon changes, over the width of the model (coordinate check; Yang et al. 2022)."""

import itertools

import pytest
import torch

from groundup.config import ModelConfig, OptimConfig
from groundup.nn import TransformerLM
from groundup.optim import build_optimizer
from groundup.text.stories import stories

WIDTHS = (64, 128, 256, 512)
SEEDS = range(4)


def added(model: TransformerLM, ids: torch.Tensor) -> torch.Tensor:
    """What the last block adds to the residual stream."""
    seen: list[torch.Tensor] = []
    handle = model.layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output - inputs[0]))
    with torch.no_grad():
        model.hidden(ids)
    handle.remove()
    return seen[0]


def changes(width: int, scale: str) -> tuple[float, float]:
    """Relative change of what the last block adds, and mean spectral norm of ΔW / sqrt(max(1, M / N)), after 3 steps.

    Muon moves the matrices alone, so that nothing else changes with the width.
    """
    text = torch.frombuffer(bytearray("".join(itertools.islice(stories(1), 60)).encode()), dtype=torch.uint8).long()
    batches = text[: 4 * 8 * 65].view(4, 8, 65)
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = TransformerLM(
            ModelConfig(
                vocab_size=256, context_length=64, d_model=width, num_layers=2, num_heads=width // 16, d_ff=4 * width
            )
        )
        optim = OptimConfig(
            optimizer="muon", muon_scale=scale, max_learning_rate=0.01,
            weight_decay=0.0, embedding_rate_scale=0.0, head_rate_scale=0.0, vector_rate_scale=0.0,
        )  # fmt: skip
        optimizer = build_optimizer(model, optim)
        matrices = {name: p for name, p in model.layers.named_parameters() if p.ndim == 2}
        before = {name: p.detach().clone() for name, p in matrices.items()}

        at_first = added(model, batches[3, :, :64])
        for batch in batches[:3]:
            model(batch[:, :64], targets=batch[:, 1:]).backward()
            optimizer.step()
            model.zero_grad()
        relative = (added(model, batches[3, :, :64]) - at_first).norm() / at_first.norm()
        norms = [
            torch.linalg.matrix_norm(p.detach() - before[name], ord=2) / max(1, p.shape[0] / p.shape[1]) ** 0.5
            for name, p in matrices.items()
        ]
        found.append((relative.item(), torch.stack(norms).mean().item()))
    return tuple(sum(values) / len(found) for values in zip(*found, strict=True))


def test_with_the_spectral_scale_it_is_the_same_at_every_width_and_otherwise_it_grows():
    spectral = [changes(width, "spectral") for width in WIDTHS]
    for values in zip(*spectral, strict=True):
        assert values == pytest.approx([sum(values) / len(values)] * len(values), rel=0.05)
    for narrow, wide in zip(changes(64, "rms"), changes(256, "rms"), strict=True):
        assert wide / narrow > 1.6  # sqrt(4) where the change is small
