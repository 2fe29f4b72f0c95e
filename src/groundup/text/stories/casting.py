"""Cast of a story: characters, place and time, chosen in the same way by all plots."""

from collections.abc import Mapping, Sequence

from groundup.text.stories import vocabulary as words
from groundup.text.stories.grammar import Character
from groundup.text.stories.screenplay import Teller

DAYTIME = ("morning", "morning", "afternoon")
DAYS = ("Monday", "Tuesday", "Friday", "Saturday", "Sunday")


class Cast(Teller):
    """Teller with a world of people or of talking animals. The hero is in slot ``h``."""

    world = ""

    def begin(self, world: str = "", skies: Sequence[str] = words.FAIR, times: Sequence[str] = DAYTIME) -> None:
        """Choose the world (``"people"``, ``"animals"``, or either), the hero, the place, the day and the weather.

        Sets ``h``, ``home``, ``hobby``, ``p`` (a place outside), ``one_day``, ``sky``, ``food``.
        """
        self.world = world or self.choose(("people", "animals"))
        people = self.world == "people"
        self.add("h")
        self.set(
            home=self.choose(words.HUMAN_HOMES) if people else words.ANIMALS[self.slots["h"].kind],
            hobby=self.choose(words.HUMAN_HOBBIES if people else words.ANIMAL_HOBBIES),
            p=self.choose(words.HUMAN_PLACES if people else words.ANIMAL_PLACES),
            food=self.choose(words.FOODS),
        )
        weather, time = self.choose(skies), self.choose(times)
        openings = [f"One {weather} {time}", f"One {weather} {time}", f"On a {weather} {time}", f"One {time}"]
        if times is DAYTIME:
            openings += ["One day", "One day", f"On a {weather} {self.choose(DAYS)}"]
        self.set(one_day=self.choose(openings), sky=self.choose(words.SKY[weather]))

    def add(self, slot: str) -> None:
        """Add a child or a young animal with a name that is not in the story yet."""
        others = self.characters
        girl = self.random() < 0.5
        # Make a girl and a boy of two more often than by chance, so that "she" and "he" are unambiguous.
        if others and self.random() < 0.6:
            girl = others[0].he == "he"
        people = self.world == "people"
        names = (words.GIRLS if girl else words.BOYS) if people else (words.ANIMAL_GIRLS if girl else words.ANIMAL_BOYS)
        name = self.choose_early([name for name in names if name not in others])
        kind = ("girl" if girl else "boy") if people else self.choose(tuple(words.ANIMALS))
        description = self.choose(
            (f"little {kind}", f"{self.choose(words.TRAITS)} {kind}", f"{self.choose(words.TRAITS)} little {kind}")
        )
        intro = name if people else f"{name} the {kind}"
        self.enter(slot, Character(name, "she" if girl else "he", kind, description, intro))

    def elder(self, slot: str = "m") -> None:
        """Add the hero's mother, father, or a grandparent."""
        woman = self.random() < 0.5
        if self.world == "people":
            name = self.choose(("Mom", "Mom", "Grandma") if woman else ("Dad", "Dad", "Grandpa"))
        else:
            name = self.choose(("Mama", "Mama", "Grandma") if woman else ("Papa", "Papa", "Grandpa"))
        self.enter(slot, Character(name, "she" if woman else "he", "woman" if woman else "man"))

    def neighbor(self, slot: str = "n") -> None:
        """Add a grown-up who is not a relative."""
        woman, people = self.random() < 0.5, self.world == "people"
        title = self.choose(("Mrs.", "Miss")) if woman else "Mr."
        taken = [str(other).split()[-1] for other in self.characters]
        families = words.FAMILIES if people else words.GROWN_ANIMALS
        family = self.choose([family for family in families if family not in taken])
        kind = ("woman" if woman else "man") if people else family.lower()
        self.enter(slot, Character(f"{title} {family}", "she" if woman else "he", kind))

    def thing(self, slot: str = "o") -> None:
        """Add a thing that can be carried, lost, shared or given."""
        self.slots[slot] = self.choose(words.HUMAN_THINGS if self.world == "people" else words.ANIMAL_THINGS)

    def row(self, table: Sequence[Mapping[str, str]]) -> None:
        """Choose a row of a table and set a slot for each column."""
        self.set(**self.choose(table))
