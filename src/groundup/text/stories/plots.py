"""All plots, each with its cast and its script."""

from collections.abc import Callable
from typing import NamedTuple

from groundup.text.stories import plots_animals as animals
from groundup.text.stories import plots_friends as friends
from groundup.text.stories import plots_gifts as gifts
from groundup.text.stories import plots_growing as growing
from groundup.text.stories import plots_mistakes as mistakes
from groundup.text.stories import plots_nights as nights
from groundup.text.stories import plots_things as things
from groundup.text.stories.casting import Cast
from groundup.text.stories.screenplay import Script


class Plot(NamedTuple):
    """A plot: its cast and its script."""

    cast: Callable[[Cast], None]
    script: Script


PLOTS = (
    Plot(things.cast_lost, things.LOST),
    Plot(things.cast_stuck, things.STUCK),
    Plot(things.cast_shared, things.SHARED),
    Plot(things.cast_broken, things.BROKEN),
    Plot(gifts.cast_earned, gifts.EARNED),
    Plot(gifts.cast_traded, gifts.TRADED),
    Plot(gifts.cast_birthday, gifts.BIRTHDAY),
    Plot(gifts.cast_hungry, gifts.HUNGRY),
    Plot(friends.cast_newcomer, friends.NEWCOMER),
    Plot(friends.cast_race, friends.RACE),
    Plot(friends.cast_grumpy, friends.GRUMPY),
    Plot(friends.cast_builders, friends.BUILDERS),
    Plot(growing.cast_afraid, growing.AFRAID),
    Plot(growing.cast_learned, growing.LEARNED),
    Plot(growing.cast_garden, growing.GARDEN),
    Plot(mistakes.cast_greedy, mistakes.GREEDY),
    Plot(mistakes.cast_promise, mistakes.PROMISE),
    Plot(mistakes.cast_storm, mistakes.STORM),
    Plot(animals.cast_noise, animals.NOISE),
    Plot(animals.cast_rescue, animals.RESCUE),
    Plot(animals.cast_mystery, animals.MYSTERY),
    Plot(nights.cast_wander, nights.WANDER),
    Plot(nights.cast_sleepless, nights.SLEEPLESS),
    Plot(nights.cast_snow, nights.SNOW),
    Plot(nights.cast_star, nights.STAR),
)
