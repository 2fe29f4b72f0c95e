"""The same numbers on a GPU as on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from groundup.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, override
from groundup.generation import generate
from groundup.nn import TransformerLM, cross_entropy
from groundup.optim import AdamW
from groundup.track import read_jsonl
from groundup.train import train
from groundup.train.profile_summary import GROUPS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SMALL = ModelConfig(vocab_size=1000, context_length=64, d_model=64, num_layers=2, num_heads=2)


def model(device: str, *, flash: bool) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM.from_config(SMALL, flash=flash).to(device)


@pytest.mark.parametrize("flash", [False, True])
def test_logits_and_gradients_equal_the_cpus(flash: bool):
    ids = torch.randint(1000, (4, 65), generator=torch.Generator().manual_seed(1))
    results = []
    for device in ("cpu", "cuda"):
        m = model(device, flash=flash)
        logits = m(ids[:, :-1].to(device))
        cross_entropy(logits, ids[:, 1:].to(device)).backward()
        results.append((logits.detach().cpu(), m.layers[0].attn.q_proj.weight.grad.cpu()))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_equals_torchs_in_float32(dtype: torch.dtype):
    logits = torch.randn(3000, 50257, device="cuda", dtype=dtype, requires_grad=True)
    targets = torch.randint(50257, (3000,), device="cuda")
    loss = cross_entropy(logits, targets)
    (gradient,) = torch.autograd.grad(2 * loss, logits)
    wide = logits.detach().float().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide, targets)
    (expected_gradient,) = torch.autograd.grad(2 * expected, wide)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient.float(), expected_gradient, atol=1e-7, rtol=1e-2)


def test_fused_adamw_equals_the_plain_one():
    results = []
    for fused in (False, True):
        torch.manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(100, 50, device="cuda"))
        optimizer = AdamW([weight], lr=1e-2, fused=fused)
        for step in range(20):
            weight.grad = torch.randn(100, 50, device="cuda", generator=torch.Generator("cuda").manual_seed(step))
            optimizer.step()
        results.append(weight.detach())
    torch.testing.assert_close(results[0], results[1])


def test_cached_generation_equals_uncached():
    m = model("cuda", flash=True)
    prompt = [1, 2, 3]
    new = generate(m, prompt, 100, temperature=0)
    for position in (3, 40, 63, 64, 80, 102):
        with torch.no_grad():
            window = torch.tensor([new[max(0, position - 64) : position]], device="cuda")
            assert int(m(window)[0, -1].argmax()) == new[position]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("compile_", [False, True])
def test_a_run_learns_and_resumes(tmp_path: Path, precision: str, compile_: bool):
    ids = np.cumsum(np.random.default_rng(0).integers(0, 3, 20_000)) % 1000
    np.save(tmp_path / "ids.npy", ids.astype(np.uint16))
    config = RunConfig(
        runs_dir=str(tmp_path),
        model=SMALL,
        optim=OptimConfig(warmup_iters=5, max_learning_rate=3e-3),
        data=DataConfig(train=str(tmp_path / "ids.npy"), valid=str(tmp_path / "ids.npy"), batch_size=8),
        train=TrainConfig(max_iters=60, eval_interval=30, device="cuda", eval_windows=64),
    )
    config = override(config, {"train.precision": precision, "train.compile": compile_})
    losses = [line["val_loss"] for line in read_jsonl(train(config).run_dir / "metrics.jsonl") if "val_loss" in line]
    assert losses[-1] < losses[0] - 2
    assert train(config, resume=True).finished


def test_a_profile_counts_the_device_s_time_and_changes_nothing(tmp_path: Path):
    np.save(tmp_path / "ids.npy", (np.arange(20_000) % 1000).astype(np.uint16))
    config = RunConfig(
        runs_dir=str(tmp_path),
        model=SMALL,
        optim=OptimConfig(warmup_iters=5),
        data=DataConfig(train=str(tmp_path / "ids.npy"), batch_size=8),
        train=TrainConfig(max_iters=20, device="cuda", log_interval=20),
    )
    weights = []
    for name in ("plain", "profiled"):
        run = train(override(config, {"name": name, "train.profile": name == "profiled"})).run_dir
        weights.append((run / "checkpoints" / "step-20" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    page = (tmp_path / "profiled" / "profile" / "summary.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    times = {row[0]: float(row[1].replace(",", "")) for row in rows if row[0] in (*GROUPS, "all")}
    whole = times.pop("all")
    assert sum(times.values()) == pytest.approx(whole, abs=0.06)
    assert min(times.values()) >= 0
    for group in ("matrix products", "attention", "optimizer"):
        assert times[group] > 0
