"""Plots about getting lost, a sleepless night, a snowman and a star."""

from groundup.text.stories import vocabulary as words
from groundup.text.stories.casting import Cast
from groundup.text.stories.scenes import SCENES
from groundup.text.stories.screenplay import parse


def cast_wander(t: Cast) -> None:
    t.begin(skies=("sunny", "warm", "cool"))
    t.elder()
    t.row(
        (
            {
                "rule": "If you get lost, stay where you are and blow this whistle",
                "gift": "a little whistle",
                "do": "blew the whistle as hard as {h.he} could",
                "found": "had heard it",
            },
            {
                "rule": "If you get lost, walk along the stream, and it will lead you home",
                "gift": "a bottle of water",
                "do": "listened, heard the stream, and walked along it",
                "found": "was standing where the stream ended",
            },
            {
                "rule": "If you get lost, stay in one place and sing, and I will hear you",
                "gift": "a tiny song book",
                "do": "sat down under a tree and sang all the songs {h.he} knew",
                "found": "had heard the singing",
            },
            {
                "rule": "If you get lost, tie this red ribbon to a branch and wait beside it",
                "gift": "a red ribbon",
                "do": "tied the ribbon to a branch and sat down beside it",
                "found": "had seen the ribbon from far away",
            },
            {
                "rule": "If you get lost, ring this bell and do not walk away",
                "gift": "a small bell",
                "do": "rang the bell, ding, ding, ding",
                "found": "had heard the bell",
            },
        )
    )
    t.set(
        chased=t.choose(("a yellow butterfly", "a hopping frog", "a red bird", "a funny beetle", "a floating feather")),
        wood=t.choose(("the forest", "the woods", "the old orchard", "the pine trees", "the big forest")),
    )


WANDER = parse(
    """
@intro

- {one_day}, {h} went for a walk with {m}. {m} gave {h.him} {gift}. // m: {rule}.
| {one_day}, {m} took {h} to {wood}. Before they went in, {m} gave {h.him} {gift}. // m: Listen well. {rule}.
- h: I won't get lost! // But {h.he} put it in {h.his} bag.
| {h} nodded, but {h.he} was not really listening.
| h: Yes, {m}. // {h} put it in {h.his} bag and forgot about it.
@sky
- Then {h} saw {chased}. // h: Wait for me! // {h.He} ran after it, deeper and deeper into {wood}.
| {suddenly}, {h} saw {chased}. {h.He} followed it to the left, and to the right, and around a big rock.
- When {h.he} stopped, everything looked the same. {m} was nowhere to be seen.
| Then it was gone. {h} turned around. Where was {m}? Where was the path?
- h: {m}? {m}! // Nobody answered.
| {h} was lost.
| {h.His} lip began to shake. It was very quiet.
-70 {h} ran this way. {h} ran that way. But {h.he} only got more lost.
| A branch cracked. {h} wanted to run, but {h.he} did not know where to go.
-50 {h} sat down and cried a little.
| The sun was going down, and it was getting cold.

- Then {h} opened {h.his} bag. There was {gift}! And {h.he} remembered what {m} had said.
| h (to {h.himself}): Think, {h}, think. What did {m} say? // Then {h.he} remembered.
- {h} wiped {h.his} eyes. {h.He} {do}.
| First, {h} took a deep breath. Then {h.he} {do}.
-50 {h.He} waited, and {h.he} waited. It seemed like a very long time.
| At first, nothing happened. But {h} did not give up.
- {at_last}, {h} saw someone between the trees. It was {m}, who {found}!
| Far away, someone called {h.his} name. // m: {h}! Is that you? // {m} {found}, and {before_long} {m.he} was there.
-70 m: I was so worried! Are you all right?
| {h} ran into {m}'s arms. // h: I was so afraid!
- h: I am sorry that I ran away. But I remembered what you told me.
| h: I did what you said, {m}. // m: And that is how I found you. Well done.
| m: You were very clever to remember.
- They stayed close together {way_home}.
| On the way home, {h} did not leave {m}'s side.
| {m} carried {h} all the way home, and {h} held on tightly.
-60 From then on, {h} listened when {m} said something important.
| {h} never again ran off without a word.
| And when {h} sees {chased} now, {h.he} waves at it and stays on the path.
""",
    SCENES,
)


def cast_sleepless(t: Cast) -> None:
    t.begin(skies=("cool", "windy", "snowy", "rainy"), times=("night", "evening"))
    t.elder()
    one, two = t.draw(
        (
            "counted sheep, but the sheep ran away",
            "drank a glass of water, but then {h.he} had to get up again",
            "closed {h.his} eyes very tightly, but they popped open",
            "turned over ten times",
            "hummed a song, but it made {h.him} want to dance",
            "lay on {h.his} back and looked at the ceiling",
            "hugged the pillow, but the pillow was too warm",
        ),
        2,
    )
    t.set(one=one, two=two)
    t.set(
        reason=t.choose(
            (
                "tomorrow is my first day at school",
                "the wind is so loud",
                "I am not tired at all",
                "I had a bad dream",
                "I keep thinking about tomorrow",
                "my head is full of thoughts",
            )
        ),
        listen=t.choose(
            (
                "the clock in the hall",
                "an owl, far away",
                "a cricket by the door",
                "the river that never sleeps",
                "the soft breathing of the house",
            )
        ),
    )


SLEEPLESS = parse(
    """
@intro

- {one_day}, {h} could not sleep.
| {one_day}, everyone was asleep. Only {h} was awake.
- {h.He} {one}. {h.He} {two}.
| First, {h.he} {one}. Then {h.he} {two}.
- It did not help.
| Nothing helped.
| {h} was more awake than before.
- {h} got up and went to {m}. // h: I can't sleep. // m: Why not? // h: Because {reason}.
| {soon}, {m} looked in. // m: Are you still awake? // h: Yes, {reason}.
- {m} sat down on the edge of the bed. // m: When I was little, I could not sleep, either. So I listened to the night.
| m: Let me tell you a secret. You don't have to sleep. You only have to listen.
| {m} did not scold {h.him}. // m: Move over a little. We will listen to the night together.
-60 h: What is there to hear? // m: Be quiet, and you will find out.
| h: Listen to what? // m: To the smallest sound you can find.
- They listened. First, there was nothing. Then {h} heard {listen}.
| {h} held {h.his} breath. Very softly, there was {listen}.
-65 h (softly): I can hear it.
| h: It's like a song.
-70 m: It is there every night, and it watches over you.
| m: It has been singing for you all the time.
| {m} stroked {h.his} head. // m: And there is more. Listen on.
- {h} listened for the next sound, and the next one. {h.His} eyes got heavy.
| {h} wanted to say something more, but {h.he} yawned instead.
| {h} looked for one more sound, and then for one more.
- Before {m} had closed the door, {h} was asleep.
| {soon}, the smallest sound in the house was {h}, breathing in {h.his} sleep.
| {m} waited a while. Then {m.he} kissed {h} and tiptoed out.
-70 m (from the door): Good night, {h}.
| The moon looked in at the window and saw that all was well.
| And outside, the night went on with its song.
""",
    SCENES,
)


def cast_snow(t: Cast) -> None:
    t.begin("people", skies=("snowy",))
    t.add("f")
    t.elder()
    t.set(
        nose=t.choose(("a carrot", "a pine cone", "a red pepper", "a stick")),
        eyes=t.choose(("two buttons", "two black stones", "two nuts", "two bottle caps")),
        wear=t.choose([thing.full for thing in words.HUMAN_THINGS if thing in ("hat", "scarf")]),
    )


SNOW = parse(
    """
@intro

- {one_day}, {h} looked out of the window. Everything was white!
| It had snowed all night. When {h} woke up, the whole world was white.
-70 h: {m}, may I go out? // m: Yes, but put on your warm coat.
| {h} pulled on {h.his} boots and ran outside.
- {h.His} friend {f} was there already. // f: Let's build a snowman!
| {h} met {h.his} friend {f} in the yard, and they began to build a snowman.
-70 They rolled one big ball, one middle ball, and one small ball.
| They rolled the snow into balls until their hands were cold.
- For the eyes, they took {eyes}, and for the nose, {nose}.
| {h} gave him {eyes} for eyes. {f} gave him {nose} for a nose.
- But something was missing. // f: He looks cold! // So {h} gave him {h.his} {wear}.
| h: He needs something to wear. // {h} ran inside and came back with {h.his} {wear}.
-60 They danced around him and sang.
| f: He is the finest snowman in the street!
| m: What a handsome fellow! // {m} waved from the window.

- The next day, the sun came out, and it got warm. The snowman got smaller and smaller.
| But a few days later, the warm wind came. Drip, drip, drip went the snowman.
-70 h: No! Don't go! // {h} was {sad}.
| {h} wanted to hold him up, but {h.he} could not.
| f: He is melting! What can we do? // There was nothing they could do.
- {soon}, there was only a puddle, with {nose} in it and {h}'s {wear} on top.
| When they came home that day, all that was left was the {wear}, {eyes}, and {nose}.
- {m} put an arm around {h}. // m: He is not gone. He has turned into water, and the water goes to the flowers.
| h: Where did he go? // m: Into the ground, and up into the sky. And one day, he will come back as snow.
- {h} {thought}. // h: Then I will say hello to him in spring.
| h: Then the rain is a little bit of snowman!
| h: So he is only on a trip.
- In spring, a yellow flower grew where the snowman had been. // f: Look, he has sent us something!
| In spring, a flower came up where the snowman had stood. // h: Good morning, snowman! // And the flower nodded in
  the wind.
| {h} kept {eyes} and {nose} in a box for the next winter.
| {h} hung the {wear} on its hook, where it waited for the next snow.
-60 And when it snowed again, they built him once more, and he looked just as before.
| Some friends go away, but they come back.
""",
    SCENES,
)


def cast_star(t: Cast) -> None:
    t.begin("animals", skies=("cool", "windy"), times=("evening", "night"))
    t.add("f")
    t.neighbor()
    t.set(
        wish=t.choose(
            ("to be tall", "to fly like a bird", "to be brave", "to have golden fur", "to be the fastest of all")
        ),
        shine=t.choose(("in the pond", "in a puddle", "on the wet grass", "at the bottom of the well")),
    )


STAR = parse(
    """
@intro

- {one_day}, {h} looked up and saw a falling star. // h: It fell right behind the hill! I am going to find it.
| {one_day}, a star fell from the sky, and {h} saw it fall. // h: If I find it, I can make a wish!
- {h} had always wanted {wish}.
| {h.He} knew just what to wish for. {h.He} wanted {wish}.
- On the way, {h.he} met {f.intro}, who had lost {f.his} way in the dark. // f: Please, will you take me home?
| But behind the first tree sat {f.intro}, crying. // f: I can't find the way home.
-50 {h} looked at the hill. The star would not shine forever.
| h: I have to find a star. // But then {h.he} looked at {f}.
- h: Come along, I will take you home first.
| {h} sighed. Then {h.he} took {f} home, all the way down to the river.
- Then {h} went on. {n} was standing by the path with a heavy sack. // n: My back hurts. Can you help me?
| A little later, {h} met {n}, who could not get {n.his} cart out of the mud. // n: Can you give me a push?
-50 {h} helped {n.him}, too, and it took a long time.
| {h} did what {h.he} could until the work was done.
- When {h.he} came to the hill, it was very late. There was no star. There was only a light {shine}.
| {at_last}, {h} stood on the other side of the hill. Something was shining {shine}. But it was only the moon.
-50 h: I came too late. Now I can't make my wish.
| {h} sat down, tired and {sad}.

- Then {h.he} heard steps. It was {f}, with a lantern, and behind {f.him} came {n}. // f: I was worried about you,
  so we came to take you home.
| {suddenly}, there were lights between the trees. {f} and {n} had come with lanterns. // f: We were looking for you!
-50 h: I wanted to find a star. // f: You can't have looked very hard. You stopped for all of us.
| n: Did you find your star? // h: No. It was gone.
- n: Look behind you. // {h} turned around. The lanterns of all {h.his} friends were coming up the hill like a river
  of stars.
| f: I think I know where it fell. It fell into you, because you are so kind.
| f: Then make your wish now. I will be your star.
- {h} {thought}. {h.He} did not want {wish} any more.
| {h} {smiled}. // h: I don't need a wish. I have you.
- They all walked home together, and the sky was full of stars.
| And the way home was bright.
-50 Those who help others are never alone in the dark.
| {h} never saw where the star had fallen, and {h.he} did not mind.
""",
    SCENES,
)
