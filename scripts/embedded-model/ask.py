"""Questions and their queries. `Asker` draws a query of some kind over a schema and words for it.

A value inside a question is kept between the marks \\x01 and \\x02 until `finish` so that noise (case, typos) leaves it alone.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import lexicon as lx
from query import COUNT, Create, Delete, Insert, Query, Raw, Update, col
from schema import Column, Schema, Table, allowed, norm, plural, quote, spell, value, words_for

NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
MONTHS = "January February March April May June July August September October November December".split()


UNITS_LEFT_OUT = {u for units in lx.UNIT_WORDS.values() for u in units}


@dataclass
class Ask:
    kind: str
    question: str
    statement: object
    fixed_form: bool = False  # no chit-chat around it


class NotApplicable(Exception):
    pass


FINITE = {"costing": ("cost", "costs"), "earning": ("earn", "earns"), "weighing": ("weigh", "weighs"), "lasting": ("last", "lasts"), "making": ("make", "makes"), "holding": ("hold", "holds"), "scoring": ("score", "scores"), "having": ("have", "has"), "with": ("have", "has"),
          "living": ("live", "lives"), "containing": ("contain", "contains"), "lacking": ("lack", "lacks")}
BE = {"paid", "aged", "rated", "priced", "in", "from", "by", "of", "marked", "not", "outside", "located", "based", "made", "done", "older", "younger", "longer", "shorter", "heavier", "lighter", "taller", "higher", "lower", "larger", "bigger", "smaller", "faster", "slower", "cheaper",
      "more", "less", "deeper", "hotter", "warmer", "colder", "cooler", "farther", "due", "named", "called", "worth"}


def finite(frag: str, one: bool) -> str | None:
    """"with a price over 5" -> "have a price over 5", "hired in 2020" -> "were hired in 2020"; None where it does not work."""
    first, _, rest = frag.partition(" ")
    if first in FINITE:
        return f"{FINITE[first][one]} {rest}"
    if first == "without":
        return f"{'has' if one else 'have'} no {re.sub('^(a|any) ', '', rest)}"
    if first in BE:
        return f"{'is' if one else 'are'} {frag}"
    if first in lx.PARTICIPLES:
        return f"{'was' if one else 'were'} {frag}"
    if first in ("that", "who", "which") and not one and rest.split(" ")[0] in ("have", "cost", "weigh", "are", "were", "take", "hold", "earn", "make", "scored", "live"):
        return rest
    return None


def join_and(items: list[str], word: str = "and") -> str:
    if len(items) < 3:
        return f" {word} ".join(items)
    return ", ".join(items[:-1]) + f" {word} " + items[-1]


class Asker:
    def __init__(self, rng: random.Random, schema: Schema):
        self.rng = rng
        self.schema = schema
        self.raw_bias = rng.random() < 0.25  # some people name columns exactly as the schema does

    # Small choices

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def table(self, need=lambda t: True) -> Table:
        tables = [t for t in self.schema.tables if need(t)]
        if not tables:
            raise NotApplicable
        return self.rng.choice(tables)

    def column(self, t: Table, need=lambda c: True, avoid=()) -> Column:
        cols = [c for c in t.data() if need(c) and c not in avoid]
        if not cols:
            raise NotApplicable
        return self.rng.choice(cols)

    # Names in words

    def say(self, c: Column, t: Table) -> str:
        """A column as a person would call it."""
        r = self.rng.random()
        if r < (0.5 if self.raw_bias else 0.06):
            return self.pick(c.ident, c.ident, c.ident, f"`{c.ident}`" if self.chance(0.3) else c.ident)
        words = c.words
        others = {w for o in t.columns if o is not c for w in [*o.words.split(" "), o.words]}
        if words.startswith(t.sing + " ") and self.chance(0.7):
            short = words[len(t.sing) + 1:]
            if short not in others:
                return short
        head, _, unit = words.rpartition(" ")
        if head and c.numeric and unit in UNITS_LEFT_OUT and self.chance(0.7) and head not in others:
            return head
        if r > 0.78:
            options = [s for s in lx.SYNONYMS.get(words, lx.SYNONYMS.get(c.head, []) if " " not in words else []) if s not in others and not any(x in others for x in s.split(" "))]
            if options:
                return self.rng.choice(options)
            if " " in words and c.head not in others and c.kind not in ("bool", "fk") and c.head not in ("id", t.sing) and self.chance(0.5):
                return c.head
        if c.kind == "bool":
            return re.sub(r"^(is|has) ", "", words) if self.chance(0.5) else words
        return words

    def says(self, c: Column, t: Table) -> str:
        """In the plural."""
        text = self.say(c, t)
        return plural(text) if re.fullmatch(r"[a-z ]+", text) else text

    def noun(self, t: Table, many: bool = True) -> str:
        r = self.rng.random()
        if r < (0.25 if self.raw_bias else 0.05):
            return t.ident
        words = t.plur if many else t.sing
        if t.sing in lx.NOUN_SYNONYMS and self.chance(0.12):
            other = self.rng.choice(lx.NOUN_SYNONYMS[t.sing])
            if not any(other in (o.sing, o.plur) or other in o.sing for o in self.schema.tables):
                return plural(other) if many else other
        parts = words.split(" ")
        if len(parts) > 1 and self.chance(0.1) and not any(parts[-1] in o.sing.split(" ") or parts[-1] in o.plur.split(" ") for o in self.schema.tables if o is not t):
            return parts[-1]
        if t.is_people and many and self.chance(0.06):
            return "people"
        return words

    def v(self, x, c: Column | None = None, quoted: float = 0.4, unit: bool = True) -> str:
        """A value as written in a question."""
        if isinstance(x, str):
            if c is not None and c.kind == "date":
                return self.date(x)
            r = self.rng.random()
            if r > quoted or "'" in x:
                return f"\x01{x}\x02"
            return f"\x01'{x}'\x02" if r < quoted * 0.65 else f'\x01"{x}"\x02'
        text = str(x)
        if isinstance(x, int) and x <= 12 and self.chance(0.2):
            return NUMBER_WORDS[x]
        if isinstance(x, int) and x >= 1000 and self.chance(0.2) and (c is not None and c.kind not in ("year", "id", "fk")):
            text = f"{x:,}"
        if c is not None and unit and c.head in lx.UNITS and self.chance(0.25):
            u = self.rng.choice(lx.UNITS[c.head])
            return f"\x01{u}{text}\x02" if u in "$€" else f"\x01{text}\x02 {u}"
        return f"\x01{text}\x02"

    def date(self, iso: str) -> str:
        y, m, d = iso.split("-")
        r = self.rng.random()
        if r < 0.6:
            return f"\x01{iso}\x02" if r < 0.5 else f"\x01'{iso}'\x02"
        month = MONTHS[int(m) - 1]
        return "\x01" + self.pick(f"{month} {int(d)}, {y}", f"{int(d)} {month} {y}", f"{month[:3]} {int(d)}, {y}", f"{int(d)} {month[:3]} {y}", f"{month} {int(d)} {y}") + "\x02"

    # Conditions: (tree, words after the noun, adjective before the noun or "")

    def condition(self, t: Table, avoid=(), kinds: str | None = None):
        for _ in range(12):
            c = self.column(t, lambda c: c.kind != "bool" or self.chance(0.8), avoid)
            got = self.condition_on(t, c, kinds)
            if got:
                return (*got, c)
        raise NotApplicable

    def condition_on(self, t: Table, c: Column, kinds: str | None):
        rng, pick = self.rng, self.pick
        e = col(t, c)
        want = kinds
        if want is None:
            want = rng.choices(["eq", "cmp", "between", "in", "like", "null", "not"], [40, 30, 6, 6, 8, 5, 5])[0]
        if want == "null":
            s = self.say(c, t)
            if self.chance(0.55):
                return ("null", e, False), pick(f"without a {s}", f"with no {s}", f"where the {s} is missing", f"where {s} is null", f"whose {s} is unknown", f"that have no {s}", f"with an empty {s}", f"where the {s} is not set",
                                               f"with missing {s}", f"lacking a {s}", f"that don't have a {s}", f"whose {s} is not known", f"with {s} null", f"where {s} is empty"), ""
            return ("null", e, True), pick(f"that have a {s}", f"with a {s}", f"where the {s} is not null", f"whose {s} is known", f"where {s} is set", f"with a known {s}", f"where the {s} is not missing", f"whose {s} is not empty"), ""
        if c.kind == "bool":
            if want not in ("eq", "not"):
                return None
            yes = self.chance(0.6)
            bare = re.sub(r"^(is|has) ", "", c.words)
            tree = ("cmp", "=", e, ("lit", 1 if yes else 0))
            if c.words.startswith("has "):
                return tree, (pick(f"that have a {bare}", f"with a {bare}", f"with {bare}", f"where {c.words} is true") if yes else pick(f"without a {bare}", f"that have no {bare}", f"without {bare}", f"where {c.words} is false")), ""
            if self.chance(0.35):
                return tree, "", (bare if yes else f"{pick('non-', 'not ', 'un')}{bare}" if not bare.startswith("un") else f"not {bare}")
            return tree, (pick(f"that are {bare}", f"which are {bare}", f"where {self.say(c, t)} is true", f"marked as {bare}", f"where {c.ident} = 1", f"that were {bare}") if yes else
                          pick(f"that are not {bare}", f"which are not {bare}", f"where {self.say(c, t)} is false", f"that aren't {bare}", f"not marked as {bare}", f"that are not yet {bare}", f"that were not {bare}", f"where {c.ident} = 0")), ""
        if c.kind == "date":
            return self.date_condition(t, c, want)
        if c.textual:
            x = value(c, rng)
            if want == "like":
                return self.like_condition(t, c)
            if want == "in":
                return self.in_condition(t, c, [x, value(c, rng), value(c, rng)][: rng.choice([2, 2, 3])])
            if want == "not":
                s = self.say(c, t)
                vx = self.v(x, c)
                options = [f"whose {s} is not {vx}", f"where {s} is not {vx}", f"with a {s} other than {vx}", f"except those with {s} {vx}", f"where the {s} differs from {vx}", f"whose {s} isn't {vx}", f"where {s} != {vx}",
                           f"with {s} different from {vx}"]
                if c.kind in ("city", "country", "state"):
                    options += [f"not in {vx}", f"outside {vx}", f"not from {vx}", f"outside of {vx}"] * 2
                return ("cmp", "!=", e, ("lit", x)), rng.choice(options), ""
            if want != "eq":
                return None
            return self.eq_condition(t, c, x)
        x = value(c, rng)
        s = self.say(c, t)
        if want == "eq":
            vx = self.v(x, c)
            options = [f"with {s} {vx}", f"whose {s} is {vx}", f"where {s} is {vx}", f"with a {s} of {vx}", f"where {s} = {vx}", f"that have {s} {vx}", f"with exactly {vx} {s}", f"where the {s} equals {vx}"]
            if c.kind == "year":
                options = [f"from {vx}", f"from the year {vx}", f"with {s} {vx}", f"whose {s} is {vx}", f"where {s} is {vx}", f"of {vx}", f"in {vx}"]
                participle = re.sub(r"( year| in)$|^year ", "", c.words)
                if participle in lx.PARTICIPLES:
                    options += [f"{participle} in {vx}"] * 6
            return ("cmp", "=", e, ("lit", x)), rng.choice(options), ""
        if want == "not":
            vx = self.v(x, c)
            return ("cmp", "!=", e, ("lit", x)), pick(f"whose {s} is not {vx}", f"where {s} is not {vx}", f"with {s} other than {vx}", f"where {s} <> {vx}", f"with {s} not equal to {vx}"), ""
        if want == "between":
            y = value(c, rng)
            lo, hi = sorted((x, y))
            if lo == hi:
                return None
            a, b = self.v(lo, c, unit=False), self.v(hi, c)
            participle = re.sub(r"( year| in)$|^year ", "", c.words)
            if c.kind == "year" and participle in lx.PARTICIPLES and self.chance(0.5):
                return ("between", e, ("lit", lo), ("lit", hi), False), self.pick(f"{participle} between {a} and {b}", f"that were {participle} between {a} and {b}", f"{participle} from {a} to {b}"), ""
            return ("between", e, ("lit", lo), ("lit", hi), False), pick(f"with {s} between {a} and {b}", f"whose {s} is between {a} and {b}", f"where {s} is from {a} to {b}", f"with a {s} from {a} to {b}", f"with {s} in the range {a} to {b}",
                                                                       f"having {s} between {a} and {b}", f"where {s} is between {a} and {b}", f"with a {s} between {a} and {b}", f"with {s} of at least {a} and at most {b}", f"with {s} {a}-{b}"), ""
        if want == "in":
            xs = list(dict.fromkeys([x, value(c, rng), value(c, rng)]))
            return self.in_condition(t, c, xs)
        if want != "cmp":
            return None
        return self.cmp_condition(t, c, x)

    def eq_condition(self, t: Table, c: Column, x: str):
        rng = self.rng
        s, vx = self.say(c, t), self.v(x, c)
        tree = ("cmp", "=", col(t, c), ("lit", x))
        only = [o for o in t.data() if o.kind == c.kind]
        if c.kind == "cat" and self.chance(0.4) and (len(only) == 1 or c.words in ("status", "type", "category", "genre", "color", "state")) and "'" not in vx and '"' not in vx:
            return tree, "", vx
        options = [f"with {s} {vx}", f"whose {s} is {vx}", f"where {s} is {vx}", f"where the {s} is {vx}", f"with the {s} {vx}", f"that have {s} {vx}", f"where {s} = {vx}", f"having {vx} as {s}", f"with a {s} of {vx}", f"where {s} equals {vx}",
                   f"with {vx} as their {s}", f"having {s} {vx}", f"with {s} equal to {vx}"]
        if c.kind == "cat":
            options += [f"that are {vx}", f"which are {vx}", f"in the {vx} {s}", f"in {s} {vx}", f"of {s} {vx}", f"of the {vx} {s}", f"marked {vx}", f"marked as {vx}"]
        if len(only) == 1 or c.words in ("city", "country"):
            if c.kind in ("city", "country", "state"):
                options += [f"in {vx}", f"from {vx}", f"located in {vx}", f"based in {vx}", f"living in {vx}", f"that are in {vx}", f"who live in {vx}", f"which come from {vx}", f"in {vx}", f"from {vx}"]
            if c.kind == "person" and c is not t.label:
                options += [f"by {vx}", f"by {vx}", f"of {vx}", f"from {vx}", f"done by {vx}"]
                if c.head in lx.PERSON_VERBS:
                    options += [f"{lx.PERSON_VERBS[c.head][0]} by {vx}"] * 8 + [f"that {vx} {self.pick(*lx.PERSON_VERBS[c.head])}"]
            if c.kind == "org" and c is not t.label:
                options += [f"by {vx}", f"made by {vx}", f"from {vx}", f"of {vx}"]
        if c is t.label:
            options += [f"named {vx}", f"called {vx}", f"with the name {vx}", f"titled {vx}"]
        return tree, rng.choice(options), ""

    def in_condition(self, t: Table, c: Column, xs: list):
        xs = list(dict.fromkeys(xs))
        if len(xs) < 2:
            return None
        s = self.say(c, t)
        listed = join_and([self.v(x, c, unit=False) for x in xs], "or")
        plain = ", ".join(self.v(x, c, unit=False) for x in xs)
        options = [f"whose {s} is {listed}", f"where {s} is {listed}", f"with {s} {listed}", f"where {s} is either {listed}", f"whose {s} is one of {plain}", f"where {s} in ({plain})", f"with {s} in {plain}", f"where the {s} is one of {plain}",
                   f"with a {s} of {listed}"]
        if c.kind in ("city", "country", "state"):
            options += [f"in {listed}", f"from {listed}", f"in {join_and([self.v(x, c) for x in xs])}", f"from either {listed}"]
        neg = self.chance(0.12)
        if neg:
            options = [f"whose {s} is neither {listed.replace(' or ', ' nor ')}", f"where {s} is not {listed}", f"where {s} is not one of {plain}", f"where {s} not in ({plain})"]
        return ("in", col(t, c), xs, neg), self.rng.choice(options), ""

    def like_condition(self, t: Table, c: Column):
        rng = self.rng
        s = self.say(c, t)
        text = value(c, rng)
        word = rng.choice(text.replace("'", "").split(" "))
        how = rng.choice(["start", "start", "end", "contain", "contain", "contain"])
        piece = word[: rng.randint(1, 4)] if how == "start" else word[-rng.randint(1, 4):] if how == "end" else word if self.chance(0.7) else word[1:4] or word
        if how == "start" and self.chance(0.4):
            piece = word[:1].upper()
        neg = self.chance(0.08)
        pattern = {"start": f"{piece}%", "end": f"%{piece}", "contain": f"%{piece}%"}[how]
        p = self.v(piece, None, 0.6)
        if neg:
            frag = {"start": f"whose {s} does not start with {p}", "end": f"whose {s} does not end with {p}", "contain": self.pick(f"whose {s} does not contain {p}", f"without {p} in the {s}")}[how]
        elif how == "start":
            frag = self.pick(f"whose {s} starts with {p}", f"whose {s} begins with {p}", f"where {s} starts with {p}", f"with a {s} starting with {p}", f"with {s} beginning with {p}", f"where the {s} begins with the letter {p}" if len(piece) == 1 else f"with {s} starting in {p}")
        elif how == "end":
            frag = self.pick(f"whose {s} ends with {p}", f"whose {s} ends in {p}", f"where {s} ends with {p}", f"with a {s} ending in {p}", f"with {s} ending with {p}")
        else:
            frag = self.pick(f"whose {s} contains {p}", f"with {p} in the {s}", f"where {s} contains {p}", f"with a {s} containing {p}", f"whose {s} includes {p}", f"with the word {p} in their {s}", f"where the {s} mentions {p}", f"that have {p} in their {s}",
                             f"where {s} is like {p}", f"containing {p} in the {s}", f"with {s} like {p}", f"whose {s} has {p} in it")
        return ("like", col(t, c), pattern, neg), frag, ""

    def cmp_condition(self, t: Table, c: Column, x):
        s = self.say(c, t)
        e = col(t, c)
        op = self.rng.choice([">", ">", "<", "<", ">=", "<="])
        vx = self.v(x, c)
        words = {">": ["more than", "over", "above", "greater than", "higher than", "exceeding", "bigger than", "larger than", ">", "of more than", "in excess of"], "<": ["less than", "under", "below", "lower than", "smaller than", "fewer than", "<", "of less than"],
                 ">=": ["at least", "of at least", "no less than", ">=", "greater than or equal to", "a minimum of"], "<=": ["at most", "no more than", "up to", "<=", "of at most", "less than or equal to", "not more than", "a maximum of"]}[op]
        w = self.rng.choice(words)
        if c.kind == "year" and self.chance(0.6):
            w = {">": "after", "<": "before", ">=": self.pick("since", "from"), "<=": self.pick("until", "up to")}[op]
            if op == ">=" and w == "from":
                return ("cmp", op, e, ("lit", x)), f"from {vx} {self.pick('on', 'onwards', 'or later')}", ""
            verb = re.sub(r"( year| in)$|^year ", "", c.words) if " " in c.words or c.words in lx.PARTICIPLES else ""
            return ("cmp", op, e, ("lit", x)), self.pick(f"{verb} {w} {vx}".strip(), f"from {w} {vx}" if op in "<>" else f"{w} {vx}", f"with {s} {w} {vx}", f"whose {s} is {w} {vx}"), ""
        key = c.words if c.words in lx.COMPARATIVES else c.head
        same = [o for o in t.data() if o.head == c.head]
        if op in "<>" and key in lx.COMPARATIVES and len(same) == 1 and self.chance(0.45):
            return ("cmp", op, e, ("lit", x)), f"{self.rng.choice(lx.COMPARATIVES[key][0 if op == '>' else 1])} {vx}", ""
        bare = w.startswith(("of ", "in excess", "a m"))
        options = [f"with {s} {w} {vx}", f"with a {s} {w} {vx}", f"having {s} {w} {vx}"]
        if not bare:
            options += [f"whose {s} is {w} {vx}", f"where {s} is {w} {vx}", f"where the {s} is {w} {vx}", f"with {w} {vx} {s}", f"that have {w} {vx} {s}", f"with a {s} that is {w} {vx}"]
        else:
            options += [f"with a {s} {w} {vx}"]
        if op == ">=":
            options += [f"with {s} {vx} or more", f"whose {s} is {vx} or higher", f"with {vx} or more {s}"]
        if op == "<=":
            options += [f"with {s} {vx} or less", f"whose {s} is {vx} or lower", f"with {vx} or fewer {s}"]
        return ("cmp", op, e, ("lit", x)), self.rng.choice(options).replace("with a >", "with >"), ""

    def date_verb(self, c: Column, t: Table) -> str:
        """How an event of this date is named: "hired", "with hire date", "whose due date is"."""
        s = self.say(c, t)
        first = c.words.split(" ")[0]
        options = [f"with {s}", f"whose {s} is", f"where {s} is", f"with a {s}"]
        if len([o for o in t.data() if o.kind == "date"]) == 1:
            options += ["", "", "dated"]
        participle = {"hire": "hired", "order": "ordered", "release": "released", "birth": "born", "sale": "sold", "purchase": "purchased", "visit": "visited", "signup": "signed up", "joined": "who joined", "join": "who joined", "created": "created",
                      "opened": "opened", "published": "published", "sent": "sent", "launch": "launched", "expiry": "expiring", "due": "due", "start": "starting", "end": "ending", "delivery": "delivered", "issue": "issued", "registration": "registered",
                      "payment": "paid", "repair": "repaired", "built": "built", "founded": "founded", "upload": "uploaded", "posted": "posted", "planted": "planted", "departure": "departing", "arrival": "arriving", "inspection": "inspected", "booking": "booked",
                      "invoice": "invoiced", "closed": "closed", "installed": "installed", "submitted": "submitted", "listed": "listed", "installed on": "installed", "shipment": "shipped", "transaction": "made", "loan": "loaned", "return": "returned", "review": "reviewed",
                      "updated": "updated", "opening": "opening", "approved": "approved", "completed": "completed", "rental": "rented", "checkout": "checked out", "match": "played", "event": "held"}.get(first)
        words = c.words.split(" ")
        if participle is None and (c.words in lx.PARTICIPLES or words[0] in lx.PARTICIPLES and words[-1] in ("on", "at", "date", "day", "in")):
            participle = words[0]
        if participle:
            options += [participle] * 4 + [f"that were {participle}" if not participle.startswith("who") else participle]
        return self.rng.choice(options)

    def date_condition(self, t: Table, c: Column, want: str):
        rng, pick = self.rng, self.pick
        e = col(t, c)
        verb = self.date_verb(c, t)
        lead = f"{verb} " if verb else ""
        iso = value(c, rng)
        if want == "eq":
            r = rng.random()
            if r < 0.25:
                return ("cmp", "=", e, ("lit", iso)), f"{lead}on {self.date(iso)}" if not verb.endswith("is") or self.chance(0.3) else f"{lead}{self.date(iso)}", ""
            if r < 0.6:
                y = int(iso[:4])
                return ("inyear", e, y), pick(f"{lead}in {self.v(y, None)}", f"{lead}in {self.v(y, None)}", f"{lead}in the year {self.v(y, None)}", f"{lead}during {self.v(y, None)}" if not verb.endswith("is") else f"{lead}in {self.v(y, None)}"), ""
            if r < 0.78:
                return ("inmonth", e, iso[:7]), f"{lead}in {MONTHS[int(iso[5:7]) - 1]} {iso[:4]}" if self.chance(0.9) else f"{lead}in \x01{iso[:7]}\x02", ""
            if r < 0.9:
                n, unit = rng.choice([(7, "days"), (30, "days"), (90, "days"), (14, "days"), (10, "days"), (6, "months"), (3, "months"), (12, "months"), (2, "years"), (5, "years"), (60, "days")])
                return ("last", e, n, unit), f"{lead}{pick('in the last', 'within the last', 'in the past', 'during the last')} {self.v(n, None)} {unit}", ""
            unit = pick("day", "month", "year", "year")
            return ("now", e, unit), lead + {"day": "today", "month": "this month", "year": "this year"}[unit] if not verb.endswith("is") else lead + {"day": "today", "month": "in this month", "year": "in this year"}[unit], ""
        if want == "cmp":
            r = rng.random()
            op = rng.choice([">", "<", ">=", "<="])
            if r < 0.4:
                y = int(iso[:4])
                vy = self.v(y, None)
                if op == ">":
                    return ("cmp", ">", e, ("lit", f"{y}-12-31")), f"{lead}after {vy}", ""
                if op == "<":
                    return ("cmp", "<", e, ("lit", f"{y}-01-01")), f"{lead}before {vy}", ""
                if op == ">=":
                    return ("cmp", ">=", e, ("lit", f"{y}-01-01")), pick(f"{lead}since {vy}", f"{lead}in {vy} or later", f"{lead}from {vy} on", f"{lead}since the start of {vy}"), ""
                return ("cmp", "<=", e, ("lit", f"{y}-12-31")), pick(f"{lead}until the end of {vy}", f"{lead}in {vy} or earlier", f"{lead}by the end of {vy}"), ""
            d = self.date(iso)
            w = {">": pick("after", "later than"), "<": pick("before", "earlier than"), ">=": pick("since", "on or after", "from", "starting from"), "<=": pick("until", "on or before", "up to", "no later than")}[op]
            return ("cmp", op, e, ("lit", iso)), f"{lead}{w} {d}", ""
        if want == "between":
            lo, hi = sorted((iso, value(c, rng)))
            if lo == hi:
                return None
            if self.chance(0.3):
                y1, y2 = sorted(rng.sample(range(2015, 2026), 2))
                return ("between", e, ("lit", f"{y1}-01-01"), ("lit", f"{y2}-12-31"), False), f"{lead}between {self.v(y1)} and {self.v(y2)}", ""
            return ("between", e, ("lit", lo), ("lit", hi), False), pick(f"{lead}between {self.date(lo)} and {self.date(hi)}", f"{lead}from {self.date(lo)} to {self.date(hi)}"), ""
        return None

    def conditions(self, t: Table, n: int | None = None, avoid=()):
        """(tree, words after the noun, adjectives before it, columns used)."""
        n = n if n is not None else self.rng.choices([1, 2, 3], [76, 20, 4])[0]
        tree, frag, adj, c = self.condition(t, avoid)
        trees, frags, adjs, used = [tree], [frag] if frag else [], [adj] if adj else [], [c]
        joiner = "and"
        if n > 1 and self.chance(0.3):
            joiner = "or"
            if not frags:
                return trees[0], "", adj, used
        for _ in range(n - 1):
            tree, frag, adj, c = self.condition(t, [*avoid, *used])
            if joiner == "or" and not frag:
                continue
            trees.append(tree)
            used.append(c)
            if frag:
                frags.append(frag)
            else:
                adjs.append(adj)
        if len(trees) == 1:
            return trees[0], " ".join(frags), " ".join(adjs), used
        words = joiner
        if joiner == "and":
            words = self.pick("and", "and", "and", "and", "and that are", "but only those", "") if len(frags) == 2 and self.chance(0.2) else "and"
        else:
            words = self.pick("or", "or", "or", "or else", "or those") if self.chance(0.2) else "or"
        text = f" {words} ".join(frags).replace("  ", " ")
        return (joiner, trees), text, " ".join(adjs), used

    def phrase(self, t: Table, where, many: bool = True, det: bool = False) -> str:
        """A noun with its condition: "red cars with price over 50"."""
        text = self.noun(t, many)
        if where:
            _, frag, adj, _ = where
            text = " ".join(x for x in (adj, text, frag) if x)
        if det:
            text = self.pick("", "", "the ", "all ", "all the ") + text
        return text

    def maybe_where(self, t: Table, p: float, avoid=()):
        if self.chance(p):
            try:
                return self.conditions(t, avoid=avoid)
            except NotApplicable:
                return None
        return None

    def lead(self) -> str:
        return self.pick("Show", "List", "Give me", "Find", "Get", "Display", "I need", "I want to see", "Can you show me", "Please list", "Show me", "Return", "Fetch", "Could you list", "Select", "Retrieve", "I'd like to see", "Print",
                         "Pull up", "Let me see", "Tell me", "Provide", "Output", "Look up", "Can I get", "I want", "Present")

    def label(self, t: Table) -> Column:
        if t.label is None:
            raise NotApplicable
        return t.label

    def measure(self, t: Table, avoid=()) -> Column:
        return self.column(t, lambda c: c.numeric, avoid)

    def group_column(self, t: Table, avoid=()) -> Column:
        return self.column(t, lambda c: c.kind in ("cat", "city", "country", "state", "org", "year", "words", "person") and c is not t.label or c.kind == "bool" and self.chance(0.1), avoid)

    # Kinds, one table

    def select_all(self) -> Ask:
        t = self.table()
        n = self.noun(t)
        q = self.pick(f"{self.lead()} all {n}", f"{self.lead()} everything from {n}", f"{self.lead()} every {t.sing}", f"{self.lead()} the whole {self.noun(t, False)} table", f"{self.lead()} all rows in {n}", f"all {n}", f"{self.lead()} all the {n}",
                      f"{self.lead()} all data about {n}", f"{self.lead()} all records in the {t.ident} table", f"What {n} are there?", f"What is in {t.ident}?", f"{self.lead()} all columns of {n}", f"{self.lead()} the full list of {n}", f"{self.lead()} {n}",
                      f"{self.lead()} all information on {n}", f"dump the {t.ident} table", f"{self.lead()} the {t.ident} table", f"contents of {t.ident}")
        if q.startswith("What") and "are there" in q and t.label:
            return Ask("select", q, Query(t, [col(t, t.label)]))
        return Ask("select", q, Query(t))

    def select_columns(self) -> Ask:
        t = self.table()
        cols = [self.column(t)]
        while len(cols) < self.rng.choice([1, 2, 2, 3]):
            cols.append(self.column(t, avoid=cols))
        where = self.maybe_where(t, 0.3, cols)
        if len(cols) == 1 and self.chance(0.5):
            names = self.says(cols[0], t)
        else:
            names = join_and([self.say(c, t) for c in cols])
        n = self.phrase(t, where)
        q = self.pick(f"{self.lead()} the {names} of all {n}", f"{self.lead()} {names} for {n}", f"{self.lead()} the {names} of {n}", f"What are the {names} of the {n}?", f"{self.lead()} {names} from {n}", f"{self.lead()} the {names} of each {self.noun(t, False)}" if not where else f"{self.lead()} the {names} of the {n}",
                      f"{self.lead()} {n} with their {names}" if not where else f"{self.lead()} the {names} for all {n}", f"For {n}, show the {names}", f"{names} of {n}", f"{n}: {names}", f"{self.lead()} only the {names} of {n}", f"{self.lead()} just {names} of the {n}",
                      f"{self.lead()} every {self.noun(t, False)}'s {names}" if not where else f"What {names} do the {n} have?", f"{self.lead()} the {names} columns of {n}")
        return Ask("select", q, Query(t, [col(t, c) for c in cols], where=where[0] if where else None))

    def filtered(self, kinds: str | None = None, n: int | None = None, name: str = "filter") -> Ask:
        t = self.table()
        if kinds:
            tree, frag, adj, c = self.condition(t, kinds=kinds)
            where = (tree, frag, adj, [c])
        else:
            where = self.conditions(t, n)
        lab = t.label
        p = self.phrase(t, where)
        r = self.rng.random()
        if r < 0.42 and lab and lab not in where[3]:
            people = t.is_people
            if not where[2] and where[1] and self.chance(0.6):
                one = people and self.chance(0.6)
                f = finite(where[1], one)
                if f:
                    f = f.replace("is in", "lives in", 1) if one and f.startswith("is in") and self.chance(0.5) else f
                    return Ask(name, self.pick(f"Who {f}?", f"Who {f}?", f"who all {f}?" if self.chance(0.1) else f"Who {f}?") if one else self.pick(f"Which {self.noun(t)} {f}?", f"What {self.noun(t)} {f}?", f"Which of the {self.noun(t)} {f}?"), Query(t, [col(t, lab)], where=where[0]))
            q = self.pick(f"Which {p}?", f"What {p}?", f"Which {t.plur} are {where[1]}?" if where[1] and where[1].startswith(("in ", "from ", "marked")) else f"Which {p}?", f"{self.lead()} the {self.says(lab, t)} of {p}", f"{self.lead()} the {self.says(lab, t)} of the {p}",
                          f"Which {t.plur} {where[1].replace('with ', 'have ', 1)}?" if where[1].startswith(("with a ", "with ")) else f"What are the {self.says(lab, t)} of {p}?", f"What are the {self.says(lab, t)} of the {p}?", f"Who are the {p}?" if people else f"Which are the {p}?",
                          f"{self.lead()} the name of every {self.noun(t, False)} {where[1]}" if where[1] and not where[2] and lab.head == "name" else f"{self.lead()} {self.says(lab, t)} of all {p}")
            return Ask(name, q, Query(t, [col(t, lab)], where=where[0]))
        if r < 0.62:
            cols = [self.column(t, avoid=where[3])]
            if self.chance(0.5):
                cols.append(self.column(t, avoid=[*cols, *where[3]]))
            names = join_and([self.say(c, t) for c in cols])
            q = self.pick(f"{self.lead()} the {names} of {p}", f"What are the {names} of {p}?", f"{self.lead()} {names} of all {p}", f"{self.lead()} {names} for {p}", f"What is the {names} of the {self.phrase(t, where, False)}?", f"{names} of {p}")
            return Ask(name, q, Query(t, [col(t, c) for c in cols], where=where[0]))
        n_ = self.pick
        q = n_(f"{self.lead()} all {p}", f"{self.lead()} {p}", f"{self.lead()} the {p}", f"{self.lead()} every {self.phrase(t, where, False)}", f"all {p}", p, f"{self.lead()} all the {p}", f"{self.lead()} all information about {p}", f"{self.lead()} any {p}",
               self.pick(f"Are there any {p}? List them.", f"Are there {p}? Show them.", f"Do we have {p}?") if self.chance(0.4) else f"{self.lead()} only the {p}", f"{self.lead()} rows from {t.ident} {where[1]}" if where[1] and not where[2] else f"{self.lead()} all {p}", f"I'm looking for {p}", f"{self.lead()} full details of {p}")
        return Ask(name, q, Query(t, where=where[0]))

    def filter_cmp(self) -> Ask:
        return self.filtered("cmp", name="filter")

    def filter_between(self) -> Ask:
        return self.filtered("between", name="between")

    def filter_in(self) -> Ask:
        return self.filtered("in", name="in")

    def filter_like(self) -> Ask:
        return self.filtered("like", name="like")

    def filter_null(self) -> Ask:
        return self.filtered("null", name="null")

    def filter_logic(self) -> Ask:
        return self.filtered(n=self.rng.choice([2, 2, 2, 3]), name="and/or/not")

    def filter_not(self) -> Ask:
        return self.filtered("not", name="and/or/not")

    def lookup(self) -> Ask:
        """One attribute of one row, by its label or key."""
        t = self.table()
        lab = t.label
        c = self.column(t, avoid=[lab] if lab else [])
        s = self.say(c, t)
        if t.pk is not None and (lab is None or self.chance(0.25)):
            x = self.rng.randint(1, 60)
            where = ("cmp", "=", col(t, t.pk), ("lit", x))
            who = self.pick(f"{self.noun(t, False)} {x}", f"{self.noun(t, False)} number {x}", f"the {self.noun(t, False)} with id {x}", f"{self.noun(t, False)} #{x}", f"{self.noun(t, False)} with {t.pk.ident} {x}")
            if self.chance(0.3):
                return Ask("filter", self.pick(f"{self.lead()} {who}", f"{self.lead()} all details of {who}", f"{self.lead()} everything about {who}"), Query(t, where=where))
        elif lab is not None:
            x = value(lab, self.rng)
            where = ("cmp", "=", col(t, lab), ("lit", x))
            vx = self.v(x, lab)
            who = self.pick(vx, vx, f"{self.noun(t, False)} {vx}", f"the {self.noun(t, False)} {vx}", f"the {self.noun(t, False)} named {vx}", f"the {self.noun(t, False)} called {vx}")
            if self.chance(0.15):
                return Ask("filter", self.pick(f"{self.lead()} {who}", f"{self.lead()} everything about {who}", f"{self.lead()} the record of {who}", f"{self.lead()} all details of {who}"), Query(t, where=where))
        else:
            raise NotApplicable
        q = self.pick(f"What is the {s} of {who}?", f"{self.lead()} the {s} of {who}", f"{self.lead()} {who}'s {s}", f"What's the {s} of {who}?", f"{s} of {who}", f"What {s} does {who} have?", f"Tell me the {s} of {who}", f"Which {s} has {who}?", f"What is {who}'s {s}?")
        if c.kind == "date":
            q = self.pick(q, f"When was the {s} of {who}?", f"On which date was the {s} of {who}?")
        first = c.words.split(" ")[0]
        if (c.kind in ("date", "year")) and first in lx.PARTICIPLES and self.chance(0.6):
            q = self.pick(f"When was {who} {first}?", f"When was {who} {first}?", f"In which year was {who} {first}?" if c.kind == "year" else f"On what date was {who} {first}?", f"what year was {who} {first}" if c.kind == "year" else f"when was {who} {first}")
        if c.head in lx.HOW and c.numeric and self.chance(0.45) and len([o for o in t.data() if o.head == c.head]) == 1:
            q = self.rng.choice(lx.HOW[c.head]).replace("{x}", who) + "?"
        if c.kind == "person" and c.head in lx.PERSON_VERBS and self.chance(0.6):
            past, now = lx.PERSON_VERBS[c.head]
            q = self.pick(f"Who {now} {who}?", f"Who {past} {who}?", f"Who is the {s} of {who}?", f"By whom was {who} {past}?", f"Who was {who} {past} by?")
        if c.kind in ("cat", "city", "country", "state") and self.chance(0.2):
            q = self.pick(f"Which {s} is {who} in?", f"What {s} is {who}?", f"In which {s} is {who}?", f"Which {s} does {who} belong to?")
        if c.kind in ("city", "country") and self.chance(0.4):
            q = self.pick(f"Where is {who}?" if len([o for o in t.data() if o.kind in ("city", "country", "state")]) == 1 else q, f"In which {s} is {who}?", f"In what {s} is {who} located?")
        return Ask("filter", q, Query(t, [col(t, c)], where=where))

    def order(self) -> Ask:
        t = self.table()
        c = self.column(t, lambda c: c.kind not in ("bool", "email", "phone"))
        where = self.maybe_where(t, 0.25, [c])
        desc = self.chance(0.45)
        s = self.say(c, t)
        if c.numeric or c.kind == "year":
            how = self.pick(f"sorted by {s} descending", f"from highest to lowest {s}", f"ordered by {s} from high to low", f"by {s}, highest first", f"in descending order of {s}", f"by descending {s}", f"largest {s} first", f"sorted by {s} in descending order") if desc else self.pick(
                f"sorted by {s}", f"ordered by {s}", f"from lowest to highest {s}", f"in ascending order of {s}", f"by {s}", f"sorted by {s} ascending", f"by {s}, lowest first", f"ordered by increasing {s}", f"arranged by {s}", f"order by {s} asc")
            key = c.words if c.words in lx.SUPERLATIVES else c.head
            if key in lx.SUPERLATIVES and self.chance(0.3) and len([o for o in t.data() if o.head == c.head]) == 1:
                up, down = (self.rng.choice(x) for x in lx.SUPERLATIVES[key])
                how = self.pick(f"from {up} to {down}", f"{up} first", f"from {up} to {down} {s}") if desc else self.pick(f"from {down} to {up}", f"{down} first", f"from {down} to {up} {s}")
        elif c.kind == "date":
            how = self.pick(f"newest first by {s}", f"latest {s} first", f"by {s}, most recent first", f"sorted by {s} from newest to oldest", f"by {s} descending", f"ordered by {s} with the newest first") if desc else self.pick(
                f"oldest first by {s}", f"by {s}", f"sorted by {s}", f"ordered by {s}", f"earliest {s} first", f"in order of {s}", f"in chronological order of {s}", f"from oldest to newest {s}")
        else:
            how = self.pick(f"in reverse alphabetical order of {s}", f"by {s} from Z to A", f"sorted by {s} descending", f"by {s} descending") if desc else self.pick(f"in alphabetical order of {s}", f"sorted by {s}", f"ordered by {s}", f"alphabetically by {s}", f"by {s}", f"by {s} from A to Z",
                                                                                                                                         f"sort them by {s}", f"sorted alphabetically by {s}")
        order = [(col(t, c), "DESC" if desc else "ASC")]
        if self.chance(0.12):
            c2 = self.column(t, lambda o: o.kind not in ("bool", "email", "phone") and o is not c)
            d2 = self.chance(0.3)
            order.append((col(t, c2), "DESC" if d2 else "ASC"))
            how += self.pick(f" and then by {self.say(c2, t)}", f", then {self.say(c2, t)}", f" then by {self.say(c2, t)}") + (" descending" if d2 else "")
        select = [("star",)]
        if self.chance(0.35):
            cols = [self.column(t)]
            if self.chance(0.5):
                cols.append(self.column(t, avoid=cols))
            select = [col(t, x) for x in cols]
            names = join_and([self.say(x, t) for x in cols])
            q = self.pick(f"{self.lead()} the {names} of {self.phrase(t, where)} {how}", f"{self.lead()} {names} of all {self.phrase(t, where)}, {how}", f"{names} of {self.phrase(t, where)} {how}")
        else:
            q = self.pick(f"{self.lead()} all {self.phrase(t, where)} {how}", f"{self.lead()} {self.phrase(t, where)} {how}", f"{self.lead()} the {self.phrase(t, where)}, {how}", f"{self.phrase(t, where)} {how}", f"Sort {self.phrase(t, where)} by {s}" + (" descending" if desc else "") if len(order) == 1 else f"{self.lead()} all {self.phrase(t, where)} {how}")
        return Ask("order/limit", q, Query(t, select, where=where[0] if where else None, order=order))

    def superlative(self, c: Column, desc: bool, t: Table) -> str | None:
        key = c.words if c.words in lx.SUPERLATIVES else c.head
        if key in lx.SUPERLATIVES and len([o for o in t.data() if o.head == c.head]) == 1:
            return self.rng.choice(lx.SUPERLATIVES[key][0 if desc else 1])
        return None

    def top(self) -> Ask:
        t = self.table()
        c = self.column(t, lambda c: c.numeric or c.kind in ("date", "year"))
        desc = self.chance(0.65)
        n = 1 if self.chance(0.42) else self.rng.choice([2, 3, 3, 4, 5, 5, 5, 6, 7, 8, 10, 10, 10, 12, 15, 20, 25, 50, 100])
        where = self.maybe_where(t, 0.28, [c])
        s = self.say(c, t)
        p = self.phrase(t, where, n > 1)
        adj = self.superlative(c, desc, t)
        hi = ({True: self.pick("highest", "largest", "biggest", "greatest", "most", "maximum"), False: self.pick("lowest", "smallest", "least", "minimum")} if c.numeric else {True: self.pick("latest", "most recent", "newest"), False: self.pick("earliest", "oldest")})[desc]
        vn = self.v(n) if n > 1 else ""
        by = self.pick(f"with the {hi} {s}", f"by {s}" if desc and n > 1 else f"with the {hi} {s}", f"having the {hi} {s}", f"that have the {hi} {s}" if n > 1 else f"that has the {hi} {s}", f"with {hi} {s}")
        lab = t.label
        label_of = lab and lab is not c and self.chance(0.5)
        if n > 1:
            if adj and self.chance(0.6) and c.kind != "year":
                core = self.pick(f"{vn} {adj} {p}", f"{adj} {vn} {p}" if self.chance(0.2) else f"{vn} {adj} {p}")
            elif desc and self.chance(0.35):
                core = f"top {vn} {p} by {s}"
            elif not desc and self.chance(0.2):
                core = f"bottom {vn} {p} by {s}"
            else:
                core = f"{vn} {p} {by}"
        else:
            core = (f"{adj} {p}" if self.chance(0.8) else f"{adj} {p} by {s}") if adj and self.chance(0.65) else f"{p} {by}"
        if label_of and n == 1 and t.is_people and not where and self.chance(0.4):
            says = [f"Who has the {hi} {s}?", f"Who is the {adj}?" if adj and adj.endswith("est") else f"Who has the {hi} {s}?"]
            if c.head in ("salary", "wage", "pay"):
                says += [f"Who earns the {'most' if desc else 'least'}?", f"Who is paid the {'most' if desc else 'least'}?", f"Who is {adj}?" if adj else says[0]]
            return Ask("order/limit", self.rng.choice(says), Query(t, [col(t, lab)], order=[(col(t, c), "DESC" if desc else "ASC")], limit=1))
        if label_of:
            what = self.pick(f"Which {core}?" if n > 1 else f"Which {p} has the {hi} {s}?", f"What {self.pick('is', 'is') if n == 1 else 'are'} the {core}?", f"Which {self.noun(t, False)} is the {adj}?" if adj and n == 1 and not where else f"Which {core.replace('with the', 'has the').replace('having the', 'has the')}?" if n == 1 else f"Which are the {core}?",
                             f"{'Who is' if n == 1 else 'Who are'} the {core}?" if t.is_people else f"{'What is' if n == 1 else 'What are'} the name{'s' if n > 1 else ''} of the {core}?" if lab.head == "name" else f"{self.lead()} the {self.says(lab, t) if n > 1 else self.say(lab, t)} of the {core}",
                             f"{self.lead()} the {self.says(lab, t) if n > 1 else self.say(lab, t)} of the {core}")
            select = [col(t, lab)]
            if self.chance(0.2):
                select.append(col(t, c))
                what = self.pick(f"{self.lead()} the {self.say(lab, t)} and {s} of the {core}", f"What is the {self.say(lab, t)} and {s} of the {core}?")
        elif self.chance(0.2):
            o = self.column(t, avoid=[c])
            select = [col(t, o)]
            what = self.pick(f"{self.lead()} the {self.say(o, t)} of the {core}", f"What is the {self.say(o, t)} of the {core}?")
        else:
            select = [("star",)]
            what = self.pick(f"{self.lead()} the {core}", f"{self.lead()} the {core}", f"the {core}", core, f"{self.lead()} me the {core}" if self.chance(0.1) else f"{self.lead()} the {core}", f"{self.lead()} all details of the {core}")
        return Ask("order/limit", what, Query(t, select, where=where[0] if where else None, order=[(col(t, c), "DESC" if desc else "ASC")], limit=n))

    def first_rows(self) -> Ask:
        t = self.table()
        n = self.rng.choice([1, 3, 5, 5, 10, 10, 20, 50, 100])
        vn = self.v(n)
        q = self.pick(f"{self.lead()} the first {vn} {self.noun(t)}", f"{self.lead()} {vn} {self.noun(t)}", f"{self.lead()} any {vn} {self.noun(t)}", f"first {vn} rows of {t.ident}", f"{self.lead()} a sample of {vn} {self.noun(t)}", f"{self.lead()} {vn} rows from {t.ident}")
        return Ask("order/limit", q, Query(t, limit=n))

    def second(self) -> Ask:
        t = self.table()
        c = self.column(t, lambda c: c.numeric)
        k = self.rng.choice([2, 2, 2, 3, 4])
        nth = {2: "second", 3: "third", 4: "fourth"}[k]
        desc = self.chance(0.75)
        adj = self.superlative(c, desc, t)
        s = self.say(c, t)
        hi = self.pick("highest", "largest", "biggest") if desc else self.pick("lowest", "smallest")
        lab = t.label
        if self.chance(0.4):
            return Ask("order/limit", self.pick(f"What is the {nth} {hi} {s} of {self.noun(t)}?", f"{self.lead()} the {nth} {hi} {s} among {self.noun(t)}"), Query(t, [col(t, c)], order=[(col(t, c), "DESC" if desc else "ASC")], limit=1, offset=k - 1))
        core = f"{nth} {adj} {self.noun(t, False)}" if adj and self.chance(0.6) else f"{self.noun(t, False)} with the {nth} {hi} {s}"
        if lab and self.chance(0.5):
            return Ask("order/limit", self.pick(f"Which is the {core}?", f"What is the {core}?", f"{self.lead()} the {self.say(lab, t)} of the {core}"), Query(t, [col(t, lab)], order=[(col(t, c), "DESC" if desc else "ASC")], limit=1, offset=k - 1))
        return Ask("order/limit", f"{self.lead()} the {core}", Query(t, order=[(col(t, c), "DESC" if desc else "ASC")], limit=1, offset=k - 1))

    def count(self) -> Ask:
        t = self.table()
        where = self.maybe_where(t, 0.7)
        p = self.phrase(t, where)
        q = self.pick(f"How many {p} are there?", f"How many {p}?", f"Count the {p}", f"{self.lead()} the number of {p}", f"What is the number of {p}?", f"number of {p}", f"Count {p}", f"What is the total number of {p}?", f"How many {p} do we have?", f"How many {p} exist?", f"Count all {p}",
                      f"total number of {p}", f"{self.lead()} the count of {p}", f"how many rows are in {t.ident}?" if not where else f"count of {p}", f"How many {p} are in the database?")
        if where and where[1].startswith(("in ", "from ", "marked", "located")) and not where[2] and self.chance(0.4):
            q = f"How many {self.noun(t)} are {where[1]}?"
        if where and where[1] and not where[2] and self.chance(0.4):
            f = finite(where[1], False)
            if f:
                if t.is_people and f.startswith("are in") and self.chance(0.5):
                    f = f.replace("are in", self.pick("live in", "live in", "work in"), 1)
                q = self.pick(f"How many {self.noun(t)} {f}?", f"How many of the {self.noun(t)} {f}?", f"How many {self.noun(t)} {f}?")
        return Ask("aggregate", q, Query(t, [COUNT], where=where[0] if where else None))

    AGG = {"SUM": ["total", "sum of", "combined", "overall", "total", "summed"], "AVG": ["average", "mean", "average", "avg"], "MAX": ["highest", "maximum", "largest", "biggest", "max", "greatest"], "MIN": ["lowest", "minimum", "smallest", "min", "least"]}

    def agg_words(self, fn: str, c: Column, t: Table) -> str:
        if c.kind in ("date", "year") and fn in ("MAX", "MIN"):
            return f"{self.pick('latest', 'most recent', 'last', 'newest') if fn == 'MAX' else self.pick('earliest', 'oldest', 'first')} {self.say(c, t)}"
        w = self.rng.choice(self.AGG[fn])
        if w == "sum of":
            return self.pick(f"sum of the {self.says(c, t)}", f"sum of {self.say(c, t)}", f"sum of all {self.says(c, t)}")
        return f"{w} {self.say(c, t)}"

    def aggregate(self) -> Ask:
        t = self.table()
        fn = self.rng.choice(["SUM", "SUM", "AVG", "AVG", "AVG", "MAX", "MIN"])
        c = self.column(t, (lambda c: c.numeric) if fn in ("SUM", "AVG") else (lambda c: c.numeric or c.kind in ("date", "year")))
        where = self.maybe_where(t, 0.5, [c])
        a, p = self.agg_words(fn, c, t), self.phrase(t, where)
        select = [("agg", fn, col(t, c), False)]
        if self.chance(0.15):
            fn2 = self.rng.choice([f for f in (["SUM", "AVG", "MAX", "MIN"] if c.numeric else ["MAX", "MIN"]) if f != fn])
            a += f" and {self.agg_words(fn2, c, t)}" if self.chance(0.5) else f" and the {self.rng.choice([w for w in self.AGG[fn2] if w != 'sum of'])} {self.say(c, t)}"
            select.append(("agg", fn2, col(t, c), False))
        q = self.pick(f"What is the {a} of {p}?", f"{self.lead()} the {a} of {p}", f"{a} of {p}", f"What is the {a} of all {p}?", f"{self.lead()} the {a} for {p}", f"What's the {a} among {p}?", f"Calculate the {a} of {p}", f"Compute the {a} of the {p}", f"{a} for {p}", f"Tell me the {a} of all {p}", f"What is the {a} across {p}?")
        if fn == "SUM" and len(select) == 1 and self.chance(0.2):
            s = self.say(c, t)
            q = self.pick(f"How much {s} do {p} have in total?", f"What is the total number of {self.says(c, t)} of {p}?" if c.kind == "int" else f"How much {s} in total for {p}?", f"How many {self.says(c, t)} do {p} have in total?" if c.kind == "int" else f"What do the {p} add up to in {s}?",
                          f"What is the sum of all {self.says(c, t)} of {p}?", f"Add up the {s} of {p}", f"Sum the {s} over {p}")
            if not where and self.chance(0.3):
                q = self.pick(f"What is the sum of all {self.says(c, t)}?", f"What is the total {s}?", f"Sum up all {self.says(c, t)}")
        if fn == "AVG" and len(select) == 1 and self.chance(0.2):
            s = self.say(c, t)
            q = self.pick(f"What is the {s} of {p} on average?", f"What {s} do {p} have on average?", f"On average, what is the {s} of {p}?", f"How much {s} do {p} have on average?", f"What do {p} cost on average?" if c.head in ("price", "cost") else f"{s} of {p} on average",
                          f"average number of {self.says(c, t)} of {p}" if c.kind == "int" else f"What's the typical (average) {s} of {p}?")
        if fn in ("MAX", "MIN") and len(select) == 1 and self.chance(0.2) and c.kind in ("date", "year") and c.words.split(" ")[0] in lx.PARTICIPLES:
            first = c.words.split(" ")[0]
            q = self.pick(f"When was the {'last' if fn == 'MAX' else 'first'} {self.phrase(t, where, False)} {first}?", f"When was the {'newest' if fn == 'MAX' else 'oldest'} {self.phrase(t, where, False)} {first}?")
        return Ask("aggregate", q, Query(t, select, where=where[0] if where else None))

    def distinct(self) -> Ask:
        t = self.table()
        c = self.column(t, lambda c: c.textual or c.kind == "year")
        where = self.maybe_where(t, 0.2, [c])
        p = self.phrase(t, where)
        s = self.says(c, t)
        if self.chance(0.35):
            q = self.pick(f"How many different {s} are there in {p}?", f"How many distinct {s} do {p} have?", f"Count the unique {s} of {p}", f"number of different {s} among {p}", f"How many unique {s} are there among the {p}?", f"{self.lead()} the number of distinct {s} of {p}")
            return Ask("distinct", q, Query(t, [("agg", "COUNT", col(t, c), True)], where=where[0] if where else None))
        q = self.pick(f"{self.lead()} the different {s} of {p}", f"{self.lead()} all distinct {s} of {p}", f"What are the unique {s} of {p}?", f"{self.lead()} the {s} of {p} without duplicates", f"unique {s} in {p}", f"What different {s} do {p} have?", f"{self.lead()} each {self.say(c, t)} of {p} only once", f"Which distinct {s} are there among {p}?",
                      f"{self.lead()} all unique {s} from {p}", f"What kinds of {s} do the {p} have?", f"Which {s} occur in {p}?", f"distinct {s} of {p}")
        return Ask("distinct", q, Query(t, [col(t, c)], distinct=True, where=where[0] if where else None))

    def per(self) -> str:
        return self.pick("per", "per", "for each", "by", "for every", "in each", "grouped by", "for each")

    def group(self) -> Ask:
        t = self.table()
        g = self.group_column(t)
        where = self.maybe_where(t, 0.18, [g])
        gs = self.say(g, t)
        p = self.phrase(t, where)
        ge = col(t, g)
        if self.chance(0.5):
            e = COUNT
            q = self.pick(f"How many {p} are there {self.per()} {gs}?", f"Count the {p} {self.per()} {gs}", f"{self.lead()} the number of {p} {self.per()} {gs}", f"number of {p} by {gs}", f"{self.lead()} each {gs} and its number of {p}", f"For each {gs}, how many {p} are there?", f"{self.lead()} a breakdown of {p} by {gs}",
                          f"{p} count per {gs}", f"How many {p} does each {gs} have?", f"For every {gs} show the number of {p}", f"{self.lead()} {gs} and number of {p}", f"How are the {p} distributed by {gs}?", f"count {p} by {gs}", f"Group the {p} by {gs} and count them")
        else:
            fn = self.rng.choice(["SUM", "AVG", "AVG", "MAX", "MIN"])
            c = self.column(t, lambda c: c.numeric, [g])
            e = ("agg", fn, col(t, c), False)
            a = self.agg_words(fn, c, t)
            q = self.pick(f"What is the {a} {self.per()} {gs}?", f"{self.lead()} the {a} of {p} {self.per()} {gs}", f"{a} of {p} by {gs}", f"For each {gs}, what is the {a} of {p}?", f"{self.lead()} each {gs} with the {a} of {p}", f"{a} per {gs}" if not where else f"{a} of {p} per {gs}", f"{self.lead()} {gs} and {a} of {p}",
                          f"What is the {a} of {p} in each {gs}?", f"For every {gs}, show the {a} of {p}", f"Compare the {a} of {p} by {gs}")
            if where and "of" not in q and p not in q:
                q = f"{self.lead()} the {a} of {p} {self.per()} {gs}"
        stmt = Query(t, [ge, e], where=where[0] if where else None, group=[ge])
        if self.chance(0.2):
            desc = self.chance(0.7)
            what = "count" if e is COUNT else "value"
            q = q.rstrip("?") + (self.pick(", highest first", ", sorted from highest to lowest", ", in descending order", f", largest {what} first", ", most first") if desc else self.pick(", lowest first", ", from lowest to highest", ", smallest first"))
            stmt.order = [(e, "DESC" if desc else "ASC")]
        elif self.chance(0.08):
            q = q.rstrip("?") + self.pick(f", sorted by {gs}", f", ordered by {gs}")
            stmt.order = [(ge, "ASC")]
        return Ask("group", q, stmt)

    def group_top(self) -> Ask:
        t = self.table()
        g = self.group_column(t)
        gs = self.say(g, t)
        ge = col(t, g)
        desc = self.chance(0.8)
        n = 1 if self.chance(0.65) else self.rng.choice([2, 3, 5, 10])
        if self.chance(0.55):
            e = COUNT
            most = self.pick("the most", "the largest number of", "the highest number of") if desc else self.pick("the fewest", "the smallest number of", "the least")
            q = self.pick(f"Which {gs} has {most} {self.noun(t)}?", f"{self.lead()} the {gs} with {most} {self.noun(t)}", f"What {gs} has {most} {self.noun(t)}?", f"What is the most common {gs} of {self.noun(t)}?" if desc else f"What is the least common {gs} of {self.noun(t)}?", f"In which {gs} are there {most} {self.noun(t)}?") if n == 1 else self.pick(
                f"Which {self.v(n)} {self.says(g, t)} have {most} {self.noun(t)}?", f"{self.lead()} the {self.v(n)} {self.says(g, t)} with {most} {self.noun(t)}", f"top {self.v(n)} {self.says(g, t)} by number of {self.noun(t)}" if desc else f"{self.lead()} the {self.v(n)} {self.says(g, t)} with {most} {self.noun(t)}")
        else:
            fn = self.rng.choice(["SUM", "AVG", "AVG"])
            c = self.measure(t, [g])
            e = ("agg", fn, col(t, c), False)
            hi = self.pick("highest", "largest", "greatest") if desc else self.pick("lowest", "smallest")
            a = f"{self.pick('total', 'combined') if fn == 'SUM' else self.pick('average', 'mean')} {self.say(c, t)}"
            q = self.pick(f"Which {gs} has the {hi} {a}?", f"{self.lead()} the {gs} with the {hi} {a} of {self.noun(t)}", f"What {gs} has the {hi} {a}?") if n == 1 else self.pick(f"Which {self.v(n)} {self.says(g, t)} have the {hi} {a}?", f"{self.lead()} the {self.v(n)} {self.says(g, t)} with the {hi} {a}")
        return Ask("group", q, Query(t, [ge], group=[ge], order=[(e, "DESC" if desc else "ASC")], limit=n))

    def having(self) -> Ask:
        t = self.table()
        g = self.group_column(t)
        ge, gs = col(t, g), self.says(g, t)
        op, w = self.rng.choice([(">", "more than"), (">", "over"), (">=", "at least"), ("<", "fewer than"), ("<", "less than"), ("<=", "at most"), (">", "greater than"), ("=", "exactly")])
        where = self.maybe_where(t, 0.12, [g])
        p = self.phrase(t, where)
        show = self.chance(0.3)
        if self.chance(0.6):
            k = self.rng.choice([1, 2, 3, 3, 4, 5, 10])
            e = COUNT
            w = "more than" if w == "greater than" else w
            q = self.pick(f"Which {gs} have {w} {self.v(k)} {p}?", f"{self.lead()} {gs} with {w} {self.v(k)} {p}", f"{self.lead()} the {gs} that have {w} {self.v(k)} {p}", f"{self.lead()} all {gs} having {w} {self.v(k)} {p}", f"{gs} with {w} {self.v(k)} {p}", f"What {gs} have {w} {self.v(k)} {p}?", f"{self.lead()} each {self.say(g, t)} that occurs in {w} {self.v(k)} {p}")
            if op == ">" and k == 1 and self.chance(0.4):
                q = self.pick(f"Which {gs} appear more than once in {p}?", f"{self.lead()} duplicate {gs} of {p}", f"Which {gs} have several {p}?")
        else:
            fn = self.rng.choice(["AVG", "SUM", "AVG", "MAX", "MIN"])
            c = self.measure(t, [g])
            k = value(c, self.rng)
            e = ("agg", fn, col(t, c), False)
            w = {">": self.pick("above", "over", "greater than", "higher than", "more than"), "<": self.pick("below", "under", "less than", "lower than"), ">=": "of at least", "<=": "of at most", "=": "equal to"}[op]
            a = self.agg_words(fn, c, t)
            q = self.pick(f"Which {gs} have a {a} {w} {self.v(k, c)}?", f"{self.lead()} {gs} with {a} {w} {self.v(k, c)}", f"{self.lead()} the {gs} of {p} whose {a} is {w.replace('of ', '')} {self.v(k, c)}", f"{self.lead()} {gs} where the {a} of {p} is {w.replace('of ', '')} {self.v(k, c)}")
            if p not in q and where:
                q = f"{self.lead()} {gs} where the {a} of {p} is {w.replace('of ', '')} {self.v(k, c)}"
        if show:
            q = q.rstrip("?.") + (self.pick(", and how many?", ", with the count", " and show the count", ", with their counts") if e is COUNT else self.pick(" and show the value", ", with that value", " and show that number"))
        return Ask("having", q, Query(t, [ge, e] if show else [ge], where=where[0] if where else None, group=[ge], having=("cmp", op, e, ("lit", k))))

    def arithmetic(self) -> Ask:
        t = self.table()
        a = self.measure(t)
        b = self.measure(t, [a])
        op, w = self.rng.choice([("*", "times"), ("-", "minus"), ("+", "plus"), ("/", "divided by")])
        sa, sb = self.say(a, t), self.say(b, t)
        e = ("bin", op, col(t, a), col(t, b))
        phrase = {"*": self.pick(f"{sa} times {sb}", f"product of {sa} and {sb}", f"{sa} multiplied by {sb}", f"{sa} * {sb}", f"{sa} x {sb}"), "-": self.pick(f"{sa} minus {sb}", f"difference between {sa} and {sb}", f"{sa} - {sb}"), "+": self.pick(f"{sa} plus {sb}", f"sum of {sa} and {sb}", f"{sa} + {sb}"),
                  "/": self.pick(f"{sa} divided by {sb}", f"ratio of {sa} to {sb}", f"{sa} / {sb}", f"{sa} per {sb}")}[op]
        where = self.maybe_where(t, 0.2, [a, b])
        if op == "*" and self.chance(0.4):
            return Ask("arithmetic", self.pick(f"What is the total of {phrase} over all {self.phrase(t, where)}?", f"{self.lead()} the sum of {phrase} for {self.phrase(t, where)}", f"total {phrase} of {self.phrase(t, where)}"), Query(t, [("agg", "SUM", e, False)], where=where[0] if where else None))
        lab = t.label
        if lab and self.chance(0.6):
            return Ask("arithmetic", self.pick(f"{self.lead()} the {self.say(lab, t)} and the {phrase} of {self.phrase(t, where)}", f"{self.lead()} {self.say(lab, t)} with {phrase} for {self.phrase(t, where)}"), Query(t, [col(t, lab), e], where=where[0] if where else None))
        return Ask("arithmetic", self.pick(f"{self.lead()} the {phrase} of {self.phrase(t, where)}", f"What is the {phrase} of {self.phrase(t, where)}?", f"Compute {phrase} for {self.phrase(t, where)}"), Query(t, [e], where=where[0] if where else None))

    def column_vs_column(self) -> Ask:
        t = self.table()
        a = self.column(t, lambda c: c.numeric or c.kind == "date")
        b = self.column(t, lambda c: (c.numeric if a.numeric else c.kind == "date"), [a])
        op = self.rng.choice([">", "<", ">", "<", "="])
        w = {">": self.pick("greater than", "higher than", "more than", "above") if a.numeric else self.pick("after", "later than"), "<": self.pick("less than", "lower than", "below") if a.numeric else self.pick("before", "earlier than"), "=": self.pick("equal to", "the same as")}[op]
        s = f"{self.pick('whose', 'where the', 'where')} {self.say(a, t)} is {w} {self.pick('the ', 'their ', '')}{self.say(b, t)}"
        return Ask("arithmetic", self.pick(f"{self.lead()} {self.noun(t)} {s}", f"{self.lead()} all {self.noun(t)} {s}"), Query(t, where=("cmp", op, col(t, a), col(t, b))))

    # Sub-queries

    def above_average(self) -> Ask:
        t = self.table()
        c = self.measure(t)
        up = self.chance(0.7)
        s = self.say(c, t)
        fn, name = ("AVG", "average") if self.chance(0.85) else ("MAX", "maximum")
        if fn == "MAX":
            up = False
        sub = ("sub", Query(t, [("agg", fn, col(t, c), False)]))
        where = ("cmp", ">" if up else "<", col(t, c), sub)
        w = self.pick("above", "higher than", "greater than", "more than", "over") if up else self.pick("below", "lower than", "less than", "under")
        f = self.pick(f"with {s} {w} the {name}", f"whose {s} is {w} the {name}", f"with a {s} {w} the {name} {s}", f"with {'above' if up else 'below'} {name} {s}", f"whose {s} is {w} {name}", f"where {s} is {w} the {name} {s}", f"with {s} {w} {name}")
        key = c.words if c.words in lx.COMPARATIVES else c.head
        if key in lx.COMPARATIVES and self.chance(0.35) and len([o for o in t.data() if o.head == c.head]) == 1:
            f = f"{self.rng.choice(lx.COMPARATIVES[key][0 if up else 1])} {self.pick('average', 'the average')}"
        lab = t.label
        if lab and self.chance(0.3) and (g := finite(f, t.is_people)):
            return Ask("sub-query", f"Who {g}?" if t.is_people else f"Which {self.noun(t)} {g}?", Query(t, [col(t, lab)], where=where))
        if lab and self.chance(0.5):
            return Ask("sub-query", self.pick(f"Which {self.noun(t)} {f.replace('with ', 'have ', 1) if f.startswith('with ') else f}?", f"{self.lead()} the {self.says(lab, t)} of {self.noun(t)} {f}", f"What are the {self.says(lab, t)} of {self.noun(t)} {f}?"), Query(t, [col(t, lab)], where=where))
        return Ask("sub-query", self.pick(f"{self.lead()} {self.noun(t)} {f}", f"{self.lead()} all {self.noun(t)} {f}", f"{self.noun(t)} {f}"), Query(t, where=where))

    def extreme_all(self) -> Ask:
        t = self.table()
        c = self.column(t, lambda c: c.numeric or c.kind == "date")
        fn = self.rng.choice(["MAX", "MIN"])
        s = self.say(c, t)
        w = (self.pick("highest", "maximum", "largest") if fn == "MAX" else self.pick("lowest", "minimum", "smallest")) if c.numeric else (self.pick("latest", "most recent") if fn == "MAX" else "earliest")
        where = ("cmp", "=", col(t, c), ("sub", Query(t, [("agg", fn, col(t, c), False)])))
        return Ask("sub-query", self.pick(f"{self.lead()} all {self.noun(t)} whose {s} equals the {w} {s}", f"{self.lead()} every {self.noun(t, False)} with the {w} {s}, including ties", f"{self.lead()} {self.noun(t)} whose {s} is the {w} of all", f"{self.lead()} all {self.noun(t)} that share the {w} {s}",
                                          f"{self.lead()} every {self.noun(t, False)} whose {s} is equal to the {w}"), Query(t, where=where))

    def compare_to_row(self) -> Ask:
        t = self.table()
        lab = self.label(t)
        x = value(lab, self.rng)
        vx = self.v(x, lab, 0.5)
        inner = ("cmp", "=", col(t, lab), ("lit", x))
        if self.chance(0.5):
            c = self.group_column(t, [lab])
            s = self.say(c, t)
            where = ("cmp", "=", col(t, c), ("sub", Query(t, [col(t, c)], where=inner)))
            f = self.pick(f"with the same {s} as {vx}", f"that have the same {s} as {vx}", f"in the same {s} as {vx}", f"sharing the {s} of {vx}", f"whose {s} is the same as that of {vx}")
        else:
            c = self.column(t, lambda c: c.numeric or c.kind in ("date", "year"), [lab])
            up = self.chance(0.6)
            s = self.say(c, t)
            where = ("cmp", ">" if up else "<", col(t, c), ("sub", Query(t, [col(t, c)], where=inner)))
            w = (self.pick("higher", "greater", "larger", "bigger") if up else self.pick("lower", "smaller")) if c.numeric else ("later" if up else "earlier")
            f = self.pick(f"with a {w} {s} than {vx}", f"whose {s} is {w} than that of {vx}", f"that have a {w} {s} than {vx}")
            key = c.words if c.words in lx.COMPARATIVES else c.head
            if key in lx.COMPARATIVES and self.chance(0.4) and len([o for o in t.data() if o.head == c.head]) == 1:
                f = f"{self.rng.choice(lx.COMPARATIVES[key][0 if up else 1])} {vx}"
        if self.chance(0.4):
            return Ask("sub-query", self.pick(f"Which {self.noun(t)} {f.replace('with a', 'have a', 1) if f.startswith('with a ') else f}?", f"{self.lead()} the {self.says(lab, t)} of {self.noun(t)} {f}"), Query(t, [col(t, lab)], where=where))
        return Ask("sub-query", self.pick(f"{self.lead()} {self.noun(t)} {f}", f"{self.lead()} all {self.noun(t)} {f}"), Query(t, where=where))

    # Joins

    def edge(self):
        """(child, key column, parent)."""
        edges = [(t, c, c.ref) for t in self.schema.tables for c in t.fks() if c.ref in self.schema.tables and c.ref.pk is not None]
        if not edges:
            raise NotApplicable
        return self.rng.choice(edges)

    @staticmethod
    def on(child: Table, fk: Column, parent: Table, add: Table, kind: str = "JOIN"):
        return (add, (child, fk), (parent, parent.pk), kind)

    def rel(self, t: Table, p: Table) -> str:
        """Words between a parent and its children: "customers who placed orders"."""
        return self.pick("with", "that have", "having", "who have" if p.is_people else "which have", f"{'who' if p.is_people else 'that'} {self.rng.choice(lx.VERBS)}", "with")

    def join_columns(self) -> Ask:
        ch, fk, pa = self.edge()
        a = [self.column(ch)]
        if self.chance(0.3):
            a.append(self.column(ch, avoid=a))
        b = [self.label(pa) if pa.label and self.chance(0.75) else self.column(pa)]
        where = None
        side = None
        if self.chance(0.3):
            side = ch if self.chance(0.6) else pa
            where = self.conditions(side, 1, avoid=[*a, *b])
        an = join_and([self.say(x, ch) for x in a])
        bn = join_and([self.say(x, pa) for x in b])
        cn = self.phrase(ch, where) if side is ch else self.noun(ch)
        pn = self.noun(pa, False)
        of = self.pick(f"{pn} {bn}", f"{bn} of the {pn}", f"{pn}'s {bn}", f"{bn} of their {pn}", f"{bn} of its {pn}")
        tail = f" for {self.phrase(pa, where)}" if side is pa else ""
        q = self.pick(f"{self.lead()} the {an} of {cn} and the {of}", f"{self.lead()} {an} and {of} for all {cn}", f"For each {self.noun(ch, False)}, show the {an} and the {of}" if not side is ch else f"For {cn}, show the {an} and the {of}", f"{self.lead()} {cn} with {an} and the {of}", f"{self.lead()} the {an} of {cn} together with the {of}",
                      f"{self.lead()} the {an} of every {self.noun(ch, False)} and its {of}" if side is not ch else f"{self.lead()} the {an} of the {cn} together with the {of}", f"{an} and {of} of {cn}") + tail
        return Ask("join", q, Query(ch, [*(col(ch, x) for x in a), *(col(pa, x) for x in b)], joins=[self.on(ch, fk, pa, pa)], where=where[0] if where else None))

    def join_all(self) -> Ask:
        """Every child with its parent's label."""
        ch, fk, pa = self.edge()
        b = self.label(pa)
        cn, pn, bn = self.noun(ch), self.noun(pa, False), self.say(b, pa)
        verb = self.rng.choice(lx.VERBS)
        q = self.pick(f"{self.lead()} all {cn} with the {bn} of the {pn}", f"{self.lead()} every {self.noun(ch, False)} together with the {bn} of its {pn}", f"{self.lead()} all {cn} and the {bn} of the {pn}", f"{self.lead()} all {cn} together with their {pn} {bn}", f"all {cn} with the {pn} {bn}",
                      f"{self.lead()} all {cn} together with the {bn} of the {pn} {'who' if pa.is_people else 'that'} {verb} them", f"{self.lead()} {cn} including the {pn}'s {bn}")
        return Ask("join", q, Query(ch, [("star", ch), col(pa, b)], joins=[self.on(ch, fk, pa, pa)]))

    def parent_words(self, ch: Table, pa: Table, where) -> str:
        """The parent's condition said about the child: "of customers from Paris", "whose author is Ann Lee"."""
        tree, frag, adj, used = where
        if tree[0] == "cmp" and tree[1] == "=" and used[0] is pa.label and self.chance(0.85):
            vx = self.v(tree[3][1], used[0])
            n = self.noun(pa, False)
            return self.pick(f"of {vx}", f"of {n} {vx}", f"of the {n} {vx}", f"by {vx}", f"for {vx}", f"whose {n} is {vx}", f"for {n} {vx}", f"belonging to {vx}", f"from {vx}", f"with {n} {vx}", f"of the {n} named {vx}", f"in {vx}", f"{self.rng.choice(lx.VERBS)} by {vx}", f"from the {n} {vx}", f"in the {vx} {n}", f"in the {n} {vx}", f"at {vx}", f"who work in {vx}" if ch.is_people else f"in {vx}", f"working in {vx}" if ch.is_people else f"on {vx}", f"that belong to {vx}", f"that {vx} {self.rng.choice(lx.VERBS)}", f"on {n} {vx}", f"that {vx} has")
        p = self.phrase(pa, where)
        one = self.phrase(pa, where, False)
        return self.pick(f"of {p}", f"of {p}", f"from {p}", f"for {p}", f"by {p}", f"whose {self.noun(pa, False)} is {adj}" if adj and not frag else f"belonging to {p}", f"that belong to {p}", f"{self.rng.choice(lx.VERBS)} by {p}", f"of a {one}", f"in {p}", f"related to {p}", f"at {p}", f"linked to a {one}")

    def join_filter(self) -> Ask:
        """Children by a condition on the parent."""
        ch, fk, pa = self.edge()
        if pa.label and self.chance(0.5):
            x = value(pa.label, self.rng)
            where = (("cmp", "=", col(pa, pa.label), ("lit", x)), "", "", [pa.label])
        else:
            where = self.conditions(pa, 1)
        if not where[1] and not where[2] and where[3][0] is not pa.label:
            raise NotApplicable
        words = self.parent_words(ch, pa, where) if (where[1] or where[2]) else self.parent_words(ch, pa, (where[0], f"named {self.v(where[0][3][1], pa.label)}", "", where[3]))
        trees = [where[0]]
        p = self.noun(ch)
        if self.chance(0.2):
            own = self.conditions(ch, 1)
            trees.append(own[0])
            p = self.phrase(ch, own)
            words = words if not own[1] else f"and {words}" if self.chance(0.2) else words
        tree = trees[0] if len(trees) == 1 else ("and", trees)
        join = [self.on(ch, fk, pa, pa)]
        r = self.rng.random()
        if where[3][0] is pa.label and where[0][0] == "cmp" and where[0][1] == "=" and len(trees) == 1 and r < 0.3:
            vx = self.v(where[0][3][1], pa.label)
            who = self.pick(vx, vx, f"{self.noun(pa, False)} {vx}", f"the {self.noun(pa, False)} {vx}")
            verb = self.rng.choice(lx.VERBS)
            if r < 0.1:
                return Ask("join", self.pick(f"How many {p} does {who} have?", f"How many {p} did {who} {self.pick('make', 'have', 'place', 'get', 'do')}?", f"How many {p} has {who} {verb}?", f"How many {p} were {verb} by {who}?"), Query(ch, [COUNT], joins=join, where=tree))
            money = [c for c in ch.data() if c.kind == "money"]
            if r < 0.17 and len(money) == 1:
                return Ask("join", self.pick(f"How much did {who} {self.pick('spend', 'pay', 'earn', 'bring in')}?", f"How much has {who} {self.pick('spent', 'paid', 'earned')} in total?", f"total {self.say(money[0], ch)} of {who}", f"What is the total {self.say(money[0], ch)} of {who}?"), Query(ch, [("agg", "SUM", col(ch, money[0]), False)], joins=join, where=tree))
            c = ch.label if ch.label and self.chance(0.5) else self.column(ch)
            s = self.says(c, ch)
            return Ask("join", self.pick(f"What {s} did {who} {self.pick('get', 'have', 'order', 'receive', 'make', 'buy', 'use')}?", f"Which {s} has {who} {verb}?", f"What are {who}'s {p}? Show the {s}" if c is not ch.label else f"What {p} does {who} have?", f"Which {s} belong to {who}?", f"{who}'s {s}", f"What {s} does {who} have?"), Query(ch, [col(ch, c)], joins=join, where=tree))
        if r < 0.25:
            q = self.pick(f"How many {p} {words} are there?", f"How many {p} {words}?", f"Count the {p} {words}", f"number of {p} {words}", f"{self.lead()} the number of {p} {words}")
            return Ask("join", q, Query(ch, [COUNT], joins=join, where=tree))
        if r < 0.42:
            c = self.measure(ch)
            fn = self.rng.choice(["SUM", "AVG", "SUM", "MAX", "MIN"])
            a = self.agg_words(fn, c, ch)
            q = self.pick(f"What is the {a} of {p} {words}?", f"{self.lead()} the {a} of {p} {words}", f"{a} of {p} {words}", f"{a} for {p} {words}")
            return Ask("join", q, Query(ch, [("agg", fn, col(ch, c), False)], joins=join, where=tree))
        if r < 0.75:
            if ch.label and self.chance(0.5):
                cols = [ch.label]
                q = self.pick(f"Which {p} {words}?", f"{self.lead()} the {self.says(ch.label, ch)} of {p} {words}", f"What are the {self.says(ch.label, ch)} of the {p} {words}?", f"Which {p} are {words}?")
            else:
                cols = [self.column(ch)]
                if self.chance(0.4):
                    cols.append(self.column(ch, avoid=cols))
                names = join_and([self.say(c, ch) for c in cols])
                q = self.pick(f"{self.lead()} the {names} of {p} {words}", f"What are the {names} of {p} {words}?", f"{names} of {p} {words}")
            return Ask("join", q, Query(ch, [col(ch, c) for c in cols], joins=join, where=tree))
        q = self.pick(f"{self.lead()} all {p} {words}", f"{self.lead()} {p} {words}", f"{p} {words}", f"{self.lead()} the {p} {words}", f"all {p} {words}")
        return Ask("join", q, Query(ch, [("star", ch)], joins=join, where=tree))

    def join_parents(self) -> Ask:
        """Parents by a condition on their children."""
        ch, fk, pa = self.edge()
        lab = self.label(pa)
        own = self.conditions(ch, 1)
        p = self.phrase(ch, own)
        rel = self.rel(ch, pa)
        one = self.phrase(ch, own, False)
        if self.chance(0.25):
            mine = self.conditions(pa, 1)
            who = self.phrase(pa, mine)
            q = self.pick(f"Which {who} have {p}?", f"Which {who} have a {one}?", f"{self.lead()} the {self.says(lab, pa)} of {who} that have a {one}", f"{self.lead()} {who} who also have {p}" if pa.is_people else f"{self.lead()} the {self.says(lab, pa)} of {who} with {p}", f"Which {who} have at least one {one}?")
            return Ask("join", q, Query(pa, [col(pa, lab)], distinct=True, joins=[self.on(ch, fk, pa, ch)], where=("and", [mine[0], own[0]])))
        q = self.pick(f"Which {self.noun(pa)} have {p}?", f"Which {self.noun(pa)} have a {one}?", f"{self.lead()} the {self.says(lab, pa)} of {self.noun(pa)} {rel} {p}", f"Which {self.noun(pa)} {rel.replace('who ', '').replace('that ', '').replace('which ', '').replace('having', 'have').replace('with', 'have')} {p}?", f"{self.lead()} the {self.says(lab, pa)} of all {self.noun(pa)} {rel} a {one}",
                      f"{self.lead()} the names of {self.noun(pa)} {rel} {p}" if lab.head == "name" else f"What are the {self.says(lab, pa)} of the {self.noun(pa)} {rel} {p}?", f"{self.says(lab, pa)} of {self.noun(pa)} {rel} {p}", f"Who {self.rng.choice(lx.VERBS)} {p}?" if pa.is_people else f"Which {self.noun(pa)} have at least one {one}?")
        return Ask("join", q, Query(pa, [col(pa, lab)], distinct=True, joins=[self.on(ch, fk, pa, ch)], where=own[0]))

    def lookup_parent(self) -> Ask:
        """An attribute of the parent of one named child."""
        ch, fk, pa = self.edge()
        lab = self.label(ch)
        x = value(lab, self.rng)
        vx = self.v(x, lab)
        c = pa.label if pa.label and self.chance(0.6) else self.column(pa)
        n = self.noun(pa, False)
        who = self.pick(vx, f"the {self.noun(ch, False)} {vx}", f"{self.noun(ch, False)} {vx}")
        s = self.say(c, pa)
        q = self.pick(f"What is the {s} of the {n} of {who}?", f"{self.lead()} the {n} {s} of {who}", f"Which {n} does {who} belong to?" if c is pa.label else f"What is the {n} {s} of {who}?", f"Who is the {n} of {who}?" if pa.is_people and c is pa.label else f"{self.lead()} the {s} of {who}'s {n}", f"What {n} has {who}?" if c is pa.label else f"{n} {s} for {who}")
        return Ask("join", q, Query(pa, [col(pa, c)], joins=[self.on(ch, fk, pa, ch)], where=("cmp", "=", col(ch, lab), ("lit", x))))

    def join_group(self) -> Ask:
        ch, fk, pa = self.edge()
        lab = self.label(pa) if pa.label and self.chance(0.8) else self.group_column(pa)
        by_label = lab is pa.label
        pn = self.noun(pa, False)
        ge = col(pa, lab)
        name = pn if by_label and self.chance(0.6) else f"{pn} {self.say(lab, pa)}" if self.chance(0.7) else f"{self.say(lab, pa)} of {pn}"
        where = self.maybe_where(ch, 0.15)
        p = self.phrase(ch, where)
        zero = by_label and not where and self.chance(0.12)
        if self.chance(0.5):
            e = COUNT
            q = self.pick(f"How many {p} does each {name} have?", f"{self.lead()} the number of {p} per {name}", f"Count the {p} for each {name}", f"number of {p} by {name}", f"For each {name}, how many {p} are there?", f"{self.lead()} each {name} with the number of {p}", f"How many {p} are there per {name}?", f"{p} per {name}",
                          f"{self.lead()} every {name} and how many {p} they have", f"How many {p} has each {name} {self.rng.choice(lx.VERBS)}?", f"{self.lead()} the {name} and the count of {p}")
        else:
            c = self.measure(ch)
            fn = self.rng.choice(["SUM", "SUM", "AVG", "MAX", "MIN"])
            e = ("agg", fn, col(ch, c), False)
            a = self.agg_words(fn, c, ch)
            q = self.pick(f"What is the {a} of {p} per {name}?", f"{self.lead()} the {a} of {p} for each {name}", f"{a} of {p} by {name}", f"For each {name}, show the {a} of {p}", f"{self.lead()} each {name} with the {a} of their {p}", f"{a} per {name}" if not where else f"{a} of {p} per {name}", f"What is the {a} for each {name}?" if not where else f"{self.lead()} the {a} of {p} by {name}",
                          f"How much {self.say(c, ch)} does each {name} have in total?" if fn == "SUM" and not where else f"{self.lead()} the {a} of {p} for every {name}")
            if fn == "SUM" and c.kind == "money" and len([o for o in ch.data() if o.kind == "money"]) == 1 and not where and self.chance(0.25):
                q = self.pick(f"How much has each {name} {self.pick('spent', 'paid', 'earned', 'sold', 'brought in')} in total?", f"How much did every {name} {self.pick('spend', 'pay', 'earn', 'sell')}?", f"{self.lead()} how much each {name} has {self.pick('spent', 'paid', 'earned')}", f"total spent per {name}")
        group = [col(pa, pa.pk)] if by_label else [ge]
        stmt = Query(pa, [ge, e], joins=[self.on(ch, fk, pa, ch)], where=where[0] if where else None, group=group)
        if zero and e is COUNT:
            stmt.joins = [self.on(ch, fk, pa, ch, "LEFT JOIN")]
            stmt.select = [ge, ("agg", "COUNT", col(ch, ch.pk or fk), False)]
            q = q.rstrip("?") + self.pick(", including those without any", f", also {self.noun(pa)} without {self.noun(ch)}", ", including zero", f", including {self.noun(pa)} with none")
        elif self.chance(0.15):
            desc = self.chance(0.75)
            q = q.rstrip("?") + (self.pick(", highest first", ", in descending order", ", most first", ", sorted from highest to lowest") if desc else self.pick(", lowest first", ", from lowest to highest"))
            stmt.order = [(e, "DESC" if desc else "ASC")]
        return Ask("join group", q, stmt)

    def join_top(self) -> Ask:
        ch, fk, pa = self.edge()
        lab = self.label(pa)
        desc = self.chance(0.8)
        n = 1 if self.chance(0.6) else self.rng.choice([2, 3, 5, 10])
        pn = self.noun(pa, n > 1)
        where = self.maybe_where(ch, 0.12)
        p = self.phrase(ch, where)
        if self.chance(0.55):
            e = COUNT
            most = self.pick("the most", "the highest number of", "the largest number of") if desc else self.pick("the fewest", "the lowest number of", "the least")
            has = self.pick("has", "has", self.rng.choice(lx.VERBS)) if n == 1 else self.pick("have", "have", self.rng.choice(lx.VERBS))
            q = self.pick(f"Which {pn} {has} {most} {p}?", f"{self.lead()} the {pn} with {most} {p}", f"Who {has} {most} {p}?" if pa.is_people and n == 1 else f"What {pn} {has} {most} {p}?", f"{self.lead()} the {self.say(lab, pa)} of the {pn} with {most} {p}")
        else:
            c = self.measure(ch)
            fn = self.rng.choice(["SUM", "SUM", "AVG"])
            e = ("agg", fn, col(ch, c), False)
            hi = self.pick("highest", "largest", "greatest") if desc else self.pick("lowest", "smallest")
            a = f"{'total' if fn == 'SUM' else 'average'} {self.say(c, ch)}"
            q = self.pick(f"Which {pn} {'has' if n == 1 else 'have'} the {hi} {a} of {p}?", f"{self.lead()} the {pn} with the {hi} {a} of {p}", f"Which {pn} {'has' if n == 1 else 'have'} the {hi} {a}?" if not where else f"Which {pn} {'has' if n == 1 else 'have'} the {hi} {a} of {p}?", f"{self.lead()} the {self.say(lab, pa)} of the {pn} with the {hi} {a} of {p}")
        if n > 1:
            q = q.replace(pn, f"{self.v(n)} {pn}", 1) if not self.chance(0.3) or not desc else q.replace(f"the {pn}", f"the top {self.v(n)} {pn}", 1) if f"the {pn}" in q else q.replace(pn, f"{self.v(n)} {pn}", 1)
        return Ask("join group", q, Query(pa, [col(pa, lab)], joins=[self.on(ch, fk, pa, ch)], where=where[0] if where else None, group=[col(pa, pa.pk)], order=[(e, "DESC" if desc else "ASC")], limit=n))

    def join_having(self) -> Ask:
        ch, fk, pa = self.edge()
        lab = self.label(pa)
        op, w = self.rng.choice([(">", "more than"), (">", "over"), (">=", "at least"), ("<", "fewer than"), ("<=", "at most"), ("=", "exactly")])
        pn = self.noun(pa)
        where = self.maybe_where(ch, 0.1)
        p = self.phrase(ch, where)
        if self.chance(0.65):
            k = self.rng.choice([1, 2, 2, 3, 3, 4, 5, 10])
            e = COUNT
            rel = self.rel(ch, pa)
            q = self.pick(f"Which {pn} have {w} {self.v(k)} {p}?", f"{self.lead()} {pn} {rel} {w} {self.v(k)} {p}", f"{self.lead()} the {self.says(lab, pa)} of {pn} {rel} {w} {self.v(k)} {p}", f"{pn} with {w} {self.v(k)} {p}", f"Which {pn} {self.rng.choice(lx.VERBS)} {w} {self.v(k)} {p}?", f"{self.lead()} all {pn} having {w} {self.v(k)} {p}")
        else:
            c = self.measure(ch)
            k = value(c, self.rng)
            fn = self.rng.choice(["SUM", "AVG", "SUM"])
            e = ("agg", fn, col(ch, c), False)
            a = self.agg_words(fn, c, ch)
            w = {">": self.pick("above", "over", "greater than", "of more than"), "<": self.pick("below", "under", "less than"), ">=": "of at least", "<=": "of at most", "=": "of exactly"}[op]
            q = self.pick(f"Which {pn} have a {a} of {p} {w} {self.v(k, c)}?", f"{self.lead()} the {self.says(lab, pa)} of {pn} with a {a} {w} {self.v(k, c)}" if not where else f"{self.lead()} {pn} whose {a} of {p} is {w.replace('of ', '')} {self.v(k, c)}", f"{self.lead()} {pn} whose {a} of {p} is {w.replace('of ', '')} {self.v(k, c)}", f"{self.lead()} {pn} with {a} of {p} {w} {self.v(k, c)}")
        return Ask("having", q, Query(pa, [col(pa, lab)], joins=[self.on(ch, fk, pa, ch)], where=where[0] if where else None, group=[col(pa, pa.pk)], having=("cmp", op, e, ("lit", k))))

    def without(self) -> Ask:
        """Parents that have (no) children."""
        ch, fk, pa = self.edge()
        lab = pa.label
        none = self.chance(0.78)
        own = self.maybe_where(ch, 0.2)
        p = self.phrase(ch, own)
        one = self.phrase(ch, own, False)
        pn = self.noun(pa)
        verb = self.rng.choice(lx.VERBS)
        if none:
            inner = ("cmp", "=", col(ch, fk), col(pa, pa.pk))
            where = ("exists", Query(ch, [("lit", 1)], where=("and", [inner, own[0]]) if own else inner), True)
            f = self.pick(f"without any {p}", f"that have no {p}", f"with no {p}", f"who never {verb} {p}" if pa.is_people else f"that never had {p}", f"without {p}", f"that do not have any {p}", f"who have not {verb} any {p}" if pa.is_people else f"that were never {verb} in {p}", f"that don't have a {one}", f"which have never had a {one}", f"with zero {p}",
                          f"who haven't {verb} {p}" if pa.is_people else f"lacking {p}", f"that have never {verb} any {p}", f"that are not in any {one}", f"for which there are no {p}")
        else:
            where = ("insub", col(pa, pa.pk), Query(ch, [col(ch, fk)], where=own[0] if own else None), False)
            f = self.pick(f"that have at least one {one}", f"with at least one {one}", f"who have at least one {one}" if pa.is_people else f"having at least one {one}", f"with one or more {p}", f"with any {p}")
        r = self.rng.random()
        if r < 0.2:
            q, select = self.pick(f"How many {pn} {f}?", f"Count the {pn} {f}", f"number of {pn} {f}", f"How many {pn} are there {f}?"), [COUNT]
        elif r < 0.6 and lab:
            q, select = self.pick(f"Which {pn} {f.replace('that have', 'have').replace('with no', 'have no').replace('without any', 'do not have any').replace('who ', '').replace('that ', '').replace('which ', '')}?", f"{self.lead()} the {self.says(lab, pa)} of {pn} {f}", f"What are the {self.says(lab, pa)} of {pn} {f}?", f"Which {pn} {f}?"), [col(pa, lab)]
        else:
            q, select = self.pick(f"{self.lead()} {pn} {f}", f"{self.lead()} all {pn} {f}", f"{pn} {f}"), [("star",)]
        return Ask("sub-query", q, Query(pa, select, where=where))

    def path3(self):
        """(middle, fk_a, A, fk_b, B): a table with two parents; or a chain child -> middle -> top as (child, fk, middle, fk2, top)."""
        forks, chains = [], []
        for t in self.schema.tables:
            fks = [c for c in t.fks() if c.ref in self.schema.tables and c.ref.pk is not None and c.ref is not t]
            forks += [(t, a, a.ref, b, b.ref) for a in fks for b in fks if a is not b and a.ref is not b.ref]
            chains += [(t, a, a.ref, b, b.ref) for a in fks for b in a.ref.fks() if b.ref in self.schema.tables and b.ref.pk is not None and b.ref not in (t, a.ref)]
        if not forks and not chains:
            raise NotApplicable
        if forks and (not chains or self.chance(0.55)):
            return "fork", self.rng.choice(forks)
        return "chain", self.rng.choice(chains)

    def join3(self) -> Ask:
        shape, (m, fa, a, fb, b) = self.path3()
        if shape == "fork":
            joins = [self.on(m, fa, a, m), self.on(m, fb, b, b)]
            start = a
        else:  # m -> a -> b
            joins = [self.on(m, fa, a, a), self.on(a, fb, b, b)]
            start = m
        r = self.rng.random()
        verb = self.rng.choice(lx.VERBS)
        if shape == "fork" and r < 0.45:
            # a's label by b's condition: titles of books borrowed by member X
            la = self.label(a)
            if b.label and self.chance(0.6):
                x = value(b.label, self.rng)
                vx = self.v(x, b.label)
                where, bw = ("cmp", "=", col(b, b.label), ("lit", x)), self.pick(vx, f"{self.noun(b, False)} {vx}", f"the {self.noun(b, False)} {vx}")
            else:
                c = self.conditions(b, 1)
                where, bw = c[0], self.phrase(b, c)
                if where[0] == "cmp" and where[1] == "=" and c[3][0].kind in ("org", "cat", "text") and self.chance(0.5):
                    vx = self.v(where[3][1], c[3][0])
                    bw = self.pick(f"a {vx}", f"any {vx}", f"{vx} {self.noun(b)}", f"a {vx} {self.noun(b, False)}")
            q = self.pick(f"{self.lead()} the {self.says(la, a)} of {self.noun(a)} {verb} by {bw}", f"Which {self.noun(a)} were {verb} by {bw}?", f"Which {self.noun(a)} have {self.noun(m)} with {bw}?", f"{self.lead()} the {self.says(la, a)} of {self.noun(a)} that have a {self.noun(m, False)} for {bw}", f"Which {self.noun(a)} has {bw} {verb}?",
                          f"{self.says(la, a)} of {self.noun(a)} {verb} by {bw}", f"Which {self.noun(a)} are linked to {bw} through {self.noun(m)}?", f"{self.lead()} {self.says(la, a)} of all {self.noun(a)} with {bw}", f"{self.noun(a)} of {bw}", f"Which {self.noun(a)} {verb} {bw}?", f"Which {self.noun(a)} have {verb} {bw}?", f"What {self.noun(a)} did {bw} {self.pick('order', 'get', 'use', 'have', 'buy', 'see', 'treat')}?", f"Which {self.noun(a)} did {bw} {self.pick('order', 'borrow', 'use', 'have', 'buy', 'see', 'teach')}?")
            return Ask("join 3+", q, Query(a, [col(a, la)], distinct=True, joins=joins, where=where))
        if r < 0.6:
            # children count or sum per top label
            top = b
            lt = self.label(top)
            name = self.noun(top, False)
            if self.chance(0.5):
                e, q = COUNT, self.pick(f"How many {self.noun(m)} are there per {name}?", f"{self.lead()} the number of {self.noun(m)} for each {name}", f"number of {self.noun(m)} by {name}", f"Count the {self.noun(m)} of each {name}") if shape == "chain" else self.pick(
                    f"How many {self.noun(a)} does each {name} have through {self.noun(m)}?", f"{self.lead()} the number of {self.noun(m)} per {name} with their {self.noun(a)}", f"For each {name}, count the {self.noun(m)}")
            else:
                c = self.measure(m)
                fn = self.rng.choice(["SUM", "SUM", "AVG", "MAX"])
                e = ("agg", fn, col(m, c), False)
                aw = self.agg_words(fn, c, m)
                q = self.pick(f"What is the {aw} of {self.noun(m)} per {name}?", f"{self.lead()} the {aw} of {self.noun(m)} for each {name}", f"{aw} by {name}", f"{aw} of {self.noun(m)} by {name}", f"For every {name} show the {aw} of {self.noun(m)}")
            if shape == "fork":
                if self.chance(0.5):
                    wa = self.conditions(a, 1)
                    q = f"{q.rstrip('?')} for {self.phrase(a, wa)}"
                    return Ask("join 3+", q, Query(top, [col(top, lt), e], joins=[self.on(m, fb, b, m), self.on(m, fa, a, a)], where=wa[0], group=[col(top, top.pk)]))
                return Ask("join group", q, Query(top, [col(top, lt), e], joins=[self.on(m, fb, b, m)], group=[col(top, top.pk)])) if "with their" not in q and "through" not in q else self.join3()
            stmt = Query(top, [col(top, lt), e], joins=[self.on(a, fb, b, a), self.on(m, fa, a, m)], group=[col(top, top.pk)])
            if self.chance(0.2):
                stmt.order = [(e, "DESC")]
                q = q.rstrip("?") + self.pick(", highest first", ", in descending order", ", most first")
            return Ask("join 3+", q, stmt)
        if r < 0.8:
            # columns of all three
            ca = a.label or self.column(a)
            cb = b.label or self.column(b)
            cm = self.column(m)
            q = self.pick(f"{self.lead()} the {self.say(cm, m)} of {self.noun(m)} with the {self.noun(a, False)} {self.say(ca, a)} and the {self.noun(b, False)} {self.say(cb, b)}", f"For each {self.noun(m, False)}, show the {self.say(cm, m)}, the {self.noun(a, False)} {self.say(ca, a)} and the {self.noun(b, False)} {self.say(cb, b)}",
                          f"{self.lead()} {self.say(cm, m)}, {self.noun(a, False)} {self.say(ca, a)} and {self.noun(b, False)} {self.say(cb, b)} for all {self.noun(m)}")
            jm = [self.on(m, fa, a, a), self.on(m, fb, b, b)] if shape == "fork" else joins
            return Ask("join 3+", q, Query(m, [col(m, cm), col(a, ca), col(b, cb)], joins=jm))
        # children by the far parent's condition
        if shape == "chain":
            if b.label and self.chance(0.6):
                x = value(b.label, self.rng)
                where, bw = ("cmp", "=", col(b, b.label), ("lit", x)), f"{self.pick('', '', 'the ')}{self.noun(b, False) + ' ' if self.chance(0.4) else ''}{self.v(x, b.label)}".replace("the \x01", "\x01")
            else:
                c = self.conditions(b, 1)
                where, bw = c[0], self.phrase(b, c)
            if self.chance(0.45):
                q = self.pick(f"How many {self.noun(m)} are there for {bw}?", f"Count the {self.noun(m)} of {bw}", f"number of {self.noun(m)} for {bw}", f"How many {self.noun(m)} does {bw} have?")
                return Ask("join 3+", q, Query(m, [COUNT], joins=joins, where=where))
            c = m.label if m.label and self.chance(0.5) else self.column(m)
            q = self.pick(f"{self.lead()} the {self.says(c, m)} of {self.noun(m)} of {bw}", f"{self.lead()} the {self.say(c, m)} of all {self.noun(m)} for {bw}", f"What are the {self.says(c, m)} of the {self.noun(m)} for {bw}?", f"{self.says(c, m)} of {self.noun(m)} {verb} by {bw}")
            return Ask("join 3+", q, Query(m, [col(m, c)], joins=joins, where=where))
        return self.join_filter()

    def product_sum(self) -> Ask:
        """SUM(quantity * price), over one table or a join: revenue."""
        pairs = []
        for t in self.schema.tables:
            qty = [c for c in t.data() if c.kind == "int" and (c.head in ("quantity", "count", "units", "copies", "seats", "hours", "days", "stock", "nights", "shares") or c.words.startswith("quantity"))]
            here = [c for c in t.data() if c.kind == "money"]
            pairs += [(t, x, t, y, None) for x in qty for y in here]
            for fk in t.fks():
                if fk.ref in self.schema.tables and fk.ref.pk is not None:
                    pairs += [(t, x, fk.ref, y, fk) for x in qty for y in fk.ref.data() if y.kind == "money"]
        if not pairs:
            raise NotApplicable
        t, x, u, y, fk = self.rng.choice(pairs)
        e = ("agg", "SUM", ("bin", "*", col(t, x), col(u, y)), False)
        joins = [self.on(t, fk, u, u)] if fk else []
        word = self.pick("total revenue", "revenue", "total value", "total turnover", "total sales", "overall revenue", "total amount", f"total {x.words} times {y.words}", f"sum of {x.words} times {y.words}")
        r = self.rng.random()
        if r < 0.35:
            where = self.maybe_where(t, 0.4, [x])
            q = self.pick(f"What is the {word} of {self.phrase(t, where)}?", f"{self.lead()} the {word} of {self.phrase(t, where)}", f"{word} of all {self.phrase(t, where)}", f"{word} from {self.phrase(t, where)}")
            return Ask("arithmetic", q, Query(t, [e], joins=joins, where=where[0] if where else None))
        others = [c for c in t.fks() if c.ref in self.schema.tables and c.ref.pk is not None and c.ref.label and c.ref is not t]
        if fk and self.chance(0.5):
            g = u.label if u.label and self.chance(0.6) else self.group_column(u)
            by = self.noun(u, False) if g is u.label else f"{self.noun(u, False)} {self.say(g, u)}" if self.chance(0.5) else self.say(g, u)
            group, start, sel = ([col(u, u.pk)] if g is u.label else [col(u, g)]), u, col(u, g)
            js = [self.on(t, fk, u, t)]
        elif others:
            o = self.rng.choice(others)
            by, group, sel, start = self.noun(o.ref, False), [col(o.ref, o.ref.pk)], col(o.ref, o.ref.label), o.ref
            js = [self.on(t, o, o.ref, t)] + ([self.on(t, fk, u, u)] if fk and o.ref is not u else [])
        else:
            g = self.group_column(t)
            by, group, sel, start, js = self.say(g, t), [col(t, g)], col(t, g), t, joins
        q = self.pick(f"What is the {word} per {by}?", f"{self.lead()} the {word} for each {by}", f"{word} by {by}", f"{self.lead()} the {word} of {self.noun(t)} by {by}", f"For each {by}, what is the {word}?")
        stmt = Query(start, [sel, e], joins=js, group=group)
        if self.chance(0.25):
            if self.chance(0.4):
                q = self.pick(f"Which {by} has the highest {word}?", f"{self.lead()} the {by} with the highest {word}", f"Which {by} brought in the most revenue?" if "revenue" in word else f"Which {by} has the largest {word}?")
                stmt.select, stmt.order, stmt.limit = [sel], [(e, "DESC")], 1
            else:
                q = q.rstrip("?") + self.pick(", highest first", ", in descending order", ", largest first")
                stmt.order = [(e, "DESC")]
        return Ask("arithmetic", q, stmt)

    # CASE, dates

    def case(self) -> Ask:
        t = self.table()
        c = self.measure(t)
        k = value(c, self.rng)
        pairs = [("high", "low"), ("expensive", "cheap"), ("big", "small"), ("large", "small"), ("good", "bad"), ("yes", "no"), ("long", "short"), ("old", "new"), ("above", "below"), ("premium", "standard"), ("pass", "fail"), ("major", "minor"), ("heavy", "light"), ("A", "B"), ("High", "Low"), ("ok", "critical")]
        hi, lo = self.rng.choice(pairs)
        s = self.say(c, t)
        lab = t.label
        who = f"{self.say(lab, t)} of {self.noun(t)}" if lab else None
        sel = [col(t, lab)] if lab else [col(t, c)]
        first = self.say(lab, t) if lab else s
        a, b = self.v(hi, None, 0.7), self.v(lo, None, 0.7)
        w = self.pick("above", "over", "more than", "greater than", "higher than")
        r = self.rng.random()
        if r < 0.2:
            where = self.condition(t)
            if not where[1]:
                raise NotApplicable
            q = self.pick(f"What percentage of {self.noun(t)} are {where[1]}?", f"What percent of {self.noun(t)} {where[1]}?", f"{self.lead()} the percentage of {self.noun(t)} {where[1]}", f"share of {self.noun(t)} {where[1]} in percent")
            return Ask("case", q, Query(t, [("percent", where[0])]))
        if r < 0.32:
            k2 = value(c, self.rng)
            if k2 == k:
                raise NotApplicable
            lo_k, hi_k = sorted((k, k2))
            mid = self.pick("medium", "middle", "normal")
            e = ("case3", ("cmp", "<", col(t, c), ("lit", lo_k)), lo, ("cmp", "<", col(t, c), ("lit", hi_k)), mid, hi)
            q = self.pick(f"{self.lead()} the {first} of {self.noun(t)} and {b} if the {s} is below {self.v(lo_k, c)}, {self.v(mid, None, 0.7)} if below {self.v(hi_k, c)}, otherwise {a}", f"Classify {self.noun(t)} by {s}: {b} under {self.v(lo_k, c)}, {self.v(mid, None, 0.7)} under {self.v(hi_k, c)}, else {a}. Show the {first} too.")
            return Ask("case", q, Query(t, [*sel, e]))
        e = ("case", ("cmp", ">", col(t, c), ("lit", k)), hi, lo)
        q = self.pick(f"{self.lead()} the {first} of {self.noun(t)} and {a} if {s} is {w} {self.v(k, c)}, otherwise {b}", f"{self.lead()} {first} and label {self.noun(t)} as {a} when the {s} is {w} {self.v(k, c)} and {b} otherwise", f"For each {self.noun(t, False)} show the {first} and whether it is {a} ({s} {w} {self.v(k, c)}) or {b}",
                      f"{self.lead()} {self.noun(t)} with {first} and a label: {a} if {s} > {self.v(k, c)}, else {b}", f"Label every {self.noun(t, False)} {a} if its {s} is {w} {self.v(k, c)}, else {b}; show the {first}")
        return Ask("case", q, Query(t, [*sel, e]))

    def date_group(self) -> Ask:
        t = self.table()
        c = self.column(t, lambda c: c.kind == "date")
        unit = self.pick("month", "month", "year")
        ge = (unit, col(t, c))
        where = self.maybe_where(t, 0.12, [c])
        s = self.say(c, t)
        per = self.pick(f"per {unit}", f"by {unit}", f"for each {unit}", f"per {unit} of {s}", f"by {unit} of {s}", f"each {unit}", f"in each {unit}", {"month": "monthly", "year": "yearly"}[unit])
        if len([o for o in t.data() if o.kind == "date"]) > 1:
            per = self.pick(f"per {unit} of {s}", f"by {unit} of {s}", f"for each {s} {unit}")
        p = self.phrase(t, where)
        if self.chance(0.55):
            e = COUNT
            q = self.pick(f"How many {p} {per}?", f"{self.lead()} the number of {p} {per}", f"Count {p} {per}", f"number of {p} {per}")
        else:
            m = self.measure(t)
            fn = self.rng.choice(["SUM", "SUM", "AVG"])
            e = ("agg", fn, col(t, m), False)
            a = self.agg_words(fn, m, t)
            q = self.pick(f"What is the {a} of {p} {per}?", f"{self.lead()} the {a} {per}" if not where else f"{self.lead()} the {a} of {p} {per}", f"{a} of {p} {per}")
        return Ask("date", q, Query(t, [ge, e], where=where[0] if where else None, group=[ge]))

    def date_filter(self) -> Ask:
        t = self.table(lambda t: any(c.kind == "date" for c in t.data()))
        c = self.column(t, lambda c: c.kind == "date")
        got = self.condition_on(t, c, self.pick("eq", "eq", "cmp", "between"))
        if not got:
            raise NotApplicable
        where = (*got, [c])
        p = self.phrase(t, where)
        if self.chance(0.35):
            return Ask("date", self.pick(f"How many {p}?", f"How many {p} are there?", f"Count the {p}", f"number of {p}", f"How many {self.noun(t)} were {where[1]}?" if where[1].split(" ")[0].endswith("ed") else f"How many {p} are there?"), Query(t, [COUNT], where=where[0]))
        if self.chance(0.2):
            m = self.measure(t)
            fn = self.rng.choice(["SUM", "AVG", "MAX"])
            a = self.agg_words(fn, m, t)
            return Ask("date", self.pick(f"What is the {a} of {p}?", f"{a} of {p}", f"{self.lead()} the {a} of {p}"), Query(t, [("agg", fn, col(t, m), False)], where=where[0]))
        if t.label and self.chance(0.4):
            return Ask("date", self.pick(f"Which {p}?", f"{self.lead()} the {self.says(t.label, t)} of {p}", f"Which {self.noun(t)} were {where[1]}?" if where[1].split(" ")[0].endswith("ed") else f"Which {p}?"), Query(t, [col(t, t.label)], where=where[0]))
        return Ask("date", self.pick(f"{self.lead()} all {p}", f"{self.lead()} {p}", p, f"{self.lead()} the {p}"), Query(t, where=where[0]))

    def days_between(self) -> Ask:
        t = self.table()
        a = self.column(t, lambda c: c.kind == "date")
        b = self.column(t, lambda c: c.kind == "date", [a])
        e = ("days", col(t, b), col(t, a))
        lab = t.label
        sel = [col(t, lab)] if lab else []
        f = f"the {self.say(lab, t)} and " if lab else ""
        return Ask("date", self.pick(f"{self.lead()} {f}the number of days between {self.say(a, t)} and {self.say(b, t)} for {self.noun(t)}", f"{self.lead()} {f}the days from {self.say(a, t)} to {self.say(b, t)} of each {self.noun(t, False)}"), Query(t, [*sel, e]))

    def list_agg(self) -> Ask:
        t = self.table()
        g = self.group_column(t)
        lab = self.label(t)
        return Ask("group", self.pick(f"{self.lead()} each {self.say(g, t)} with a comma separated list of {self.says(lab, t)} of {self.noun(t)}", f"For each {self.say(g, t)}, list the {self.says(lab, t)} of {self.noun(t)} separated by commas", f"concatenate the {self.says(lab, t)} of {self.noun(t)} per {self.say(g, t)}"), Query(t, [col(t, g), ("list", col(t, lab))], group=[col(t, g)]))

    # Writing

    def insert(self) -> Ask:
        t = self.table()
        cols = [c for c in t.data()]
        if t.label and t.label in cols and self.chance(0.9):
            first = t.label
            rest = [c for c in cols if c is not first]
            self.rng.shuffle(rest)
            cols = [first, *rest[: self.rng.randint(1, 4)]]
        else:
            self.rng.shuffle(cols)
            cols = cols[: self.rng.randint(1, 4)]
        fks = [c for c in t.fks()]
        if fks and self.chance(0.3):
            cols.append(self.rng.choice(fks))
        if t.pk is not None and self.chance(0.12):
            cols.insert(0, t.pk)
        vals = [value(c, self.rng) for c in cols]
        def vv(x, c):
            if c.kind == "bool":
                return self.pick("true", "yes", "1") if x else self.pick("false", "no", "0")
            return self.v(x, c, unit=False)
        n = self.noun(t, False)
        style = self.rng.random()
        if style < 0.45:
            pairs = [f"{self.say(c, t)} {vv(x, c)}" for x, c in zip(vals, cols)]
            body = join_and(pairs) if self.chance(0.6) else ", ".join(pairs)
            q = self.pick(f"Add a new {n} with {body}", f"Insert a {n} with {body}", f"Create a new {n}: {body}", f"Add a {n}: {body}", f"Insert into {t.ident}: {body}", f"Register a new {n} with {body}", f"Please add a {n} with {body}", f"I want to add a {n} with {body}", f"Store a new {n} with {body}", f"new {n}: {body}")
        elif style < 0.7:
            body = ", ".join(f"{self.say(c, t)}{self.pick('=', ': ', ' = ')}{vv(x, c)}" for x, c in zip(vals, cols))
            q = self.pick(f"Add a row to {t.ident} with {body}", f"Insert a new {n} ({body})", f"insert into {self.noun(t)}: {body}", f"Add {n} {body}")
        elif cols[0] is t.label:
            place = next(((x, c) for x, c in zip(vals, cols) if c.kind in ("city", "country") and c is not cols[0]), None)
            rest = [(x, c) for x, c in list(zip(vals, cols))[1:]]
            if place and self.chance(0.6):
                rest.remove(place)
                others = join_and([f"{self.pick('', 'the ')}{self.say(c, t)} {vv(x, c)}" for x, c in rest])
                cols = [cols[0], place[1], *(c for _, c in rest)]
                vals = [vals[0], place[0], *(x for x, _ in rest)]
                q = self.pick(f"Add a {n} {self.pick('called', 'named')} {vv(vals[0], cols[0])} from {vv(*place)}", f"Add {vv(vals[0], cols[0])} from {vv(*place)} to {self.noun(t)}", f"Insert {n} {vv(vals[0], cols[0])} from {vv(*place)}", f"New {n}: {vv(vals[0], cols[0])} in {vv(*place)}") + (self.pick(" with ", ", ") + others if rest else "")
                return Ask("insert", q, Insert(t, cols, vals))
            pairs = [f"{self.say(c, t)} {vv(x, c)}" for x, c in list(zip(vals, cols))[1:]]
            q = self.pick(f"Add {n} {vv(vals[0], cols[0])} with {join_and(pairs)}", f"Add a {n} named {vv(vals[0], cols[0])} with {join_and(pairs)}", f"Insert a {n} called {vv(vals[0], cols[0])}, {', '.join(pairs)}", f"Add {vv(vals[0], cols[0])} to {self.noun(t)} with {join_and(pairs)}", f"Create a {n} called {vv(vals[0], cols[0])} with {join_and(pairs)}") if pairs else f"Add a {n} named {vv(vals[0], cols[0])}"
        else:
            pairs = [f"{vv(x, c)} as {self.say(c, t)}" for x, c in zip(vals, cols)]
            q = self.pick(f"Add a new {n} with {join_and(pairs)}", f"Insert a {n} having {join_and(pairs)}")
        return Ask("insert", q, Insert(t, cols, vals))

    def update(self) -> Ask:
        t = self.table()
        c = self.column(t)
        s = self.say(c, t)
        everything = self.chance(0.06)
        lab = t.label
        if everything:
            where, who = None, self.pick(f"all {self.noun(t)}", f"every {self.noun(t, False)}")
        elif lab and lab is not c and self.chance(0.45):
            x = value(lab, self.rng)
            where, vx = ("cmp", "=", col(t, lab), ("lit", x)), self.v(x, lab)
            who = self.pick(vx, f"{self.noun(t, False)} {vx}", f"the {self.noun(t, False)} {vx}", f"the {self.noun(t, False)} named {vx}")
        elif t.pk is not None and self.chance(0.3):
            x = self.rng.randint(1, 60)
            where, who = ("cmp", "=", col(t, t.pk), ("lit", x)), self.pick(f"{self.noun(t, False)} {x}", f"the {self.noun(t, False)} with id {x}", f"{self.noun(t, False)} number {x}", f"{self.noun(t, False)} #{x}")
        else:
            w = self.conditions(t, avoid=[c])
            where, who = w[0], self.pick("all ", "", "the ") + self.phrase(t, w)
        if c.numeric and self.chance(0.4):
            r = self.rng.random()
            if r < 0.5:
                p = self.rng.choice([5, 10, 15, 20, 25, 50])
                up = self.chance(0.7)
                f = round(1 + p / 100 if up else 1 - p / 100, 2)
                e = ("bin", "*", col(t, c), ("lit", f))
                if c.head in ("salary", "wage", "pay", "price", "cost", "fee") and self.chance(0.4):
                    pay = c.head in ("salary", "wage", "pay")
                    q = self.pick(f"Give {who} a {p}% {'raise' if pay else 'price increase'}", f"Give {who} a {'raise' if pay else 'price increase'} of {p}%") if up else self.pick(f"Give {who} a {p}% {'pay cut' if pay else 'discount'}", f"Give {who} a {'pay cut' if pay else 'discount'} of {p} percent")
                else:
                    q = self.pick(f"{'Increase' if up else 'Decrease'} the {s} of {who} by {p}%", f"{'Raise' if up else 'Reduce'} the {s} of {who} by {p} percent", f"{'Raise' if up else 'Lower'} {s} by {p}% for {who}", f"{'Increase' if up else 'Cut'} {s} of {who} by {p}%")
            elif r < 0.85:
                k = self.rng.choice([1, 1, 2, 5, 10, 50, 100, 500])
                up = self.chance(0.65)
                e = ("bin", "+" if up else "-", col(t, c), ("lit", k))
                q = self.pick(f"{'Increase' if up else 'Decrease'} the {s} of {who} by {self.v(k)}", f"{'Add' if up else 'Subtract'} {self.v(k)} {'to' if up else 'from'} the {s} of {who}", f"{'Raise' if up else 'Lower'} the {s} by {self.v(k)} for {who}")
            else:
                e = ("bin", "*", col(t, c), ("lit", 2))
                q = f"Double the {s} of {who}"
            return Ask("update", q, Update(t, [(c, e)], where))
        if c.kind == "bool" and self.chance(0.45):
            bare = re.sub(r"^(is|has) ", "", c.words)
            yes = self.chance(0.75) or c.words.startswith("has ")
            if not c.words.startswith("has "):
                return Ask("update", self.pick(f"Mark {who} as {'' if yes else 'not '}{bare}", f"{who} {self.pick('is', 'are')} {'now' if yes else 'no longer'} {bare}", f"Set {who} to {'' if yes else 'not '}{bare}", f"Flag {who} as {'' if yes else 'not '}{bare}"), Update(t, [(c, ("lit", 1 if yes else 0))], where))
        if c.kind == "cat" and self.chance(0.3) and (c.words in ("status", "state") or len([o for o in t.data() if o.kind == "cat"]) == 1):
            x = value(c, self.rng)
            return Ask("update", self.pick(f"Mark {who} as {self.v(x, c)}", f"Set {who} to {self.v(x, c)}", f"{who} {self.pick('is', 'are')} now {self.v(x, c)}", f"Change {who} to {self.v(x, c)}", f"Make {who} {self.v(x, c)}"), Update(t, [(c, ("lit", x))], where))
        sets = [(c, value(c, self.rng))]
        if self.chance(0.15):
            c2 = self.column(t, avoid=[c, *([lab] if lab else [])])
            sets.append((c2, value(c2, self.rng)))
        if len(sets) == 1 and not c.numeric and c.kind not in ("bool", "year") and self.chance(0.07):
            return Ask("update", self.pick(f"Clear the {s} of {who}", f"Remove the {s} of {who}", f"Set the {s} of {who} to null", f"Set {s} to NULL for {who}"), Update(t, [(c, ("lit", None))], where))
        def vv(x, c):
            return (self.pick("true", "yes", "1") if x else self.pick("false", "no", "0")) if c.kind == "bool" else self.v(x, c)
        body = join_and([f"the {self.say(k, t)}{{}} to {vv(x, k)}" for k, x in sets])
        first = body.replace("{}", f" of {who}", 1).replace("{}", "")
        plain = body.replace("{}", "")
        q = self.pick(f"Set {first}", f"Change {first}", f"Update {first}", f"For {who}, set {plain}", f"Set {plain} for {who}", f"Change {plain} for {who}", f"Update {who}: set {plain}", f"Update {who} and set {plain}", f"Make {vv(sets[0][1], c)} the {s} of {who}" if len(sets) == 1 else f"Set {first}", f"Please set {first}")
        return Ask("update", q, Update(t, [(k, ("lit", x)) for k, x in sets], where))

    def delete(self) -> Ask:
        t = self.table()
        r = self.rng.random()
        verb = self.pick("Delete", "Remove", "Erase", "Delete", "Drop", "Get rid of", "Please delete", "Please remove")
        if r < 0.05:
            return Ask("delete", self.pick(f"Delete all {self.noun(t)}", f"Remove all rows from {t.ident}", f"Empty the {t.ident} table", f"Clear the table {t.ident}", f"{verb} every {self.noun(t, False)}"), Delete(t, None))
        lab = t.label
        if lab and r < 0.25:
            x = value(lab, self.rng)
            vx = self.v(x, lab)
            return Ask("delete", f"{verb} {self.pick(vx, f'the {self.noun(t, False)} {vx}', f'{self.noun(t, False)} {vx}', f'the {self.noun(t, False)} named {vx}')}{self.pick('', '', f' from {self.noun(t)}')}", Delete(t, ("cmp", "=", col(t, lab), ("lit", x))))
        if t.pk is not None and r < 0.4:
            x = self.rng.randint(1, 60)
            return Ask("delete", f"{verb} {self.pick(f'{self.noun(t, False)} {x}', f'the {self.noun(t, False)} with id {x}', f'{self.noun(t, False)} number {x}', f'{self.noun(t, False)} #{x}')}", Delete(t, ("cmp", "=", col(t, t.pk), ("lit", x))))
        if r < 0.48:
            try:
                ch, fk, pa = self.edge()
                if ch.pk is not None and pa.label:
                    inner = ("cmp", "=", col(ch, fk), col(pa, pa.pk))
                    return Ask("delete", self.pick(f"{verb} {self.noun(pa)} without {self.noun(ch)}", f"{verb} all {self.noun(pa)} that have no {self.noun(ch)}"), Delete(pa, ("exists", Query(ch, [("lit", 1)], where=inner), True)))
            except NotApplicable:
                pass
        w = self.conditions(t)
        return Ask("delete", f"{verb} {self.pick('all ', '', 'the ', 'all the ')}{self.phrase(t, w)}" if self.chance(0.75) else f"{verb} {self.pick('every', 'each', 'any')} {self.phrase(t, w, False)}", Delete(t, w[0]))

    CREATE_HEADS = {"int": ["age", "quantity", "stock", "year", "count", "capacity", "pages", "floor", "level", "points", "seats"], "money": ["price", "cost", "amount", "salary", "budget", "fee", "total", "balance"], "real": ["rating", "weight", "height", "length", "score", "distance", "temperature", "area"],
                    "date": ["date", "birth date", "start date", "end date", "order date", "due date", "hire date"], "text": ["name", "title", "email", "city", "country", "phone", "address", "description", "status", "category", "color", "notes", "type", "author", "genre"], "bool": ["is active", "active", "paid", "available", "verified", "completed"]}
    SAID_TYPES = {"int": ["integer", "int", "whole number", "number"], "money": ["decimal", "real", "money"], "real": ["real", "float", "decimal"], "date": ["date"], "text": ["text", "string", "varchar"], "bool": ["boolean", "bool", "true/false"]}

    def create(self) -> Ask:
        r = self.rng.random()
        t = None if r < 0.7 or not self.schema.tables else self.table()
        if t is not None:
            return self.alter(t)
        thing = self.gated(lambda: self.rng.choice(["customer", "book", "car", "invoice", "student", "movie", "city", "task", "note", "supplier"]) if self.chance(0.3) else words_for(self.rng))
        name = spell(plural(thing) if self.chance(0.7) else thing, "snake")
        named = name if self.chance(0.6) else (plural(thing) if "_" in name or name.endswith("s") else thing)
        cols, said = [], []
        used = set()
        for _ in range(self.rng.randint(2, 6)):
            kind = self.rng.choice(list(self.CREATE_HEADS))
            head = self.rng.choice(self.CREATE_HEADS[kind])
            explicit = self.chance(0.4)
            words = head
            if explicit and self.chance(0.6):
                words = self.gated(lambda: words_for(self.rng)) if self.chance(0.5) else f"{self.rng.choice(lx.NOUNS)} {head}"
            elif self.chance(0.2) and not explicit:
                words = f"{self.rng.choice(lx.NOUNS)} {head}"
            if words in used:
                continue
            used.add(words)
            ident = spell(words, "snake")
            extra, req = "", ""
            if self.chance(0.1):
                extra, req = " NOT NULL", self.pick(" (required)", " not null", " (mandatory)")
            kind_out = kind
            cols.append((quote(ident), kind_out, extra))
            st = self.rng.choice(self.SAID_TYPES[kind]) if explicit else ""
            said.append((self.pick(f"{words} ({st})", f"{words} {st}", f"{words} as {st}", f"{words}: {st}") if explicit else (ident if self.chance(0.3) else words)) + req)
        if not cols:
            raise NotApplicable
        body = join_and(said) if self.chance(0.6) else ", ".join(said)
        has_id = self.chance(0.75)
        if has_id:
            cols.insert(0, ("id", "id", ""))
            body = self.pick(f"id, {body}", f"an id, {body}", f"id as primary key, {body}", f"an id and {body}" if len(said) == 1 else f"id, {body}")
        q = self.pick(f"Create a table {named} with {body}", f"Create a table for {plural(thing)} with {body}", f"Make a new table called {name} with columns {body}", f"create table {name}: {body}", f"I need a table {name} with {body}", f"Create a {name} table with the columns {body}", f"Write the CREATE TABLE for {name} with {body}", f"Add a table named {name} with {body}")
        if "for " + plural(thing) in q or named != name:
            name = spell(plural(thing), "snake") if ("for " + plural(thing) in q or named == plural(thing)) else spell(thing, "snake")
        return Ask("create", q, Create(quote(name), cols))

    def gated(self, make) -> str:
        """A made-up name of this side of the split."""
        while not allowed(norm(name := make()), "train"):
            pass
        return name

    def alter(self, t: Table) -> Ask:
        r = self.rng.random()
        tn = quote(t.ident)
        if r < 0.4:
            kind = self.rng.choice(list(self.CREATE_HEADS))
            head = self.rng.choice(self.CREATE_HEADS[kind])
            words = head if self.chance(0.6) else f"{self.rng.choice(lx.NOUNS)} {head}"
            ident = quote(spell(words, self.schema.style if self.schema.style != "title" else "snake"))
            types = {"int": ("INTEGER",), "money": ("REAL", "NUMERIC(10, 2)"), "real": ("REAL", "DOUBLE PRECISION"), "date": ("DATE",), "text": ("TEXT",), "bool": ("BOOLEAN",)}[kind]
            explicit = self.chance(0.5)
            said = f"{words} ({self.rng.choice(self.SAID_TYPES[kind])})" if explicit else words
            return Ask("create", self.pick(f"Add a column {said} to {self.noun(t)}", f"Add a {said} column to the {t.ident} table", f"{self.noun(t)} need a new column {said}"), Raw(f"ALTER TABLE {tn} ADD COLUMN {ident} {types[0]};", f"ALTER TABLE {tn} ADD COLUMN {ident} {types[-1]};"))
        if r < 0.55:
            return Ask("create", self.pick(f"Drop the table {t.ident}", f"Delete the whole table {t.ident}", f"Drop table {t.ident}", f"Remove the {t.ident} table from the database"), Raw(f"DROP TABLE {tn};"))
        c = self.column(t)
        if r < 0.85:
            ix = spell(f"idx {t.ident} {c.ident}".lower().replace("_", " "), "snake")
            return Ask("create", self.pick(f"Create an index on {self.say(c, t)} of {self.noun(t)}", f"Add an index on {t.ident}.{c.ident}", f"Index the {self.say(c, t)} column of {t.ident}"), Raw(f"CREATE INDEX {quote(ix)} ON {tn} ({quote(c.ident)});"))
        new = quote(spell(words_for(self.rng), self.schema.style if self.schema.style != "title" else "snake"))
        return Ask("create", self.pick(f"Rename the column {c.ident} of {t.ident} to {new}", f"Rename {c.ident} to {new} in {t.ident}"), Raw(f"ALTER TABLE {tn} RENAME COLUMN {quote(c.ident)} TO {new};"))


KINDS = {"select_all": 2.5, "select_columns": 5, "filtered": 11, "filter_cmp": 4, "filter_between": 2.2, "filter_in": 2.5, "filter_like": 3, "filter_null": 2.2, "filter_logic": 4, "filter_not": 1.5, "lookup": 5, "order": 4, "top": 8, "first_rows": 0.8,
         "second": 1.2, "count": 6, "aggregate": 6, "distinct": 4, "group": 6, "group_top": 3.5, "having": 3, "arithmetic": 1.2, "column_vs_column": 0.8, "above_average": 3, "extreme_all": 0.8, "compare_to_row": 1.5, "join_columns": 6.5, "join_all": 1.4, "join_filter": 13,
         "join_parents": 6.5, "lookup_parent": 4, "join_group": 13, "join_top": 8.5, "join_having": 5.5, "without": 6.5, "join3": 26, "product_sum": 3.5, "case": 2.5, "date_group": 3, "date_filter": 4, "days_between": 0.5, "list_agg": 0.4, "insert": 4,
         "update": 4, "delete": 3, "create": 3}


def ask(rng: random.Random, schema: Schema) -> Ask:
    asker = Asker(rng, schema)
    while True:
        name = rng.choices(list(KINDS), list(KINDS.values()))[0]
        try:
            return getattr(asker, name)()
        except NotApplicable:
            continue


# Noise

def _segments(text: str) -> list[tuple[bool, str]]:
    return [(p.startswith("\x01"), p.strip("\x01\x02")) for p in re.split(r"(\x01[^\x02]*\x02)", text) if p]


def _typo(word: str, rng: random.Random) -> str:
    if len(word) < 4:
        return word
    i = rng.randint(1, len(word) - 2)
    return rng.choice([word[:i] + word[i + 1] + word[i] + word[i + 2:], word[:i] + word[i + 1:], word[:i] + word[i] + word[i:]])


def finish(question: str, rng: random.Random, plain: bool = False) -> str:
    """The question as typed: case, punctuation, politeness, typos; values stay as they are."""
    question = re.sub(r"\s+", " ", question).strip()
    question = question[0].upper() + question[1:] if rng.random() < 0.75 else question
    end = question[-1] in "?.!"
    r = rng.random()
    if end and r < 0.25:
        question = question[:-1]
    elif not end and r < 0.35:
        question += "."
    if not plain and rng.random() < 0.07:
        question = f"{question.rstrip('?.')}{rng.choice([', ', ' '])}{rng.choice(lx.POLITE_SUFFIX)}{rng.choice(['', '?', '.', '!'])}"
    if not plain and rng.random() < 0.07:
        question = f"{rng.choice(lx.CHITCHAT_PREFIX)} {question}"
    elif not plain and rng.random() < 0.03:
        question = f"please {question[0].lower()}{question[1:]}"
    parts = _segments(question)
    r = rng.random()
    if r < 0.15:
        parts = [(v, x if v else x.lower()) for v, x in parts]
    elif r < 0.175:
        parts = [(v, x if v else x.upper()) for v, x in parts]
    if rng.random() < 0.07:
        for _ in range(rng.choice([1, 1, 2])):
            i = rng.randrange(len(parts))
            if not parts[i][0]:
                words = parts[i][1].split(" ")
                j = rng.randrange(len(words))
                if words[j].isalpha():
                    words[j] = _typo(words[j], rng)
                parts[i] = (False, " ".join(words))
    return "".join(x for _, x in parts)
