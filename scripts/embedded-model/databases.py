"""SQLite databases with generated rows, made so that a query's conditions meet rows on both sides."""

from __future__ import annotations

import datetime
import random
import re
import sqlite3

import lexicon as lx
from schema import Schema, quote

ROWS = 40


def plain_ddl(schema: Schema) -> str:
    types = {"int": "INTEGER", "year": "INTEGER", "money": "REAL", "real": "REAL", "pct": "REAL", "date": "DATE", "bool": "BOOLEAN", "id": "INTEGER", "fk": "INTEGER"}
    out = []
    for t in schema.tables:
        cols = []
        for c in t.columns:
            text = f"{quote(c.ident)} {types.get(c.kind, 'TEXT')}"
            if c is t.pk:
                text += " PRIMARY KEY"
            elif c.kind == "fk" and c.ref is not None and c.ref.pk is not None:
                text += f" REFERENCES {quote(c.ref.ident)}({quote(c.ref.pk.ident)})"
            cols.append(text)
        out.append(f"CREATE TABLE {quote(t.ident)} ({', '.join(cols)});")
    return "\n".join(out)


def literals(sql: str) -> tuple[list[str], list[float]]:
    texts = [t.replace("''", "'") for t in re.findall(r"'((?:[^']|'')*)'", sql)]
    bare = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", " ", sql)
    return texts, [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", bare)]


def fill(db: sqlite3.Connection, sql: str, seed: int) -> None:
    """Rows for every table of db. Literals of `sql` are strewn over the columns of their type, with neighbours."""
    rng = random.Random(seed)
    texts, numbers = literals(sql)
    dates = [t for t in texts if re.fullmatch(r"\d{4}(-\d\d){0,2}", t)]
    words = [t for t in texts if t not in dates and not t.startswith(("%Y", "-", "now"))]
    tables = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]

    def date() -> str:
        if dates and rng.random() < 0.6:
            d = rng.choice(dates)
            if len(d) == 4:
                return f"{int(d) + rng.choice([0, 0, 0, 1, -1])}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
            if len(d) == 7:
                return f"{d}-{rng.randint(1, 28):02d}" if rng.random() < 0.7 else f"{d[:4]}-{rng.randint(1, 12):02d}-11"
            day = datetime.date.fromisoformat(d) + datetime.timedelta(days=rng.choice([0, 0, 1, -1, 40, -40, 400, -400]))
            return day.isoformat()
        if rng.random() < 0.25:
            return (datetime.date.today() - datetime.timedelta(days=rng.choice([0, 1, 5, 20, 45, 80, 200, 600]))).isoformat()
        return f"{rng.randint(2014, 2026)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"

    def text(pool: list[str]) -> str:
        if words and rng.random() < 0.35:
            w = rng.choice(words)
            if "%" in w:
                core = w.strip("%")
                w = (("ab" if w.startswith("%") and rng.random() < 0.8 else "") + core + ("yz" if w.endswith("%") and rng.random() < 0.8 else ""))
            return w
        return rng.choice(pool)

    def number(whole: bool):
        if numbers and rng.random() < 0.5:
            n = rng.choice(numbers)
            n = rng.choice([n, n, n + 1, n - 1, n * 2, n / 2, n + rng.randint(1, 40)])
        else:
            n = rng.choice([rng.randint(0, 10), rng.randint(0, 100), rng.randint(0, 3000), rng.uniform(0, 100)])
        return round(n) if whole else round(n, 2)

    for t in tables:
        info = db.execute(f'PRAGMA table_info("{t}")').fetchall()
        refs = {r[3]: r[2] for r in db.execute(f'PRAGMA foreign_key_list("{t}")')}
        pools = {c[1]: [rng.choice(lx.NOUNS) if rng.random() < 0.5 else f"{rng.choice(lx.FIRST)} {rng.choice(lx.LAST)}" for _ in range(rng.choice([3, 5, 12, 30]))] for c in info}
        for i in range(1, ROWS + 1):
            row = []
            for _, name, kind, not_null, _, pk in info:
                kind = kind.upper()
                if pk:
                    row.append(i + 1000 if sql.startswith("INSERT") else i)  # an inserted key must be free
                elif name in refs or ("INT" in kind and name.lower().endswith("id")):
                    row.append(None if name not in refs and not not_null and rng.random() < 0.1 else rng.randint(1, ROWS - 12))
                elif rng.random() < 0.06 and not not_null:
                    row.append(None)
                elif "BOOL" in kind:
                    row.append(rng.randint(0, 1))
                elif "DATE" in kind or "TIME" in kind:
                    row.append(date())
                elif "INT" in kind:
                    row.append(number(True))
                elif any(k in kind for k in ("REAL", "DEC", "NUM", "FLOA", "DOUB", "MONEY")):
                    row.append(number(False))
                else:
                    row.append(text(pools[name]))
            db.execute(f'INSERT INTO "{t}" VALUES ({", ".join("?" * len(row))})', row)
    db.commit()


def from_ddl(ddl: str, sql: str, seed: int) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(ddl)
    fill(db, sql, seed)
    return db


def _norm(rows):
    return [tuple(round(v, 4) if isinstance(v, float) else v for v in r) for r in rows]


def outcome(db: sqlite3.Connection, sql: str):
    """What a statement returns and leaves behind; the error's text where it fails."""
    ticks = 0

    def tick():
        nonlocal ticks
        ticks += 1
        return ticks > 2000
    db.set_progress_handler(tick, 10000)
    if sql.count(";") > 1:
        return ("error", "several statements")
    try:
        rows = _norm(db.execute(sql).fetchall())
        if not re.match(r"\s*(SELECT|WITH)\b", sql, re.I):
            names = [r[0] for r in db.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'index', 'view') AND sql IS NOT NULL ORDER BY name")]
            info = [(n, db.execute(f'PRAGMA table_info("{n}")').fetchall()) for n in names]
            rows = (info, [sorted(_norm(db.execute(f'SELECT * FROM "{n}"').fetchall()), key=repr) for n, i in info if i])
        return ("rows", rows)
    except sqlite3.Error as e:
        return ("error", str(e))


def same_outcome(make, gold: str, text: str) -> bool:
    """make() -> a fresh database."""
    a = outcome(make(), gold)
    if a[0] == "error":
        raise ValueError(f"reference fails: {gold}: {a[1]}")
    b = outcome(make(), text)
    if b[0] == "error":
        return False
    if isinstance(a[1], list) and isinstance(b[1], list) and "ORDER BY" not in gold:
        return sorted(a[1], key=repr) == sorted(b[1], key=repr)
    return a[1] == b[1]
