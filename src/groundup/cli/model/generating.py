"""Flags of the verbs that generate text in a terminal: one for each field of `GenerateOptions`."""

from typing import Annotated, TypeAlias

import tyro

from groundup.config.generate import GenerateOptions

Generating: TypeAlias = Annotated[GenerateOptions, tyro.conf.arg(name="")]
DEFAULT_GENERATING = GenerateOptions()
