"""Vocabulary of the stories: words that a four-year-old understands."""

from groundup.text.stories.grammar import Food, Place, Thing

# Names by frequency: a story takes the first ones far more often.
GIRLS = tuple(
    "Lily Mia Anna Lucy Emma Rosa Nora Ella Ada Amy Bella Cara Clara Cleo Dora Elsie Eva Fay Flora Gina Greta Holly "
    "Ida Jane Jenny June Kate Kira Lena Lola Luna Mabel Maya Mila Mina Molly Nell Nina Olga Polly Rita Ruby Sara "
    "Sofia Stella Tara Tilda Tina Uma Vera Wanda Yara Zara Zoe".split()
)
BOYS = tuple(
    "Tom Ben Max Sam Leo Tim Jack Omar Adam Arlo Billy Bo Carl Dan David Eddie Eli Emil Felix Finn Frank Fred Gabe "
    "George Hank Harry Henry Hugo Ian Ivan Jake Jim Joe Joey Kai Levi Luke Mark Matt Milo Nico Noah Oscar Otto Owen "
    "Paul Pete Ralph Ravi Ron Simon Theo Tony Victor Walt Will Zack".split()
)
ANIMAL_GIRLS = tuple(
    "Daisy Poppy Coco Honey Hazel Tilly Bluebell Bonnie Clover Dot Dolly Fern Flora Ginger Heidi Ivy Juniper "
    "Lulu Maple Mimi Minna Nutmeg Olive Pansy Pearl Penny Primrose Rosie Saffron Snowdrop Tansy Trixie Violet "
    "Willow Wren".split()
)
ANIMAL_BOYS = tuple(
    "Pip Toby Rusty Basil Oakley Bruno Alfie Archie Barley Benny Bertie Bramble Chester Chip Digby Dusty Fergus Fuzz "
    "Gus Hobie Jasper Monty Nibble Otis Patch Percy Rollo Rufus Scout Tango Teddy Thistle Tuck Wally Ziggy".split()
)

TRAITS = tuple(
    "bright busy cheerful clever curious friendly funny gentle happy helpful kind lively merry playful polite quiet "
    "thoughtful".split()
)

# Each kind of animal with its home.
ANIMALS = {
    "badger": "in a cozy den under a hill",
    "bear": "in a warm cave near the river",
    "beaver": "in a house of sticks on the lake",
    "deer": "at the edge of a green forest",
    "fox": "in a den between two rocks",
    "goat": "on a farm at the foot of a mountain",
    "hamster": "in a snug hole in a wheat field",
    "hedgehog": "under a thick hedge",
    "lamb": "on a farm with a red barn",
    "mole": "in a tunnel under the meadow",
    "mouse": "in a tiny house under an old oak tree",
    "otter": "on the bank of a clear river",
    "pony": "on a farm near the sea",
    "rabbit": "in a burrow under a hill",
    "raccoon": "in a hollow log in the woods",
    "squirrel": "in a hole high up in a pine tree",
}
FAMILIES = tuple("Bell Brown Garcia Green Hill Khan Lopez Moon Park Rossi Stone Wood".split())
GROWN_ANIMALS = tuple("Crane Crow Goose Heron Owl Stork Toad Turtle".split())

HUMAN_HOMES = (
    "in a little town",
    "in a small house by the sea",
    "in a house with a blue door",
    "on a quiet street",
    "on a farm",
    "in a tall building in a big city",
    "in a village near the mountains",
    "in a yellow house at the end of the road",
    "above a bakery",
    "next to a big green park",
)
HUMAN_HOBBIES = (
    "to paint pictures",
    "to ride {h.his} bike",
    "to sing silly songs",
    "to draw",
    "to read books about animals",
    "to build towers out of blocks",
    "to dance in the kitchen",
    "to help in the garden",
    "to look for bugs",
    "to play outside",
    "to ask questions",
    "to jump in puddles",
)
ANIMAL_HOBBIES = (
    "to roll down the hill",
    "to sing silly songs",
    "to collect smooth stones",
    "to play hide and seek",
    "to listen to stories",
    "to splash in the water",
    "to explore",
    "to count the clouds",
    "to make friends",
    "to play outside",
    "to ask questions",
    "to dance in the rain",
)

_COLORS = "red blue green yellow orange purple"
_CARRIED = {
    "ball": f"{_COLORS} striped bouncy",
    "bell": "silver little shiny golden",
    "boat": "wooden paper little red blue",
    "book": "thick old blue picture",
    "bucket": "red blue yellow tin little",
    "drum": "small red round tin",
    "flute": "wooden little silver",
    "hat": "straw woolly red green floppy",
    "kite": f"{_COLORS} rainbow paper",
    "lantern": "little paper golden red",
    "marble": "green glass shiny blue",
    "scarf": "soft striped warm red blue",
    "spinning top": "red wooden shiny striped",
    "umbrella": "orange yellow spotted little blue",
    "whistle": "silver tin wooden shiny",
}
_CHILDREN_S = {
    "backpack": "new purple orange little",
    "doll": "rag little pretty old",
    "puzzle": "big animal new wooden",
    "robot": "silver little wind-up toy",
    "teddy bear": "soft brown old fluffy",
    "toy car": "fast red shiny blue",
    "toy plane": "silver wooden white",
    "toy train": "long wooden green red",
}


def _things(table: dict[str, str]) -> tuple[Thing, ...]:
    return tuple(Thing(noun, adjective) for noun, adjectives in table.items() for adjective in adjectives.split())


ANIMAL_THINGS = _things(_CARRIED)
HUMAN_THINGS = _things(_CARRIED | _CHILDREN_S)
GIFTS = _things(
    {name: _CARRIED[name] for name in ("bell", "book", "hat", "lantern", "scarf", "umbrella")}
    | {"teapot": "blue round old"}
)
# Hard things that two characters can pull at.
PLAYTHINGS = _things(
    {
        name: (_CARRIED | _CHILDREN_S)[name]
        for name in ("ball", "boat", "bucket", "drum", "spinning top", "toy car", "robot")
    }
)
THROWN = _things({"ball": f"{_COLORS} striped bouncy", "toy plane": "silver wooden white", "kite": f"{_COLORS} paper"})

HUMAN_PLACES = (
    Place("park", "in"), Place("garden", "in"), Place("beach", "at"), Place("playground", "at"), Place("meadow", "in"),
    Place("pond", "by"), Place("woods", "in"), Place("river", "by"),
)  # fmt: skip
ANIMAL_PLACES = (
    Place("meadow", "in"), Place("forest", "in"), Place("pond", "by"), Place("river", "by"), Place("old mill", "by"),
    Place("apple orchard", "in"), Place("hill", "on"), Place("lake", "by"),
)  # fmt: skip

BAKED = (
    *(Food(noun, False) for noun in ("honey cake", "apple pie", "carrot cake", "plum cake", "cherry pie")),
    *(Food(noun, True) for noun in ("oat cookies", "muffins", "pancakes", "nut rolls", "ginger cookies")),
)
FOODS = (
    *BAKED,
    *(Food(noun, False) for noun in ("cheese sandwich", "banana", "big pear")),
    *(Food(noun, True) for noun in ("berries", "nuts", "plums", "cherries", "apple slices")),
)

SKY = {
    "sunny": (
        "The sun was shining, and the birds were singing.",
        "There was not a cloud in the sky.",
        "The sun made everything look golden.",
    ),
    "warm": (
        "The air smelled of flowers.",
        "Bees hummed in the flowers, and the grass was soft.",
        "It was so warm that even the cats were sleepy.",
    ),
    "windy": (
        "The wind blew through the trees and made them dance.",
        "The wind pushed the clouds across the sky.",
        "Leaves flew through the air like little birds.",
    ),
    "cloudy": (
        "Soft gray clouds covered the sky.",
        "The clouds looked like big white sheep.",
        "The sun was hiding behind the clouds.",
    ),
    "cool": (
        "The air was cool and fresh.",
        "The air smelled of wet leaves.",
        "A cool breeze was blowing.",
    ),
    "rainy": (
        "Rain tapped on the roof.",
        "The rain made little rivers on the path.",
        "Fat drops ran down the window.",
    ),
    "snowy": (
        "Everything was white and quiet.",
        "Snow lay on the roofs like thick cream.",
        "Snowflakes danced in the air.",
    ),
}
FAIR = ("sunny", "sunny", "warm", "windy", "cloudy", "cool")

# Alternatives for a word in a template: ``{happy}`` becomes any of these. All begin with a consonant, so that
# "a {sad} dog" is right for each.
WORDS = {
    "happy": ("happy", "glad", "happy", "so happy", "very happy", "full of joy"),
    "sad": ("sad", "very sad", "so sad", "sad"),
    "very": ("very", "so", "really"),
    "looked": ("looked", "searched", "looked"),
    "ran": ("ran", "hurried", "rushed", "ran"),
    "quickly": ("quickly", "fast", "right away", "at once"),
    "smiled": ("smiled", "smiled", "grinned", "beamed"),
    "laughed": ("laughed", "giggled", "laughed"),
    "thought": ("thought for a moment", "thought hard", "thought about it"),
    "soon": ("Soon", "After a while", "Before long", "A little later"),
    "suddenly": ("Suddenly", "All of a sudden", "Just then", "At that moment"),
    "at_last": ("At last", "Finally", "In the end"),
    "every_day": ("Every day", "Each morning", "Day after day"),
    "night": ("That night", "At bedtime", "When it was time to sleep", "Late that night"),
    "way_home": ("on the way home", "as they walked home", "all the way home"),
    "before_long": ("soon", "before long", "a little later"),
    "daily": ("every day", "every morning", "day after day"),
}
