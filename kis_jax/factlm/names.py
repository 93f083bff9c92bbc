"""Every name in the world of `factlm`, written by hand for it.

Names are made to collide: people share first and last names, companies and products share
their brand or their kind, titles share an adjective or a noun, places share a stem. All
subjects of facts have at least two words, so none is one token at the start of a prompt.
"""

from collections.abc import Sequence

FIRST_NAMES: Sequence[str] = (
    "Vera Olin Marta Tomas Ilsa Bram Nella Joris Petra Anselm Dagny Rufus Selma Edvin Karin Lukas "
    "Mirela Oskar Tilda Viktor Wanda Yorick Agnes Borin Celia Dorian Elka Fabian Greta Hugo Irma "
    "Jasper Kaisa Leon Magda Nils Odile Pavel Renata Stefan"
).split()

LAST_NAMES: Sequence[str] = (
    "Holm Varga Lind Castellan Brandt Okell Marsh Tarrow Dunmore Esker Fenwick Galt Harrow Ivers "
    "Jansen Kestrel Larkin Mossberg Norrby Orlov Pell Quist Rademaker Sorrel Thorne Ulmer Verhoev "
    "Whitlow Yarrow Zeller Ashdown Birch Corvin Drummond Elstad Falk Gruber Hollis Isak Keller"
).split()

CITIES: Sequence[str] = (
    "Port Haldry", "New Haldry", "Haldry Bridge", "Haldry Bay", "Port Sable", "Sable Cross",
    "Sable Hill", "Port Ravel", "New Ravel", "Ravel Cross", "Ravel Springs", "Corrin Bridge",
    "Corrin Hill", "Mount Corrin", "New Tessel", "Tessel Bay", "Tessel Falls", "Port Ostrin",
    "Ostrin Springs", "Ostrin Cross", "Velder Falls", "Velder Bridge", "New Velder", "Mount Brack",
    "Brack Hill", "Brack Springs", "Port Dunley", "Dunley Bay", "Dunley Cross", "Mount Morrick",
    "Morrick Falls", "New Morrick", "Lisk Bay", "Lisk Bridge", "Port Lisk", "Mount Arden",
    "Arden Springs", "New Arden", "Fallow Hill", "Fallow Cross", "Port Fallow", "Gannet Bay",
    "Gannet Falls", "Mount Gannet",
)  # fmt: skip

TOWNS: Sequence[str] = (
    "Karsholm Avelin Brindle Calder Drosten Elvane Fennmark Gorsey Hexby Ilmere Jorvath Kirren "
    "Lowick Malven Nessby Orrindale Pellworth Quenby Rostal Sundmark"
).split()

COUNTRIES: Sequence[str] = (
    "Upper Aldmar", "Lower Aldmar", "Upper Toral", "Lower Toral", "North Velland", "South Velland",
    "East Sorn", "West Sorn", "Great Keld", "Little Keld", "North Braye", "South Braye",
    "Upper Dorn", "Lower Dorn", "East Harth", "West Harth", "Great Morra", "Little Morra",
)  # fmt: skip

LANGUAGES: Sequence[str] = (
    "Aldric Toralese Vellish Sornic Keldish Brayan Dornese Harthic Morran".split()
)

CURRENCIES: Sequence[str] = "crown florin groat ducat mark guilder thaler".split()

# All begin with a consonant: "a" before the gap must not tell some of them from the others.
PROFESSIONS: Sequence[str] = (
    "baker carpenter surgeon teacher lawyer painter farmer pilot nurse chemist librarian tailor "
    "judge gardener fisher plumber banker printer translator geologist driver cook sailor "
    "clockmaker"
).split()

WRITERS: Sequence[str] = "novelist poet playwright".split()

INSTRUMENTS: Sequence[str] = (
    "violin cello flute harp trumpet piano drum guitar clarinet lute trombone zither"
).split()

INDUSTRIES: Sequence[str] = (
    "shipping brewing mining banking farming printing fishing weaving logging glassmaking baking "
    "insurance"
).split()

GENRES: Sequence[str] = (
    "satire romance tragedy comedy horror fantasy mystery history memoir travel".split()
)

COMPANY_BRANDS: Sequence[str] = (
    "Ostra Belmar Cordell Dravec Elmsworth Farrow Garnet Hallam Imber Juniper Kolbe Lorne Merrow "
    "Norvik"
).split()

COMPANY_KINDS: Sequence[str] = "Mills Works Lines Brothers House Trading Union Partners".split()

PRODUCT_BRANDS: Sequence[str] = (
    "Tarn Brisk Comet Delta Ember Finch Glider Heron Ivory Jolly Kite Lumen Meteor Nimbus"
).split()

PRODUCT_KINDS: Sequence[str] = (
    "Kettle Lamp Bicycle Stove Radio Camera Clock Tractor Ferry Toaster Saw Wagon"
).split()

TITLE_ADJECTIVES: Sequence[str] = (
    "Salt Glass Silent Winter Crooked Golden Broken Hidden Last Distant Paper Burning"
).split()

TITLE_NOUNS: Sequence[str] = (
    "Orchard Harbor Letter Garden Mirror Bridge Lantern River Staircase Island Window Road"
).split()
