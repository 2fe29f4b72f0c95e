"""Plots about mistakes and how they are put right: greed, a forgotten promise, a warning that is not heeded."""

from groundup.text.stories.casting import Cast
from groundup.text.stories.scenes import SCENES
from groundup.text.stories.screenplay import parse


def cast_greedy(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.elder()
    t.row(
        (
            {"good": "berries", "where": "on the bushes"},
            {"good": "cherries", "where": "on the old cherry tree"},
            {"good": "plums", "where": "under the plum tree"},
            {"good": "nuts", "where": "under the nut tree"},
            {"good": "cookies", "where": "in the big jar"},
            {"good": "pancakes", "where": "on the big plate"},
        )
    )
    t.set(few=t.choose(("two", "three", "four", "five")))


GREEDY = parse(
    """
@intro
- Most of all, {h} loved {good}.
| There was nothing {h} liked to eat more than {good}.

- {one_day}, there were many {good} {where}. // m: You may have {few}. The rest are for tomorrow, when your friends
  come.
| {one_day}, {m} showed {h} the {good} {where}. // m: Please take only {few}, so that there are enough for all.
-65 {h} ate {few}. They were so sweet!
| {h} took {few} and ate them slowly.
- {h.He} looked at the others. // h: One more will not hurt.
| Then {m} went away. {h} took one more, and then one more.
| h (to {h.himself}): Nobody counts them. I will have just one more.
- One more became two more, and two more became ten more. {soon}, all of them were gone.
| {h.He} ate and ate. When {h.he} stopped, there was not a single one left.
| {h.He} could not stop until the very last one was gone.
- Then {h.his} tummy began to hurt. // h: Ow, ow, ow!
| {h} did not feel good at all. {h.His} tummy was as round as a ball.
-70 {h.He} lay down on the floor and groaned.
| {h.He} had to lie down, and {h.he} could not even play.

- The next day, {h.his} friend {f.intro} came. // f: I am so hungry! You told me that there would be {good}!
| The next day, {f.intro} and the others came. // f: Where are the {good}? I have been looking forward to them all
  day.
- {h} looked at {h.his} feet. // h: There are none left. I ate them all, and I am sorry.
| {h}'s face turned red. // h: I am sorry. I ate every one of them.
-70 f: All of them? But we wanted to share!
| {f} was {sad}.
| m: Now you know why I said {few}.
- {h} {thought}. // h: I will make it good again. // {h.He} worked all morning to get more {good}, and gave them all
  to {f}.
| h: Come, {f}, I will find some more, and they will all be for you. // It took them a long time, but they found
  enough.
| Then {h} helped {m} to get some more. {h.He} did not eat a single one. {h.He} gave them all to {h.his} friends.
-75 f: You can have some of mine. // h: Thank you. But only one!
| f: Here, have one. It tastes better when we eat together.
| {f} gave one back to {h}. It was the best one of all.
- {h} learned that enough is better than too much.
| And from then on, when {m} said {few}, {h} took {few}.
| Some things taste best when they are shared.
""",
    SCENES,
)


def cast_promise(t: Cast) -> None:
    t.begin("people")
    t.add("f")
    t.neighbor()
    t.row(
        (
            {
                "do": "water",
                "whose": "flowers",
                "bad": "the flowers hung their heads, and their leaves were brown",
                "save": "gave them water, drop by drop",
                "well": "the flowers stood up again",
            },
            {
                "do": "feed",
                "whose": "fish",
                "bad": "the fish swam slowly and looked thin",
                "save": "gave them a little food, three times a day",
                "well": "the fish were jumping in the water",
            },
            {
                "do": "feed",
                "whose": "hens",
                "bad": "the hungry hens had run away to look for food",
                "save": "brought the hens back, one by one, and fed them well",
                "well": "every hen was back in the yard",
            },
            {
                "do": "look after",
                "whose": "cat",
                "bad": "the cat was hungry and would not come out from under the bed",
                "save": "gave the cat some milk and sat with it",
                "well": "the cat was purring on the sofa",
            },
            {
                "do": "give water to",
                "whose": "bees",
                "bad": "their water bowl was dry, and the bees were angry",
                "save": "filled the bowl and put flowers all around it",
                "well": "the bees were humming again",
            },
        )
    )


PROMISE = parse(
    """
@intro

- {n} had to go away for some days. // n: {h}, can you {do} my {whose} while I am away? // h: Yes, I promise!
| {n} wanted to visit {n.his} sister. // n: Who will {do} my {whose}? // h: I will! You can count on me.
-75 On the first day, {h} did it right after breakfast.
| The first day, {h} did everything just right.
- {one_day}, {h.his} friend {f.intro} came by. // f: Come {p.to} with me! // h: I will do it later.
| But then {h.his} friend {f.intro} came and wanted to play. {h} forgot all about {h.his} promise.
- They played until dark. The next day they played again, and the day after that.
| They had so much fun that {h} did not think of {n} once.
- {suddenly}, {h} remembered. // h: Oh no! I promised to {do} {n}'s {whose}!
| f: What is the matter? You look so pale. // h: My promise! I was going to {do} {n}'s {whose}!
- {h.He} {ran} to {n}'s house. But {bad}.
| They both {ran} there, but {bad}.
-70 {h} felt terrible. // h: I promised, and I forgot.
| h: {n} trusted me. What have I done?
| {h} wanted to hide.

- f: Crying does not help. Let's do something! // Together, they {save}.
| So {h} {save}.
| {h} set to work. {h.He} {save}. {f} helped, too.
- When {n} came home, {well}.
| It took a long time. But when {n} came back, {well}.
- n: How nice everything looks! // h: I have to tell you something. I forgot it for some days. I am sorry.
| {h} could have said nothing. But {h.he} told {n} all about it. // h: I am sorry that I forgot.
- {n} {thought}. // n: You forgot, you made it good again, and you told me. I will ask you again next time.
| n: Thank you for telling me. That was not easy. I still trust you.
| n: Everyone forgets something now and then. What counts is what you do next.
- {h} was {happy} and promised never to forget again.
| From then on, {h} kept {h.his} promises before {h.he} went to play.
| After that, {h} tied a string around {h.his} arm each time {h.he} made a promise, and it worked.
@bedtime
""",
    SCENES,
)


def cast_storm(t: Cast) -> None:
    t.begin(skies=("sunny", "warm"), times=("morning",))
    t.add("f")
    t.elder()
    t.row(
        (
            {"take": "your coat", "his_take": "{h.his} coat", "shelter": "an old shed"},
            {"take": "your umbrella", "his_take": "{h.his} umbrella", "shelter": "a big hollow tree"},
            {"take": "your raincoat", "his_take": "{h.his} raincoat", "shelter": "a small cave"},
            {"take": "your thick coat", "his_take": "{h.his} thick coat", "shelter": "a barn full of hay"},
        )
    )


STORM = parse(
    """
@intro

- {one_day}, {h} wanted to go {p.to}. // m: Take {take} with you. It may rain later.
| {one_day}, {h} was ready to go {p.to}. // m: The birds are flying low. Please take {take}.
- h: But the sun is shining! // {h.He} left {his_take} at home.
| {h} looked up. The sky was blue. // h: I don't need it. // And off {h.he} went.
| h: I will only have to carry it all day. // When {m} turned around, {h} put it back and ran out.
- {h} met {f.intro} there, and they played for hours.
| {p.At}, {h.his} friend {f.intro} was waiting. They played and did not look at the sky.
- {suddenly}, it got dark. Big black clouds came over the hill.
| Then the wind began to blow, and the sun was gone.
- First there was one drop, then two, and then it poured.
| The rain came down like water from a bucket.
-75 {h} was wet in no time, and {h.he} was cold.
| {h} began to shiver. // h: I wish I had listened to {m}!
- f: Come under here with me! // {f} had a big umbrella, and there was room for two.
| {f} held out one half of {f.his} big coat. // f: Quick, there is room for both of us.
- They {ran} to {shelter} and waited there.
| f: Look, {shelter}! // They {ran} inside.
-60 The thunder rolled, and the two sat close together. They sang so that they would not be afraid.
| To pass the time, they told each other funny stories.
| h: Are you afraid? // f: A little. Are you? // h: Not when you are here.
- {at_last}, the rain stopped. A rainbow stood over the hill.
| Then, as quickly as it had come, the storm was over, and the sun came back.
| After an hour, it was quiet. Only a few drops fell from the leaves.

- At home, {m} wrapped {h} in a blanket and made hot soup. // h: You were right, {m}.
| {m} was waiting at the door with a big towel. // h: Next time, I will listen. // m: I am just glad that you are
  here.
-70 m: Did anybody help you? // h: Yes, {f} shared with me.
| {h} told {m} how {f} had helped.
-60 The next day, the sun was shining again. But {h} took {his_take} along, and an extra one for a friend.
| And do you know what {h} took along the next day? {His_take}, of course!
| {h} never forgot that day, and {h.he} never forgot {his_take} again.
""",
    SCENES,
)
