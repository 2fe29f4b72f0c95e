"""Plots about friends: a newcomer, a race, a grumpy neighbor, building together."""

from groundup.text.stories import vocabulary as words
from groundup.text.stories.casting import Cast
from groundup.text.stories.scenes import SCENES
from groundup.text.stories.screenplay import parse


def cast_newcomer(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.set(
        game=t.choose(("hide and seek", "tag", "catch", "pirates", "follow the leader", "hopscotch")),
        skill=t.choose(
            (
                "draw dragons",
                "whistle like a bird",
                "stand on one leg for a long time",
                "tell funny stories",
                "make hats out of leaves",
                "walk backward without falling",
                "sing very high",
                "find four-leaf clovers",
            )
        ),
        from_=t.choose(("far away", "the other side of the mountain", "a place by the sea", "a big city", "the north")),
    )


NEWCOMER = parse(
    """
@intro

- {one_day}, {h} saw someone new {p.at}. It was {f.a}, all alone.
| {one_day}, {h} went {p.to} to play. {f.A} whom {h} had never seen before sat there alone.
| {one_day}, {h} and the others were playing {game} {p.at}. {f.A} stood far away and watched.
@sky
-70 {h} wondered why the new {f.kind} did not play.
| The others ran past and did not see {f.him}.
| The new {f.kind} looked at the ground.
-60 h (to {h.himself}): Why does nobody talk to {f.him}?
| {h} remembered how it felt to be alone.
| It is hard to be new, {h} thought.
- So {h.he} walked over and {smiled}. // h: Hello! My name is {h}. What is your name?
| {h} was a little shy, too, but {h.he} went over. // h: Hi, I am {h}. Who are you?
- f (softly): I am {f}. We just moved here from {from_}.
| f: My name is {f}. I come from {from_}, and I don't know anyone here.
| f (without looking up): I'm {f}.
- h: Do you want to play {game} with us?
| h: Come and play {game} with me!
| h: We are playing {game}. Will you join us?
-60 {f} shook {f.his} head. // f: I don't know how.
| f: I have never played that. What if I do it wrong?
| {f} wanted to, but {f.he} was too shy.
- h: That's all right. I will show you.
| h: It does not matter. Nobody knew how at first.
| {h} did not run off. {h.He} sat down next to {f.him}. // h: Then tell me what you like to do.
-70 It turned out that {f} could {skill}. {h} had never seen anyone do that!
| f: Well, I can {skill}. // h: Really? Can you teach me?
| {soon}, {f} showed {h.him} something. {f.He} could {skill}!

- {soon}, they were laughing and playing {game} together.
| They played {game} until it was time to go home.
| {h} took {f} by the arm and led {f.him} to the others. They all played {game}, and {f} was very good at it.
- f: This is the best day since we came here.
| {f} {smiled} for the first time that day.
| {f} was not sad any more.
-75 f: Will you be here tomorrow? // h: Yes, I will!
| h: See you tomorrow? // f: See you tomorrow!
-50 All it had taken was one small hello.
| {h} was glad that {h.he} had gone over to say hello.
| A friend can begin with a single word, thought {h}.
@friends
""",
    SCENES,
)


def cast_race(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.add("g")
    t.set(
        goal=t.choose(("the old bridge", "the big rock", "the windmill", "the red barn", "the last tree", "the well")),
        prize=t.choose(("a golden ribbon", "a basket of plums", "a paper crown", "a big cake", "a shiny cup")),
        trouble=t.choose(("tripped over a root", "slipped in the mud", "stepped into a hole", "fell over a stone")),
    )


RACE = parse(
    """
@intro
- {h} was not the fastest runner, but {h.he} liked to run.
| {h} had short legs and could not run fast.

- {one_day}, there was a race. The winner would get {prize}.
| Every year there was a race to {goal}. The prize was {prize}.
- {f.intro} was very fast. // f: I will win! I always win!
| {f.intro} was the fastest of all, and everybody knew it, because {f.he} said so every day.
- {f} {laughed}. // f: {h} is so slow, a snail could win against {h.him}! // {h} said nothing.
| {f} {laughed}. // f: Why do you even try, {h}? // h: Because it is fun.
-60 {h} practiced {daily}.
| {h} felt small, but {h.he} stood at the line with the others.
- One, two, three, go! They all ran off. {f} was in front, and {h} was far behind.
| The race began. {f} shot off like an arrow. {h} ran as well as {h.he} could.
- {f} laughed and looked back. {f.He} did not look where {f.he} was going. {suddenly}, {f.he} {trouble}.
| Halfway to {goal}, {f} turned around to see how far ahead {f.he} was. That is how {f.he} {trouble}.
-70 f: Ouch! My leg hurts!
| {f} could not get up. // f: Help!
| The others ran past, for they all wanted to win.

- {h} came by. {h.He} could see {goal}. {h.He} could still get there before the others. But {h.he} stopped.
| When {h} saw {f} on the ground, {h.he} stopped at once.
- h: Are you hurt? Lean on me.
| h: Here, let me help you up.
-70 f: But you will lose the race! // h: There will be other races.
| f: Why do you help me? I was not nice to you. // h: Because you need help.
- Slowly, they walked on together. {g.intro} had won long ago when they came to {goal}.
| Step by step, they went on. They were the last to reach {goal}, long after {g.intro}, who was the winner.
-70 But everyone clapped and cheered, and the loudest cheers were for {h}.
| {g} got {prize}. But {g.he} looked at {h}, and then {g.he} gave it to {h.him}. // g: You should have this.
| g: You two did not win, but that was the best thing I saw today.
- f: I am sorry that I laughed at you, {h}.
| f: I was wrong about you. You are a true friend.
| {f}'s face turned red. // f: Thank you, {h}. I will never laugh at you again.
-60 h: Will you show me how to run faster? // f: Gladly!
| After that, {f} taught {h} how to run fast, and {h} taught {f} how to be kind.
| Being kind is better than being first.
| The next year, they ran side by side.
""",
    SCENES,
)


def cast_grumpy(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.elder()
    t.neighbor()
    t.set(o=t.choose([thing for thing in words.THROWN if thing != "kite"]), food=t.choose(words.BAKED))


GRUMPY = parse(
    """
@intro
- Next door lived {n}. {n.He} never smiled, and everyone was a little afraid of {n.him}.
| {n} lived next door. Nobody had ever seen {n.him} smile.
| The house next door belonged to {n}, who was always grumpy.

- {one_day}, {h} and {f.intro} were playing with {o.a}. It flew over the hedge and right into {n}'s garden.
| {one_day}, {h} was outside with {h.his} friend {f.intro}. {h} threw {h.his} {o} too far, and it landed in {n}'s
  garden.
-70 f: Oh no. {n} will be so angry! // h: But I have to get it back.
| {h} gulped. // h: I have to go and ask for it.
| h: Maybe nobody is home. // But {n} was standing at the window.
- {h} knocked on the door. It opened just a little. // n: What do you want?
| Slowly, {h} went to the door and knocked. // n: Who is there? I want to be left alone!
- h: I am sorry. My {o} fell into your garden. May I have it back?
| h: Please, may I get my {o}? It was an accident.
-70 n: Always this noise! Take it and go away.
| n: Hmph. Be quick, and do not step on my flowers!
- {h} took the {o}. But then {h.he} saw that there was only one chair at {n}'s table and only one cup.
| {h} got the {o}. But on the way out, {h.he} saw an old picture on the wall. In it, {n} was laughing.
| As {h.he} left, {h} saw that {n}'s eyes were not angry. They were sad.

- At home, {h} told {m} about it. // h: I don't think {n} is mean. I think {n.he} is lonely.
| h: {m}, why is {n} so grumpy? // m: {n.He} has been alone for a long time.
- {h} had an idea. Together, they made {food.some}.
| m: What could we do? // h: Let's make {food.some} and take {food.it} over!
- {h} knocked again. // n: You again? Did you lose something? // h: No. I brought you {food.some}.
| When {n} opened the door, {h} held out a plate. // h: This is for you.
-50 {n} did not know what to say. {n.He} looked at the plate for a long time.
| {n} said nothing at all for a while.
-60 n: Nobody has brought me anything for years.
| n (in a soft voice): For me? That is very kind.
| Then something strange happened. {n} smiled.
- n: Would you like to come in?
| n: Please, come in and eat with me.
- After that, {h} and {f} visited {n} every week. {n.He} told the best stories.
| They ate together, and {n} told {h} stories about the old days.
| From then on, there were three chairs and three cups at {n}'s table.
-70 And when the {o} flew over the hedge again, {n} threw it back and {laughed}.
| {n} was never grumpy again, except on very early mornings.
| Some people are not mean. They are only waiting for a friend.
| {h} was glad that {h.he} had knocked twice.
""",
    SCENES,
)


def cast_builders(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.add("g")
    t.row(
        (
            {
                "thing": "tree house",
                "from1": "old boards",
                "fall": "the floor broke",
                "fix": "start with a strong floor",
            },
            {"thing": "raft", "from1": "logs and rope", "fall": "the logs came apart", "fix": "tie two knots, not one"},
            {
                "thing": "hut",
                "from1": "branches and leaves",
                "fall": "the walls fell over",
                "fix": "dig holes for the poles",
            },
            {
                "thing": "bridge",
                "from1": "long sticks",
                "fall": "it fell into the water",
                "fix": "put big stones under it",
            },
            {
                "thing": "tower",
                "from1": "flat stones",
                "fall": "it fell down with a bang",
                "fix": "put the big stones at the bottom",
            },
        )
    )


BUILDERS = parse(
    """
@intro

- {one_day}, {h} met {h.his} friends {f.intro} and {g.intro} {p.at}. // h: Let's build a {thing}!
| {one_day}, {h}, {f.intro}, and {g.intro} wanted to build a {thing} {p.at}.
@sky
-70 They found {from1} and set to work.
| They collected {from1} all morning.
- f: I know how! We have to make it big! // h: No, we have to be fast!
| h: I will say how we do it! // f: No, I will!
- {g} was quiet. {g.He} looked at everything very carefully, but nobody asked {g.him}.
| g: Wait, maybe we should try something else. // But nobody listened to {g}.
| {g} wanted to say something, but the others were too loud.
- They worked and worked. But when they were almost done, {fall}.
| For a while, it looked like a real {thing}. But then {fall}.
| {h} put the last piece on top. Crack! And then {fall}.
-70 f: It's your fault! // h: No, it's yours!
| h: All that work for nothing!
| Everyone was {sad}, and nobody said a word.

- {g} cleared {g.his} throat. // g (softly): I think we should {fix}.
| g: Can I say something? I think we have to {fix}.
-75 {h} and {f} looked at each other. They had not listened to {g} at all.
| h: Is that what you wanted to say before? // g: Yes, it is.
- h: I am sorry, {g}. That is a good idea.
| f: You are right! Let's try it.
- So they began again. {h} carried, {f} lifted, and {g} showed them how.
| This time, each did what each was good at. {f} was strong, {h} was quick, and {g} was careful.
| They started over, and this time they all listened to each other.
- When the sun went down, the {thing} was done, and it was strong.
| {at_last}, it stood! They pushed it, and it did not even shake.
| In the evening, they had a real {thing}.
-75 h: We did it! Three heads are better than one.
| f: Hooray! It is the best {thing} in the world!
| g: Next time, let's build two!
-60 They sat together, ate {food.some}, and were {very} proud.
| They painted their names on it, and {g}'s name came first.
| From then on, whenever they had a plan, they asked everyone first.
""",
    SCENES,
)
