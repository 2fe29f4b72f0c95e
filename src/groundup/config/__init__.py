"""Options of a run (:mod:`.options`) and their TOML form (:mod:`.recipe`)."""

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
)
from groundup.config.recipe import find_recipe, flatten, from_dict, load_recipe, load_toml, override, save_toml, to_dict

__all__ = [
    "END_OF_TEXT",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "SampleConfig",
    "TrackConfig",
    "TrainConfig",
    "check_sampling",
    "find_recipe",
    "flatten",
    "from_dict",
    "load_recipe",
    "load_toml",
    "override",
    "save_toml",
    "to_dict",
]
