"""Options of a run (:mod:`.options`) and their TOML form (:mod:`.recipe`)."""

from groundup.config.names import by_full_names, full_name, short_names
from groundup.config.options import (
    END_OF_TEXT,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    TrackConfig,
    TrainConfig,
    check_sampling,
    check_warmup,
)
from groundup.config.recipe import (
    changed_options,
    find_recipe,
    flatten,
    from_dict,
    load_recipe,
    load_toml,
    override,
    save_toml,
    to_dict,
)

__all__ = [
    "END_OF_TEXT",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "SampleConfig",
    "TrackConfig",
    "TrainConfig",
    "by_full_names",
    "changed_options",
    "check_sampling",
    "check_warmup",
    "find_recipe",
    "flatten",
    "from_dict",
    "full_name",
    "load_recipe",
    "load_toml",
    "override",
    "save_toml",
    "short_names",
    "to_dict",
]
