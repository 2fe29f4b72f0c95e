import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    TrackConfig,
    TrainConfig,
    find_recipe,
    flatten,
    from_dict,
    load_recipe,
    load_toml,
    override,
    save_toml,
    to_dict,
)
from groundup.config.recipe import recipes_dir
from groundup.errors import ConfigError, FileMissingError

RECIPES = sorted(path.stem for path in recipes_dir().glob("*.toml"))

count, positive = st.integers(1, 2**40), st.floats(1e-300, 1e300)
text, flag = st.text(max_size=20), st.booleans()
fraction = st.floats(0, 1, exclude_max=True)


@st.composite
def models(draw) -> ModelConfig:
    heads, size = draw(st.integers(1, 32)), 2 * draw(st.integers(1, 64))
    return ModelConfig(
        vocab_size=draw(st.integers(0, 2**31)), context_length=draw(count), d_model=heads * size,
        num_layers=draw(count), num_heads=heads, d_ff=draw(st.integers(0, 2**31)), rope_theta=draw(positive),
        norm=draw(st.sampled_from(["pre", "post", "none"])), position=draw(st.sampled_from(["rope", "none"])),
        ffn=draw(st.sampled_from(["swiglu", "silu"])), tie_embeddings=draw(flag), norm_eps=draw(positive),
    )  # fmt: skip


@st.composite
def runs(draw) -> RunConfig:
    low, high = sorted(draw(st.tuples(st.floats(0, 1e300), st.floats(0, 1e300))))
    optim = OptimConfig(
        max_learning_rate=high, min_learning_rate=low, warmup_iters=draw(count), beta1=draw(fraction),
        beta2=draw(fraction), eps=draw(positive), weight_decay=draw(positive), grad_clip=draw(positive),
        decay=draw(st.sampled_from(["matrices", "all"])),
    )  # fmt: skip
    micro = draw(st.integers(1, 1000))
    data = DataConfig(
        train=draw(text), valid=draw(text), order=draw(st.sampled_from(["shuffled", "random"])),
        batch_size=micro * draw(st.integers(1, 9)), micro_batch_size=micro,
    )  # fmt: skip
    train = TrainConfig(max_iters=draw(count), seed=draw(count), device=draw(text), compile=draw(flag))
    sample = SampleConfig(prompt=draw(text), temperature=draw(st.floats(0, 10)), top_p=1 - draw(fraction))
    track = TrackConfig(wandb=draw(flag), wandb_project=draw(text))
    name = draw(text.filter(lambda name: name not in ("", ".", "..") and not set("/\0") & set(name)))
    return RunConfig(
        name=name, model=draw(models()), optim=optim, data=data, train=train, sample=sample, track=track
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(config=runs())
def test_what_is_saved_is_read_back_equal(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "config.toml"
    save_toml(config, path)
    assert from_dict(RunConfig, load_toml(path)) == config
    assert from_dict(RunConfig, tomllib.loads(path.read_text(encoding="utf-8"))) == config


def test_a_recipe_names_only_what_differs_from_the_defaults(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text("name = 'small'\n[model]\nd_model = 64\nrope_theta = 500\n")
    assert load_recipe(str(path)) == RunConfig(name="small", model=ModelConfig(d_model=64, rope_theta=500.0))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"model": {"d_modl": 64}}, r"unknown option model\.d_modl; did you mean 'd_model'\?"),
        ({"modle": {}}, r"unknown option modle; did you mean 'model'\?"),
        ({"optim": {"learning_rate": 1.0}}, r"unknown option optim\.learning_rate; did you mean '\w+_learning_rate'\?"),
        (
            {"track": {"xyzzy": 1}},
            r"unknown option track\.xyzzy; valid: group, tensorboard, wandb, wandb_project, wandb_run",
        ),
        ({"model": {"d_model": "64"}}, r"model\.d_model = '64' \(str\); expected int"),
        ({"model": {"d_model": 64.0}}, r"model\.d_model = 64\.0 \(float\); expected int"),
        ({"model": {"num_layers": True}}, r"model\.num_layers = True \(bool\); expected int"),
        ({"model": {"rope_theta": True}}, r"model\.rope_theta = True \(bool\); expected float"),
        ({"model": {"tie_embeddings": 1}}, r"model\.tie_embeddings = 1 \(int\); expected bool"),
        ({"data": {"train": 3}}, r"data\.train = 3 \(int\); expected str"),
        ({"data": {"train": ["a"]}}, r"data\.train = \['a'\] \(list\); expected str"),
        ({"model": {"norm": "Pre"}}, r"model\.norm = 'Pre'; expected one of 'pre', 'post', 'none'"),
        ({"model": {"norm": ["pre"]}}, r"model\.norm = \['pre'\]; expected one of 'pre', 'post', 'none'"),
        ({"model": 3}, r"model = 3; expected a table of options, \[model\]"),
        ({"model": {"num_heads": 7}}, r"model\.num_heads = 7 does not divide"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named_with_its_place(values, match, tmp_path):
    with pytest.raises(ConfigError, match=match) as raised:
        from_dict(RunConfig, values)
    assert "\n" not in str(raised.value)


class TestFiles:
    @pytest.mark.parametrize("name", RECIPES)
    def test_every_shipped_recipe_is_found_by_its_name_and_is_one(self, name):
        config = load_recipe(name)
        assert config == load_recipe(str(find_recipe(name)))
        assert config.name == name
        assert config.data.train

    def test_there_are_shipped_recipes(self):
        assert {"demo", "tinystories", "tinystories-cpu", "owt"} <= set(RECIPES)

    def test_an_error_in_a_recipe_names_the_file(self, tmp_path):
        path = tmp_path / "mine.toml"
        path.write_text("[train]\nmax_iter = 3\n")
        with pytest.raises(ConfigError, match=r"mine\.toml: unknown option train\.max_iter; did you mean 'max_iters'"):
            load_recipe(str(path))

    @pytest.mark.parametrize("content", [b"[model\n", b"name = \xff", b"name = 1\nname = 2"])
    def test_a_file_that_is_not_toml_is_refused_in_one_line(self, content, tmp_path):
        path = tmp_path / "broken.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.toml") as raised:
            load_toml(path)
        assert "\n" not in str(raised.value)

    def test_what_does_not_exist_is_named_with_what_does(self, tmp_path):
        with pytest.raises(FileMissingError, match=r"no recipe named 'tinystory'; did you mean 'tinystories'\?"):
            load_recipe("tinystory")
        with pytest.raises(FileMissingError, match=r"no recipe named 'qqq'; valid: .*demo"):
            load_recipe("qqq")
        with pytest.raises(FileMissingError, match=r"no recipe file .*none\.toml"):
            load_recipe(str(tmp_path / "none.toml"))
        with pytest.raises(FileMissingError, match=r"no file .*none\.toml"):
            load_toml(tmp_path / "none.toml")


def leaves(values: dict) -> int:
    return sum(leaves(value) if isinstance(value, dict) else 1 for value in values.values())


class TestFlat:
    @settings(deadline=None, max_examples=20)
    @given(config=runs())
    def test_dotted_names_and_nested_tables_say_the_same(self, config):
        flat = flatten(config)
        assert flat["model.d_model"] == config.model.d_model
        assert flat["name"] == config.name
        assert override(RunConfig(), flat) == config
        nested = to_dict(config)
        assert {key.split(".")[0] for key in flat} == set(nested)
        assert len(flat) == leaves(nested)

    def test_options_are_replaced_by_dotted_name(self):
        config = override(RunConfig(name="a"), {"train.max_iters": 7, "runs_dir": "elsewhere"})
        assert config == RunConfig(name="a", runs_dir="elsewhere", train=TrainConfig(max_iters=7))

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("train.max_iter", r"unknown option train\.max_iter; did you mean 'max_iters'"),
            ("trian.max_iters", r"unknown option trian; did you mean 'train'"),
            ("max_iters", r"unknown option max_iters"),
            ("name.max_iters", r"name"),
            ("train", r"train = 1; expected a table of options"),
        ],
    )
    def test_a_dotted_name_that_does_not_exist_is_refused(self, name, match):
        with pytest.raises(ConfigError, match=match):
            override(RunConfig(), {name: 1})


def test_a_byte_order_mark_is_accepted_and_a_file_is_named_once(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "noted"\n')  # as Windows Notepad writes it
    assert load_recipe(str(path)).name == "noted"
    for content in (
        b"name = 'a'\nname = 'b'\n",
        b"name = ",
        b"unknown = 1",
        b"[model]\nd_model = 'x'",
        b"name = 7" * 5000,
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load_recipe(str(path))
        assert str(caught.value).count(str(path)) == 1


@pytest.mark.parametrize("content", ["name = " + "[" * 10_000, "train = { seed = " + "9" * 5000 + " }"])
def test_toml_that_the_decoder_gives_up_on_is_our_error(content, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"recipe\.toml is not valid TOML"):
        load_recipe(str(path))


def test_groups_of_parameters_in_a_recipe_over_another_and_back(tmp_path):
    recipe, written = tmp_path / "one.toml", tmp_path / "two.toml"
    recipe.write_text("[optim.groups]\nhead = { rate = 2, betas = [0.8, 0.9] }\nembedding = { decay = 0.1 }\n")
    config = load_recipe(str(recipe))
    assert config.optim.groups.given == {
        "embedding": {"decay": 0.1}, "head": {"rate": 2.0, "beta1": 0.8, "beta2": 0.9}
    }  # fmt: skip
    save_toml(config, written)
    assert load_recipe(str(written)) == config
    recipe.write_text("[optim.groups.head]\nbetas = [0.5, 0.6]\n")
    over = load_recipe(str(recipe), base=config).optim.groups.given
    assert over == {"embedding": {"decay": 0.1}, "head": {"rate": 2.0, "beta1": 0.5, "beta2": 0.6}}
    save_toml(RunConfig(), written)
    assert "groups" not in written.read_text()
