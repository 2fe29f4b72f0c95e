"""Plots about things: lost, stuck, shared, broken."""

from groundup.text.stories import vocabulary as words
from groundup.text.stories.casting import Cast
from groundup.text.stories.scenes import SCENES
from groundup.text.stories.screenplay import parse

_PAUSES = (
    {"pause": "to watch a frog", "spot": "beside the puddle where the frog had been"},
    {"pause": "to pick some flowers", "spot": "among the flowers"},
    {"pause": "to climb an old tree", "spot": "under the old tree"},
    {"pause": "to look at a snail", "spot": "next to the snail"},
    {"pause": "to drink some water", "spot": "next to the little stream"},
    {"pause": "to watch the ants", "spot": "right beside the ants"},
    {"pause": "to rest on a log", "spot": "behind the log"},
    {"pause": "to chase a butterfly", "spot": "in the tall grass"},
    {"pause": "to feed the ducks", "spot": "near the ducks"},
    {"pause": "to look for smooth stones", "spot": "on a pile of stones"},
)


def cast_lost(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.elder()
    t.thing()
    t.row(_PAUSES)


LOST = parse(
    """
@intro
- {h} had {o.a}. // {h.He} took it everywhere.
| {h}'s favorite thing in the world was {o.a}.
| {m} had given {h.him} {o.a}, and {h} loved it very much.
| {h.He} had {o.a} that {m} had given {h.him}.

- {one_day}, {h} took {h.his} {o} {p.to}.
| {one_day}, {h} and {h.his} {o} went {p.to}.
| {one_day}, {h} went {p.to}, and of course the {o} came along.
@sky
- On the way, {h} put the {o} down {pause}. // Then {h.he} ran on.
| {h.He} stopped for a moment {pause}, and put the {o} down.
| Before {h.he} got there, {h.he} stopped {pause}, and put the {o} down beside {h.him}.
-60 {p.At}, {h.he} played for a long time.
| {h.He} ran and jumped and played until {h.he} was hungry.

- When it was time to go home, {h} {looked} for the {o}, but it was gone.
| {soon}, {h} wanted to play with {h.his} {o}. // But where was it?
| {suddenly}, {h} saw that {h.his} {o} was gone.
- h: Oh no! Where is my {o}?
| h: My {o} is gone!
| {h.His} heart began to beat fast.
-80 {h.He} looked behind the bushes. It was not there. {h.He} looked under the rocks. It was not there, either.
| {h.He} looked here, and {h.he} looked there, but {h.he} could not find it.
| {h.He} turned over every stone and leaf, but found only a beetle.
| {h} looked in front of {h.him}, and {h} looked behind {h.him}. // No {o}!
-70 {h} felt {sad} and sat down.
| A tear rolled down {h.his} cheek.
| {h} began to cry.

- {h.His} friend {f.intro} came by. // f: What is wrong, {h}?
| {h.His} friend {f.intro} saw {h.him}. // f: Why are you so sad?
| Along came {f.intro}, a friend. // f: {h}, are you all right?
- h: I lost my {o}. I have looked everywhere.
| h: I can't find my {o} anywhere!
| h: My {o} is lost, and it is all my fault.
- f: Don't cry. Let's think. Did you stop on the way?
| f: When I lose something, I walk back the way I came. Where did you stop?
| f: Close your eyes and think back. Where did you put it down?
- {h} {thought}. // h: I stopped {pause}!
| {h} closed {h.his} eyes and remembered. // h: Yes! I stopped {pause}!
| h (slowly): I stopped {pause}. Maybe I left it there!
- They {ran} back together, and there it was, {spot}!
| The two friends went back along the path. {at_last}, they saw something {spot}. It was {o.the}!
| They {ran} all the way back. And there, {spot}, lay the {o}, just as {h} had left it.

- {h} hugged {f}. // h: Thank you, {f}! You are a good friend.
| h: You found it! Thank you for helping me think.
| {h} jumped for joy. // h: Thank you! I was looking in all the wrong places.
- From that day on, {h} always looked around before {h.he} ran on.
| Now, when {h} loses something, {h.he} does not cry. {h.He} closes {h.his} eyes and thinks.
| They played with the {o} until the sun went down.
| {h} let {f} carry the {o} all the way home.
| After that, {h} never put {h.his} {o} down again without a good look at the place.
@bedtime
""",
    SCENES,
)


_HIGH = (
    {"at_top": "in a tall tree", "onto": "into a tall tree", "way": "a branch", "tool": "a long stick"},
    {"at_top": "on the roof of the barn", "onto": "onto the roof of the barn", "way": "the edge", "tool": "a ladder"},
    {"at_top": "on top of a thorny hedge", "onto": "onto a thorny hedge", "way": "the thorns", "tool": "an old broom"},
    {"at_top": "in an apple tree", "onto": "into an apple tree", "way": "the leaves", "tool": "a fishing rod"},
)


def cast_stuck(t: Cast) -> None:
    t.begin(skies=("windy", "windy", "sunny"))
    t.add("f")
    t.neighbor()
    t.set(o=t.choose(words.THROWN))
    t.row(_HIGH)


STUCK = parse(
    """
@intro

- {one_day}, {h} and {f.intro} played with {o.a}.
| {one_day}, {h} took {h.his} {o.full} {p.to}. {h.His} friend {f.intro} came, too.
@sky
-60 Up and up it flew, higher than ever before.
| h: Look how high it can go!
| f: Higher, {h}! Make it fly higher!
- But then the wind took it and blew it {onto}.
| But a gust of wind came, and the {o} flew {onto}.
| {suddenly}, the wind pushed it away. The {o} landed {at_top}, and there it stayed.
-65 h: Oh no! It is stuck!
| f: Now we will never get it back!
| They looked up. It was stuck, far too high to reach.

- First, {h} jumped as high as {h.he} could. // It was not high enough.
| First, {h} threw a small stone at it. The stone missed.
-70 Then {f} stood on {h}'s shoulders. They wobbled, and they wobbled, and they fell in a heap.
| Then {f} threw a pine cone at it. The pine cone got stuck, too!
| Next, {f} tried to climb up, but it was too slippery.
-50 {h} wanted to cry. // h: It is no use.
| h: Maybe it wants to live up there.
| They sat down and did not know what to do.

- {n} came along the path with {tool}. // n: What are you two looking at?
| {n} heard them and came over. {n.He} was carrying {tool}. // n: Can I help you?
- h: Our {o} is up there, and we are too small to reach it.
| f: The wind took our {o}, and we can't get it down.
- n: Then it is a good thing that I have {tool}. // {n.He} reached up, pushed past {way}, and down came the {o}!
| {n} {laughed}. // n: When I was little, that happened to me every week! // With {tool}, {n.he} gently pushed the
  {o} past
  {way} until it dropped into {h}'s arms.
- h: Thank you, {n}!
| f: Thank you so much, {n}!
| {h} and {f} cheered.
-60 n: Next time, play where nothing can catch it.
| n: It is never wrong to ask for help.
| They asked {n} to play, too, and {n.he} was better at it than both of them!

- After that, they played in the open field, far away from anything tall.
| {h} and {f} shared {food.some} with {n}, because sharing is a good way to say thank you.
| {h} and {f} learned that some things are easy when you ask for help.
| They played until it was dark, and the {o} did not get stuck once.
@bedtime
""",
    SCENES,
)


def cast_shared(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.elder()
    t.set(o=t.choose(words.PLAYTHINGS))
    t.row(
        (
            {"harm": "fell into a puddle", "mend": "washed it and put it in the sun to dry"},
            {"harm": "landed in the mud", "mend": "cleaned it with a wet cloth"},
            {"harm": "got a long scratch", "mend": "painted a little star over the scratch"},
            {"harm": "rolled into the thorns", "mend": "carefully pulled it out of the thorns"},
        )
    )


SHARED = parse(
    """
@intro

- {one_day}, {h} and {h.his} friend {f.intro} were playing {p.at}. They found {o.a} in the grass.
| {one_day}, {h} and {h.his} friend {f.intro} saw {o.a} {p.at}. // Nobody was there, and it did not seem to belong
  to anyone.
| {one_day}, {m} gave {h} and {h.his} friend {f.intro} {o.a}. // m: It is for both of you.
@sky
- h: I saw it first! // f: No, I did!
| h: It's mine! // f: No, it's mine!
| h: I want to have it first! // f: But I want it, too!
- {h} pulled on one side, and {f} pulled on the other.
| {h} held on tight. {f} held on tight, too.
| They both grabbed the {o}, and neither of them would let go.
- They pulled and pulled until it slipped away and {harm}.
| {suddenly}, the {o} slipped out of their hold and {harm}.
-60 They stopped and stared.
| Now nobody could play with it.
| {h} looked at {f}, and {f} looked at {h}.
-60 They were both {sad}.
| {f} began to cry.
| {h}'s face turned red.

- h: I am sorry, {f}. I was not kind.
| f: I am sorry. I should not have pulled. // h: I am sorry, too.
| {m} had seen it all. // m: When two friends pull, nobody wins. // h: You are right. I am sorry, {f}.
- {h} had an idea. // h: Let's take turns. You can go first.
| h: What if we share it? You have it today, and I have it tomorrow.
| f: I know! We can make up a game for two.
- Together, they {mend}.
| First, they {mend}. They did it together.
- {soon}, the {o} was as good as new, and they were laughing again.
| Then {f} had a turn, and {h} counted to twenty. Then {h} had a turn, and {f} counted.
| They made up a game that they could only play with two.
-60 It was much more fun than playing alone.
| They found out that sharing was not hard at all.
| And do you know what? It was more fun with two.
-50 They named the {o} Lucky, and it belonged to both of them.
| When another child came, {h} and {f} let the child play, too.
@home
@bedtime
""",
    SCENES,
)


_BREAKABLE = ("vase", "cup", "bowl", "plate", "jar", "teapot", "milk jug", "sugar bowl")


def cast_broken(t: Cast) -> None:
    t.begin(skies=("rainy", "rainy", "windy"))
    t.elder()
    t.set(
        x=t.choose(_BREAKABLE),
        play=t.choose(
            ("throwing a ball", "jumping on the chairs", "spinning around and around", "running with a stick")
        ),
        color=t.choose(("blue", "white", "green", "yellow", "golden")),
        hiding=t.choose(("under the rug", "behind the door", "under the bed", "in a box", "behind a big basket")),
    )


BROKEN = parse(
    """
@intro

- {one_day}, {h} had to stay inside. // {h.He} was {play}, though {m} had told {h.him} not to.
| {one_day}, {h} was {play} in the house. // m: Please be careful.
| {one_day}, {m} was busy, and {h} was {play} in the kitchen.
-30 {sky}
- On the table stood a {color} {x}. // {m} loved it very much.
| There was a {color} {x} on the shelf. It had belonged to {m} for many years.
- {suddenly}, there was a loud crash. The {x} lay on the floor in pieces.
| Crash! The {x} fell down and broke.
| {h} bumped into it, and it fell. Crash!
-70 {h} held {h.his} breath. Nobody had seen it.
| {h}'s heart beat fast. What would {m} say?
| h (very quietly): Oh no. What have I done?
- Quickly, {h.he} hid the pieces {hiding}.
| {h.He} picked up the pieces and hid them {hiding}.

- But {h} did not feel like playing any more. There was a heavy feeling in {h.his} tummy.
| All day, {h} thought about the {x}. Even {h.his} favorite food did not taste good.
| {h.He} tried to play, but all {h.he} could think of was the broken {x}.
- {soon}, {m} came in. // m: Have you seen my {x}?
| At dinner, {m} looked around. // m: Where is my {color} {x}?
- {h} wanted to say no. But then {h.he} took a deep breath.
| {h} looked at the floor. It would be easy to say no. But it would not be true.
| For a moment, {h} said nothing.
- h: I broke it. I was {play}, and then I hid it {hiding}. I am sorry.
| h (with tears in {h.his} eyes): It was me. I broke it, and I was afraid to tell you.

-60 {m} was quiet for a moment. Then {m.he} hugged {h}.
| {m} sat down next to {h.him} and took a deep breath.
| {m} was sad about the {x}, but {m.he} was not angry.
- m: Thank you for telling me the truth. That was brave.
| m: I loved that {x}. But I love you much more. Thank you for telling me.
| m: Things break. I am glad that you told me.
- Together, they glued the pieces. It took a long time. The {x} had many lines now, but it could stand again.
| They got some glue and put the pieces together, one by one.
| They could not mend it, so {h} painted a picture of the {x} and gave it to {m}.
- The heavy feeling was gone.
| {h} felt as light as a feather.
| {h} felt better than {h.he} had felt all day.
-60 After that, {h} played with balls and sticks outside.
| And every time {h} saw it, {h.he} remembered that it is better to tell the truth.
| {h} never hid anything from {m} again.
| m: Next time, tell me right away. I can help. // {h} promised.
@bedtime
""",
    SCENES,
)
