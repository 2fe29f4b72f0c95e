"""Plots about growing up: fear, learning, patience in a garden."""

from groundup.text.stories.casting import Cast
from groundup.text.stories.scenes import SCENES
from groundup.text.stories.screenplay import parse

_FEARS = (
    {
        "fear": "the dark",
        "skies": "windy cool",
        "times": "evening night",
        "scene": "The lamp went out, and the room was as black as ink",
        "think": "I think something is hiding in the corner",
        "tip": "look for one small light, and then the dark is not so big",
        "act": "looked around and saw a little star in the window",
        "found": "the thing in the corner was only a coat on a hook",
    },
    {
        "fear": "thunder",
        "skies": "rainy",
        "times": "afternoon evening",
        "scene": "There was a flash, and then a loud boom",
        "think": "The sky is angry with me",
        "tip": "count the seconds after the flash, and you can hear the storm walk away",
        "act": "counted with a shaking voice: one, two, three, four",
        "found": "each time there was more to count, and the storm was far away",
    },
    {
        "fear": "deep water",
        "skies": "sunny warm",
        "times": "morning afternoon",
        "scene": "The water was cold and green, and nobody could see the bottom",
        "think": "The water wants to pull me down",
        "tip": "breathe slowly and lie on your back, and the water will carry you",
        "act": "lay back in the water and breathed slowly",
        "found": "the water held {h.him} up like a soft bed",
    },
    {
        "fear": "high places",
        "skies": "sunny cool cloudy",
        "times": "morning afternoon",
        "scene": "The hill was steep, and everything below looked very small",
        "think": "My legs have turned to jelly",
        "tip": "look only at the next step, and never down",
        "act": "took one step, and then one more",
        "found": "{h.he} stood at the very top, and the whole world lay below",
    },
    {
        "fear": "singing in front of others",
        "skies": "warm cool",
        "times": "evening afternoon",
        "scene": "Everyone sat in a circle, and it was {h}'s turn to sing",
        "think": "They will all laugh at me",
        "tip": "sing to one friend, and forget all the others",
        "act": "looked only at {f} and began to sing, very softly at first",
        "found": "nobody laughed, and at the end they clapped and clapped",
    },
)


def cast_afraid(t: Cast) -> None:
    row = t.choose(_FEARS)
    t.begin(skies=row["skies"].split(), times=row["times"].split())
    t.add("f")
    t.set(**row)


AFRAID = parse(
    """
@intro
- There was only one thing {h} was afraid of. It was {fear}.
| But {h} had a secret. {h.He} was afraid of {fear}.
| {h} was not afraid of spiders, and not afraid of big dogs. But {h.he} was afraid of {fear}.

- {one_day}, {h} was with {h.his} friend {f.intro}. {scene}.
| {one_day}, {h} and {f.intro} were together. {scene}.
- {h} began to shake. // f: What is the matter?
| {h} closed {h.his} eyes and could not move. // f: {h}, are you all right?
| {h} wanted to run home. // f: Wait! What is wrong?
- h (in a small voice): I am afraid. {think}.
| h (softly): Please don't laugh. {think}!
| h: I can't! {think}!
-60 f: I won't laugh. I was afraid of it, too.
| {f} did not laugh. {f.He} came closer and stayed with {h.him}.
| f: Everybody is afraid of something. I am afraid of geese!
- f: Somebody once told me a trick. You have to {tip}.
| f: I know what helps. You {tip}.
-60 h: What if it does not work? // f: Then we will try it again, together.
| h: Will you stay with me? // f: I will stay right here.
| {h} was not sure. But {f} was there, and that helped a little.

- {h} took a deep breath. {h.He} {act}.
| So {h} tried it. {h.He} {act}.
-50 {h.His} heart was still beating fast.
| It was not easy.
- And what do you think? {Found}.
| After a while, {h.he} opened {h.his} eyes wide, for {found}.
- h: I did it!
| h: It worked! I am not afraid any more!
| h: I am still a bit afraid. But I can do it anyway.
-65 f: You are very brave, {h}.
| f: I knew you could do it.
| f: Being brave means that you are afraid and do it anyway.
- {h} felt big and strong.
| {h} was so proud that {h.he} danced.
| They both {laughed}.
-60 From then on, {h} was a little braver every day.
| The next time, {h} helped someone else who was afraid of {fear}.
| {Fear} never seemed so bad again.
@bedtime
""",
    SCENES,
)


_SKILLS = (
    {
        "skill": "whistle",
        "fail": "only air came out",
        "tip": "make your mouth small, like a cherry",
        "done": "a clear, high note",
    },
    {
        "skill": "juggle",
        "fail": "all the balls fell down",
        "tip": "watch the top and not your own arms",
        "done": "three balls in the air",
    },
    {
        "skill": "swim",
        "fail": "{h.he} swallowed a lot of water",
        "tip": "kick slowly, like a frog",
        "done": "ten strokes without stopping",
    },
    {
        "skill": "skate",
        "fail": "{h.he} sat down on the ice, bump",
        "tip": "bend your knees a little",
        "done": "a big circle on the ice",
    },
    {
        "skill": "bake bread",
        "fail": "the bread was as hard as a stone",
        "tip": "let the dough rest in a warm place",
        "done": "a soft, golden loaf",
    },
    {
        "skill": "play the drum",
        "fail": "it sounded like falling pots",
        "tip": "listen to your own heart and play along",
        "done": "a real song",
    },
    {
        "skill": "stand on {h.his} head",
        "fail": "{h.he} fell over like a tree",
        "tip": "use your arms like the legs of a stool",
        "done": "upside down for a whole minute",
    },
    {
        "skill": "paint a horse",
        "fail": "it looked like a potato with legs",
        "tip": "look at the horse longer than at the paper",
        "done": "a horse that looked ready to run",
    },
    {
        "skill": "jump rope",
        "fail": "the rope caught {h.his} feet",
        "tip": "jump when you hear the rope touch the ground",
        "done": "twenty jumps without a stop",
    },
)


def cast_learned(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.elder()
    t.row(_SKILLS)


LEARNED = parse(
    """
@intro
- There was one thing {h} wanted more than anything. {h.He} wanted to {skill}.
| {h} wished that {h.he} could {skill}.

- {one_day}, {h} saw {h.his} friend {f.intro}, who was very good at it. // h: I want to learn that, too!
| {one_day}, {h} told {m} and {h.his} friend {f.intro} that {h.he} would learn to {skill}, that very day.
| {one_day}, {h} jumped up. // h: Today I will learn it! // {m} came to watch, and so did {h}'s friend {f.intro}.
- {h} tried it, but {fail}.
| It looked so easy. But when {h} tried, {fail}.
-75 {h.He} tried again, and again {fail}.
| {h.He} tried a second time. It was even worse.
| {h.He} tried it once more. {Fail}!
- h: It's too hard! I will never be able to do it!
| {h} stamped {h.his} foot. // h: I give up!
| {h} was {sad} and wanted to give up.

- {m} sat down beside {h.him}. // m: I needed a whole summer to learn that.
| {f} came over. // f: Do you know how often I did it wrong? A hundred times!
| m: Nobody can do it on the first day.
- f: Here is a secret: {tip}.
| f: Let me show you something. You have to {tip}.
| f: Try it like this: {tip}.
- {every_day}, {h} practiced. On some days it went well, and on some days it did not.
| So {h} practiced in the morning, and {h} practiced in the evening.
| {h} tried it that way. It was a little bit better. So {h.he} went on, day after day.
-40 Once, even the birds flew away. But {h} only {laughed} and went on.
| Each time it went wrong, {h} took a breath and thought of what {f} had said.
- And then, one morning, it happened. {Done}!
| {at_last}, {h} did it: {done}!
- h: {m}, {f}, look! I can do it!
| {h} could hardly believe it. // h: Did you see that?
| {h} jumped up and down with joy.
-70 {m} clapped. // m: You worked hard for that.
| f: I told you! // {f} was as happy as {h}.
| m: I am so proud of you. You did not give up.
-70 Some time later, {h} met someone small who could not do it. // h: Don't be sad. Let me tell you a secret.
| And now {h} could {skill} whenever {h.he} liked.
| {h} learned that hard things get easy when you do them many times.
| From that day on, when something was hard, {h} did not say that {h.he} couldn't. {h.He} said that {h.he} couldn't
  do it
  yet.
@bedtime
""",
    SCENES,
)


_PLANTS = (
    {"seed": "a sunflower seed", "grown": "a sunflower, taller than {m}", "use": "gave the new seeds to the birds"},
    {"seed": "a pumpkin seed", "grown": "a fat orange pumpkin", "use": "made soup, enough for everyone"},
    {"seed": "a bean", "grown": "a bean plant that reached up to the roof", "use": "picked a whole basket of beans"},
    {
        "seed": "an apple seed",
        "grown": "a tiny apple tree with green leaves",
        "use": "sat down beside it and drank some tea",
    },
    {"seed": "a strawberry plant", "grown": "a row of sweet red strawberries", "use": "ate them with cream"},
    {"seed": "a tulip bulb", "grown": "a red tulip with a golden heart", "use": "drew a picture of it for {m}"},
    {"seed": "a carrot seed", "grown": "a carrot as long as {h}'s arm", "use": "pulled it out together and shared it"},
)


def cast_garden(t: Cast) -> None:
    t.begin(skies=("sunny", "warm", "cool"), times=("morning",))
    t.add("f")
    t.elder()
    t.row(_PLANTS)


GARDEN = parse(
    """
@intro

- {one_day}, {m} gave {h} {seed}. // m: Put this in the ground and take care of it.
| {one_day}, {h} found {seed} in an old box. // h: {m}, what can I do with this? // m: Plant it and see!
@sky
- {h} dug a hole, put it in, and covered it with earth.
| Together, they made a hole in the ground, and {h} put it in gently.
- Then {h.he} sat down to wait. // h: When will it come out? // m: It needs time.
| h: Grow! // But nothing happened. // m: It needs water, sun, and time.
-75 The next day, nothing had happened. The day after that, nothing had happened, either.
| {h} looked after breakfast. {h} looked after lunch. There was only brown earth.
-60 h: Maybe I should dig it up and look. // m: If you do, it will never grow.
| h: I don't think it likes me.
- {h}'s friend {f.intro} came by and {laughed}. // f: You are growing mud!
| {h}'s friend {f.intro} came to look. // f: I don't see anything. // h: Not yet!
| {h}'s friend {f.intro} shook {f.his} head. // f: It's only earth. Come and play!
- {every_day}, {h} gave it water and pulled the weeds.
| {h} did not give up. {every_day}, {h.he} watered it and talked to it.
-50 When it was hot, {h} made some shade with an umbrella. When it was windy, {h.he} built a little wall of stones.
| {h} sang to it, because {h.he} thought it might be lonely down there.
- One morning, there was something green! // h: {m}! {m}! Come quickly!
| Then, one morning, {h} saw a tiny green tip. {h.He} shouted so loudly that everyone came running.

- It grew and grew. When the summer was over, it had become {grown}.
| Week after week it grew, until there was {grown}.
-70 f: It is wonderful! I would have given up long ago.
| {f} came to see it and could not believe it. // f: How did you do that? // h: I waited.
| m: You see? You gave it care, and it gave you this.
- {h} and {f} {use}.
| Together, {h} and {f} {use}.
-60 {h} kept one seed in a little box for the next year.
| {h} had learned how to wait, and that some good things cannot be hurried.
| h: Next year, I will plant two!
| And in spring, they planted a whole garden.
""",
    SCENES,
)
