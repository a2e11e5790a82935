"""Random database schemas: tables, columns, naming styles, DDL text and rows.

The split: names of the test set are those of domains.HELD_OUT plus invented names whose hash falls in the held-out sixteenth;
`allowed` is the one gate for both sides, and check_split.py proves it.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass, field

import domains
import lexicon as lx

PLURALS = {"person": "people", "child": "children", "man": "men", "woman": "women", "mouse": "mice", "goose": "geese", "shelf": "shelves", "leaf": "leaves", "wolf": "wolves", "loaf": "loaves",
           "knife": "knives", "calf": "calves", "half": "halves", "species": "species", "sheep": "sheep", "deer": "deer", "fish": "fish", "series": "series", "staff": "staff", "foot": "feet", "tooth": "teeth"}


def plural(word: str) -> str:
    *rest, last = word.split(" ")
    if last in PLURALS:
        last = PLURALS[last]
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif last.endswith(("s", "x", "ch", "sh", "z")):
        last += "es"
    else:
        last += "s"
    return " ".join([*rest, last])


def norm(ident: str) -> str:
    return re.sub(r"[^a-z0-9]", "", ident.lower())


@dataclass(eq=False)
class Column:
    words: str                 # as a person says it: "unit price"
    kind: str                  # text person words cat int money real date year bool city country state org email phone pct id fk
    values: list[str] = field(default_factory=list)  # of a category
    ident: str = ""
    ref: "Table | None" = None
    sql_type: str = ""
    not_null: bool = False

    @property
    def head(self) -> str:
        return self.words.split(" ")[-1]

    @property
    def numeric(self) -> bool:
        return self.kind in ("int", "money", "real", "pct")

    @property
    def textual(self) -> bool:
        return self.kind in ("text", "person", "words", "cat", "city", "country", "state", "org", "email", "phone")


@dataclass(eq=False)
class Table:
    sing: str
    columns: list[Column] = field(default_factory=list)
    ident: str = ""
    pk: Column | None = None

    @property
    def plur(self) -> str:
        return plural(self.sing)

    @property
    def label(self) -> Column | None:
        for c in self.columns:
            if c.kind in ("text", "person", "org") and c.head in ("name", "title", "label", "nickname", "username", "troupe", "model", "musher", "theme"):
                return c
        for c in self.columns[:3]:
            if c.kind in ("text", "org") or (c.kind in ("city", "country") and c.head == "name"):
                return c
        return None

    @property
    def is_people(self) -> bool:
        return any(c.kind == "person" and c.head in ("name", "musher") for c in self.columns[:3])

    def fks(self) -> list[Column]:
        return [c for c in self.columns if c.kind == "fk" and c.ref is not None]

    def data(self) -> list[Column]:
        return [c for c in self.columns if c.kind not in ("fk", "id")]


@dataclass(eq=False)
class Schema:
    tables: list[Table]
    ddl: str = ""
    style: str = "snake"
    keys: bool = False  # the DDL must state the foreign keys

    def identifiers(self) -> set[str]:
        return {norm(i) for t in self.tables for i in [t.ident, *(c.ident for c in t.columns)]}


CODES = {"t": "text", "p": "person", "w": "words", "n": "int", "m": "money", "f": "real", "d": "date", "y": "year", "b": "bool", "ci": "city", "co": "country", "st": "state", "org": "org",
         "e": "email", "ph": "phone", "pc": "pct"}
INFER: dict[str, str] = {}
for _kind, _code in (("int", "int"), ("real", "real"), ("money", "money"), ("date", "date"), ("year", "year"), ("city", "city"), ("country", "country"), ("pct", "pct"), ("person", "person")):
    INFER.update({w: _code for w in lx.HEADS[_kind]})
INFER.update({"name": "text", "title": "text", "email": "email", "phone": "phone", "model": "text", "rank": "int", "estimate": "int", "balance": "money", "premium": "money", "rate": "pct", "points": "int",
              "value": "money", "score": "int", "rating": "real", "stars": "int", "magnitude": "real", "hours": "int", "paid": "bool", "lost": "int", "capacity": "int", "power": "int"})


def parse(text: str) -> list[list[tuple[str, list[tuple[str, str, list[str], str]]]]]:
    """One list of (table, [(column words, kind, categories, parent)]) a domain."""
    out = []
    for line in text.strip().split("\n"):
        tables = []
        for name, body in re.findall(r"(\w+)\(([^)]*)\)", line):
            cols = []
            for item in body.split(","):
                item = item.strip()
                if item.endswith(">"):
                    cols.append((item[:-1].replace("_", " ") + " id", "fk", [], item[:-1]))
                    continue
                col, _, code = item.partition(":")
                words = col.replace("_", " ")
                cats = code[2:].split("|") if code.startswith("c=") else []
                kind = "cat" if cats else CODES[code] if code else INFER.get(words.split(" ")[-1], "words")
                cols.append((words, kind, cats, ""))
            tables.append((name.replace("_", " "), cols))
        out.append(tables)
    return out


TRAIN_DOMAINS = parse(domains.TRAIN)
TEST_DOMAINS = parse(domains.HELD_OUT)


def _names(parsed: list) -> set[str]:
    out = set()
    for tables in parsed:
        for t, cols in tables:
            out |= {norm(t), norm(plural(t)), norm(t + "id")} | {norm(c) for c, *_ in cols}
    return out


TEST_NAMES = _names(TEST_DOMAINS)
TRAIN_NAMES = _names(TRAIN_DOMAINS)
SHARED = {"id"}  # the one column name that both sides use


def held_out_hash(name: str) -> bool:
    return hashlib.sha1(name.encode()).digest()[0] % 16 == 0


def allowed(name: str, split: str) -> bool:
    """Whether a normalised identifier may appear in a schema of this split ("train" or "test")."""
    if name in SHARED:
        return True
    if split == "train":
        return name not in TEST_NAMES and (name in TRAIN_NAMES or not held_out_hash(name))
    return name not in TRAIN_NAMES and (name in TEST_NAMES or held_out_hash(name))


SYL_A = "b br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sc sh sk sl sm sn sp st str t th tr v w wh y z zh".split()
SYL_V = "a e i o u ai ea ee io oa oo ou a e i o u".split()
SYL_E = ["", "", "", "n", "r", "l", "m", "s", "t", "k", "x", "nd", "rk", "st", "lm", "ck", "th", "ng", "p", "d"]


PIECES: list[str] = []  # lower-case entries of the tokenizer (data.py sets them): words of every piece are then met in training


def pseudo_word(rng: random.Random, n: int | None = None) -> str:
    """A word that no list holds: syllables, English-looking parts, a word gone wrong, or random pieces of the tokenizer."""
    r = rng.random()
    if r < 0.16:  # a list's word with another beginning, middle or end
        w, i = rng.choice(lx.NOUNS), rng.randint(0, 3)
        part = rng.choice(PIECES) if PIECES and rng.random() < 0.4 else rng.choice(SYL_A)
        return part + w[i:] if i < 2 else w[:-i] + part + rng.choice(["", "e", "s", "a"]) if rng.random() < 0.6 else w[:i] + part + w[i + 1:]
    if r < 0.4 and PIECES:
        return "".join(rng.choice(PIECES) for _ in range(rng.choice([1, 2, 2, 3])))
    if r < 0.7:
        return (rng.choice(lx.PREFIXES) if rng.random() < 0.4 else "") + rng.choice(lx.ROOTS) + (rng.choice(lx.ROOTS) if rng.random() < 0.25 else "") + rng.choice(lx.SUFFIXES) + (rng.choice(lx.SUFFIXES) if rng.random() < 0.2 else "")
    return "".join(rng.choice(SYL_A) + rng.choice(SYL_V) + (rng.choice(SYL_E) if i or rng.random() < 0.5 else "") for i in range(n or rng.choice([1, 2, 2, 3])))


def words_for(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.20:
        return rng.choice(lx.NOUNS)
    if r < 0.34:
        return f"{rng.choice(lx.NOUNS)} {rng.choice(lx.NOUNS)}"
    if r < 0.46:
        return f"{rng.choice(lx.ADJ)} {rng.choice(lx.NOUNS)}"
    if r < 0.76:
        return pseudo_word(rng)
    if r < 0.82:
        return f"{pseudo_word(rng)} {pseudo_word(rng)}"
    return f"{pseudo_word(rng)} {rng.choice(lx.NOUNS)}" if r < 0.91 else f"{rng.choice(lx.NOUNS)} {pseudo_word(rng)}"


def kin(word: str, rng: random.Random) -> str:
    """Another word with the same beginning: "picker" for "picked". Names that begin alike must not be mixed up."""
    stem = re.sub(r"(er|ed|ing|ist|ion|s|e|y)$", "", word)
    return (stem if len(stem) > 2 else word) + rng.choice(["er", "ed", "ing", "ist", "ion", "s", "al", "ment", "age", "et", ""])


def shared_words(rng: random.Random) -> str:
    """What the names of a schema's tables have in common: "escape" of escape_room and escape_group."""
    return rng.choice([rng.choice(lx.NOUNS), rng.choice(lx.NOUNS), pseudo_word(rng), rng.choice(lx.ADJ)])


def like_table(common: str, rng: random.Random) -> str:
    """A table's name that begins with `common`."""
    r = rng.random()
    if r < 0.6:
        return f"{common} {rng.choice(lx.NOUNS) if rng.random() < 0.75 else pseudo_word(rng)}"
    return kin(common, rng) if r < 0.8 else f"{kin(common, rng)} {rng.choice(lx.NOUNS)}" if r < 0.9 else common


def invented_column(rng: random.Random, split: str) -> Column:
    while True:
        c = _invented_column(rng)
        if allowed(norm(c.words), split):
            return c


def _invented_column(rng: random.Random) -> Column:
    kind = rng.choices(["text", "words", "cat", "int", "money", "real", "date", "bool", "year", "city", "country", "person", "pct"], [14, 6, 16, 15, 10, 10, 12, 5, 3, 3, 2, 6, 2])[0]
    modifier = words_for(rng) if rng.random() < 0.7 else rng.choice(lx.NOUNS)
    values: list[str] = []
    if kind == "bool":
        words = rng.choice([f"is {rng.choice(lx.BOOL_WORDS)}", f"has {rng.choice(lx.NOUNS)}", rng.choice(lx.BOOL_WORDS), f"is {rng.choice(lx.ADJ)}", rng.choice(lx.PARTICIPLES), rng.choice(lx.ADJ)])
    elif kind == "date":
        words = rng.choice([f"{rng.choice(lx.DATE_WORDS)} date", f"{modifier} date", f"{rng.choice(lx.PARTICIPLES)} {rng.choice(['on', 'on', 'at', 'date', 'day'])}", rng.choice(lx.PARTICIPLES), f"{rng.choice(lx.NOUNS)} day"])
    elif kind == "year" and rng.random() < 0.6:
        words = rng.choice([rng.choice(lx.PARTICIPLES), f"{rng.choice(lx.PARTICIPLES)} in", f"{rng.choice(lx.PARTICIPLES)} year", f"year {rng.choice(lx.PARTICIPLES)}"])
    elif kind == "person" and rng.random() < 0.5:
        words = rng.choice(list(lx.PERSON_VERBS))
    elif kind == "words":
        words = modifier
    else:
        head = rng.choice(lx.HEADS[kind] if rng.random() < 0.6 else lx.MORE_HEADS[kind])
        words = head if rng.random() < 0.2 else f"{modifier} {head}"
        if kind in ("int", "real", "money", "text", "cat") and rng.random() < 0.25:
            words = modifier
    if kind in lx.UNIT_WORDS and rng.random() < 0.14 and kind != "bool":
        words = f"{words} {rng.choice(lx.UNIT_WORDS[kind])}"
    if kind == "cat":
        n = rng.randint(2, 5)
        values = rng.sample(lx.CATEGORY_WORDS, n) if rng.random() < 0.6 else [pseudo_word(rng) if rng.random() < 0.5 else rng.choice(lx.NOUNS) for _ in range(n)]
        case = rng.choice([str, str, str.title, str.upper])
        values = sorted({case(v) for v in values})
    return Column(words, kind, values)


def invented_table(rng: random.Random, split: str, common: str | None = None) -> Table:
    """A table whose name, plural and key are of this split."""
    while True:
        t = Table(like_table(common, rng) if common else words_for(rng))
        if all(allowed(norm(n), split) for n in (t.sing, t.plur, t.sing + " id")):
            return t


def label_words(t: Table, rng: random.Random) -> str:
    """What a row of a table is called by: "name", "wheel label", "keeper name", now and then a word of its own."""
    head = rng.choice(["name", "name", "title", "label", "nickname", "username", "theme", "model"])
    own = rng.choice([t.sing, t.sing.split(" ")[-1], t.sing.split(" ")[0], kin(t.sing.split(" ")[-1], rng), rng.choice(lx.NOUNS)])
    return rng.choice(["name", "name", "name", "title", head, "full name", f"{own} {head}", f"{own} {head}", f"{own} {head}", f"{own} {rng.choice(['tag', 'heading', 'text', 'caption'])}", words_for(rng)])


def invented_tables(rng: random.Random, n: int, split: str) -> list[Table]:
    tables: list[Table] = []
    common = shared_words(rng) if n > 1 and rng.random() < 0.35 else None
    for _ in range(n):
        t = invented_table(rng, split, common if rng.random() < 0.75 else None)
        if rng.random() < 0.75:
            label = label_words(t, rng) if split == "train" else f"{words_for(rng)} name"
            if allowed(norm(label), split):
                t.columns.append(Column(label, rng.choice(["text", "text", "person"])))
        t.columns += [invented_column(rng, split) for _ in range(rng.randint(2, 6))]
        if rng.random() < 0.4:  # columns that begin like their table or like each other
            for c in t.columns[1:]:
                if c.kind not in ("fk", "bool") and rng.random() < 0.4:
                    like = rng.choice([t.sing.split(" ")[-1], rng.choice(t.columns).words.split(" ")[0]])
                    words = " ".join([kin(like, rng) if rng.random() < 0.5 else like, *(c.words.split(" ")[1:] or [rng.choice(["name", "count", "kind", "code", "total", "place", "on"])])])
                    if allowed(norm(words), split) and norm(words) not in {norm(o.words) for o in t.columns}:
                        c.words = words
        if tables and rng.random() < 0.93:
            parents = rng.sample(tables, 1 if len(tables) == 1 or rng.random() < 0.55 else 2)
            t.columns += [Column(p.sing + " id", "fk", ref=p) for p in parents]
        tables.append(t)
    return tables


def domain_tables(rng: random.Random, domain: list, n: int, split: str) -> list[Table]:
    """n tables of a domain, kept connected over keys where possible, each with some of its columns."""
    by_name = dict(domain)
    chosen = [rng.choice(list(by_name))]
    while len(chosen) < n:
        near = [t for t in by_name if t not in chosen and (any(c[3].replace("_", " ") in chosen for c in by_name[t]) or any(c[3].replace("_", " ") == t for s in chosen for c in by_name[s]))]
        rest = [t for t in by_name if t not in chosen]
        if not rest:
            break
        chosen.append(rng.choice(near or rest))
    tables = {name: Table(name) for name in chosen}
    for name, t in tables.items():
        for i, (words, kind, cats, parent) in enumerate(by_name[name]):
            parent = parent.replace("_", " ")
            if kind == "fk":
                if parent in tables or rng.random() < 0.6:
                    t.columns.append(Column(words, "fk", ref=tables.get(parent)))
            elif i == 0 or rng.random() < 0.8:
                t.columns.append(Column(words, kind, list(cats)))
        if rng.random() < 0.25:
            t.columns.insert(rng.randint(0, len(t.columns)), invented_column(rng, split))
        if rng.random() < 0.2:
            tail = t.columns[1:]
            rng.shuffle(tail)
            t.columns[1:] = tail
        while len(t.data()) < 2:
            t.columns.append(invented_column(rng, split))
    out = list(tables.values())
    if split == "train" and rng.random() < 0.35:  # the same structure under other names
        rename(out, rng, split)
    if rng.random() < 0.5:
        rng.shuffle(out)
    return out


def rename(tables: list[Table], rng: random.Random, split: str) -> None:
    """Gives tables and some columns invented names; keys follow their tables, kinds and values stay."""
    common = shared_words(rng) if len(tables) > 1 and rng.random() < 0.35 else None
    for t in tables:
        if rng.random() < (0.85 if common else 0.7):
            t.sing = invented_table(rng, split, common).sing
        for c in t.columns:
            if c.kind not in ("fk", "bool", "date", "city", "country") and rng.random() < 0.5:
                words = words_for(rng) if rng.random() < 0.4 else f"{words_for(rng)} {c.head}"
                if allowed(norm(words), split):
                    c.words = words
    for t in tables:
        for c in t.columns:
            if c.kind == "fk" and c.ref is not None:
                c.words = c.ref.sing + " id"


STYLES = ["snake"] * 52 + ["camel"] * 13 + ["pascal"] * 13 + ["upper"] * 6 + ["joined"] * 4 + ["title"] * 4 + ["pascal_snake"] * 5


def spell(words: str, style: str) -> str:
    w = words.replace("-", " ").split(" ")
    return {"snake": "_".join(w), "camel": w[0] + "".join(x.capitalize() for x in w[1:]), "pascal": "".join(x.capitalize() for x in w), "upper": "_".join(w).upper(), "joined": "".join(w),
            "title": " ".join(x.capitalize() for x in w), "pascal_snake": "_".join(x.capitalize() for x in w)}[style]


def name_schema(schema: Schema, rng: random.Random, split: str) -> bool:
    """Gives every table and column its identifier and SQL type; false where the split forbids a name or two names clash."""
    style = schema.style
    table_style = style if rng.random() < 0.9 else rng.choice(["snake", "pascal"])
    plural_tables = rng.random() < 0.68
    pk_style = rng.choices(["id", "table_id", "none", "no", "number", "code", "key"], [56, 30, 5, 3, 2, 2, 2])[0] if split == "train" else rng.choices(["id", "table_id", "none"], [62, 33, 5])[0]
    prefix = rng.random() < 0.06
    abbreviate = rng.random() < 0.08
    types = {"id": rng.choice(["INTEGER", "INTEGER", "INT", "BIGINT", "SERIAL"]), "int": rng.choice(["INTEGER", "INTEGER", "INT", "SMALLINT"]), "money": rng.choice(["REAL", "DECIMAL(10,2)", "NUMERIC", "NUMERIC(10,2)", "FLOAT", "MONEY", "DOUBLE"]),
             "real": rng.choice(["REAL", "FLOAT", "DOUBLE", "NUMERIC", "DECIMAL(8,2)"]), "text": rng.choice(["TEXT", "TEXT", "VARCHAR(100)", "VARCHAR(255)", "VARCHAR", "CHAR(50)", "varchar(50)", "nvarchar(100)"]),
             "date": rng.choice(["DATE", "DATE", "DATE", "TEXT", "DATETIME", "TIMESTAMP"]), "bool": rng.choice(["BOOLEAN", "BOOLEAN", "INTEGER", "BOOL", "TINYINT(1)"])}
    of = {"fk": "id", "int": "int", "year": "int", "money": "money", "real": "real", "pct": "real", "date": "date", "bool": "bool"}
    if split == "test":
        prefix = abbreviate = False
    for t in schema.tables:
        t.ident = spell(t.plur if plural_tables else t.sing, table_style)
        if split == "train" and rng.random() < 0.03:
            t.ident = "tbl_" + t.ident if rng.random() < 0.15 else spell(f"{t.sing} {rng.choice(['data', 'info', 'table', 'master', 'records', 'details', 'entries'])}", table_style)
        t.columns = [c for c in t.columns if c.kind != "id"]
        if pk_style != "none":
            word = "id" if pk_style in ("id", "table_id") else pk_style
            t.pk = Column("id" if pk_style == "id" else f"{t.sing} {word}", "id")
            t.columns.insert(0, t.pk)
            for c in (c for o in schema.tables for c in o.columns if c.kind == "fk" and c.ref is t):
                if word != "id":
                    c.words = t.pk.words
                elif split == "train" and rng.random() < 0.06:  # a key named for its role; only the REFERENCES tells
                    c.words = f"{rng.choice(lx.HEADS['person'])} id"
                    schema.keys = True
    for t in schema.tables:
        for c in t.columns:
            words = c.words
            if abbreviate:
                words = " ".join(lx.ABBREVIATIONS.get(w, w) for w in words.split(" "))
            if prefix and c.kind not in ("id", "fk") and not words.startswith(t.sing):
                words = f"{t.sing} {words}"
            c.ident = spell(words, style)
            c.sql_type = types.get(of.get(c.kind, c.kind), types["text"])
            if c.sql_type == "SERIAL" and c.kind == "fk":
                c.sql_type = "INTEGER"
            c.not_null = rng.random() < 0.25
        idents = [norm(c.ident) for c in t.columns]
        if len(set(idents)) < len(idents):
            return False
    tables = [norm(t.ident) for t in schema.tables]
    return len(set(tables)) == len(tables) and all(allowed(i, split) for i in schema.identifiers())


def quote(ident: str) -> str:
    return ident if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", ident) and ident.lower() not in lx.RESERVED else f'"{ident}"'


def render_ddl(schema: Schema, rng: random.Random) -> str:
    multi = rng.random() < 0.45
    indent = rng.choice(["  ", "    ", "\t"])
    lower = rng.random() < 0.08
    keys = rng.choices(["inline", "constraint", "none"], [45, 35, 0 if schema.keys else 20])[0]
    nulls = rng.random() < 0.3
    exists = rng.random() < 0.05
    quoted = rng.random() < 0.03
    form = "create" if schema.keys else rng.choices(["create", "compact"], [94, 6])[0]
    semi = ";" if rng.random() < 0.93 else ""
    q = (lambda i: f'"{i}"') if quoted else quote
    kw = (lambda s: s.lower()) if lower else (lambda s: s)
    out = []
    for t in schema.tables:
        if form == "compact":
            out.append(f"{t.ident}({', '.join(c.ident for c in t.columns)})")
            continue
        lines, tail = [], []
        for c in t.columns:
            line = f"{q(c.ident)} {kw(c.sql_type)}"
            if c is t.pk:
                line += kw(" PRIMARY KEY") if keys != "constraint" else ""
                tail += [f"{kw('PRIMARY KEY')} ({q(c.ident)})"] if keys == "constraint" else []
            elif nulls and c.not_null:
                line += kw(" NOT NULL")
            if c.kind == "fk" and c.ref is not None and c.ref.pk is not None and keys != "none":
                if keys == "inline":
                    line += f" {kw('REFERENCES')} {q(c.ref.ident)}({q(c.ref.pk.ident)})"
                else:
                    tail.append(f"{kw('FOREIGN KEY')} ({q(c.ident)}) {kw('REFERENCES')} {q(c.ref.ident)}({q(c.ref.pk.ident)})")
            lines.append(line)
        head = kw("CREATE TABLE ") + (kw("IF NOT EXISTS ") if exists else "") + q(t.ident)
        if multi:
            out.append(f"{head} (\n{indent}" + f",\n{indent}".join(lines + tail) + f"\n){semi}")
        else:
            out.append(f"{head} ({', '.join(lines + tail)}){semi}")
    return rng.choice(["\n", "\n", "\n\n"] if form == "create" else ["\n"]).join(out)


def sample_schema(rng: random.Random, split: str) -> Schema:
    pool = TRAIN_DOMAINS if split == "train" else TEST_DOMAINS
    while True:
        n = rng.choices([1, 2, 3, 4], [15, 30, 36, 19] if split == "train" else [22, 30, 31, 17])[0]
        if rng.random() < (0.5 if split == "train" else 0.2):
            tables = invented_tables(rng, n, split)
        else:
            tables = domain_tables(rng, rng.choice(pool), n, split)
            if rng.random() < 0.12 and len(tables) < 4:
                other = invented_tables(rng, 1, split) if rng.random() < 0.5 else domain_tables(rng, rng.choice(pool), 1, split)
                tables.insert(rng.randint(0, len(tables)), other[0])
        if rng.random() < 0.04:  # a large schema: many tables that the question leaves alone
            for _ in range(rng.randint(2, 7)):
                more = invented_tables(rng, 1, split) if rng.random() < 0.5 else domain_tables(rng, rng.choice(pool), rng.randint(1, 3), split)
                tables += [t for t in more if t.sing not in {o.sing for o in tables}]
        schema = Schema(tables, style=rng.choice(STYLES))
        if name_schema(schema, rng, split):
            schema.ddl = render_ddl(schema, rng)
            return schema


# Values

def text_value(rng: random.Random) -> str:
    r = rng.random()
    if r < 0.35:
        return f"{rng.choice(lx.ADJ).title()} {rng.choice(lx.NOUNS).title()}"
    if r < 0.5:
        return rng.choice(lx.NOUNS).title()
    if r < 0.6:
        return f"The {rng.choice(lx.ADJ).title()} {rng.choice(lx.NOUNS).title()}"
    if r < 0.75:
        return pseudo_word(rng).title()
    if r < 0.85:
        return f"{pseudo_word(rng).title()} {rng.choice(lx.NOUNS).title()}"
    if r < 0.95:
        return f"{rng.choice(lx.NOUNS).title()} of {rng.choice(lx.NOUNS).title()}" if rng.random() < 0.5 else f"{rng.choice(lx.NOUNS).title()} {rng.randint(2, 99)}"
    return f"{rng.choice(lx.FIRST)}'s {rng.choice(lx.NOUNS).title()}"


def value(c: Column, rng: random.Random):
    """A plausible value: str, int or float."""
    k = c.kind
    if k == "cat":
        return rng.choice(c.values)
    if k == "person":
        return f"{rng.choice(lx.FIRST)} {rng.choice(lx.LAST)}" if c.words not in ("first name", "last name") else rng.choice(lx.FIRST if c.words == "first name" else lx.LAST)
    if k == "text":
        return text_value(rng)
    if k == "words":
        r = rng.random()
        if r < 0.3:
            return "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 3))) + rng.choice(["", "-"]) + str(rng.randint(1, 9999))
        return rng.choice([pseudo_word(rng), rng.choice(lx.NOUNS), rng.choice(lx.CATEGORY_WORDS), rng.choice(lx.NOUNS).title(), text_value(rng)])
    if k == "city":
        return rng.choice(lx.CITIES) if rng.random() < 0.85 else pseudo_word(rng, 2).title()
    if k == "country":
        return rng.choice(lx.COUNTRIES)
    if k == "state":
        return rng.choice(lx.STATES)
    if k == "org":
        return " ".join(x for x in (rng.choice(lx.COMPANY_A), rng.choice(lx.COMPANY_B), rng.choice(lx.COMPANY_C)) if x) if rng.random() < 0.6 else rng.choice([pseudo_word(rng).title(), rng.choice(lx.COMPANY_A)])
    if k == "email":
        return f"{rng.choice(lx.FIRST).lower()}.{rng.choice(lx.LAST).lower()}@{rng.choice(['example.com', 'mail.com', 'test.org', pseudo_word(rng) + '.com'])}"
    if k == "phone":
        return f"{rng.randint(100, 999)}-{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"
    if k == "date":
        return f"{rng.randint(2015, 2025)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    if k == "year":
        return rng.randint(1900, 2025)
    if k == "bool":
        return rng.randint(0, 1)
    if k == "pct":
        return rng.choice([rng.randint(1, 99), round(rng.uniform(0.5, 20), 1)])
    if k == "money":
        return rng.choice([rng.randint(1, 20) * 5, rng.randint(1, 99) * 10, rng.randint(1, 99) * 100, rng.randint(1, 99) * 1000, rng.randint(1, 500), round(rng.uniform(1, 200), 2), rng.randint(1, 200) + 0.99])
    if k == "real":
        return rng.choice([rng.randint(1, 100), rng.randint(1, 50) * 10, round(rng.uniform(0.5, 10), 1), round(rng.uniform(1, 100), 1)])
    if k in ("id", "fk"):
        return rng.randint(1, 40)
    if c.head == "age":
        return rng.randint(16, 80)
    return rng.choice([rng.randint(1, 10), rng.randint(1, 100), rng.randint(1, 50) * 10, rng.randint(1, 99) * 100, rng.randint(1, 500)])
