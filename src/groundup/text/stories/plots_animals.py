"""Plots about animals: a noise in the house, a rescue, a mystery."""

from groundup.text.stories.casting import Cast
from groundup.text.stories.scenes import SCENES
from groundup.text.stories.screenplay import parse

_PETS = (
    {"pet": "kitten", "cry": "a thin little cry", "place": "under the stairs", "color": "gray"},
    {"pet": "puppy", "cry": "a soft whine", "place": "behind the shed", "color": "brown"},
    {"pet": "bird", "cry": "a quiet peep", "place": "in the chimney", "color": "blue"},
    {"pet": "hedgehog", "cry": "a snuffle and a sniff", "place": "in the leaf pile", "color": "prickly"},
    {"pet": "duckling", "cry": "a tiny peep", "place": "in a flower pot", "color": "yellow"},
    {"pet": "mouse", "cry": "a scratching sound", "place": "inside the wall", "color": "brown"},
)


def cast_noise(t: Cast) -> None:
    t.begin("people", skies=("rainy", "windy", "snowy", "cool"), times=("night", "evening"))
    t.elder()
    t.row(_PETS)
    light = t.choose(("a flashlight", "a little lamp", "a lantern", "a candle in a glass"))
    t.set(light=light, name=t.choose(("Star", "Moon", "Shadow", "Lucky", "Cookie", "Pebble", "Button", "Snow", "Bean")))


NOISE = parse(
    """
@intro

- {one_day}, {h} was in bed and could not sleep. // {sky}
| {one_day}, {h} woke up. It was dark, and everyone was asleep.
- Then {h.he} heard something. It was {cry}.
| {suddenly}, there was {cry}.
| There it was: {cry}. Then it was quiet again.
-75 h (softly): What was that?
| {h} sat up. There it was again!
| {h} pulled the blanket over {h.his} head. Was it a ghost?
-60 h (to {h.himself}): It must be the wind. // But it did not sound like the wind.
| {h.His} heart went bump, bump, bump.
- {h} tiptoed to {m}'s room. // h: {m}, I heard something! // m: Then let's go and see what it is.
| {h.He} woke {m}. // h: There is a noise, and I am afraid. // m: Come, we will look together.
- They took {light} and went down the hall.
| {m} took {light}, and {h} took {m}'s hand.
-70 The noise got louder and louder. It came from somewhere {place}.
| They listened at every door. It was not in the kitchen. It was not in the hall. It was somewhere {place}.
- {m} held up the light. There sat a small {color} {pet}, wet and cold.
| Slowly, {h} bent down and looked. Two shiny eyes looked back. It was a {color} {pet}!
- h: Oh, you poor little thing! You were more afraid than I was.
| h: It's only a {pet}! It must have lost its way.
| {h} {laughed}. // h: And I thought you were a monster!
-75 They wrapped it in a soft towel and gave it something to eat.
| {h} made a bed for it in an old shoe box.
| {m} brought a warm cloth, and {h} held the {pet} until it stopped shaking.
- h: Can it stay, {m}? // m: It can stay until it is strong again.
| h: Please, may I take care of it? // m: Yes, if you promise to be gentle.
- {h} called it {name}.
| h: I will call you {name}.
- {name} closed its eyes and fell asleep, and {before_long} {h} was asleep, too.
| After that, {h} could sleep very well, with {name} right beside the bed.
| When the sun came up, {h} and {name} were fast asleep, side by side.
-60 And whenever there was a noise at night, {h} was not afraid. {h.He} went to see who needed help.
| Not everything that sounds scary is scary.
| A noise in the dark may only be a friend that you have not met.
""",
    SCENES,
)


_RESCUES = (
    {
        "pet": "bird",
        "trap": "caught in an old net",
        "first": "pull at the net, but it only got tighter",
        "tool": "a pair of scissors",
        "free": "cut the net, one string at a time",
        "later": "a bird sang at {h}'s window each morning",
    },
    {
        "pet": "kitten",
        "trap": "stuck high up in a tree",
        "first": "climb up, but the branch was too thin",
        "tool": "a ladder",
        "free": "used the ladder and carried the kitten down",
        "later": "the kitten followed {h} wherever {h.he} went",
    },
    {
        "pet": "duckling",
        "trap": "stuck in a deep hole",
        "first": "reach down, but {h.his} arm was too short",
        "tool": "a bucket on a rope",
        "free": "let the bucket down, and the duckling hopped in",
        "later": "a little duck came to the fence to say hello to {h}",
    },
    {
        "pet": "lamb",
        "trap": "caught in a thorny bush",
        "first": "push the thorns aside, but they hurt",
        "tool": "a pair of thick gloves",
        "free": "bent the thorny branches back, one by one",
        "later": "the lamb ran to the fence when it saw {h}",
    },
    {
        "pet": "frog",
        "trap": "trapped in a dry well",
        "first": "call it, but the walls were too smooth for jumping",
        "tool": "a long board",
        "free": "put the board into the well like a bridge",
        "later": "a frog sang under {h}'s window each evening",
    },
    {
        "pet": "turtle",
        "trap": "lying on its back in the road",
        "first": "roll it over, but it was too heavy",
        "tool": "a strong stick",
        "free": "put the stick under its shell and pushed gently",
        "later": "a turtle on a log looked up and blinked whenever {h} walked by",
    },
)


def cast_rescue(t: Cast) -> None:
    t.begin("people")
    t.add("f")
    t.neighbor()
    t.row(_RESCUES)


RESCUE = parse(
    """
@intro

- {one_day}, {h} and {h.his} friend {f} were walking {p.at}.
| {one_day}, {h} was on the way {p.to} with {h.his} friend {f}.
@sky
- {suddenly}, they heard something. It was a small {pet}, and it was {trap}.
| Then {f} stopped. // f: Look over there! // There was a {pet}, {trap}.
| h: Did you hear that? // They looked around and saw a {pet} that was {trap}.
-70 h: Poor thing! We have to help it.
| f: It looks so afraid! What can we do?
| The {pet} looked at them with big eyes.
- {h} tried to {first}.
| First, {h} tried to {first}.
- f: We can't do it alone. We need help! // h: You stay here. I will be right back.
| h: It's not working. We need {tool}!
- {h} {ran} to {n}'s house. // h: {n}, we need {tool}, quickly!
| {f} stayed with the {pet} and talked to it softly. {h} {ran} to {n}. // h: Please, do you have {tool}?
- {n} did not ask why. {n.He} took {tool} and came along at once.
| n: Of course. Show me the way!
- Very carefully, they {free}.
| n: Slowly, now. We don't want to hurt it. // Together, they {free}.
- The {pet} was free! It shook itself and looked at them.
| {at_last}, it was free.
-70 f: We did it!
| h: You are safe now, little one.
| They all cheered, but quietly, so that it would not be afraid.
-65 n: You two have good hearts.
| n: You did the right thing. You stayed calm, and you asked for help.
-60 They watched until it was gone.
| The {pet} looked back once, as if to say thank you.

- And after that, something funny happened: {later}.
| Some days later, {later}.
| {h} did not forget the {pet}, and the {pet} did not forget {h}. From then on, {later}.
-60 {h} was sure that this was its way of saying thank you.
| f: I think it knows you! // {h} {smiled}, because {h.he} thought so, too.
| h: See? It remembers us!
""",
    SCENES,
)


def cast_mystery(t: Cast) -> None:
    t.begin("people")
    t.add("f")
    t.neighbor()
    t.row(
        (
            {"gone": "carrots", "track": "small round tracks", "thief": "a tiny rabbit with a hurt paw"},
            {"gone": "eggs", "track": "a trail of straw", "thief": "a hen that had hidden them to sit on them"},
            {
                "gone": "socks",
                "track": "a line of blue threads",
                "thief": "a mother mouse that had made a bed for ten babies",
            },
            {"gone": "spoons", "track": "a black feather", "thief": "a magpie that loved shiny things"},
            {"gone": "apples", "track": "little marks of teeth", "thief": "a hungry old donkey"},
            {"gone": "buttons", "track": "a trail of nut shells", "thief": "a young squirrel that took them for nuts"},
        )
    )
    t.set(count=t.choose(("three", "four", "five")))


MYSTERY = parse(
    """
@intro

- {one_day}, {n} came out of the house and shook {n.his} head. // n: My {gone} are gone again!
| {one_day}, {h} heard {n} shouting. // n: Somebody has taken my {gone}!
-70 n: I had {count} more yesterday. Who could it be?
| n: That is the third time this week!
- {h} liked nothing better than a mystery. // h: I will find out who did it!
| h: Don't worry, {n}. {f} and I will find the thief.
- {h} called {h.his} friend {f.intro}, and they set to work.
| {h} and {h.his} friend {f.intro} looked at everything very carefully.
-60 f: Maybe it was a dragon. // h: Dragons don't like {gone}.
| f: I think it was a ghost! // h: Ghosts don't eat, and they don't need {gone}.
| f: Where do we begin? // h: We look for what does not belong here.
- On the ground, {h} found {track}.
| {suddenly}, {f} pointed at the ground. There was something: {track}!
-75 They followed it, past the well, over the fence, and under the bushes.
| It led them around the house, along the hedge, and down to an old shed.
- There they heard a rustle. {f} held on to {h}. // f (softly): You go first.
| They bent down low and crept closer. // h (softly): Don't make a sound.
- {h} looked inside. And who was there? It was {thief}!
| Very slowly, {h} pulled the leaves apart. Behind them sat {thief}.
-70 h: So it was you!
| f: That is no thief at all!
| {h} and {f} looked at each other and {laughed}.

- They told {n} about it. {n} was not angry any more.
| {n} came to see it, too. // n: Well, well. Who could be angry about that?
| {h} ran to get {n}. // h: Please don't be angry. Come and see!
- n: I have more {gone} than I need. We can share.
| n: If I had known, I would have given some away.
-70 n: And you two are real detectives.
| n: How did you find out? // h: We looked, and then we thought.
| {n} gave them {food.some} for their good work.
- After that, {n} put a few {gone} outside each evening, and nothing was ever missing again.
| {f} was a little sad that it had not been a dragon.
| {h} and {f} wrote on a piece of paper: Mystery number one, solved.
| When you know why someone does a thing, it is hard to be angry.
""",
    SCENES,
)
