"""A query tree in plain words: the targets of the adapter sql-explain."""

from __future__ import annotations

from query import Create, Delete, Insert, Query, Raw, Update, literal

AGGREGATES = {"COUNT": "the number of", "SUM": "the total", "AVG": "the average", "MAX": "the highest", "MIN": "the lowest"}
COMPARISONS = {"=": "is", "!=": "is not", ">": "is greater than", "<": "is less than", ">=": "is at least", "<=": "is at most"}


class Unexplained(Exception):
    pass


def _list(items: list[str], word: str = "and") -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" {word} " + items[-1]


def _expr(e, many: bool) -> str:
    k = e[0]
    if k == "col":
        return f"{e[2].ident} of {e[1].ident}" if many else e[2].ident
    if k == "star":
        return "all columns"
    if k == "lit":
        return literal(e[1])
    if k == "agg":
        if e[2][0] == "star":
            return "the number of rows"
        inner = _expr(e[2], many)
        return f"the number of different values of {inner}" if e[3] else f"the number of values of {inner}" if e[1] == "COUNT" else f"{AGGREGATES[e[1]]} {inner}"
    if k == "bin":
        return f"{_expr(e[2], many)} {({'*': 'times', '-': 'minus', '+': 'plus', '/': 'divided by'})[e[1]]} {_expr(e[3], many)}"
    if k in ("year", "month"):
        return f"the {k} of {_expr(e[1], many)}"
    if k == "case":
        return f"{literal(e[2])} if {_cond(e[1], many)}, otherwise {literal(e[3])}"
    if k == "percent":
        return f"the percentage of rows where {_cond(e[1], many)}"
    if k == "days":
        return f"the days from {_expr(e[2], many)} to {_expr(e[1], many)}"
    if k == "list":
        return f"the list of {_expr(e[1], many)}"
    if k == "sub":
        q = e[1]
        where = f" where {_cond(q.where, False)}" if q.where else ""
        return f"{_expr(q.select[0], False)} in {q.table.ident}{where}"
    raise Unexplained


def _cond(c, many: bool) -> str:
    k = c[0]
    neg = c[-1] is True
    if k == "cmp":
        return f"{_expr(c[2], many)} {COMPARISONS[c[1]]} {_expr(c[3], many)}"
    if k == "between":
        return f"{_expr(c[1], many)} is between {_expr(c[2], many)} and {_expr(c[3], many)}"
    if k == "in":
        return f"{_expr(c[1], many)} is {'not ' if neg else ''}one of {_list([literal(v) for v in c[2]], 'or')}"
    if k == "like":
        p = c[2]
        how = "contains" if p.startswith("%") and p.endswith("%") else "ends with" if p.startswith("%") else "starts with"
        if neg:
            how = "does not " + how.replace("s", "", 1) if how == "contains" else "does not " + how.replace("ends", "end").replace("starts", "start")
            how = how.replace("does not contain", "does not contain")
        return f"{_expr(c[1], many)} {how} {literal(p.strip('%'))}"
    if k == "null":
        return f"{_expr(c[1], many)} is {'known' if neg else 'missing'}"
    if k in ("and", "or"):
        return f" {k} ".join(_cond(x, many) for x in c[1])
    if k == "inyear":
        return f"{_expr(c[1], many)} is in {c[2]}"
    if k == "inmonth":
        return f"{_expr(c[1], many)} is in {c[2]}"
    if k == "last":
        return f"{_expr(c[1], many)} is within the last {c[2]} {c[3]}"
    if k == "now":
        return f"{_expr(c[1], many)} is {'today' if c[2] == 'day' else 'in this ' + c[2]}"
    if k == "exists":
        q = c[1]
        extra = f" where {_cond(q.where[1][1], False)}" if q.where[0] == "and" else ""
        return f"there is {'no' if neg else 'a'} matching row in {q.table.ident}{extra}"
    if k == "insub":
        q = c[2]
        extra = f" where {_cond(q.where, False)}" if q.where else ""
        return f"{_expr(c[1], many)} occurs in {q.select[0][2].ident} of {q.table.ident}{extra}"
    raise Unexplained


def _where(c, many: bool) -> str:
    return f" where {_cond(c, many)}" if c else ""


def _explain(s) -> str:
    if isinstance(s, Insert):
        return f"Adds a row to {s.table.ident} with {_list([f'{c.ident} {literal(v)}' for c, v in zip(s.columns, s.values)])}."
    if isinstance(s, Update):
        return f"Sets {_list([f'{c.ident} to ' + (_expr(e, False) if e != ('lit', None) else 'null') for c, e in s.sets])} in {'all rows of ' if not s.where else ''}{s.table.ident}{_where(s.where, False)}."
    if isinstance(s, Delete):
        return f"Deletes {'all rows' if not s.where else 'the rows'} of {s.table.ident}{_where(s.where, False)}."
    if isinstance(s, (Create, Raw)):
        raise Unexplained
    many = bool(s.joins)
    what = _list([("all columns" if e[0] == "star" and len(e) == 1 else f"all columns of {e[1].ident}" if e[0] == "star" else _expr(e, many)) for e in s.select])
    source = _list([s.table.ident, *(j[0].ident for j in s.joins)])
    text = f"Shows {'the different values of ' if s.distinct else ''}{what} from {source}"
    text += _where(s.where, many)
    if s.group:
        text += f", for each {_list([_expr(e, many) for e in s.group])}"
    if s.having:
        text += f", only where {_cond(s.having, many)}"
    if s.order:
        text += ", sorted by " + _list([f"{_expr(e, many)} {'descending' if d == 'DESC' else 'ascending'}" for e, d in s.order])
    if s.limit is not None:
        text += f", only {'row' if s.limit == 1 else 'the first'} {s.limit}{' rows' if s.limit != 1 else ''}" if not s.offset else f", only row {s.offset + 1}"
    return text + "."


def explain(statement) -> str | None:
    """None where there are no words for the statement."""
    try:
        return _explain(statement)
    except Unexplained:
        return None
