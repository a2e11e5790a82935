"""Conversations: a question in one of the prompt forms, follow-ups, refusals, small talk, and the two adapters' tasks."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field

import lexicon as lx
from ask import Ask, Asker, NotApplicable, ask, finish
from explain import explain
from query import COUNT, Query, col, to_sql
from schema import TEST_DOMAINS, TRAIN_DOMAINS, Schema, plural, sample_schema, words_for

GUIDE_SYSTEM = "You are a text to SQL query translator. Users will ask you questions in English and you will generate a SQL query based on the provided SCHEMA."
GUIDE_USER = """Given the <USER_QUERY> and the <SCHEMA>, generate the corresponding SQL command to retrieve the desired data, considering the query's syntax, semantics, and schema constraints.

<SCHEMA>
{schema}
</SCHEMA>

<USER_QUERY>
{question}
</USER_QUERY>
"""
SYSTEMS = [GUIDE_SYSTEM] * 8 + ["You are a text-to-SQL assistant.", "You translate questions into SQL.", "You are a helpful assistant.", "You write SQL queries. Answer with the query only.", "You are an expert SQL developer.", "Answer with one SQL statement.",
                                "You are a database assistant. Given a schema and a question, reply with a SQL query.", "You are a data analyst who writes SQLite queries."]
FORMS = ["{schema}\n\n{question}", "{schema}\n\n{question}", "{schema}\n{question}", "Schema:\n{schema}\n\nQuestion: {question}", "{question}\n\n{schema}", "Question: {question}\n\nSchema:\n{schema}", "```sql\n{schema}\n```\n\n{question}", "{schema}\n\n-- {question}", "### Schema\n{schema}\n\n### Question\n{question}",
         "Given this schema:\n{schema}\n\n{question}", "Tables:\n{schema}\n\n{question}", "I have these tables:\n\n{schema}\n\n{question}", "Here is my database:\n{schema}\n\n{question}", "<SCHEMA>\n{schema}\n</SCHEMA>\n\n<USER_QUERY>\n{question}\n</USER_QUERY>", "{question}\n\nUse this schema:\n{schema}",
         "Database schema: {schema}\nQuestion: {question}\nSQL:", "{question} {schema}", "Context: {schema}\n\nQuestion: {question}", "{schema}\n\nQ: {question}", "Convert to SQL: {question}\n\n{schema}"]

GREETINGS = "hello|hi|hey|hi there|hello there|good morning|good evening|good afternoon|hey there|hi!|yo|greetings|hello!|Hi, can you help me?|hello, are you there?|anyone there?|hey, how's it going".split("|")
ABOUT = "what can you do?|who are you?|what are you?|what is this?|how can you help me?|help|what do you do|which model are you?|tell me about yourself|what are your abilities?|are you chatgpt?|what's your name?|are you a human?|how do i use you?|what should I ask you?|what can I ask?|can you help me?|introduce yourself|how does this work?|who made you?|are you gemma?".split("|")
THANKS = "thanks|thank you|thx|great, thanks|perfect|thanks a lot|cool, thank you|awesome|nice|ok thanks|thank you very much|good job|well done|that works".split("|")
BYE = "bye|goodbye|see you|good night|see you later|that's all|bye bye|ciao".split("|")
HOW = "how are you?|how are you doing?|how is it going?|are you ok?|what's up?|how do you feel?".split("|")
OFF_TOPIC = """What is the capital of France?|Tell me a joke|Write me a poem about the sea|What's the weather today?|Who won the world cup?|Translate hello to Spanish|What is 2+2?|Write a Python function|How do I bake bread?|Explain quantum physics|Recommend a movie|What time is it?
Who is the president?|Write an essay about climate change|What is the meaning of life?|Can you draw a picture?|Sing a song|Summarize this article|What's the news?|How old are you?|Do you like music?|Give me a recipe for pasta|Where is Berlin?|How tall is Mount Everest?|Write a haiku
Fix my Java code|What does love mean?|Tell me a story|How do I learn guitar?|Book me a flight|What's your favorite color?|Who wrote Hamlet?|Convert 10 miles to km|Play some music|Is the earth flat?|How do I lose weight?|Write a cover letter""".replace("\n", "|").split("|")
ANSWERS = {
    "greeting": ["Hello! Send me a schema and a question, and I will write the SQL.", "Hi! Give me your tables and a question, and I will answer with a SQL query."],
    "about": ["I am a small model that turns questions into SQL. Send me your schema (CREATE TABLE statements) and a question, and I will write the query. I know little else."],
    "thanks": ["You're welcome!"], "bye": ["Goodbye!"], "how": ["I am fine, thank you. I am a small SQL model: send me a schema and a question."],
    "off": ["I cannot help with that. I only write SQL for a given schema."],
    "no schema": ["Please send me the schema (CREATE TABLE statements) with your question."],
}


@dataclass
class Sample:
    kind: str
    messages: list[dict]
    schema: Schema | None = None
    statements: list = field(default_factory=list)  # of each assistant turn; None where the turn is words
    form: str = ""


def _messages(system: str | None, *turns: str) -> list[dict]:
    out = [{"role": "system", "content": system}] if system else []
    return out + [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]


def frame(schema: Schema, rng: random.Random, schema_first: bool = False) -> tuple[str | None, str, str]:
    """(system message, user message with {question} in it, form)."""
    if rng.random() < 0.5:
        system = GUIDE_SYSTEM if rng.random() < 0.5 else rng.choice(SYSTEMS) if rng.random() < 0.2 else None
        return system, GUIDE_USER.replace("{schema}", schema.ddl), "guide" if system is None else "guide+system"
    if rng.random() < 0.06:  # the schema as system message
        return f"{rng.choice(SYSTEMS)}\n\n{schema.ddl}", "{question}", "schema in system"
    system = rng.choice(SYSTEMS) if rng.random() < 0.25 else None
    form = rng.choice(FORMS)
    while schema_first and form.index("{question}") < form.index("{schema}"):
        form = rng.choice(FORMS)
    return system, form.replace("{schema}", schema.ddl), "plain"


def prompt(schema: Schema, question: str, rng: random.Random) -> tuple[str | None, str, str]:
    """(system message, user message, form)."""
    system, user, form = frame(schema, rng)
    return system, user.replace("{question}", question), form


def small_talk(rng: random.Random, split: str) -> Sample:
    topic = rng.choices(["greeting", "about", "thanks", "bye", "how", "off", "no schema"], [3, 4, 1.5, 1, 1, 4, 3])[0]
    if topic == "no schema":
        schema = sample_schema(rng, split)
        a = ask(rng, schema)
        while a.kind == "create":
            a = ask(rng, schema)
        q = finish(a.question, rng)
    else:
        q = rng.choice({"greeting": GREETINGS, "about": ABOUT, "thanks": THANKS, "bye": BYE, "how": HOW, "off": OFF_TOPIC}[topic])
        r = rng.random()
        q = q.lower() if r < 0.3 else q[0].upper() + q[1:] if r < 0.7 else q
        if rng.random() < 0.15:
            q = q.rstrip("?!.")
        elif rng.random() < 0.1:
            q += rng.choice(["!", ".", " :)", "?"])
        if topic == "about" and rng.random() < 0.2:
            q = f"{rng.choice(['Hello', 'Hi', 'hey'])}, {q[0].lower()}{q[1:]}"
    system = rng.choice(SYSTEMS) if rng.random() < 0.35 else None
    turns = [q, ANSWERS[topic][0] if topic != "greeting" else rng.choice(ANSWERS[topic])]
    if rng.random() < 0.25 and topic in ("greeting", "about", "how"):
        schema = sample_schema(rng, split)
        a = ask(rng, schema)
        _, user, _ = prompt(schema, finish(a.question, rng), rng)
        return Sample("small talk", _messages(system, *turns, user, to_sql(a.statement)), schema, [None, a.statement])
    return Sample("small talk", _messages(system, *turns), None, [None])


def refusal(rng: random.Random, split: str) -> Sample:
    schema = sample_schema(rng, split)
    question, answer = refused(schema, rng, split)
    system, user, form = prompt(schema, question, rng)
    return Sample("refusal", _messages(system, user, answer), schema, [None], form)


def refused(schema: Schema, rng: random.Random, split: str) -> tuple[str, str]:
    """A question about something that the schema lacks; the answer names it in the question's words."""
    known = set()
    for t in schema.tables:
        known |= set(t.sing.split(" ")) | set(t.plur.split(" "))
        for c in t.columns:
            known |= set(c.words.split(" ")) | {w for s in lx.SYNONYMS.get(c.words, []) + lx.SYNONYMS.get(c.head, []) for w in s.split(" ")}
    domain = rng.choice(TRAIN_DOMAINS if split == "train" else TEST_DOMAINS)
    while True:
        missing_table = rng.random() < 0.45
        if missing_table:
            words = rng.choice(domain)[0] if rng.random() < 0.6 else words_for(rng)
        else:
            words = rng.choice(rng.choice(domain)[1])[0] if rng.random() < 0.6 else words_for(rng)
            if words.endswith(" id"):
                continue
        if not set(words.split(" ")) & known and words not in ("name", "title", "city", "country", "date", "total"):
            break
        domain = rng.choice(TRAIN_DOMAINS if split == "train" else TEST_DOMAINS)
    asker = Asker(rng, schema)
    t = asker.table()
    if missing_table:
        many = plural(words)
        said = many
        c = None
        try:
            c = asker.column(t)
        except NotApplicable:
            pass
        q = asker.pick(f"{asker.lead()} all {many}", f"How many {many} are there?", f"Count the {many}", f"{asker.lead()} the names of all {many}", f"How many {many} does each {t.sing} have?", f"{asker.lead()} the number of {many} per {t.sing}", f"Which {t.plur} have no {many}?", f"{asker.lead()} {t.plur} with their {many}",
                       f"Which {t.sing} has the most {many}?", f"Delete all {many}", f"{asker.lead()} the {many} of every {t.sing}")
    else:
        said = words
        x = rng.choice([str(rng.randint(1, 500)), "Paris", rng.choice(lx.ADJ)])
        q = asker.pick(f"What is the {words} of {t.plur}?", f"{asker.lead()} the {words} of all {t.plur}", f"{asker.lead()} {t.plur} sorted by {words}", f"{asker.lead()} {t.plur} with {words} \x01{x}\x02", f"What is the average {words} of {t.plur}?", f"{asker.lead()} {t.plur} whose {words} is \x01{x}\x02",
                       f"Which {t.sing} has the highest {words}?", f"How many {t.plur} are there per {words}?", f"{asker.lead()} {t.plur} with {words} above {rng.randint(1, 99)}", f"Set the {words} of all {t.plur} to {x}", f"{asker.lead()} the {words} of each {t.sing}")
    q = q.replace(said, f"\x01{said}\x02")
    return finish(q, rng), f'The schema does not have "{said}".'


def follow_up(a: Ask, schema: Schema, rng: random.Random) -> Ask | None:
    """A short question that changes the query before it."""
    q: Query = copy.copy(a.statement)
    t = q.table
    asker = Asker(rng, schema)
    pick = asker.pick
    plain = not q.group and q.limit is None and not q.distinct and q.select[0][0] in ("star", "col")
    kinds = ["new"]
    if plain and not q.joins:
        kinds += ["only", "only", "sort", "limit", "count", "columns"]
        if q.select[0][0] == "col":
            kinds += ["also"]
    if q.where and q.where[0] == "cmp" and q.where[3][0] == "lit" and isinstance(q.where[3][1], str) and q.where[2][2].textual:
        kinds += ["swap"] * 3
    if q.order and q.limit is not None:
        kinds += ["number"]
    if q.order:
        kinds += ["flip"]
    if q.group and not q.having and q.limit is None:
        kinds += ["group only", "group sort"]
    kind = rng.choice(kinds)
    try:
        if kind == "new":
            b = ask(rng, schema)
            return Ask("follow-up", b.question, b.statement)
        if kind == "only":
            where = asker.conditions(t, 1)
            if not where[1]:
                return None
            q.where = ("and", [*(q.where[1] if q.where[0] == "and" else [q.where]), where[0]]) if q.where else where[0]
            if q.where[0] == "and" and any(x[0] == "or" for x in q.where[1]):
                return None
            f = where[1]
            text = pick(f"Only those {f}", f"only the ones {f}", f"just the ones {f}", f"now only those {f}", f"Filter to those {f}", f"keep only those {f}", f"Which of them are {f}?" if f.startswith(("in ", "from ", "marked")) else f"only {f}", f"and only {t.plur} {f}")
        elif kind == "sort":
            c = asker.column(t, lambda c: c.kind not in ("bool", "email", "phone"))
            desc = asker.chance(0.5)
            q.order = [(col(t, c), "DESC" if desc else "ASC")]
            s = asker.say(c, t)
            text = pick(f"Sort them by {s}", f"order by {s}", f"sort by {s}", f"now sorted by {s}", f"Order them by {s}", f"sorted by {s} please") + (pick(" descending", " in descending order", ", highest first") if desc else "")
        elif kind == "limit":
            n = rng.choice([1, 3, 5, 10, 20])
            q.limit = n
            text = pick(f"Only the first {asker.v(n)}", f"just {asker.v(n)} of them", f"limit to {asker.v(n)}", f"show only {asker.v(n)}", f"Only {asker.v(n)} rows", f"first {asker.v(n)} only")
        elif kind == "count":
            q.select, q.order = [COUNT], []
            text = pick("How many are there?", "how many are they?", "Count them", "how many?", "How many of them are there?", "just the count", "What is their number?", "and how many is that?", "only the number of them")
        elif kind == "columns":
            cols = [asker.column(t)]
            if asker.chance(0.5):
                cols.append(asker.column(t, avoid=cols))
            q.select = [col(t, c) for c in cols]
            names = " and ".join(asker.say(c, t) for c in cols)
            text = pick(f"Show only the {names}", f"just the {names}", f"only {names}", f"I only need the {names}", f"Only the {names} please")
        elif kind == "also":
            c = asker.column(t, avoid=[e[2] for e in q.select])
            q.select = [*q.select, col(t, c)]
            s = asker.say(c, t)
            text = pick(f"Also show the {s}", f"and the {s}", f"add the {s}", f"include the {s} too", f"with the {s} as well", f"And their {s}?")
        elif kind == "swap":
            from schema import value
            c = q.where[2][2]
            x = value(c, rng)
            q.where = (q.where[0], q.where[1], q.where[2], ("lit", x))
            vx = asker.v(x, c)
            text = pick(f"What about {vx}?", f"and {vx}?", f"and for {vx}?", f"same for {vx}", f"now for {vx}", f"and the same for {vx}", f"How about {vx}?", f"the same but {vx}")
        elif kind == "number":
            n = rng.choice([2, 3, 5, 10, 20])
            if n == q.limit:
                return None
            q.limit, q.offset = n, None
            text = pick(f"Make it {asker.v(n)}", f"show {asker.v(n)} instead", f"top {asker.v(n)} instead" if q.order[0][1] == "DESC" else f"{asker.v(n)} instead", f"and the {asker.v(n)} first", f"give me {asker.v(n)}")
        elif kind == "flip":
            q.order = [(e, "ASC" if d == "DESC" else "DESC") for e, d in q.order]
            text = pick("In reverse order", "the other way round", "reverse the order", "now in the opposite order", "the opposite")
        elif kind == "group only":
            k = rng.choice([1, 2, 5, 10])
            q.having = ("cmp", ">", q.select[-1], ("lit", k))
            text = pick(f"Only those with more than {asker.v(k)}", f"only above {asker.v(k)}", f"just the ones with over {asker.v(k)}", f"only groups with more than {asker.v(k)}")
        else:
            q.order = [(q.select[-1], "DESC")]
            text = pick("highest first", "sort from highest to lowest", "in descending order", "largest first", "biggest first please")
    except NotApplicable:
        return None
    return Ask("follow-up", text, q)


def conversation(rng: random.Random, split: str) -> Sample:
    schema = sample_schema(rng, split)
    a = ask(rng, schema)
    while not isinstance(a.statement, Query):
        a = ask(rng, schema)
    system, user, form = prompt(schema, finish(a.question, rng), rng)
    turns, statements = [user, to_sql(a.statement)], [a.statement]
    for _ in range(rng.choice([1, 1, 2, 3])):
        b = None
        for _ in range(8):
            b = follow_up(a, schema, rng) if isinstance(a.statement, Query) else Ask("follow-up", (x := ask(rng, schema)).question, x.statement)
            if b:
                break
        if b is None:
            break
        turns += [finish(b.question, rng, plain=True), to_sql(b.statement)]
        statements.append(b.statement)
        a = b
    if split == "train" and rng.random() < 0.05:
        turns += [rng.choice(THANKS), ANSWERS["thanks"][0]]
        statements.append(None)
    return Sample("follow-up", _messages(system, *turns), schema, statements, form)


def single(rng: random.Random, split: str, dialect: str = "sqlite") -> Sample:
    schema = sample_schema(rng, split)
    a = ask(rng, schema)
    question = finish(a.question, rng)
    if a.kind == "create" and rng.random() < 0.35 and to_sql(a.statement).startswith("CREATE TABLE"):
        system = rng.choice(SYSTEMS) if rng.random() < 0.5 else None
        return Sample(a.kind, _messages(system, question, to_sql(a.statement, dialect)), schema, [a.statement], "no schema")
    system, user, form = prompt(schema, question, rng)
    return Sample(a.kind, _messages(system, user, to_sql(a.statement, dialect)), schema, [a.statement], form)


def several(rng: random.Random, split: str) -> list[Sample]:
    """Questions that share a schema and the words before the question; in training they share its tokens too."""
    schema = sample_schema(rng, split)
    system, user, form = frame(schema, rng, schema_first=True)
    out, asked = [], set()
    for _ in range(rng.randint(3, 5) if len(schema.tables) == 1 else rng.randint(4, 8)):
        if rng.random() < 0.035:
            question, answer = refused(schema, rng, split)
            statement, kind = None, "refusal"
        else:
            a = ask(rng, schema)
            question, statement, kind = finish(a.question, rng), a.statement, a.kind
            answer = to_sql(statement)
        if question not in asked:
            asked.add(question)
            out.append(Sample(kind, _messages(system, user.replace("{question}", question), answer), schema, [statement], form))
    return out


def group(rng: random.Random, split: str = "train") -> list[Sample]:
    """What training draws: one sample, or several over one schema."""
    r = rng.random()
    if r < 0.5:
        return several(rng, split)
    if r < 0.7:
        return [single(rng, split)]
    if r < 0.9:
        return [conversation(rng, split)]
    return [refusal(rng, split) if r < 0.92 else small_talk(rng, split)]


def dialect(rng: random.Random, split: str) -> list[Sample]:
    """The task of the adapter sql-postgres: questions over one schema, most of them such that PostgreSQL's text differs from SQLite's."""
    schema = sample_schema(rng, split)
    while len(schema.tables) > 2 and rng.random() < 0.8:  # what differs lies in the answer: small schemas teach it as well
        schema = sample_schema(rng, split)
    system, user, form = frame(schema, rng, schema_first=True)
    out = []
    for _ in range(80):
        a = ask(rng, schema)
        if to_sql(a.statement, "postgres") == to_sql(a.statement) and rng.random() < 0.96:
            continue
        out.append(Sample(a.kind, _messages(system, user.replace("{question}", finish(a.question, rng)), to_sql(a.statement, "postgres")), schema, [a.statement], form))
        if len(out) == 4:
            break
    return list({s.messages[-2]["content"]: s for s in out}.values()) or dialect(rng, split)


def explanation(rng: random.Random, split: str) -> Sample:
    """The task of the adapter sql-explain."""
    schema = sample_schema(rng, split)
    a = ask(rng, schema)
    while not (text := explain(a.statement)):
        a = ask(rng, schema)
    sql = to_sql(a.statement)
    if rng.random() < 0.5:
        sql = sql.rstrip(";")
    form = rng.choice(["Explain this query:\n{sql}", "Explain: {sql}", "What does this query do?\n\n{sql}", "{sql}", "Explain the SQL:\n```sql\n{sql}\n```", "Describe in words: {sql}", "What does {sql} return?", "Explain this SQL statement.\n{sql}", "explain {sql}", "{sql}\n\nWhat does it do?", "In plain English, please:\n{sql}"])
    user = form.format(sql=sql)
    if rng.random() < (0.3 if split == "test" else 0.1):
        user = f"{schema.ddl}\n\n{user}"
    return Sample("explain", _messages(None, user, text), schema, [a.statement])


def sample(rng: random.Random, split: str = "train") -> Sample:
    r = rng.random()
    if r < 0.83:
        return single(rng, split)
    if r < 0.94:
        return conversation(rng, split)
    if r < 0.97:
        return refusal(rng, split)
    return small_talk(rng, split)


def render(messages: list[dict], generation_prompt: bool = False) -> str:
    """Gemma 3's chat template, without the leading <bos>."""
    prefix = ""
    if messages and messages[0]["role"] == "system":
        prefix, messages = messages[0]["content"] + "\n\n", messages[1:]
    out = []
    for i, m in enumerate(messages):
        role = "model" if m["role"] == "assistant" else m["role"]
        out.append(f"<start_of_turn>{role}\n{prefix if i == 0 else ''}{m['content'].strip()}<end_of_turn>\n")
    return "".join(out) + ("<start_of_turn>model\n" if generation_prompt else "")
