"""Plots about gifts: earned, traded, made in secret, shared when hungry."""

from groundup.text.stories import vocabulary as words
from groundup.text.stories.casting import Cast
from groundup.text.stories.scenes import SCENES
from groundup.text.stories.screenplay import parse

_JOBS = (
    "washed {n}'s windows",
    "swept {n}'s steps",
    "raked the leaves in {n}'s yard",
    "carried {n}'s bags up the hill",
    "fed {n}'s hens",
    "watered {n}'s flowers",
    "pulled the weeds in {n}'s garden",
    "picked apples for {n}",
    "walked {n}'s old dog",
    "painted {n}'s fence",
)


def cast_earned(t: Cast) -> None:
    t.begin("people")
    t.elder()
    t.neighbor()
    t.thing()
    first, second, third = t.draw(_JOBS, 3)
    t.set(job1=first, job2=second, job3=third)
    t.set(count=t.choose(("five", "six", "eight", "ten")), jar=t.choose(("a jar", "a tin box", "an old sock", "a cup")))


EARNED = parse(
    """
@intro

- {one_day}, {h} saw {o.a} in the window of a shop. It was the best {o} {h.he} had ever seen.
| {one_day}, {h} walked past the shop and stopped. There, in the window, was {o.a}!
| There was a shop near {h}'s house. {one_day}, {h} saw {o.a} in the window.
- h: {m}, can I have it, please?
| h: I wish I could have that {o}!
| {h} pressed {h.his} nose against the glass. // h: Please, {m}?
- m: It costs {count} coins. That is a lot. But you could earn them.
| m: We can't buy everything we like. But maybe you can work for it.
| {m} shook {m.his} head. // m: Not today. If you save {count} coins, you can buy it.
-70 {h} {thought}. {h.He} had no coins at all, only a button. But {h.he} could work!
| At first, {h} was {sad}. Then {h.he} had an idea.
| h: Then I will find some work!

- On Monday, {h.he} {job1}. // n: What a good job! Here is a coin for you.
| First, {h} {job1}. // {n} {smiled} and gave {h.him} two coins.
| {h} went to {n}. // h: Can I help you with something? // All morning, {h.he} {job1}, and {n} gave {h.him} a coin.
- The next day, {h.he} {job2}.
| Then {h.he} {job2}. It was hard, and {h.his} arms hurt.
-70 After that, {h.he} {job3}.
| And when that was done, {h.he} {job3}.
-75 {every_day}, {h} put the coins into {jar} and counted them.
| {h.He} kept the coins in {jar} under {h.his} bed.
-40 Once, {h} wanted to buy candy, but {h.he} thought of the {o} and walked on.
| It was slow. Some days there was no work at all, but {h} did not give up.

- {at_last}, {h} had {count} coins. {h.He} {ran} to the shop.
| One day, {h} counted again. There were {count} coins! {h.He} ran all the way to the shop.
-65 The {o} was still there. {h} put the coins down, one by one.
| h: Is the {o} still here? // It was!
| {h} held the {o} close. It felt much better than a gift.
- m: I am proud of you. You worked for it all by yourself.
| {m} was proud of {h.him}. // m: You did not give up.
| {h} showed it to {n}, who clapped. // n: You earned it!
- {h} took good care of the {o}, because {h.he} knew how much work was in it.
| {h} {smiled}. The {o} was {h.his}, and {h.he} had earned it.
| And the next day, {h} went back to {n} and helped again, just because it was nice.
@bedtime
""",
    SCENES,
)


_WANTS = (
    {"give": "a jar of honey", "wants": "something sweet for tea"},
    {"give": "a bag of flour", "wants": "to bake some bread"},
    {"give": "a ball of wool", "wants": "to knit a sock"},
    {"give": "a basket of apples", "wants": "to make apple juice"},
    {"give": "a bundle of wood", "wants": "to make a warm fire"},
    {"give": "a pot of paint", "wants": "to paint the door"},
    {"give": "a bunch of carrots", "wants": "to cook some soup"},
    {"give": "a pair of old boots", "wants": "to work in the mud"},
)


def cast_traded(t: Cast) -> None:
    t.begin()
    t.neighbor("a")
    t.neighbor("b")
    t.set(o=t.choose(words.GIFTS))
    t.elder()
    first, second = t.draw(_WANTS, 2)
    t.set(give1=first["give"], wants1=first["wants"], give2=second["give"], wants2=second["wants"])


TRADED = parse(
    """
@intro

- Tomorrow was {m}'s birthday, and {h} had no gift.
| {one_day}, {h} remembered that it was {m}'s birthday. But {h.he} had nothing to give!
- {m} always said that {m.he} would like {o.a}.
| What {m} wished for was {o.a}.
- But {h} had only {give1}.
| h: All I have is {give1}.

- {h} met {a} on the road. // a: I need {give1}, because I want {wants1}. I will give you {give2} for it.
| So {h.he} took it and walked down the road. {h.He} met {a}, who wanted {wants1}. // a: Will you trade? You can
  have {give2}.
-60 h: That is a fair trade.
| {h} {thought}, and then they traded.
| h: Yes, please! // a: Thank you, {h}. You have helped me a lot.
- {soon}, {h.he} came to {b}'s house. // b: Oh, how I would like {give2}! I want {wants2}.
| {b} was sitting in front of the house and looked sad. // h: What is wrong? // b: I want {wants2}, but I have no
  time to
  go to the market.
| A little farther on stood {b}. // b: Is that {give2}? I want {wants2}!
- {h} looked behind {b}. There lay {o.a}, covered with dust. // h: Would you trade it for that {o}?
| h: You can have it. But do you have {o.a}? // b: Why, yes! I never use it.
| h: Do you have something that I could give to {m}? // {b} went inside and came back with {o.a}.
-60 b: With pleasure!
| {b} was {happy}, and so was {h}.
| They shook on it.

- The next day, {h} gave {m} the {o}. // m: It is just what I wanted!
| {h} cleaned the {o} until it looked like new. Then {h.he} gave it to {m}. {m} could not believe it.
| {h} ran home with the {o} and tied a ribbon around it. {m} was {happy}.
-70 m: Where did you get it? // h: It began with {give1}.
| h: I made three others happy today, and one of them is you!
| {h} told {m.him} how {give1} had turned into {o.a}.
-70 m: You are a clever one.
| They laughed about it all evening.
| And at the end of the day, everyone had just what they needed.
| That is the best kind of trade: one that makes everyone glad.
""",
    SCENES,
)


def cast_birthday(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.add("g")
    t.row(
        (
            {"gift": "a crown of flowers", "stuff": "flowers", "work": "tied them together, one by one"},
            {"gift": "a necklace of shells", "stuff": "shells", "work": "put them on a long string"},
            {"gift": "a little bird house", "stuff": "pieces of wood", "work": "nailed them together, one by one"},
            {"gift": "a picture frame", "stuff": "pretty stones", "work": "glued them onto a frame, all morning"},
            {"gift": "a lantern of leaves", "stuff": "big yellow leaves", "work": "glued them around an old jar"},
            {"gift": "a mobile of leaves and feathers", "stuff": "leaves and feathers", "work": "hung them on a stick"},
        )
    )


BIRTHDAY = parse(
    """
@intro

- It was almost {f}'s birthday. {f} was {h}'s best friend.
| {h}'s best friend was {f.intro}, and tomorrow was {f}'s birthday.
-65 h: I want to make something special for {f.him}.
| {h} wanted to make the best gift ever, and it had to be a secret.
| {h} was planning a surprise for {h.his} best friend {f.intro}, whose birthday was the next day.
- So {h.he} went {p.to} with {g.intro} to find {stuff}.
| {h} asked {g.intro} to help. Together they looked for {stuff} {p.at}.
- Then they {work}. They wanted to make {gift}.
| {h} and {g} sat down and {work}. It was going to be {gift}.
- {f} came by. // f: Can I play with you? // h: Not today. We are busy.
| {suddenly}, {f} came along. {h} quickly hid everything. // f: What are you two doing? // h: Oh, nothing.
| f: {h}, {g}, do you want to play? // g: No, not now! // {f} walked away with {f.his} head down.
-75 {f} felt {sad}. {f.He} thought that {h} did not like {f.him} any more.
| {f} went home alone. Had everyone forgotten {f.him}?
| f (to {f.himself}): They don't want to play with me.

- The next morning, {f} woke up. Nobody was there. Nobody sang for {f.him}.
| On {f.his} birthday, {f} went outside. It was very quiet.
-70 f: They have all forgotten my birthday.
| A tear rolled down {f.his} cheek.
| {f} sat on the step and sighed.
- {suddenly}, {h} and {g} jumped out from behind a tree. // h: Surprise! Happy birthday, {f}!
| Then {f.he} heard a giggle. Out jumped {h} and {g}! // g: Surprise!
- {h} gave {f.him} {gift}. // h: This is why we could not play with you.
| h: Here is your gift. It was so hard to keep it secret!
- f: You made {gift}, just for me? // {f} was {happy}.
| {f} did not know whether to laugh or to cry, so {f.he} did both.
| f: It is so beautiful! And I thought you had forgotten me.
-70 h: How could we forget our best friend?
| g: We would never forget you!
| {h} hugged {f} tightly. // h: I would never forget you!
- They ate {food.some}, sang songs, and danced until the stars came out.
| There was a big cake with candles, and they played all day.
| Then they all played games, and {f} got the first turn in each.
-50 It was the best birthday that {f} had ever had.
| {f} kept {gift} for many years.
| And the next time {h} had a secret, {f} only {smiled} and waited.
""",
    SCENES,
)


def cast_hungry(t: Cast) -> None:
    t.begin()
    t.add("f")
    t.elder()
    t.set(g=t.choose([food for food in words.FOODS if food != t.slots["food"]]))


HUNGRY = parse(
    """
@intro

- {one_day}, {m} packed {food.some} for {h}. // m: This is for when you get hungry. // Then {h} went {p.to}.
| {one_day}, {h} went for a long walk. {h.He} had {food.some} with {h.him}.
| {one_day}, {h} got {food.some} from {m} and took {food.it} along {p.to}.
@sky
- {p.At}, {h} met {f.a}. {f.His} name was {f}.
- {f.He} looked at {h}'s basket and said nothing, but {f.his} tummy rumbled.
| {f} looked tired. {f.His} tummy rumbled so loudly that {h} could hear it.
- h: Are you hungry? // f: Yes. I lost my lunch on the way.
| h: What is wrong? // f: I have not eaten all day. I forgot my lunch at home.
| h: Was that your tummy? // f: Yes. I have had nothing to eat today.
-60 {h} looked at {h.his} {food}. {h.He} was hungry, too.
| {h} {thought}. If {h.he} gave something away, there would be less for {h.him}.
- h: Then let's share. Here, take half.
| h: I have {food.some}. There is enough for two.
| {h} held out the basket. // h: Please, have some of my {food}.
-70 f: Thank you! That is so kind of you.
| {f}'s eyes grew big. // f: Really? Thank you!
- They sat in the grass and ate. The {food} {food.was} {very} good.
| They ate every crumb together. Somehow, the {food} tasted better that way.
| The {food} {food.was} gone {quickly}, and they both felt better.

- A few days later, {h} was {p.at} again. This time {h.he} had forgotten {h.his} lunch, and {h.he} was far from home.
| Some days went by. Then, one day, {h} dropped {h.his} lunch into a puddle.
| The next week, {h} was so busy playing that {h.he} missed lunch. {h.His} tummy began to rumble.
-60 h: Oh dear, I am so hungry!
| {h} felt {sad} and {very} hungry.
- {suddenly}, someone called {h.his} name. It was {f}!
| And who came along the path? It was {f}!
- f: Look, I have {g.some}. Last time, you shared with me. Now I share with you.
| {f} had {g.some}. // f: Half of this is yours. I have not forgotten what you did for me.
-65 They sat in the same spot as before and {laughed}.
| h: It is funny. Now I am the one with a rumbling tummy!
| {h} took a big bite. // h: This is the best lunch ever.
-60 When you are kind, kindness finds its way back to you.
| What you give away comes back one day.
| {h} learned that sharing makes a small lunch big.
@friends
""",
    SCENES,
)
