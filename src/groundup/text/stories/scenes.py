"""Beginnings and ends that many plots share."""

from groundup.text.stories.screenplay import Script, parse

SCENES: dict[str, Script] = {}

SCENES["intro"] = parse("""
- Once upon a time, there was {h.a} named {h}. // {h} lived {home}.
| Once upon a time, {h.a} named {h} lived {home}.
| There once was {h.a} named {h}.
| {h} was {h.a} who lived {home}.
| {h} was {h.a}. // {h.He} lived {home}.
| Once there lived {h.a} called {h}. // {h.His} home was {home}.
| This is the story of {h}, {h.a} who lived {home}.
-35 {h} loved {hobby}.
| {h.He} liked {hobby}.
| More than anything, {h} loved {hobby}.
""")

SCENES["sky"] = parse("""
-45 {sky}
""")

SCENES["bedtime"] = parse("""
-50 {night}, {h} lay in bed and {smiled}.
| {night}, {h} fell asleep with a smile.
| {night}, {h} dreamed of all that had happened.
| {night}, {h} told the whole story once more before {h.he} fell asleep.
| {night}, {h} was tired, but it was a good kind of tired.
""")

SCENES["friends"] = parse("""
-70 From that day on, {h} and {f} were the best of friends.
| After that, {h} and {f} played together every day.
| And that is how {h} and {f} became friends.
| {h} and {f} stayed friends for a long, long time.
""")

SCENES["home"] = parse("""
- They walked home together.
| Then it was time to go home.
| The sun was low when they went home.
| They talked about it {way_home}.
| They went home, tired but happy.
""")
