"""Parts of speech of the stories: strings with their articles and pronouns as attributes.

In a template ``{o}`` is the bare noun, ``{o.a}`` "a red kite", ``{h.his}`` "her". All agreement of English (a/an,
he/she, it/them, was/were) is decided here, not in the sentences.
"""

_PRONOUNS = {
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself", "He": "She", "His": "Her"},
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself", "He": "He", "His": "His"},
}


def with_article(phrase: str) -> str:
    """``"old boat"`` -> ``"an old boat"``; in this vocabulary every initial vowel letter is a vowel sound."""
    return f"{'an' if phrase[0] in 'aeiouAEIOU' else 'a'} {phrase}"


class Character(str):
    """Name of a character, with pronouns.

    Attributes:
        he, him, his, himself, He, His: pronouns, named by their masculine form.
        kind: ``"girl"``, ``"rabbit"``.
        a, A: first description: ``"a curious girl"``, ``"A curious girl"``.
        intro: first mention of a second character: ``"Ben"``, or ``"Hazel the squirrel"``.
        talks: False for pets and wild animals in a world of people.
    """

    he: str
    him: str
    his: str
    himself: str
    He: str
    His: str
    kind: str
    a: str
    A: str
    intro: str
    talks: bool

    def __new__(
        cls, name: str, pronoun: str, kind: str, description: str = "", intro: str = "", talks: bool = True
    ) -> "Character":
        self = super().__new__(cls, name)
        self.__dict__.update(_PRONOUNS[pronoun])
        self.kind, self.talks = kind, talks
        self.a = with_article(description or kind)
        self.A = self.a.capitalize()
        self.intro = intro or name
        return self


class Thing(str):
    """Noun for one thing, with an adjective.

    Attributes:
        a, the, full: ``"a red kite"``, ``"the red kite"``, ``"red kite"``.
    """

    def __new__(cls, noun: str, adjective: str) -> "Thing":
        self = super().__new__(cls, noun)
        self.full = f"{adjective} {noun}"
        self.a, self.the = with_article(self.full), f"the {self.full}"
        return self

    full: str
    a: str
    the: str


class Food(str):
    """Noun for food, singular or plural.

    Attributes:
        some: ``"a honey cake"`` or ``"some berries"``.
        it, was: ``"it"`` and ``"was"``, or ``"them"`` and ``"were"``.
    """

    def __new__(cls, noun: str, many: bool) -> "Food":
        self = super().__new__(cls, noun)
        self.some = f"some {noun}" if many else with_article(noun)
        self.it, self.was = ("them", "were") if many else ("it", "was")
        return self

    some: str
    it: str
    was: str


class Place(str):
    """``"the park"``.

    Attributes:
        to: ``"to the park"``.
        at, At: ``"in the park"``, ``"By the pond"``.
    """

    def __new__(cls, noun: str, preposition: str) -> "Place":
        self = super().__new__(cls, f"the {noun}")
        self.to, self.at = f"to the {noun}", f"{preposition} the {noun}"
        self.At = self.at.capitalize()
        return self

    to: str
    at: str
    At: str
