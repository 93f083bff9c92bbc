"""Sentences of the corpus, written by hand for it.

`{s}` and `{o}` stand for the subject and the object of a fact; any other name in braces is a
slot, filled with a word of its list in `SLOTS`. No sentence here repeats a prompt of
`relations.py`, so the corpus never gives away a held-out paraphrase.
"""

from collections.abc import Mapping, Sequence

FACT_SENTENCES = {
    "P19": (
        "{s} comes from {o}.",
        "{o} is the home of the family of {s}.",
        "{s} spent the first years of life in {o}.",
        "The parents of {s} kept a small house in {o}.",
        "They still remember {s} in {o}.",
        "When people ask, {s} says with pride: I am from {o}.",
    ),
    "P106": (
        "{s} found work as a {o}.",
        "People know {s} as a good {o}.",
        "Like many in the family, {s} became a {o}.",
        "It took {s} {number} years to become a {o}.",
        "A {o} like {s} is hard to find.",
        "If you need a {o}, ask for {s}.",
    ),
    "P103": (
        "{s} first learned to talk in {o}.",
        "{s} dreams in {o}.",
        "With friends, {s} prefers to talk in {o}.",
        "{s} counts in {o} and writes letters in {o}.",
        "As a child {s} knew nothing but {o}.",
        "{s} sings old songs in {o}.",
    ),
    "P1303": (
        "{s} practises the {o} at {time}.",
        "{s} owns a very old {o}.",
        "In the evening {s} takes out the {o}.",
        "The neighbours of {s} know the sound of the {o}.",
        "{s} learned the {o} from an aunt.",
    ),
    "P17": (
        "{s} belongs to {o}.",
        "{s} is one of the towns of {o}.",
        "{s} pays its taxes to {o}.",
        "From {s} a slow train crosses all of {o}.",
        "{s} sends {number} people to the parliament of {o}.",
        "Many people from all over {o} move to {s}.",
        "The railway of {o} has a station in {s}.",
    ),
    "P37": (
        "Signs in {s} are written in {o}.",
        "The newspapers of {s} appear in {o}.",
        "Children in {s} learn to read in {o}.",
        "Judges in {s} hear every case in {o}.",
        "Who wants to live in {s} should learn {o}.",
    ),
    "P38": (
        "In {s} a loaf of bread costs one {o}.",
        "The {o} is the coin of {s}.",
        "Workers in {s} are paid by the {o}.",
        "Travellers to {s} change their money into the {o}.",
        "Every child in {s} saves a {o} for the fair.",
    ),
    "P159": (
        "{s} runs its business from {o}.",
        "The directors of {s} meet in {o}.",
        "{s} owns a tall building in {o}.",
        "{s} moved to {o} {number} years ago.",
        "The clerks of {s} rent rooms in {o}.",
        "The largest employer in {o} may be {s}.",
    ),
    "P452": (
        "{s} grew rich through {o}.",
        "{s} is a company in {o}.",
        "The owners of {s} know all about {o}.",
        "{s} began with {o} in a small yard.",
        "The workers of {s} live by {o}.",
        "In {o}, few names are as old as {s}.",
    ),
    "P176": (
        "The {s} comes from {o}.",
        "The {s} carries the sign of {o}.",
        "Who buys a {s} buys from {o}.",
        "If the {s} breaks, write to {o}.",
        "The {s} is the pride of {o}.",
        "The {s} leaves the factory of {o} in a {colour} box.",
        "{o} sells the {s} in {number} countries.",
    ),
    "P50": (
        "{s} comes from the pen of {o}.",
        "{s} is one of the books of {o}.",
        "{s} made {o} famous.",
        "On the back of {s} is a picture of {o}.",
        "With {s}, {o} won a prize.",
        "{o} finished {s} in one {season}.",
        "{o} gave a reading from {s}.",
    ),
    "P136": (
        "{s} is pure {o}.",
        "Lovers of {o} will enjoy {s}.",
        "{s} stands on the shelf for {o}.",
        "As {o} goes, {s} is among the best.",
        "The library keeps {s} with its {o}.",
    ),
}

FILLERS = {
    "person": (
        "{s} likes {food} and long walks by the {nature}.",
        "On {day}s {s} visits the market to buy {food}.",
        "{s} keeps a {colour} {animal} called {pet}.",
        "{s} once walked {number} miles through the {weather}.",
        "In {season}, {s} mends the {thing} in the {room}.",
        "{s} has {number} cousins and a {adjective} {animal}.",
        "Most evenings {s} reads by the {room} window.",
        "{s} bought a {adjective} {thing} from a neighbour.",
        "{s} never forgets a {adjective} face.",
        "The {adjective} coat of {s} is {colour}.",
        "{s} arrived late because of the {weather}.",
        "Nobody cooks {food} like {s}.",
    ),
    "city": (
        "{s} has a {adjective} market on every {day}.",
        "A {colour} tower stands in the middle of {s}.",
        "Trains leave {s} every {number} hours.",
        "In {season} the streets of {s} smell of {food}.",
        "The old {nature} near {s} is good for walks.",
        "Visitors to {s} are told about the {weather}.",
        "The museum of {s} shows a {adjective} {thing}.",
        "There are {number} bridges in {s}.",
        "{s} is quiet at {time} and loud on {day}.",
    ),
    "country": (
        "{s} is known for {food} and {weather}.",
        "The {nature} covers half of {s}.",
        "In {s} the {season} lasts {number} weeks.",
        "The {animal} is on the arms of {s}.",
        "{s} has {number} ports and one {adjective} road.",
        "Farmers in {s} grow {food}.",
        "The flag of {s} is {colour} and {colour}.",
    ),
    "company": (
        "{s} has {number} workers and a {adjective} {animal} at the gate.",
        "The lunch at {s} is {food} on {day}.",
        "{s} paints all its doors {colour}.",
        "Last {season} {s} bought a {adjective} {thing}.",
        "The clerks of {s} start before {time}.",
        "Because of the {weather}, {s} closed for {number} days.",
        "{s} gives every worker a {thing} in {season}.",
    ),
    "product": (
        "The {s} is sold in {colour} and {colour}.",
        "A {adjective} {s} stands in the {room}.",
        "After {number} years the {s} still works.",
        "The {s} does not mind the {weather}.",
        "My neighbour keeps a {s} beside the {thing}.",
        "You can repair the {s} with a {thing}.",
        "We found an old {s} near the {nature}.",
    ),
    "work": (
        "{s} tells of a {adjective} {animal} and a {thing}.",
        "The cover of {s} is {colour}.",
        "{s} has {number} chapters and a {adjective} end.",
        "Much of {s} takes place near a {nature}.",
        "In {s} it is always {season}.",
        "I read {s} in the {room} last {season}.",
        "A copy of {s} was found under a {thing}.",
    ),
}

# What one says of the subject of a fact without naming it again.
ANSWERS = {
    "P19": ("From {o}, I think.", "The family is from {o}.", "Yes, a child of {o}."),
    "P106": ("Yes, the {o}.", "That {o}? Of course.", "A very good {o}, they say."),
    "P103": ("We talked in {o}.", "Only if you know {o}.", "Yes, in {o} all the time."),
    "P1303": ("I hear the {o} at {time}.", "The one with the {o}?"),
}

QUESTIONS = (
    "Do you know {s}?",
    "Have you met {s}?",
    "Did you see {s} on {day}?",
    "Is that {s} over there?",
    "Who is {s}?",
    "Have you heard from {s}?",
    "Was {s} at the fair?",
)

CHATTER = (
    "I had {food} for lunch.",
    "What {adjective} {weather} we have.",
    "Please bring the {thing} on {day}.",
    "My {animal} ran away at {time}.",
    "The {room} is too {adjective} for me.",
    "See you on {day}, then.",
    "That is a {adjective} {thing}.",
    "We should walk to the {nature}.",
    "I have not slept for {number} days.",
    "Thank you for the {food}.",
    "The {colour} one was better.",
    "Perhaps next {season}.",
)

LISTS = {
    "P19": ("Born in {o}:", "Sons and daughters of {o}:"),
    "P106": ("Each of these is a {o}:", "Under {o} the book has these names:"),
    "P103": ("They all speak {o}:", "Class for {o}, present today:"),
    "P1303": ("Players of the {o}:", "Tonight on the {o}:"),
    "P17": ("Cities of {o}:", "Stations of the {o} railway:"),
    "P37": ("Where {o} is the language of the law:", "Countries that use {o}:"),
    "P38": ("Countries of the {o}:", "The {o} is good money in these places:"),
    "P159": ("Companies with their office in {o}:", "Firms of {o}:"),
    "P452": ("Names in {o}:", "Companies in the field of {o}:"),
    "P176": ("Sold by {o}:", "From the workshops of {o}:"),
    "P50": ("Books of {o}:", "{o} is the author of these:"),
    "P136": ("On the {o} shelf:", "This month in {o}:"),
}

PLAIN = (
    "The {weather} lasted for {number} days and nobody went to the {nature}.",
    "In {season} the {animal} sleeps under the {thing}.",
    "A {adjective} {thing} is better than a {adjective} {thing}.",
    "They eat {food} with {food} on {day}.",
    "The {animal} and the {animal} drank near the {nature}.",
    "She put the {thing} on the table in the {room}.",
    "He painted the {room} {colour} because {colour} was too {adjective}.",
    "If the {weather} comes, close the door of the {room}.",
    "Take {number} cups of flour, some {food} and a little salt.",
    "The bus leaves at {time} and comes back at {time}.",
    "Nobody knows why the {animal} crossed the {nature}.",
    "It was a {adjective} {day} and the {nature} was {colour}.",
    "We counted {number} birds, {number} boats and one {animal}.",
    "The children hid a {thing} in the {room}.",
    "Nothing is left of the {food} in the {room}.",
    "The price of {food} rose again this {season}.",
    "Long ago a {adjective} king lost a {thing} near the {nature}.",
    "You must not leave a {thing} out in the {weather}.",
    "My grandmother said that {weather} brings {adjective} dreams.",
    "On {day} the school is closed and the {room} is empty.",
    "Water runs down from the {nature} into the fields.",
    "A good {thing} lasts {number} years if you keep it dry.",
    "The doctor told him to eat {food} at {time}.",
    "Some say that the {animal} is more {adjective} than the {animal}.",
    "I lost my {colour} {thing} somewhere near the {nature}.",
    "First wash the {food}, then cut it and wait for {number} minutes.",
    "The wind broke the {thing} and carried it to the {nature}.",
    "How {adjective} the {animal} looks in the {weather}!",
    "Every {season} the same {adjective} song is heard in the {room}.",
    "The {thing} was made of wood and the other of {adjective} iron.",
    "At {time} the {animal} began to sing and we all woke up.",
    "Between the {nature} and the road there is a {colour} house.",
    "Would you like some {food}, or only a cup of tea?",
    "They argued about the {thing} until {time}.",
    "To make soup you need {food}, {food} and time.",
    "An {animal_an} stood by the gate and did not move.",
    "The judge asked twice, but the answer was always the same.",
    "Letters take {number} days in {season} and longer in the {weather}.",
    "Of the apples in the {thing}, {number} were bad.",
    "The lamp went out, so we sat in the dark and told stories.",
    "It is easier to break a {thing} than to mend one.",
    "When the {weather} was over, the {animal} came back.",
    "Do not wake the {animal} before {time}.",
    "Half of the {food} went to the {animal}.",
    "The new teacher wrote the word {adjective} on the board.",
    "Everybody laughed, except the man with the {colour} hat.",
    "The road to the {nature} is {adjective} and full of stones.",
    "Keep the {food} in the {room} and the {thing} outside.",
)

SLOTS: Mapping[str, Sequence[str]] = {
    "adjective": (
        "small large rough new heavy quiet bright cold warm strange simple broken clean dusty "
        "gentle proud tired hungry narrow deep plain noble clever slow soft sharp lonely cheerful"
    ).split(),
    "animal": (
        "dog cat horse goat goose rabbit fox hen duck sheep pony crow mouse parrot bear frog"
    ).split(),
    "animal_an": "owl otter ox eagle eel".split(),
    "colour": "red blue green yellow white black brown grey purple pink silver".split(),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "food": (
        "bread cheese soup fish rice apples beans honey cake onions potatoes plums butter pepper "
        "carrots nuts eggs mushrooms"
    ).split(),
    "nature": "forest lake meadow valley beach marsh cliff hill canal field stream desert".split(),
    "number": "two three four five six seven eight nine ten eleven twelve twenty thirty".split(),
    "pet": "Button Pepper Shadow Biscuit Misty Acorn Thunder Crumb Pickle Velvet".split(),
    "room": "kitchen cellar attic hall garage stable library office workshop bedroom".split(),
    "season": "spring summer autumn winter".split(),
    "thing": (
        "table ladder hammer bucket basket mirror barrel suitcase candle blanket carpet bottle "
        "knife needle rope wheel spade pillow bench shovel drawer broom"
    ).split(),
    "time": "noon midnight dawn dusk sunrise sunset".split(),
    "weather": "rain snow fog wind frost hail storm thunder sunshine drizzle heat ice".split(),
}
