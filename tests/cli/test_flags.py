"""Every spelling of an option of `groundup train` reaches the option it means."""

import pytest

from groundup.cli.flags import read_flags, resolve
from groundup.config import RunConfig, flatten
from groundup.errors import ConfigError


def resolved(*arguments: str) -> dict:
    return flatten(resolve(read_flags(list(arguments))))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--vocab_size", "123"], {"model.vocab_size": 123}),
        (["--context_length", "64"], {"model.context_length": 64}),
        (["--d_model", "64"], {"model.d_model": 64}),
        (["--num_layers", "2"], {"model.num_layers": 2}),
        (["--num_heads", "4"], {"model.num_heads": 4}),
        (["--d_ff", "1344"], {"model.d_ff": 1344}),
        (["--rope_theta", "5e4"], {"model.rope_theta": 5e4}),
        (["--max_learning_rate", "3e-3"], {"optim.max_learning_rate": 3e-3}),
        (["--min_learning_rate=1e-5"], {"optim.min_learning_rate": 1e-5}),
        (["--warmup_iters", "7"], {"optim.warmup_iters": 7}),
        (["--max_iters", "9"], {"train.max_iters": 9}),
        (["--batch_size", "6"], {"data.batch_size": 6}),
        (["--weight_decay", "0.1"], {"optim.weight_decay": 0.1}),
        (["--grad_clip", "0.5"], {"optim.grad_clip": 0.5}),
        (["--beta1", "0.8", "--beta2", "0.9", "--eps", "1e-7"], {"optim.beta1": 0.8, "optim.eps": 1e-7}),
        (["--train_path", "a", "--val_path", "b"], {"data.train": "a", "data.valid": "b"}),
        (["--vocab_path", "v", "--merges_path", "m"], {"data.vocab": "v", "data.merges": "m"}),
        (["--device", "cpu", "--seed", "3"], {"train.device": "cpu", "train.seed": 3}),
        (["--eval_interval", "5", "--log_interval", "2"], {"train.eval_interval": 5, "train.log_interval": 2}),
        (["--eval_batches", "20", "--batch_size", "8"], {"train.eval_windows": 160}),
        (["--checkpoint_interval", "50"], {"train.checkpoint_interval": 50}),
        (["--checkpoint_dir", "some/where"], {"runs_dir": "some", "name": "where"}),
        (["--generate_interval", "4", "--generate_tokens", "9"], {"sample.interval": 4, "sample.tokens": 9}),
        (["--temperature", "0.5", "--top_p", "0.8"], {"sample.temperature": 0.5, "sample.top_p": 0.8}),
        (["--wandb", "--wandb_project", "p"], {"track.wandb": True, "track.wandb_project": "p"}),
        (["--wandb_run_name", "r"], {"track.wandb_run_name": "r"}),
        (["--no_rope"], {"model.position": "none"}),
        (["--no_rmsnorm"], {"model.norm": "none"}),
        (["--post_norm"], {"model.norm": "post"}),
        (["--ffn_silu"], {"model.ffn": "silu"}),
        (["--weight_tying"], {"model.tie_embeddings": True}),
        (["--compile"], {"train.compile": True}),
        (["--profile"], {"train.profile": True}),
        (["--max_minutes", "2", "--finish_schedule"], {"train.max_minutes": 2.0, "train.finish_schedule": True}),
        (["--stop_at", "7"], {"train.stop_at": 7}),
        (["--dry-run"], {}),
        (["--bf16"], {"train.precision": "bf16"}),
        (["--use_amp"], {"train.precision": "bf16"}),
        (["--use_flash"], {"train.attention": "flash"}),
        (["--batch_size", "8", "--grad_accum_steps", "4"], {"data.batch_size": 32, "data.micro_batch_size": 8}),
        (["--dataset", "tinystories"], {"model.vocab_size": 10_000, "model.num_layers": 8}),
        (["owt", "--model.vocab-size", "50257"], {"model.vocab_size": 50257, "train.max_iters": 10_000}),
        (["--train.no-compile"], {"train.compile": False}),
        (["owt", "--tie-embeddings", "false"], {"model.tie_embeddings": False}),
        (["--tie-embeddings", "true", "owt"], {"model.tie_embeddings": True, "model.vocab_size": 32_000}),
        (["--weight_tying=false"], {"model.tie_embeddings": False}),
        (["--weight_tying", "True"], {"model.tie_embeddings": True}),
        (["--no_rope=false"], {"model.position": "rope"}),
        (["--bf16", "false"], {"train.precision": "fp32"}),
        (["--no_compile=false"], {"train.compile": True}),
        (["--no-compile", "true"], {"train.compile": False}),
    ],
)
def test_flag_sets_its_option_and_no_other(arguments: list[str], expected: dict):
    found = resolved(*arguments)
    assert {key: found[key] for key in expected} == expected
    if not {"--dataset", "owt"} & set(arguments):
        defaults = flatten(RunConfig())
        touched = {key for key in found if found[key] != defaults[key]}
        assert touched - {"optim.beta1", "optim.beta2", "data.batch_size"} <= set(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--d_modle", "64"], "unknown option --d_modle; did you mean 'd_model'"),
        (["--d_model"], "--d_model needs a value"),
        (["--d_model", "--num_heads", "4"], "--d_model needs a value"),
        (["--d_model", "wide"], "--model.d-model.*wide"),
        (["--norm", "pro"], "pro.*pre.*post.*none"),
        (["--num_heads", "7"], "^model.num_heads = 7 does not divide model.d_model = 512; nearest that do: 4, 8$"),
        (["--top_p", "1.5"], "^top_p = 1.5; expected a number in"),
        (["--temperature", "-1"], "^temperature = -1.0; expected"),
        (["--grad_accum_steps", "0"], "--grad_accum_steps 0; expected a whole number, at least 1"),
        (["--init", "nowhere"], "train.init = 'nowhere': no run nowhere"),
        (["--then", "linear", "--max_iters"], "--max_iters needs a value"),
        (["tinystory"], "no recipe named 'tinystory'; did you mean 'tinystories'"),
        (["nowhere.toml"], "no recipe file nowhere.toml"),
        (["owt", "demo"], "unexpected argument 'demo'"),
    ],
)
def test_mistakes_are_one_line_that_names_value_and_fix(arguments: list[str], message: str):
    with pytest.raises((ConfigError, FileNotFoundError), match=message) as caught:
        resolved(*arguments)
    assert "\n" not in str(caught.value)


def test_options_of_a_group_have_their_full_names():
    flags = ["--optim.groups.embedding.rate", "12", "--optim.groups.head.betas", "0.8,0.95", "--beta1", "0.5"]
    optim = resolve(read_flags(["demo", *flags])).optim
    assert optim.groups.given == {"embedding": {"rate": 12.0}, "head": {"beta1": 0.8, "beta2": 0.95}}
    assert optim.beta1 == 0.5
    with pytest.raises(ConfigError, match=r"--optim\.groups\.head\.betas 0\.8; expected two numbers in \[0, 1\)"):
        read_flags(["demo", "--optim.groups.head.betas", "0.8"])
    with pytest.raises(ConfigError, match=r"unknown option --optim\.groups\.hed\.rate; did you mean 'optim\.groups"):
        read_flags(["demo", "--optim.groups.hed.rate", "1"])
