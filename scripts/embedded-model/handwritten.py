"""Schemas and questions written by hand, apart from the generator's templates. Of several acceptable queries any counts.

Never used for training. `DEV` was looked at while the generator was improved; `TEST` is the figure that is reported.
"""

from __future__ import annotations

from dataclasses import dataclass

from databases import from_ddl
from prompts import GUIDE_SYSTEM, GUIDE_USER, render

SCHEMAS = {
    "shop": """CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, email TEXT, city TEXT, created_at DATE);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customers(id), placed_at DATE, status TEXT, total REAL);
CREATE TABLE order_lines (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders(id), product TEXT, qty INTEGER, unit_price REAL);""",
    "dams": """CREATE TABLE reservoirs (
  reservoir_id INTEGER PRIMARY KEY,
  reservoir_name TEXT NOT NULL,
  province TEXT,
  volume_hm3 REAL,
  inaugurated INTEGER
);
CREATE TABLE gauges (
  gauge_id INTEGER PRIMARY KEY,
  reservoir_id INTEGER,
  taken_on DATE,
  fill_percent REAL,
  FOREIGN KEY (reservoir_id) REFERENCES reservoirs(reservoir_id)
);""",
    "hr": """CREATE TABLE Departments (DepartmentId INTEGER PRIMARY KEY, DepartmentName TEXT, Floor INTEGER);
CREATE TABLE Staff (StaffId INTEGER PRIMARY KEY, FullName TEXT, DepartmentId INTEGER REFERENCES Departments(DepartmentId), Salary REAL, HiredOn DATE, ManagerId INTEGER);""",
    "clinic": """CREATE TABLE dentists (id INTEGER PRIMARY KEY, full_name TEXT, licensed_since INTEGER);
CREATE TABLE patients (id INTEGER PRIMARY KEY, full_name TEXT, born DATE, phone TEXT, insured BOOLEAN);
CREATE TABLE visits (id INTEGER PRIMARY KEY, dentist_id INTEGER REFERENCES dentists(id), patient_id INTEGER REFERENCES patients(id), visit_day DATE, treatment TEXT, charge REAL);""",
    "radio": """CREATE TABLE stations (station_id INTEGER PRIMARY KEY, callsign TEXT, frequency REAL, town TEXT, watts INTEGER);
CREATE TABLE shows (show_id INTEGER PRIMARY KEY, station_id INTEGER REFERENCES stations(station_id), title TEXT, host TEXT, minutes INTEGER, listeners INTEGER);""",
    "greenhouse": "CREATE TABLE seedlings (id INTEGER PRIMARY KEY, variety TEXT, tray INTEGER, sown DATE, height_cm REAL, sold BOOLEAN, price REAL);",
    "fleet": """CREATE TABLE vans (van_no INTEGER PRIMARY KEY, plate TEXT, maker TEXT, odometer INTEGER, bought_in INTEGER, retired BOOLEAN);
CREATE TABLE drivers (driver_no INTEGER PRIMARY KEY, driver_name TEXT, hometown TEXT, hourly_pay REAL);
CREATE TABLE runs (run_no INTEGER PRIMARY KEY, van_no INTEGER REFERENCES vans(van_no), driver_no INTEGER REFERENCES drivers(driver_no), run_date DATE, kilometres REAL, parcels INTEGER);""",
    "cinema": """create table films (film_id integer primary key, film_title text, director text, released integer, runtime integer, rating real);
create table reviews (review_id integer primary key, film_id integer references films(film_id), critic text, stars integer, written_on date);""",
    "wiki": "CREATE TABLE lighthouse_list (name TEXT, country TEXT, built INTEGER, height_m REAL, automated TEXT);",
    "school": """CREATE TABLE "Pupils" ("Pupil Id" INTEGER PRIMARY KEY, "Pupil Name" TEXT, "Class" TEXT, "Birth Date" DATE);
CREATE TABLE "Marks" ("Mark Id" INTEGER PRIMARY KEY, "Pupil Id" INTEGER REFERENCES "Pupils"("Pupil Id"), "Subject" TEXT, "Points" INTEGER);""",
}

# (schema, kind, question, accepted queries)
DEV = [
    ("shop", "join", "Which customers from Madrid have a shipped order?", ["SELECT DISTINCT customers.name FROM customers JOIN orders ON orders.customer_id = customers.id WHERE customers.city = 'Madrid' AND orders.status = 'shipped';", "SELECT DISTINCT customers.* FROM customers JOIN orders ON orders.customer_id = customers.id WHERE customers.city = 'Madrid' AND orders.status = 'shipped';"]),
    ("shop", "join group", "How much has each customer spent in total?", ["SELECT customers.name, SUM(orders.total) FROM customers JOIN orders ON orders.customer_id = customers.id GROUP BY customers.id;"]),
    ("shop", "order/limit", "Show the three latest orders", ["SELECT * FROM orders ORDER BY placed_at DESC LIMIT 3;"]),
    ("hr", "sub-query", "Who earns more than the average salary?", ["SELECT FullName FROM Staff WHERE Salary > (SELECT AVG(Salary) FROM Staff);", "SELECT * FROM Staff WHERE Salary > (SELECT AVG(Salary) FROM Staff);"]),
    ("hr", "join group", "Number of staff per department name", ["SELECT Departments.DepartmentName, COUNT(*) FROM Departments JOIN Staff ON Staff.DepartmentId = Departments.DepartmentId GROUP BY Departments.DepartmentId;", "SELECT Departments.DepartmentName, COUNT(*) FROM Departments JOIN Staff ON Staff.DepartmentId = Departments.DepartmentId GROUP BY Departments.DepartmentName;"]),
    ("clinic", "join", "What treatments did Ana Costa get?", ["SELECT visits.treatment FROM visits JOIN patients ON visits.patient_id = patients.id WHERE patients.full_name = 'Ana Costa';", "SELECT DISTINCT visits.treatment FROM visits JOIN patients ON visits.patient_id = patients.id WHERE patients.full_name = 'Ana Costa';"]),
    ("radio", "filter", "Which shows run longer than an hour, i.e. over 60 minutes?", ["SELECT title FROM shows WHERE minutes > 60;", "SELECT * FROM shows WHERE minutes > 60;"]),
    ("greenhouse", "aggregate", "What do the unsold seedlings cost on average?", ["SELECT AVG(price) FROM seedlings WHERE sold = 0;"]),
    ("fleet", "filter", "vans bought before 2015", ["SELECT * FROM vans WHERE bought_in < 2015;"]),
    ("cinema", "join group", "average number of stars for every film", ["SELECT films.film_title, AVG(reviews.stars) FROM films JOIN reviews ON reviews.film_id = films.film_id GROUP BY films.film_id;"]),
]

TEST = [
    # shop
    ("shop", "aggregate", "How many customers live in Berlin?", ["SELECT COUNT(*) FROM customers WHERE city = 'Berlin';"]),
    ("shop", "filter", "Give me the e-mail addresses of customers named Sara Lind", ["SELECT email FROM customers WHERE name = 'Sara Lind';"]),
    ("shop", "join", "List all orders together with the name of the customer who placed them", ["SELECT orders.*, customers.name FROM orders JOIN customers ON orders.customer_id = customers.id;", "SELECT customers.name, orders.* FROM orders JOIN customers ON orders.customer_id = customers.id;", "SELECT orders.id, customers.name FROM orders JOIN customers ON orders.customer_id = customers.id;", "SELECT * FROM orders JOIN customers ON orders.customer_id = customers.id;", "SELECT orders.status, customers.name FROM orders JOIN customers ON orders.customer_id = customers.id;", "SELECT orders.total, customers.name FROM orders JOIN customers ON orders.customer_id = customers.id;"]),
    ("shop", "sub-query", "customers who have never ordered anything", ["SELECT * FROM customers WHERE NOT EXISTS (SELECT 1 FROM orders WHERE orders.customer_id = customers.id);", "SELECT name FROM customers WHERE NOT EXISTS (SELECT 1 FROM orders WHERE orders.customer_id = customers.id);"]),
    ("shop", "arithmetic", "What is the total revenue, i.e. qty times unit price over all order lines?", ["SELECT SUM(qty * unit_price) FROM order_lines;"]),
    ("shop", "join group", "Which five customers placed the most orders?", ["SELECT customers.name FROM customers JOIN orders ON orders.customer_id = customers.id GROUP BY customers.id ORDER BY COUNT(*) DESC LIMIT 5;", "SELECT customers.name, COUNT(*) FROM customers JOIN orders ON orders.customer_id = customers.id GROUP BY customers.id ORDER BY COUNT(*) DESC LIMIT 5;"]),
    ("shop", "date", "How many orders were placed in March 2024?", ["SELECT COUNT(*) FROM orders WHERE strftime('%Y-%m', placed_at) = '2024-03';"]),
    ("shop", "group", "number of orders by status", ["SELECT status, COUNT(*) FROM orders GROUP BY status;"]),
    ("shop", "update", "Mark order 17 as delivered", ["UPDATE orders SET status = 'delivered' WHERE id = 17;"]),
    ("shop", "delete", "Remove every cancelled order", ["DELETE FROM orders WHERE status = 'cancelled';"]),
    ("shop", "insert", "Add a customer called Ida Holm from Oslo with the email ida@holm.no", ["INSERT INTO customers (name, city, email) VALUES ('Ida Holm', 'Oslo', 'ida@holm.no');"]),
    ("shop", "having", "Which cities have more than two customers?", ["SELECT city FROM customers GROUP BY city HAVING COUNT(*) > 2;", "SELECT city, COUNT(*) FROM customers GROUP BY city HAVING COUNT(*) > 2;"]),
    ("shop", "join", "What products did Paul Reed order?", ["SELECT DISTINCT order_lines.product FROM order_lines JOIN orders ON order_lines.order_id = orders.id JOIN customers ON orders.customer_id = customers.id WHERE customers.name = 'Paul Reed';", "SELECT order_lines.product FROM order_lines JOIN orders ON order_lines.order_id = orders.id JOIN customers ON orders.customer_id = customers.id WHERE customers.name = 'Paul Reed';"]),
    # dams
    ("dams", "order/limit", "What is the biggest reservoir by volume?", ["SELECT reservoir_name FROM reservoirs ORDER BY volume_hm3 DESC LIMIT 1;", "SELECT * FROM reservoirs ORDER BY volume_hm3 DESC LIMIT 1;"]),
    ("dams", "filter", "Reservoirs in the province of Teruel, please", ["SELECT * FROM reservoirs WHERE province = 'Teruel';", "SELECT reservoir_name FROM reservoirs WHERE province = 'Teruel';"]),
    ("dams", "group", "How many reservoirs does each province have?", ["SELECT province, COUNT(*) FROM reservoirs GROUP BY province;"]),
    ("dams", "join group", "For each reservoir, what was the lowest fill percent?", ["SELECT reservoirs.reservoir_name, MIN(gauges.fill_percent) FROM reservoirs JOIN gauges ON gauges.reservoir_id = reservoirs.reservoir_id GROUP BY reservoirs.reservoir_id;", "SELECT reservoir_id, MIN(fill_percent) FROM gauges GROUP BY reservoir_id;"]),
    ("dams", "date", "Show the gauges taken after 1 June 2023", ["SELECT * FROM gauges WHERE taken_on > '2023-06-01';"]),
    ("dams", "between", "Which reservoirs were inaugurated between 1950 and 1970?", ["SELECT reservoir_name FROM reservoirs WHERE inaugurated BETWEEN 1950 AND 1970;", "SELECT * FROM reservoirs WHERE inaugurated BETWEEN 1950 AND 1970;"]),
    ("dams", "null", "Are there reservoirs without a province? Show them.", ["SELECT * FROM reservoirs WHERE province IS NULL;", "SELECT reservoir_name FROM reservoirs WHERE province IS NULL;"]),
    # hr
    ("hr", "order/limit", "who is the best paid employee", ["SELECT FullName FROM Staff ORDER BY Salary DESC LIMIT 1;", "SELECT * FROM Staff ORDER BY Salary DESC LIMIT 1;"]),
    ("hr", "date", "Staff hired since 2020", ["SELECT * FROM Staff WHERE HiredOn >= '2020-01-01';", "SELECT FullName FROM Staff WHERE HiredOn >= '2020-01-01';"]),
    ("hr", "join", "Names of the people who work in Logistics", ["SELECT Staff.FullName FROM Staff JOIN Departments ON Staff.DepartmentId = Departments.DepartmentId WHERE Departments.DepartmentName = 'Logistics';"]),
    ("hr", "join group", "avg salary per department, highest first", ["SELECT Departments.DepartmentName, AVG(Staff.Salary) FROM Departments JOIN Staff ON Staff.DepartmentId = Departments.DepartmentId GROUP BY Departments.DepartmentId ORDER BY AVG(Staff.Salary) DESC;", "SELECT DepartmentId, AVG(Salary) FROM Staff GROUP BY DepartmentId ORDER BY AVG(Salary) DESC;"]),
    ("hr", "update", "Give everybody in department 3 a raise of 5%", ["UPDATE Staff SET Salary = Salary * 1.05 WHERE DepartmentId = 3;"]),
    ("hr", "sub-query", "Which departments have no staff?", ["SELECT DepartmentName FROM Departments WHERE NOT EXISTS (SELECT 1 FROM Staff WHERE Staff.DepartmentId = Departments.DepartmentId);", "SELECT * FROM Departments WHERE NOT EXISTS (SELECT 1 FROM Staff WHERE Staff.DepartmentId = Departments.DepartmentId);"]),
    ("hr", "order/limit", "second highest salary", ["SELECT Salary FROM Staff ORDER BY Salary DESC LIMIT 1 OFFSET 1;"]),
    ("hr", "null", "who has no manager?", ["SELECT FullName FROM Staff WHERE ManagerId IS NULL;", "SELECT * FROM Staff WHERE ManagerId IS NULL;"]),
    # clinic
    ("clinic", "aggregate", "What is the sum of all charges?", ["SELECT SUM(charge) FROM visits;"]),
    ("clinic", "join group", "How many visits did each dentist have?", ["SELECT dentists.full_name, COUNT(*) FROM dentists JOIN visits ON visits.dentist_id = dentists.id GROUP BY dentists.id;"]),
    ("clinic", "filter", "Patients that are not insured", ["SELECT * FROM patients WHERE insured = 0;", "SELECT full_name FROM patients WHERE insured = 0;"]),
    ("clinic", "distinct", "Which different treatments were given?", ["SELECT DISTINCT treatment FROM visits;"]),
    ("clinic", "join 3+", "Which patients has dentist Hugo Weber treated?", ["SELECT DISTINCT patients.full_name FROM patients JOIN visits ON visits.patient_id = patients.id JOIN dentists ON visits.dentist_id = dentists.id WHERE dentists.full_name = 'Hugo Weber';", "SELECT patients.full_name FROM patients JOIN visits ON visits.patient_id = patients.id JOIN dentists ON visits.dentist_id = dentists.id WHERE dentists.full_name = 'Hugo Weber';"]),
    ("clinic", "like", "patients whose phone number starts with 555", ["SELECT * FROM patients WHERE phone LIKE '555%';", "SELECT full_name FROM patients WHERE phone LIKE '555%';"]),
    ("clinic", "date", "visits of the last 30 days", ["SELECT * FROM visits WHERE visit_day >= date('now', '-30 days');"]),
    ("clinic", "order/limit", "Show the oldest patient", ["SELECT * FROM patients ORDER BY born LIMIT 1;", "SELECT full_name FROM patients ORDER BY born LIMIT 1;"]),
    ("clinic", "having", "dentists with at least 3 visits", ["SELECT dentists.full_name FROM dentists JOIN visits ON visits.dentist_id = dentists.id GROUP BY dentists.id HAVING COUNT(*) >= 3;", "SELECT dentists.* FROM dentists JOIN visits ON visits.dentist_id = dentists.id GROUP BY dentists.id HAVING COUNT(*) >= 3;"]),
    # radio
    ("radio", "filter", "Show stations with more than 500 watts", ["SELECT * FROM stations WHERE watts > 500;"]),
    ("radio", "filter", "Who hosts Morning Coffee?", ["SELECT host FROM shows WHERE title = 'Morning Coffee';"]),
    ("radio", "join", "titles of shows on stations from Bristol", ["SELECT shows.title FROM shows JOIN stations ON shows.station_id = stations.station_id WHERE stations.town = 'Bristol';"]),
    ("radio", "order/limit", "top 10 shows by listeners", ["SELECT * FROM shows ORDER BY listeners DESC LIMIT 10;", "SELECT title FROM shows ORDER BY listeners DESC LIMIT 10;"]),
    ("radio", "and/or/not", "shows hosted by Tom Ward that have fewer than 2000 listeners", ["SELECT * FROM shows WHERE host = 'Tom Ward' AND listeners < 2000;", "SELECT title FROM shows WHERE host = 'Tom Ward' AND listeners < 2000;"]),
    ("radio", "join group", "Which station has the most shows?", ["SELECT stations.callsign FROM stations JOIN shows ON shows.station_id = stations.station_id GROUP BY stations.station_id ORDER BY COUNT(*) DESC LIMIT 1;"]),
    ("radio", "case", "List show titles and say 'long' if they take over 90 minutes, else 'short'", ["SELECT title, CASE WHEN minutes > 90 THEN 'long' ELSE 'short' END FROM shows;"]),
    ("radio", "in", "stations in Leeds, York or Hull", ["SELECT * FROM stations WHERE town IN ('Leeds', 'York', 'Hull');"]),
    # greenhouse
    ("greenhouse", "filter", "List the varieties of all seedlings that are sold", ["SELECT variety FROM seedlings WHERE sold = 1;", "SELECT DISTINCT variety FROM seedlings WHERE sold = 1;"]),
    ("greenhouse", "group", "avg height per variety", ["SELECT variety, AVG(height_cm) FROM seedlings GROUP BY variety;"]),
    ("greenhouse", "update", "set the price of all Roma seedlings to 2.5", ["UPDATE seedlings SET price = 2.5 WHERE variety = 'Roma';"]),
    ("greenhouse", "order/limit", "tallest 5 seedlings", ["SELECT * FROM seedlings ORDER BY height_cm DESC LIMIT 5;"]),
    ("greenhouse", "aggregate", "HOW MANY SEEDLINGS ARE IN TRAY 4?", ["SELECT COUNT(*) FROM seedlings WHERE tray = 4;"]),
    ("greenhouse", "date", "Which seedlings were sown in 2022?", ["SELECT * FROM seedlings WHERE strftime('%Y', sown) = '2022';", "SELECT variety FROM seedlings WHERE strftime('%Y', sown) = '2022';"]),
    ("greenhouse", "date", "count seedlings by month of sowing", ["SELECT strftime('%Y-%m', sown), COUNT(*) FROM seedlings GROUP BY strftime('%Y-%m', sown);"]),
    # fleet
    ("fleet", "order/limit", "Which van has the highest odometer reading?", ["SELECT * FROM vans ORDER BY odometer DESC LIMIT 1;", "SELECT plate FROM vans ORDER BY odometer DESC LIMIT 1;", "SELECT van_no FROM vans ORDER BY odometer DESC LIMIT 1;"]),
    ("fleet", "join group", "Total kilometres per driver", ["SELECT drivers.driver_name, SUM(runs.kilometres) FROM drivers JOIN runs ON runs.driver_no = drivers.driver_no GROUP BY drivers.driver_no;"]),
    ("fleet", "join 3+", "Which drivers have driven a Ford?", ["SELECT DISTINCT drivers.driver_name FROM drivers JOIN runs ON runs.driver_no = drivers.driver_no JOIN vans ON runs.van_no = vans.van_no WHERE vans.maker = 'Ford';", "SELECT DISTINCT drivers.* FROM drivers JOIN runs ON runs.driver_no = drivers.driver_no JOIN vans ON runs.van_no = vans.van_no WHERE vans.maker = 'Ford';"]),
    ("fleet", "aggregate", "How many parcels were delivered on 2024-02-14?", ["SELECT SUM(parcels) FROM runs WHERE run_date = '2024-02-14';"]),
    ("fleet", "select", "plates and makers of all vans", ["SELECT plate, maker FROM vans;"]),
    ("fleet", "and/or/not", "vans that are retired and have more than 200000 on the odometer", ["SELECT * FROM vans WHERE retired = 1 AND odometer > 200000;", "SELECT plate FROM vans WHERE retired = 1 AND odometer > 200000;"]),
    ("fleet", "join", "How many runs did Lena Fox make?", ["SELECT COUNT(*) FROM runs JOIN drivers ON runs.driver_no = drivers.driver_no WHERE drivers.driver_name = 'Lena Fox';"]),
    # cinema
    ("cinema", "filter", "films directed by Agnes Varda", ["SELECT * FROM films WHERE director = 'Agnes Varda';", "SELECT film_title FROM films WHERE director = 'Agnes Varda';"]),
    ("cinema", "join", "Show critic and stars of all reviews of Stalker", ["SELECT reviews.critic, reviews.stars FROM reviews JOIN films ON reviews.film_id = films.film_id WHERE films.film_title = 'Stalker';"]),
    ("cinema", "sub-query", "films without reviews", ["SELECT * FROM films WHERE NOT EXISTS (SELECT 1 FROM reviews WHERE reviews.film_id = films.film_id);", "SELECT film_title FROM films WHERE NOT EXISTS (SELECT 1 FROM reviews WHERE reviews.film_id = films.film_id);"]),
    ("cinema", "group", "Which director made the most films?", ["SELECT director FROM films GROUP BY director ORDER BY COUNT(*) DESC LIMIT 1;", "SELECT director, COUNT(*) FROM films GROUP BY director ORDER BY COUNT(*) DESC LIMIT 1;"]),
    ("cinema", "filter", "can you list all movies released after 1990 with a rating of 8 or more?", ["SELECT * FROM films WHERE released > 1990 AND rating >= 8;", "SELECT film_title FROM films WHERE released > 1990 AND rating >= 8;"]),
    ("cinema", "order/limit", "titles from longest to shortest runtime", ["SELECT film_title FROM films ORDER BY runtime DESC;"]),
    # wiki
    ("wiki", "filter", "What is the height of the lighthouse Cape Lookout?", ["SELECT height_m FROM lighthouse_list WHERE name = 'Cape Lookout';"]),
    ("wiki", "filter", "Which country is Hook Head in?", ["SELECT country FROM lighthouse_list WHERE name = 'Hook Head';"]),
    ("wiki", "filter", "name the lighthouses in Norway", ["SELECT name FROM lighthouse_list WHERE country = 'Norway';"]),
    ("wiki", "aggregate", "When was the oldest lighthouse built?", ["SELECT MIN(built) FROM lighthouse_list;", "SELECT built FROM lighthouse_list ORDER BY built LIMIT 1;"]),
    # school
    ("school", "join group", "Average points of every pupil", ["SELECT \"Pupils\".\"Pupil Name\", AVG(\"Marks\".\"Points\") FROM \"Pupils\" JOIN \"Marks\" ON \"Marks\".\"Pupil Id\" = \"Pupils\".\"Pupil Id\" GROUP BY \"Pupils\".\"Pupil Id\";"]),
    ("school", "filter", "Names of the pupils in class 5B", ["SELECT \"Pupil Name\" FROM \"Pupils\" WHERE \"Class\" = '5B';"]),
    ("school", "aggregate", "what's the best mark in Chemistry (points)?", ["SELECT MAX(\"Points\") FROM \"Marks\" WHERE \"Subject\" = 'Chemistry';", "SELECT \"Points\" FROM \"Marks\" WHERE \"Subject\" = 'Chemistry' ORDER BY \"Points\" DESC LIMIT 1;"]),
    ("school", "order/limit", "youngest pupil", ["SELECT * FROM \"Pupils\" ORDER BY \"Birth Date\" DESC LIMIT 1;", "SELECT \"Pupil Name\" FROM \"Pupils\" ORDER BY \"Birth Date\" DESC LIMIT 1;"]),
    ("school", "delete", "Delete the marks with zero points", ["DELETE FROM \"Marks\" WHERE \"Points\" = 0;"]),
]


@dataclass
class Item:
    kind: str
    prompt: str
    golds: list[str]
    ddl: str

    def database(self, seed: int):
        return from_ddl(self.ddl, self.golds[0], seed)


def items(part: str = "test") -> list[Item]:
    out = []
    for i, (schema, kind, question, golds) in enumerate(TEST if part == "test" else DEV):
        ddl = SCHEMAS[schema]
        if i % 3 == 2:
            messages = [{"role": "user", "content": f"{ddl}\n\n{question}"}]
        else:
            messages = [{"role": "user", "content": GUIDE_USER.format(schema=ddl, question=question)}]
            if i % 3 == 0:
                messages.insert(0, {"role": "system", "content": GUIDE_SYSTEM})
        out.append(Item(kind, render(messages, True), golds, ddl))
    return out
