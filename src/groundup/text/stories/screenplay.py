"""Parser of the notation of plots, and teller that makes a story of a plot.

A script is a list of beats:

    - Mia ran home. // h: Where is my {o}?      a beat; // separates its parts
    | Mia looked everywhere.                    a variant of the beat above; one variant is chosen
    -40 The sun was shining.                    a beat that is told in 40 of 100 stories of middle length
    - h (softly): I am lost.                    speech of the character in slot h, and its manner
    @name                                       the beats of a shared scene

An empty line begins a new paragraph. Speech that answers other speech does so too. Any other line continues the line
above. ``{slot}`` is filled from the story's slots, or with one of ``vocabulary.WORDS``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from groundup.text.stories.grammar import Character
from groundup.text.stories.vocabulary import WORDS

T = TypeVar("T")


class Part(NamedTuple):
    """Narration, or speech if ``speaker`` names a slot."""

    template: str
    speaker: str = ""
    manner: str = ""


Variant: TypeAlias = tuple[Part, ...]


class Beat(NamedTuple):
    """Variants of one event of a story, with the chance that it is told; without variants, a new paragraph."""

    chance: float
    variants: tuple[Variant, ...]


Script: TypeAlias = tuple[Beat, ...]

_PARAGRAPH = Beat(1.0, ())
_BEAT = re.compile(r"-(\d*) (.*)")
_SPEECH = re.compile(r"([a-z]+)(?: \(([^)]*)\))?: (.*)")
_FIRST_SENTENCE = re.compile(r"(.+?(?<!Mr)(?<!Mrs)[.!?]) (.+)")


def parse(text: str, scenes: Mapping[str, Script] | None = None) -> Script:
    """Parse a script; ``@name`` is looked up in ``scenes``."""
    beats: list[tuple[float, list[str]] | Beat] = []
    for line in map(str.strip, text.strip().splitlines()):
        if not line:
            beats.append(_PARAGRAPH)
        elif line.startswith("@"):
            beats.extend((scenes or {})[line[1:]])
        elif match := _BEAT.fullmatch(line):
            beats.append((int(match[1] or 100) / 100, [match[2]]))
        else:
            variants = beats[-1][1]
            assert isinstance(variants, list), f"no beat to continue: {line}"
            if line.startswith("| "):
                variants.append(line[2:])
            else:
                variants[-1] += " " + line
    return tuple(
        beat
        if isinstance(beat, Beat)
        else Beat(beat[0], tuple(tuple(map(_part, way.split(" // "))) for way in beat[1]))
        for beat in beats
    )


def _part(text: str) -> Part:
    match = _SPEECH.fullmatch(text)
    return Part(match[3], match[1], match[2] or "") if match else Part(text)


class Slots(dict[str, Any]):
    """Slot values of a story's templates; a missing slot gets one of ``vocabulary.WORDS``."""

    def __init__(self, choose: Callable[[Sequence[str]], str]):
        super().__init__()
        self._choose = choose

    def __missing__(self, name: str) -> str:
        return self._choose(WORDS[name])


class Teller:
    """Teller of one story: makes the choices, fills the slots, and joins the sentences.

    Args:
        random: returns uniform numbers in [0, 1). No other method of a random generator is used, so a story does not
            depend on a library's algorithms.
    """

    def __init__(self, random: Callable[[], float]):
        self.random = random
        self.slots = Slots(self.choose)
        self.characters: list[Character] = []
        # Share of the optional beats that the story tells.
        self.fullness = self.choose((0.0, 0.25, 0.5, 0.75, 1.0))
        self._paragraphs: list[str] = []
        self._sentences: list[str] = []
        self._subject: Character | None = None
        self._last_speaker: Character | None = None
        self._just_spoke = False

    def choose(self, options: Sequence[T]) -> T:
        """One of ``options``, with equal probability."""
        return options[int(self.random() * len(options))]

    def choose_early(self, options: Sequence[T]) -> T:
        """One of ``options``, the first ones far more often, as with names in real life."""
        # Products, not a power: products are the same to the last bit on every machine.
        return options[int(self.random() * self.random() * self.random() * len(options))]

    def draw(self, options: Sequence[T], count: int) -> list[T]:
        """``count`` different ones of ``options``, in random order."""
        rest = list(options)
        return [rest.pop(int(self.random() * len(rest))) for _ in range(count)]

    def fill(self, template: str) -> str:
        """The template with its slots filled."""
        return template.format_map(self.slots)

    def set(self, **slots: object) -> None:
        """Set slots. A string may contain slots; it also sets a second, capitalized slot: ``{Fear}``."""
        for name, value in slots.items():
            if type(value) is str:
                value = self.fill(value)
                self.slots[name.capitalize()] = value[0].upper() + value[1:]
            self.slots[name] = value

    def enter(self, slot: str, character: Character) -> None:
        """Add a character to the story."""
        self.slots[slot] = character
        self.characters.append(character)

    def tell(self, script: Script) -> None:
        """Add a script to the story."""
        for chance, variants in script:
            if not variants:
                self._end_paragraph()
            elif chance == 1.0 or self.random() < chance * self.fullness:
                for part in self.choose(variants):
                    text = self.fill(part.template)
                    if part.speaker:
                        self._speak(part, text)
                    else:
                        self._narrate(text)

    def finish(self) -> str:
        """The story, paragraphs separated by an empty line."""
        self._end_paragraph()
        return "\n\n".join(self._paragraphs)

    def _end_paragraph(self) -> None:
        if self._sentences:
            self._paragraphs.append(" ".join(self._sentences))
        self._sentences, self._subject, self._last_speaker, self._just_spoke = [], None, None, False

    def _narrate(self, text: str) -> None:
        subject = next((one for one in self.characters if text.startswith(one) and text[len(one)] in " '"), None)
        if subject is not None:
            once = text[len(subject)] == " " and text.count(subject) == 1
            if once and self._is_clear(subject) and self.random() < 0.6:
                text = subject.He + text[len(subject) :]
        elif self._subject and text.startswith((self._subject.He + " ", self._subject.His + " ")):
            subject = self._subject
        self._sentences.append(text)
        self._subject, self._just_spoke = subject, False

    def _speak(self, part: Part, line: str) -> None:
        speaker: Character = self.slots[part.speaker]
        if not speaker.talks:
            raise ValueError(f"{speaker} does not talk, but a script has {speaker.him} say: {line}")
        if self._just_spoke and self._last_speaker == speaker:
            last = self._sentences[-1]
            self._sentences[-1] = f'{last[:-1]} {line}"' if last.endswith('"') else f'{last} "{line}"'
            return
        if self._last_speaker not in (None, speaker):
            self._end_paragraph()
        self._sentences.append(self._quote(speaker, line, f" {self.fill(part.manner)}" if part.manner else ""))
        self._subject, self._last_speaker, self._just_spoke = speaker, speaker, True

    def _quote(self, speaker: Character, line: str, manner: str) -> str:
        """The line in quotes, with its speaker before it, after it, or after its first sentence."""
        way, rest = self.random(), ""
        if way > 0.6 and (match := _FIRST_SENTENCE.fullmatch(line)):
            line, rest = match[1], f' "{match[2]}"'
        said = "said"
        if line.endswith("?"):
            said, manner = "asked", manner.removeprefix(" to")
        elif line.endswith("!") and not manner:
            said = self.choose(("said", "cried"))
        pronoun = self._is_clear(speaker) and self.random() < 0.6
        if way < 0.3:
            return f'{speaker.He if pronoun else speaker} {said}{manner}, "{line}"'
        line = line[:-1] + "," if line.endswith(".") else line
        if way < 0.8 and not pronoun:
            return f'"{line}" {said} {speaker}{manner}.{rest}'
        return f'"{line}" {speaker.he if pronoun else speaker} {said}{manner}.{rest}'

    def _is_clear(self, one: Character) -> bool:
        """Whether a pronoun for ``one`` is unambiguous: the last sentence mentions no other "she", or "he"."""
        if self._subject != one:
            return False
        last = self._sentences[-1]
        return not any(other.he == one.he and other != one and other in last for other in self.characters)
