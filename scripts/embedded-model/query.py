"""Queries as trees: one description, rendered as SQLite or PostgreSQL, and explained in words (explain.py).

Expressions and conditions are tuples whose first element names them; see `Renderer`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schema import Column, Table, quote


@dataclass
class Query:
    table: Table
    select: list = field(default_factory=lambda: [("star",)])
    distinct: bool = False
    joins: list = field(default_factory=list)  # (table, left (Table, Column), right (Table, Column), "JOIN" | "LEFT JOIN")
    where: tuple | None = None
    group: list = field(default_factory=list)
    having: tuple | None = None
    order: list = field(default_factory=list)  # (expression, "ASC" | "DESC")
    limit: int | None = None
    offset: int | None = None


@dataclass
class Insert:
    table: Table
    columns: list[Column]
    values: list


@dataclass
class Update:
    table: Table
    sets: list  # (Column, expression)
    where: tuple | None


@dataclass
class Delete:
    table: Table
    where: tuple | None


@dataclass
class Create:
    name: str
    columns: list  # (identifier, kind, extra)


@dataclass
class Raw:
    sql: str
    postgres: str | None = None


def col(t: Table, c: Column) -> tuple:
    return ("col", t, c)


COUNT = ("agg", "COUNT", ("star",), False)
CREATE_TYPES = {"sqlite": {"id": "INTEGER PRIMARY KEY", "int": "INTEGER", "money": "REAL", "real": "REAL", "pct": "REAL", "text": "TEXT", "date": "DATE", "bool": "BOOLEAN", "time": "DATETIME"},
                "postgres": {"id": "SERIAL PRIMARY KEY", "int": "INTEGER", "money": "NUMERIC(10, 2)", "real": "DOUBLE PRECISION", "pct": "NUMERIC", "text": "TEXT", "date": "DATE", "bool": "BOOLEAN", "time": "TIMESTAMPTZ"}}


def literal(v) -> str:
    return "'" + v.replace("'", "''") + "'" if isinstance(v, str) else str(v)


class Renderer:
    """SQL text of a tree. Columns are qualified by their table where a query has joins or sits in a correlated sub-query."""

    def __init__(self, dialect: str = "sqlite"):
        self.pg = dialect == "postgres"
        self.qualify = False

    def statement(self, s) -> str:
        if isinstance(s, Query):
            return self.query(s) + ";"
        if isinstance(s, Raw):
            return (s.postgres or s.sql) if self.pg else s.sql
        if isinstance(s, Insert):
            values = [self.value(v, c) for v, c in zip(s.values, s.columns)]
            return f"INSERT INTO {quote(s.table.ident)} ({', '.join(quote(c.ident) for c in s.columns)}) VALUES ({', '.join(values)});"
        if isinstance(s, Update):
            sets = ", ".join(f"{quote(c.ident)} = {self.value(e[1], c) if e[0] == 'lit' else self.expr(e)}" for c, e in s.sets)
            return f"UPDATE {quote(s.table.ident)} SET {sets}" + self.where(s.where) + ";"
        if isinstance(s, Delete):
            return f"DELETE FROM {quote(s.table.ident)}" + self.where(s.where) + ";"
        types = CREATE_TYPES["postgres" if self.pg else "sqlite"]
        return f"CREATE TABLE {s.name} ({', '.join(f'{i} {types[k]}{x}' for i, k, x in s.columns)});"

    def value(self, v, c: Column) -> str:
        if v is None:
            return "NULL"
        if c.kind == "bool" and self.pg:
            return "TRUE" if v else "FALSE"
        return literal(v)

    def where(self, c) -> str:
        return f" WHERE {self.cond(c)}" if c else ""

    def query(self, q: Query, correlated: bool = False) -> str:
        before = self.qualify
        self.qualify = bool(q.joins) or correlated or has_exists(q.where)
        parts = [f"SELECT {'DISTINCT ' if q.distinct else ''}{', '.join(self.expr(e) for e in q.select)} FROM {quote(q.table.ident)}"]
        for t, (lt, lc), (rt, rc), kind in q.joins:
            parts.append(f" {kind} {quote(t.ident)} ON {quote(lt.ident)}.{quote(lc.ident)} = {quote(rt.ident)}.{quote(rc.ident)}")
        parts.append(self.where(q.where))
        if q.group:
            parts.append(" GROUP BY " + ", ".join(self.expr(e) for e in q.group))
        if q.having:
            parts.append(" HAVING " + self.cond(q.having))
        if q.order:
            parts.append(" ORDER BY " + ", ".join(self.expr(e) + (" DESC" if d == "DESC" else "") for e, d in q.order))
        if q.limit is not None:
            parts.append(f" LIMIT {q.limit}")
        if q.offset:
            parts.append(f" OFFSET {q.offset}")
        self.qualify = before
        return "".join(parts)

    def expr(self, e) -> str:
        k = e[0]
        if k == "col":
            return f"{quote(e[1].ident)}.{quote(e[2].ident)}" if self.qualify else quote(e[2].ident)
        if k == "star":
            return f"{quote(e[1].ident)}.*" if len(e) > 1 else "*"
        if k == "lit":
            return literal(e[1])
        if k == "agg":
            return f"{e[1]}({'DISTINCT ' if e[3] else ''}{self.expr(e[2])})"
        if k == "list":
            return f"STRING_AGG({self.expr(e[1])}, ', ')" if self.pg else f"GROUP_CONCAT({self.expr(e[1])}, ', ')"
        if k == "bin":
            return f"{self.expr(e[2])} {e[1]} {self.expr(e[3])}"
        if k == "case":
            return f"CASE WHEN {self.cond(e[1])} THEN {literal(e[2])} ELSE {literal(e[3])} END"
        if k == "case3":
            return f"CASE WHEN {self.cond(e[1])} THEN {literal(e[2])} WHEN {self.cond(e[3])} THEN {literal(e[4])} ELSE {literal(e[5])} END"
        if k == "year":
            return f"EXTRACT(YEAR FROM {self.expr(e[1])})" if self.pg else f"strftime('%Y', {self.expr(e[1])})"
        if k == "month":
            return f"TO_CHAR({self.expr(e[1])}, 'YYYY-MM')" if self.pg else f"strftime('%Y-%m', {self.expr(e[1])})"
        if k == "days":
            return f"{self.expr(e[1])}::date - {self.expr(e[2])}::date" if self.pg else f"julianday({self.expr(e[1])}) - julianday({self.expr(e[2])})"
        if k == "func":
            return f"{e[1]}({', '.join(self.expr(a) for a in e[2:])})"
        if k == "percent":
            return f"100.0 * SUM(CASE WHEN {self.cond(e[1])} THEN 1 ELSE 0 END) / COUNT(*)"
        if k == "today":
            return "CURRENT_DATE" if self.pg else "date('now')"
        if k == "sub":
            return f"({self.query(e[1])})"
        raise ValueError(k)

    def cond(self, c, inside: bool = False) -> str:
        k = c[0]
        neg = "NOT " if len(c) > 1 and c[-1] is True else ""
        if k == "cmp":
            if self.pg and c[2][0] == "col" and c[2][2].kind == "bool":
                return f"{self.expr(c[2])} = {'TRUE' if c[3][1] else 'FALSE'}"
            return f"{self.expr(c[2])} {c[1]} {self.expr(c[3])}"
        if k == "between":
            return f"{self.expr(c[1])} {neg}BETWEEN {self.expr(c[2])} AND {self.expr(c[3])}"
        if k == "in":
            return f"{self.expr(c[1])} {neg}IN ({', '.join(literal(v) for v in c[2])})"
        if k == "insub":
            return f"{self.expr(c[1])} {neg}IN ({self.query(c[2])})"
        if k == "like":
            return f"{self.expr(c[1])} {neg}{'ILIKE' if self.pg else 'LIKE'} {literal(c[2])}"
        if k == "null":
            return f"{self.expr(c[1])} IS {neg}NULL"
        if k == "exists":
            return f"{neg}EXISTS ({self.query(c[1], correlated=True)})"
        if k in ("and", "or"):
            text = f" {k.upper()} ".join(self.cond(x, inside=True) for x in c[1])
            return f"({text})" if inside and k == "or" else text
        if k == "inyear":
            return f"EXTRACT(YEAR FROM {self.expr(c[1])}) = {c[2]}" if self.pg else f"strftime('%Y', {self.expr(c[1])}) = '{c[2]}'"
        if k == "inmonth":
            return f"TO_CHAR({self.expr(c[1])}, 'YYYY-MM') = '{c[2]}'" if self.pg else f"strftime('%Y-%m', {self.expr(c[1])}) = '{c[2]}'"
        if k == "last":
            return f"{self.expr(c[1])} >= CURRENT_DATE - INTERVAL '{c[2]} {c[3]}'" if self.pg else f"{self.expr(c[1])} >= date('now', '-{c[2]} {c[3]}')"
        if k == "now":
            e, unit = self.expr(c[1]), c[2]
            if unit == "day":
                return f"{e} = CURRENT_DATE" if self.pg else f"{e} = date('now')"
            if unit == "year":
                return f"EXTRACT(YEAR FROM {e}) = EXTRACT(YEAR FROM CURRENT_DATE)" if self.pg else f"strftime('%Y', {e}) = strftime('%Y', 'now')"
            return f"TO_CHAR({e}, 'YYYY-MM') = TO_CHAR(CURRENT_DATE, 'YYYY-MM')" if self.pg else f"strftime('%Y-%m', {e}) = strftime('%Y-%m', 'now')"
        raise ValueError(k)


def has_exists(c) -> bool:
    return bool(c) and (c[0] == "exists" or c[0] in ("and", "or") and any(has_exists(x) for x in c[1]))


def to_sql(statement, dialect: str = "sqlite") -> str:
    return Renderer(dialect).statement(statement)
