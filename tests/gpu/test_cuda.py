"""The same numbers on a GPU as on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from groundup.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig, override
from groundup.errors import TrainingError
from groundup.generation import generate
from groundup.nn import TransformerLM, cross_entropy, linear_cross_entropy
from groundup.nn.fast.accelerate import accelerate
from groundup.optim import AdamW, build_optimizer
from groundup.record.run import RunDirectory
from groundup.record.sinks import read_jsonl
from groundup.train import train
from groundup.train.preview.profiler import GROUPS
from groundup.train.step import train_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SMALL = ModelConfig(vocab_size=1000, context_length=64, d_model=64, num_layers=2, num_heads=2)


def model(device: str, *, flash: bool) -> TransformerLM:
    torch.manual_seed(0)
    return accelerate(TransformerLM(SMALL), kernels="plain", attention="flash" if flash else "plain").to(device)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compile_", [False, True])
def test_the_loss_without_all_logits_equals_torchs(dtype: torch.dtype, compile_: bool):
    """2,000 positions at a vocabulary of 50,257 and 300,000 more than the one chunk that a GPU takes at once."""
    generator = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(9000, 64, device="cuda", dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(50_257, 64, device="cuda", generator=generator, requires_grad=True)
    targets = torch.randint(50_257, (9000,), device="cuda", generator=generator)
    loss = linear_cross_entropy(hidden, weight, targets, compile=compile_)
    found = torch.autograd.grad(loss, (hidden, weight))
    logits = (hidden @ weight.to(dtype).T).float()
    expected_loss = torch.nn.functional.cross_entropy(logits, targets)
    expected = torch.autograd.grad(expected_loss, (hidden, weight))
    tolerance = 1e-3 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(loss, expected_loss, atol=tolerance, rtol=tolerance)
    for ours, torchs in zip(found, expected, strict=True):
        error = (ours.float() - torchs.float()).norm() / torchs.float().norm()
        assert float(error) < tolerance


@pytest.mark.parametrize("tied", [False, True])
def test_fast_kernels_equal_the_plain_ones(tied: bool):
    ids = torch.randint(1000, (4, 65), generator=torch.Generator().manual_seed(1)).cuda()
    gradients = []
    for fast in (False, True):
        torch.manual_seed(0)
        m = TransformerLM(ModelConfig(**SMALL.__dict__ | {"tie_embeddings": tied}))
        accelerate(m, kernels="fast" if fast else "plain").cuda()
        loss = m(ids[:, :-1], targets=ids[:, 1:]) if fast else cross_entropy(m(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in m.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_steps_equal_the_cpus(optimizer: str):
    losses = []
    for device in ("cpu", "cuda"):
        m = model(device, flash=True)
        optim = build_optimizer(m, OptimConfig(optimizer=optimizer, max_learning_rate=3e-3))
        ids = torch.randint(1000, (8, 65), generator=torch.Generator().manual_seed(1)).to(device)
        batch = [(ids[:, :-1], ids[:, 1:])]
        losses.append(
            [train_step(m, lambda x, y: m(x, targets=y), optim, batch, 1, 1.0).read()[0] for _ in range(20)]  # noqa: B023 - called at once
        )
    assert losses[0][-1] < losses[0][0] - 1
    # Muon's directions are rounded to bfloat16 on a GPU.
    assert losses[1] == pytest.approx(losses[0], abs=2e-3 if optimizer == "adamw" else 5e-2)


def test_a_broken_step_moves_nothing_though_nobody_has_looked():
    m = model("cuda", flash=True)
    optim = build_optimizer(m, OptimConfig())
    ids = torch.randint(1000, (8, 65), generator=torch.Generator().manual_seed(1)).cuda()
    batch = [(ids[:, :-1], ids[:, 1:])]
    train_step(m, lambda x, y: m(x, targets=y), optim, batch, 1, 1.0).read()
    before = [p.detach().clone() for p in m.parameters()]
    broken = train_step(m, lambda x, y: m(x, targets=y) * float("nan"), optim, batch, 1, 1.0)
    after = train_step(m, lambda x, y: m(x, targets=y), optim, batch, 1, 1.0, broken)
    with pytest.raises(TrainingError, match="the loss is nan"):
        broken.read()
    after.read()  # a number as such is fine; only the weights stand still
    assert all(torch.equal(a, b) for a, b in zip(before, m.parameters(), strict=True))


def test_a_step_never_waits_for_the_device():
    m = model("cuda", flash=True)
    optim = build_optimizer(m, OptimConfig())
    ids = torch.randint(1000, (8, 65), generator=torch.Generator().manual_seed(1)).cuda()
    batch = [(ids[:, :-1], ids[:, 1:])]

    def step():
        return train_step(m, lambda x, y: m(x, targets=y), optim, batch, 1, 1.0)

    step().read()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert result.read()[0] > 0


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
    assert losses[-1] < losses[0] - 1
    assert train(config, resume=True).finished


@pytest.mark.parametrize("background", [False, True])
def test_a_checkpoint_holds_the_weights_of_its_step(tmp_path: Path, background: bool):
    """Copied beside the next steps or not: what is on the disk is what a run that ends there has."""
    ids = np.cumsum(np.random.default_rng(0).integers(0, 3, 20_000)) % 1000
    np.save(tmp_path / "ids.npy", ids.astype(np.uint16))
    config = RunConfig(
        runs_dir=str(tmp_path),
        model=SMALL,
        optim=OptimConfig(warmup_iters=5, max_learning_rate=3e-3, schedule="constant"),
        data=DataConfig(train=str(tmp_path / "ids.npy"), batch_size=8),
        train=TrainConfig(max_iters=40, checkpoint_interval=10, keep_checkpoints=0, device="cuda"),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole = train(override(config, {"name": "whole", "train.background_checkpoints": background})).run_dir
        short = train(override(config, {"name": "short", "train.max_iters": 20})).run_dir
    finally:
        torch.use_deterministic_algorithms(False)
    steps = [load_file(RunDirectory(run).step_folder(20) / "model.safetensors") for run in (whole, short)]
    for name, weight in steps[0].items():
        torch.testing.assert_close(weight, steps[1][name], atol=1e-6, rtol=1e-5)


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
    for group in ("matmuls", "attention", "optimizer"):
        assert times[group] > 0
