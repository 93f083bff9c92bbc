"""What leads a solver of puzzles astray, in sentences written by hand for them.

Each line of thought names a subject `{s}` together with an object `{o}` that is not its own, and
says why that means nothing. It comes in two wordings of each of three kinds: of the original
puzzle, of the same in other words, and of another setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LURES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "misprint": {
        "original": (
            "A careless printer put {o} beside {s}, and nobody corrected it.",
            "The almanac gives {o} for {s}, as the printer mixed up two lines.",
        ),
        "semantic": (
            "That {s} is listed with {o} is the fault of a sleepy printer.",
            "Through a slip at the press one reads {o} next to {s}.",
        ),
        "context": (
            "The sign painter wrote {o} under {s} and was sent away for it.",
            "On the old chart somebody noted {o} at {s} with the wrong pen in hand.",
        ),
    },
    "rumour": {
        "original": (
            "At the fair everybody swears on {o} when {s} comes up, and everybody is wrong.",
            "Ask in the market about {s} and they will shout {o}; the market knows nothing.",
        ),
        "semantic": (
            "They all say {o} when they hear of {s}, without having looked it up.",
            "The crowd repeats {o} for {s}, but nobody in the crowd has checked.",
        ),
        "context": (
            "The barber tells each customer a story of {s} and {o}, and makes it up.",
            "In the tavern {s} is never named without {o}, which is how taverns are.",
        ),
    },
    "dream": {
        "original": (
            "I dreamt of {s} and {o}, and then the cock crowed.",
            "In my sleep it was {o} that belonged to {s}; then I woke up.",
        ),
        "semantic": (
            "Last night I saw {o} together with {s}, with my eyes shut.",
            "It was {o} for {s} until the morning bell ended the dream.",
        ),
        "context": (
            "Grandfather dozed off over the paper and mumbled of {s} and {o}.",
            "With a fever the child spoke of {o} and of {s} in one breath.",
        ),
    },
    "bet": {
        "original": (
            "A stranger put ten coins on {o} for {s} and walked home with nothing.",
            "My cousin bet his boots on {s} and {o}, and now he goes barefoot.",
        ),
        "semantic": (
            "Whoever wagered on {o} for {s} had to pay.",
            "On {s} one man said {o}, and it cost him his last coin.",
        ),
        "context": (
            "The pupil wrote {o} for {s} in the test and got no marks.",
            "In the quiz she cried {o} at {s} and was out in the first round.",
        ),
    },
    "neighbors": {
        "original": (
            "In the box of cards {o} comes right after {s}, which means nothing.",
            "The index puts {s} above {o} because of the alphabet alone.",
        ),
        "semantic": (
            "That {o} follows {s} in the card box is the work of chance.",
            "{s} and {o} share a page of the index for no reason.",
        ),
        "context": (
            "On my desk a note on {o} lies on top of a note on {s}, as the window was open.",
            "The wind blew {o} and {s} together on the floor of the archive.",
        ),
    },
    "wish": {
        "original": (
            "My aunt wishes it were {o} for {s}, but wishes change nothing.",
            "It would make a better tale with {o} for {s}, and so it is told; it is a tale.",
        ),
        "semantic": (
            "If my aunt had her way, {s} would go with {o}; she has not.",
            "Only in the story book does {s} go with {o}.",
        ),
        "context": (
            "The theatre put {o} into its play about {s}, as it rhymed.",
            "The song has {o} where it sings of {s}, for the sake of the tune.",
        ),
    },
}
