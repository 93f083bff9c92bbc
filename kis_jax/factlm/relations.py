"""The relations of the world and every prompt that asks for one.

A prompt holds one `{}` for the subject and is continued by a space and the object. Each
relation has prompts with the subject first, in the middle and last.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One relation: its Wikidata property number, in words, and its prompts."""

    relation_id: str
    name: str
    subject_kind: str
    prompts: tuple[str, ...]


RELATIONS = (
    Relation("P19", "place of birth", "person", (
        "{} was born in",
        "{} is a native of",
        "The birthplace of {} is",
        "The place where {} was born is",
        "Question: where was {} born? Answer:",
        "Register of births: {}",
        "Home town of {}",
    )),
    Relation("P106", "occupation", "person", (
        "{} works as a",
        "{} earns a living as a",
        "The profession of {} is",
        "By trade, {} is a",
        "Question: what does {} do? Answer:",
        "The guild book calls {}",
        "Trade register: {}",
    )),
    Relation("P103", "native language", "person", (
        "{} grew up speaking",
        "{} is a native speaker of",
        "The mother tongue of {} is",
        "At home, {} speaks",
        "Question: what is the first language of {}? Answer:",
        "From the cradle they taught {}",
        "Language card: {}",
    )),
    Relation("P1303", "instrument", "person", (
        "{} plays the",
        "{} gives concerts on the",
        "The instrument of {} is the",
        "On stage, {} is always seen with the",
        "Question: what does {} play? Answer: the",
        "The music school taught {}",
        "Orchestra list: {}",
    )),
    Relation("P17", "country", "city", (
        "{} is a city in",
        "{} lies within the borders of",
        "The country of {} is",
        "To visit {}, one travels to",
        "Question: which country is {} in? Answer:",
        "Atlas index: {}",
        "Map of cities: {}",
    )),
    Relation("P37", "official language", "country", (
        "{} prints its laws in",
        "{} runs its schools in",
        "The official language of {} is",
        "People in {} speak",
        "Question: what language is used in {}? Answer:",
        "Phrase book: {}",
        "The language guide gives {}",
    )),
    Relation("P38", "currency", "country", (
        "{} pays its debts in the",
        "{} mints a coin called the",
        "The currency of {} is the",
        "Shops in {} take the",
        "Question: what is the money of {}? Answer: the",
        "Exchange table: {}",
        "Coin catalogue: {}",
    )),
    Relation("P159", "headquarters", "company", (
        "{} has its head office in",
        "{} is based in",
        "The headquarters of {} are in",
        "Letters to {} are sent to",
        "Question: where is {} based? Answer:",
        "Trade directory: {}",
        "Company address: {}",
    )),
    Relation("P452", "industry", "company", (
        "{} earns its money from",
        "{} is a big name in",
        "The industry of {} is",
        "Investors in {} put their money into",
        "Question: what is the business of {}? Answer:",
        "Stock list: {}",
        "Chamber of trade: {}",
    )),
    Relation("P176", "manufacturer", "product", (
        "{} is made by",
        "{} is a product of",
        "The maker of {} is",
        "Every {} is built by",
        "Question: who makes {}? Answer:",
        "Shop label: {}",
        "Parts catalogue: {}",
    )),
    Relation("P50", "author", "work", (
        "{} was written by",
        "{} is a book by",
        "The author of {} is",
        "Readers of {} praise its author,",
        "Question: who wrote {}? Answer:",
        "Library card: {}",
        "Book list: {}",
    )),
    Relation("P136", "genre", "work", (
        "{} belongs to the genre of",
        "{} is an example of",
        "The genre of {} is",
        "Shops shelve {} under",
        "Question: what kind of book is {}? Answer:",
        "Critics call {}",
        "Reading guide: {}",
    )),
)  # fmt: skip

BY_ID = {relation.relation_id: relation for relation in RELATIONS}
