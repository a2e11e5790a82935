"""Words, values and phrases that the generator draws from. Data only; nothing here knows about SQL."""

FIRST = """Anna Ben Carla David Elena Farid Grace Hugo Ines James Keiko Liam Maria Noah Olga Pedro Qi Rosa Samir Tara Uma Victor Wendy Xavier Yara Zane
Alice Bruno Chloe Dmitri Emma Felix Gita Hannah Ivan Julia Karl Lena Marco Nadia Oscar Priya Ravi Sofia Tomas Vera Walter Amir Beatriz Chen Diego Esther
Fatima George Helen Ibrahim Jane Kofi Laura Mehmet Nina Omar Paula Robert Sara Theo Ursula Wei Yusuf Zoe John Mary Peter Linda Susan Paul Mark Alan Jenna Ruth""".split()
LAST = """Smith Garcia Muller Rossi Tanaka Okafor Silva Novak Kim Patel Johnson Brown Lee Lopez Martin Ivanova Chen Haddad Costa Jensen Kowalski Dubois Moreau
Andersson Virtanen Murphy Walker Young Hall Wright Baker Carter Reed Cook Morgan Bell Ward Fox Stone Marsh Ford Lane Hill West Austen Orwell Nguyen Sato Suzuki
Khan Ali Hassan Cohen Levi Schmidt Weber Fischer Wagner Becker Keller Larsen Berg Lind Holm Vega Cruz Reyes Ortiz Ramos Flores Diaz Torres Santos Pereira Almeida""".split()
CITIES = """Paris London Berlin Madrid Rome Vienna Prague Lisbon Dublin Oslo Helsinki Warsaw Athens Budapest Zurich Geneva Brussels Amsterdam Hamburg Munich Lyon
Milan Naples Seville Porto Krakow Tokyo Osaka Kyoto Seoul Beijing Shanghai Delhi Mumbai Chennai Bangkok Hanoi Jakarta Manila Sydney Melbourne Perth Auckland Toronto
Montreal Vancouver Chicago Boston Denver Seattle Austin Dallas Houston Miami Atlanta Phoenix Portland Detroit Lima Bogota Quito Santiago Cairo Lagos Nairobi Accra
Tunis Casablanca Dakar Istanbul Ankara Riyadh Dubai Doha Tehran Karachi Lahore Dhaka Colombo Riga Tallinn Vilnius Sofia Zagreb Belgrade Bucharest Kiev Minsk Springfield
Salem Bristol Leeds York Oxford Cambridge Cardiff Glasgow""".split() + ["New York", "San Francisco", "Los Angeles", "Buenos Aires", "Cape Town", "Hong Kong", "Mexico City", "Sao Paulo",
          "San Diego", "Las Vegas", "New Delhi", "Kuala Lumpur", "Tel Aviv", "Abu Dhabi"]
COUNTRIES = """France Germany Spain Italy Portugal Ireland Norway Sweden Denmark Finland Poland Greece Austria Hungary Switzerland Belgium Netherlands Japan China India
Thailand Vietnam Indonesia Philippines Australia Canada Mexico Brazil Argentina Chile Peru Colombia Egypt Nigeria Kenya Ghana Morocco Turkey Iran Pakistan Bangladesh
Romania Bulgaria Croatia Serbia Ukraine Iceland Estonia Latvia Lithuania Cuba Jamaica Uganda Ethiopia Senegal""".split() + ["United States", "United Kingdom", "South Korea",
             "South Africa", "New Zealand", "Saudi Arabia", "Costa Rica", "Sri Lanka", "USA", "UK"]
STATES = """California Texas Florida Ohio Georgia Nevada Oregon Utah Kansas Iowa Maine Alaska Vermont Arizona Colorado Michigan Bavaria Tuscany Andalusia Ontario Quebec""".split() + [
    "New Jersey", "North Carolina", "West Virginia", "New Mexico"]
COMPANY_A = """Blue North Silver Green Bright Global Prime Apex Summit Delta Nova Royal Urban Pacific Atlantic Golden Iron Rapid Solar Quantum Vertex Cedar Falcon Harbor
Crystal Metro United Central Alpine Coastal""".split()
COMPANY_B = """Foods Logistics Systems Motors Textiles Energy Media Partners Industries Labs Works Supply Trading Capital Studio Health Pharma Steel Networks Travel Software
Robotics Design Insurance Builders Farms""".split()
COMPANY_C = ["Inc", "Ltd", "GmbH", "LLC", "Corp", "", "", "", ""]
ADJ = """amber ancient arctic bitter blue bold brave brief bright broken calm clear cold cosmic cozy crimson crisp curious dark deep distant dry dusty eager early easy
electric empty fair fancy fast final fine firm flat fresh gentle giant glad golden grand gray green happy hard heavy hidden high hollow honest humble icy idle inner iron
ivory jolly keen kind large late lazy light little lively lonely long loud lucky magic major mellow mighty mild misty modern narrow neat noble north odd old open orange
outer pale plain polar polite prime proud pure quick quiet rapid rare raw red rich rough round royal rusty sacred safe sandy secret sharp shiny short silent silver simple
slow small smart smooth soft solar solid sour south spare steady steep stiff still strong sunny sweet swift tall tame thick thin tidy tiny tired tough true urban vague
vast velvet violet vivid warm wary weak western white wide wild windy winter wise wooden yellow young""".split()
NOUNS = """acorn agenda alarm album alloy almond altar anchor angle ankle anthem apple apron arch arena armor arrow atlas attic auction avenue award axis badge bagel bakery
balcony ballad bamboo banner barley barn barrel basin basket battery bay beacon beam bean bear beehive bell belt bench berry bicycle bird biscuit blanket blossom boat bolt
bonus boot border bottle boulder bowl bracket branch brand bread breeze brick bridge broker broom brush bucket bud buffer bulb bundle bunker burger button cabin cable cactus
cake camera camp canal candle cannon canoe canvas canyon cape capsule captain caravan card cargo carpet carrot cart case castle cave cedar cell chain chair chalk channel
charm chart cheese chess chest chimney choir circle citrus clamp clay cliff clinic clock cloud clover coach coal coast coat cocoa coil coin collar comet compass concert
cone copper coral cord corn corner cottage cotton counter cradle crane crate crater crew cricket crop crown crystal cube curtain curve cushion cylinder dairy dam dance
dawn deck deer delta desert desk dial diamond diary dinner dish ditch dock dome donkey door dragon drain drawer dream drill drum duck dune dust eagle ear earth echo edge
elbow ember engine envelope estate fabric falcon fan farm feather fence ferry festival fiber field fig filter finger fire fish flag flame flask fleet flock flood floor flour
flower flute foam fog folder forest fork fort fossil fountain fox frame freight frog frost fruit fuel fund fuse galaxy gallery garage garden garlic gate gear gem ghost
ginger glacier glass globe glove goat gold goose grain granite grape grass gravel grid grill grove guard guitar gull hammer handle harbor harp harvest hat hatch hawk heap
heart hedge helmet herb heron hill hinge hive holiday honey hook horn horse hose hotel hut ice icon igloo ink inlet insect island ivy jacket jar jaw jewel jungle kayak
kernel kettle key kiln kite kitten knee knife knot label lace ladder lagoon lake lamp lantern lark laser latch lava lawn leaf ledge ledger lemon lens lever lid lily lime
lion lizard loaf lobby lock locket locust loft log loom loop lotus lumber lynx magnet mango manor mantle map maple marble margin market marsh mask mast match meadow medal
melon mentor meteor metal mill mine mint mirror mist mitten molecule monk monsoon moon moose mortar mosaic moss moth motor mountain mouse mud mule mural museum mushroom
napkin nectar needle nest net nickel night node notch nugget nut oak oar oasis oat ocean olive onion opal opera orbit orchard orchid organ osprey otter oven owl oxygen oyster
paddle page paint palace palm panel panther paper parade parcel parrot pasta patch path pearl pebble pedal peg pelican pencil pendant pepper perch petal phantom piano pier
pigeon pillar pillow pilot pine pipe pistol plank plant plasma plate plaza plum pocket poem pole pollen pond pony poppy porch portal post pot potato pottery prairie prism
probe profile propeller prune puddle pulley pulse pump puppet puzzle pyramid quarry quartz queen quilt quiver rabbit raccoon radar radish raft rail rain ramp ranch raven
razor reactor reef relay relic resin ribbon rice ridge ring river road robin robot rock rocket rod roof root rope rose rotor rudder rug ruler saddle sage sail salad salmon
salt sand sandal satchel satin sauce scale scarf school scooter scroll seal seed sensor shadow shark shed shell shelf shield ship shoe shore shovel shrimp shrine sink siren
sketch ski skull sky slate sled sleeve slipper slope snail snake snow soap sock soil sonar song soup spark sparrow spear sphere spice spider spindle spiral sponge spoon
spring spruce squid stable stadium stage stairs stamp star statue steam steel stem stone storm stove straw stream string summit sun swan sword syrup table tablet tail tank
tape tavern tea temple tent terrace thread throne thunder tide tiger tile timber toast tomato torch tortoise tower toy tractor trail train tray treasure tree trench tribe
trolley trout trumpet trunk tulip tunnel turbine turtle umbrella valley valve vase vault veil velvet vessel village vine violin volcano wagon walnut wand wave wheat wheel
whistle willow window wing winter wire wolf wood wool yacht yard yarn zebra zinc""".split()
# Further things, people, places and ideas: a word that training shows in one name is easier to copy out of another.
NOUNS += """abbey academy accent accident accordion acrobat actor adapter adverb advert aerial agency airbag aircraft airfield airline airport aisle alcove alder
algebra allergy alley ambulance amphora amplifier anaconda anchovy antelope antenna anvil apricot aquarium archer archive armchair arrival arsenal
artichoke article ashtray asphalt athlete audience audit aunt aurora author autumn avocado axle baboon bachelor backpack bacteria badger bagpipe baker
ballet ballot banana bandage banjo banker bankruptcy banquet baptism barber bargain barge barista baron barracks barrier baseball basement bassoon
bathtub battalion bazaar beaver bedroom beetle beggar behavior beret beverage bias bible bill billboard biography birch birthday bison blade blender
blizzard blog blouse blueprint boar boarder bobbin bodyguard boiler bonfire bookcase bookstore booth botanist bouncer boundary boutique boxer bracelet
brain brake brass bravery brewer bribe bride brigade brochure bronze brook broth brother bruise bubble buckle buffet builder bungalow buoy bureau
burglar bus bush butcher butler butter butterfly buzzer cabbage cabinet cafe cage calculator calendar calf camel campsite campus canary candidate
candy canine canteen capital caption caramel caretaker caribou carnation carnival carpenter carriage cartoon cartridge cascade casino casserole
catalog catapult catfish cathedral cauldron cavalry caviar ceiling celebrity celery cello cement cemetery census century cereal ceremony certificate
chairman challenge chamber chameleon champion chancellor chandelier chapel chapter charger chariot charity chassis chauffeur checkpoint cheetah
chemist cherry chestnut chicken chief chili chimp chisel chocolate chord chore chorus cigar cinema cinnamon circuit circus citizen clarinet clause
cleaner clerk climate cloak closet cluster coalition cobra cockpit coconut cod coffee collage colleague collector college colony column comedian
command committee companion comrade condor conference congress constable consul contractor convent convoy cook cookie copy copyright cormorant
corridor costume couch council counselor couple coupon courier court cousin cowboy coyote crab crayon creature creek crevice crime criminal crocodile
croissant crossing crow crowd cruise crust crutch cub cuckoo cucumber cue culture cup cupboard curator currant currency curry cursor custard customs
cutlery cyclist cyclone cymbal dagger daisy dancer dandelion dart database daughter deadline dealer debate debris debtor decade decoration decree deed
defect defender degree delegate democracy depot deputy detective device dew dialect dictionary diesel diet dilemma dinosaur diploma diplomat disaster
disc disease disk dividend divorce doctor document doll dolphin donation donor dose dough dove dozen draft dragonfly drama drone drought drummer
dungeon duty dwarf dynasty earring eclipse economy editor editorial eel effect egg elder election electron elephant elevator elm embassy emblem
emerald emperor empire employer encounter enemy engineer enigma entrance enzyme epidemic episode equation era eraser errand escalator essay evening
evidence exam excavator exhibit exile exit exporter eyebrow facade factory fairy faith famine fanfare farmer faucet fawn feast feature feeling felony
fern fever fiddle figure filling finch finding firearm fisherman fixture flamingo flashlight flavor flea flint florist fluid foal folklore footage
footballer forecast forehead foreman forge formula fortress fortune foundry fowl fraction fragment freezer frigate fringe frontier fugitive funeral
fungus funnel furnace furniture gadget gallon gambler game gang gardener garment gasket gazelle gearbox geese gene general genius genre geologist
geyser giraffe girder gladiator glue gnome goal goblet goggles gorilla gossip governor gown grader graduate graph grasshopper grave greeting grenade
greyhound groom grocery groundhog grower guardian guest guideline guild guinea gulf gum gutter gymnast habit hailstorm hairdresser hallway hamlet
hamster handbag handcuff handler handrail hangar hardware hare harness harpoon haven hazard headline headset heater hectare hedgehog heir heiress
helicopter hen heritage hermit hero heroine highway hiker hippo historian hockey holder hood hormone hospital hostage hostel hotspot hound household
housing hovercraft humor hunter hurdle hurricane husband hyena hymn iceberg identity idiom iguana illness image immigrant impala implant income
incubator index infant infection inmate innkeeper inquiry inspection inspector instinct institute insurer intern interpreter interval interview
invader invention inventor investigator invoice iris ironing isotope item jackal jackpot jaguar janitor jasmine javelin jazz jeep jellyfish jet
jeweler jockey joint joke journal judge juggler juice jumper juncture juror kangaroo karaoke keyboard kidney kingdom kiosk kitchen knight knowledge
koala laborer laboratory lamb landlord landmark landslide language lapel laptop larva lasagna laundry laureate laurel lawsuit lawyer layout leader
leaflet league leather lecture lecturer leek legend legume lemonade leopard lesson letter lettuce librarian library lieutenant lifeboat lifeguard
lighter lightning limb limousine liner linguist lipstick liquid litter liver livestock llama loan lobster location locomotive locker logo lottery
lounge lullaby lunch lung luxury lyric machine magazine magician magpie maid mailbox mailman majority mammal mammoth mandate mandolin manicure
mannequin manuscript marathon march mariner marriage marshal martyr mason mathematician mattress mayor measure mechanic medication medicine member
memoir menu merchant mermaid message messenger microscope midwife migrant militia millet mineral minister minority miracle missile mission mistake
mobile monarch monastery monitor monkey monopoly monument mood morning mortgage mosque mosquito motel motive motorist mouthpiece movement multitude
muscle musician mussel mustard myth nail nanny narrator nation nebula neighbor nephew nerve newborn newscast newspaper niece nightingale nobleman
nomad noodle notary notebook notion novel novelist novice nuance nucleus nurse nursery nutmeg oath obelisk obituary object observatory obstacle
octopus offense offer officer offspring ointment omelet opinion opponent optician option oracle orator ordeal ordinance ore organism ornament orphan
ostrich outcome outfit outlaw outlet outpost oval overcoat owner pacemaker package packet pad painter pajamas pancake panda pantry papaya parachute
paragraph parasite parish parking parliament parlor participant partner partridge passage passenger passport pastor pastry patent patriot patrol
patron pavement pavilion peach peacock peanut pear peasant pedestrian peninsula pension perfume period permission phase pheasant philosopher phobia
photographer physicist pianist pickle picnic pigment pilgrim pill pillory pineapple pioneer pirate pistachio pitcher pixel pizza plaintiff planet
planner plaster platform platoon playwright pledge plot plumber plunger poacher podcast poet policeman policy politician poll pollution polo poodle
pope porcelain porcupine porter portrait postcard poster postman posture potion poultry powder prank prayer preacher precinct predator preface prefix
premise prescription president priest prince princess principal printer prisoner privilege prodigy producer professor programmer projector promise
promoter prophet proposal prosecutor protein protest protocol proverb psychologist publisher pudding puffin python quail quarrel quest quiz quota
rabbi racket radiator radio raid railing railway raincoat rainbow raisin rally ram ranger ransom rattle ravine rebel receipt receiver recipe recital
recruit rectangle referee refinery reform refrigerator refugee regiment rehearsal reindeer relative religion remedy rental reporter reptile rescue
resident resort restaurant retina retreat reunion revolver reward rhino rhythm riddle rider rifle riot ripple ritual rival riverbank roach roast
robbery robe rodent roller romance rooftop rookie rooster roster router rower rubber ruby rucksack ruin runway sailor saint salesman saloon salute
sanctuary sandwich sapphire sardine satellite sausage savanna saxophone scaffold scanner scenario scene scholar scholarship schooner science scientist
scissors scorpion scout screen screenplay screwdriver scribe script sculptor sculpture seafood seagull seaman season seat secret secretary sector
seminar senator sentence sequel sergeant sermon serpent servant server settler sewer shaft shampoo shareholder sheet shelter shepherd sheriff shipment
shipwreck shortcut shower shrub shuttle sibling sickle sidewalk siege signal signature silk singer sister sitcom skater skeleton skill skipper skirt
skunk skyscraper sledge slogan sloth smuggler snack sniper soccer society socket sofa software soldier soloist solvent sonata soprano sorcerer soul
sovereign soybean spaceship spaniel spatula specimen spectacle speech spell spinach spire spirit sponsor spore spouse sprinkler sprinter spy squadron
square squire squirrel stagecoach stain staircase stallion stapler starfish steak steamer stereo steward sticker stitch stocking stomach stool
stopwatch storage stork stranger strategy strawberry street strike stripe student stunt suburb subway sugar suit suitcase supervisor surfer surgeon
surgery survey survivor suspect swallow swamp sweater swimmer switch syllable symbol symphony symptom syringe system tablecloth tackle tactic tadpole
tailor talent tambourine tangerine tanker tapestry tariff taxi teacup teammate teapot technician teenager telegram telephone telescope television
tenant tendency tenor tension territory terrier terror theory therapist thermometer thesis thief thimble thistle throat thumb tiara tick tin tissue
titan toaster tobacco toddler toilet tombstone tongue toolbox tooth topic tornado torpedo tortilla tournament towel toxin trader tradition trailer
trainer traitor tram trampoline transcript transistor translator trapeze traveler treason treaty trial triangle tribunal tribute tricycle trigger trio
triplet trombone trophy troop trousers truffle trustee tuba tug tuna turban turkey turnip tutor tuxedo typewriter tyrant umpire uncle unicorn uniform
union universe usher utensil vacancy vaccine vacuum vanilla vector vegetable vehicle vendor venue verdict verse veteran veterinarian viaduct victim
victory video viewpoint vigilante villa villain vinegar vineyard viper virus visa viscount visitor vitamin vocabulary volunteer voter voyage vulture
waffle waiter wallet walrus warbler wardrobe warehouse warrant warrior wasp watchman waterfall weapon weasel weather website wedding weed weekend
welder whale wharf whisk widow wildlife windmill wizard woodland woodpecker workbench workout workshop worm wrestler wrist writer yeast yogurt youth
zeppelin zipper zookeeper""".split()
# Heads that give an invented column its type.
HEADS = {
    "int": "count quantity age level rank capacity score points stock volume pages floors seats units visits attempts rooms goals size minutes steps votes followers copies hits wins losses cycles errors".split(),
    "real": "weight height length width depth speed distance temperature area rating ratio duration density voltage pressure torque diameter humidity altitude load radius gain range strength balance thickness yield".split(),
    "money": "price cost fee salary budget amount total revenue value tax discount wage rent profit expense premium debt payment charge tariff deposit".split(),
    "date": "date deadline".split(),
    "cat": "status type category color grade class kind mode priority style group region material role stage phase shape flavor brand tier source method format label section zone".split(),
    "text": "name title code note description comment address nickname serial remark reference tag motto alias".split(),
    "person": "owner manager author driver editor inspector operator supervisor designer artist captain teacher keeper handler guide".split(),
    "year": "year".split(), "city": "city".split(), "country": "country".split(), "pct": "percent share".split(),
}
# Heads of invented columns only: `HEADS` also gives the columns of the written domains their kind.
MORE_HEADS = {
    "int": "total number tally wins entries members guests pieces items sheets crates doses shots layers rounds laps trips calls days nights weeks employees passengers containers boxes tickets acres kilometers calories tons threads repairs".split(),
    "real": "reading level mass deviation frequency acidity concentration elevation capacity consumption dose score average slope rate growth latitude longitude brightness purity moisture output".split(),
    "money": "sum pay earnings bill rate gain loss subsidy donation grant sales turnover bonus bid offer allowance commission reserve".split(),
    "date": "day time moment".split(),
    "cat": "rating result outcome state variant finish form rank sort breed theme topic subject language sector department unit position origin surface mood risk quality pattern texture mark gender team".split(),
    "text": "heading caption text story summary slogan symbol number identifier signature id card badge theme model message inscription website username".split(),
    "person": "leader chief contact holder agent witness winner opponent partner trainer nurse clerk judge pilot painter speaker tenant seller buyer assistant mechanic doctor founder".split(),
    "year": "year season vintage".split(), "city": "location place hometown birthplace destination origin headquarters base venue port village".split(),
    "country": "nation origin citizenship market land".split(), "pct": "rate ratio discount margin growth".split(),
}
# Units that end a column's name; a person mostly leaves them out.
UNIT_WORDS = {"real": "cm m km mm kg g lb l ml ft mi c kw mb gb bar pct tons".split(), "int": "min hours days sec km kg m watts kcal pcs m2 mb years".split(), "money": "usd eur gbp dollars euros cents".split()}
DATE_WORDS = "start end created updated due opening closing arrival departure issue expiry signup launch delivery release purchase visit birth hire review shipping audit repair inspection".split()
BOOL_WORDS = "active paid verified available approved archived completed returned featured public locked urgent certified insured enabled deleted premium refundable vegan indoor".split()
CATEGORY_WORDS = """new used pending active closed open draft final basic premium gold silver bronze small medium large low normal high urgent red green blue black white yellow
online offline retail wholesale internal external public private local remote weekly monthly daily north south east west junior senior standard express digital paper organic
frozen fresh hybrid electric manual automatic indoor outdoor summer winter adult child student guest member vip trial annual wood metal glass plastic cotton leather steel
approved rejected cancelled shipped delivered returned paid unpaid overdue resolved blocked archived planned running failed passed ready sold rented reserved vacant""".split()
# Phrases by the head word of a column: other names, superlatives (descending, ascending), comparatives (more, less).
SYNONYMS = {
    "price": ["cost"], "cost": ["price"], "salary": ["pay", "wage", "earnings"], "wage": ["pay"], "email": ["email address", "e-mail", "mail"], "phone": ["phone number", "telephone", "telephone number"],
    "quantity": ["amount", "number of units"], "stock": ["inventory", "number in stock"], "city": ["town"], "country": ["nation"], "birth date": ["date of birth", "birthday"], "hire date": ["date of hire", "hiring date"],
    "status": ["state"], "category": ["type", "kind"], "type": ["kind", "category"], "title": ["name"], "name": ["title"], "genre": ["category", "kind"], "description": ["details", "text"], "duration": ["length"],
    "length": ["duration"], "rating": ["score", "stars"], "score": ["points", "result"], "amount": ["sum", "value"], "total": ["amount", "total amount"], "budget": ["funds"], "weight": ["mass"],
    "population": ["number of people", "number of inhabitants"], "capacity": ["maximum capacity", "number of seats"], "gender": ["sex"], "department": ["dept"], "manager": ["boss"], "revenue": ["income", "turnover"], "address": ["street address"],
    "first name": ["given name"], "last name": ["surname", "family name"], "year": ["yr"], "color": ["colour"], "area": ["size", "surface"], "start date": ["starting date", "start"], "end date": ["ending date", "end"],
    "job title": ["position", "role", "job"], "pages": ["number of pages", "page count"], "price per night": ["nightly rate"], "address": ["location"], "nationality": ["country of origin"], "role": ["position"],
}
SUPERLATIVES = {
    "price": (["most expensive", "priciest", "costliest"], ["cheapest", "least expensive"]), "cost": (["most expensive", "costliest"], ["cheapest", "least expensive"]), "fee": (["most expensive"], ["cheapest"]),
    "rent": (["most expensive"], ["cheapest"]), "rate": (["most expensive"], ["cheapest"]),
    "salary": (["best paid", "highest paid", "top earning", "best-paid"], ["lowest paid", "worst paid", "least paid"]), "wage": (["best paid", "highest paid"], ["worst paid", "lowest paid"]),
    "age": (["oldest"], ["youngest"]), "weight": (["heaviest"], ["lightest"]), "height": (["tallest", "highest"], ["shortest", "lowest"]), "length": (["longest"], ["shortest"]),
    "duration": (["longest"], ["shortest"]), "minutes": (["longest"], ["shortest"]), "distance": (["longest", "farthest"], ["shortest", "nearest"]), "area": (["largest", "biggest"], ["smallest"]),
    "size": (["largest", "biggest"], ["smallest"]), "capacity": (["largest", "biggest"], ["smallest"]), "population": (["most populous", "largest", "biggest", "most populated"], ["least populous", "smallest"]),
    "speed": (["fastest", "quickest"], ["slowest"]), "rating": (["best rated", "highest rated", "top rated", "best"], ["worst rated", "lowest rated", "worst"]), "score": (["best", "highest scoring"], ["worst", "lowest scoring"]),
    "temperature": (["hottest", "warmest"], ["coldest"]), "year": (["newest", "latest", "most recent"], ["oldest", "earliest"]), "depth": (["deepest"], ["shallowest"]), "width": (["widest"], ["narrowest"]),
    "altitude": (["highest"], ["lowest"]), "elevation": (["highest"], ["lowest"]), "pages": (["longest", "thickest"], ["shortest", "thinnest"]), "power": (["most powerful", "strongest"], ["weakest"]),
    "date": (["latest", "most recent", "newest", "last"], ["earliest", "oldest", "first"]), "birth date": (["youngest"], ["oldest"]), "birth year": (["youngest"], ["oldest"]), "amount": (["largest", "biggest", "highest"], ["smallest", "lowest"]),
    "total": (["largest", "biggest", "highest"], ["smallest", "lowest"]), "budget": (["largest", "biggest"], ["smallest"]), "priority": (["most urgent"], ["least urgent"]), "calories": (["most caloric"], ["lightest"]),
}
COMPARATIVES = {
    "price": (["costing more than", "more expensive than", "that cost more than", "priced over", "priced above", "which cost over"], ["costing less than", "cheaper than", "that cost less than", "priced under", "priced below", "for less than"]),
    "cost": (["costing more than", "that cost more than"], ["costing less than", "cheaper than"]), "age": (["older than", "over the age of", "aged over"], ["younger than", "under the age of", "aged under"]),
    "weight": (["heavier than", "weighing more than", "that weigh more than"], ["lighter than", "weighing less than", "that weigh less than"]), "height": (["taller than", "higher than"], ["shorter than", "lower than"]),
    "length": (["longer than"], ["shorter than"]), "duration": (["longer than", "lasting more than", "that take more than"], ["shorter than", "lasting less than", "that take less than"]),
    "minutes": (["longer than", "lasting more than"], ["shorter than", "lasting less than"]), "distance": (["longer than", "farther than"], ["shorter than"]), "area": (["larger than", "bigger than"], ["smaller than"]),
    "size": (["larger than", "bigger than"], ["smaller than"]), "capacity": (["larger than", "holding more than", "that hold more than"], ["smaller than", "holding less than"]), "speed": (["faster than"], ["slower than"]),
    "salary": (["earning more than", "who earn more than", "paid more than", "making over", "that make more than", "with pay above"], ["earning less than", "who earn less than", "paid less than", "making under"]),
    "wage": (["earning more than", "paid more than"], ["earning less than", "paid less than"]), "rating": (["rated above", "rated higher than", "rated over"], ["rated below", "rated lower than", "rated under"]),
    "score": (["scoring above", "that scored more than", "who scored over"], ["scoring below", "that scored less than"]), "population": (["with more people than", "with more inhabitants than", "with over"], ["with fewer people than", "with fewer inhabitants than"]),
    "depth": (["deeper than"], ["shallower than"]), "temperature": (["hotter than", "warmer than"], ["colder than", "cooler than"]), "pages": (["with more pages than", "longer than"], ["with fewer pages than", "shorter than"]),
    "amount": (["of more than", "larger than", "worth more than", "over"], ["of less than", "smaller than", "worth less than", "under"]), "total": (["of more than", "over", "worth more than"], ["of less than", "under", "worth less than"]),
    "stock": (["with more in stock than"], ["with less in stock than"]),
}
UNITS = {"price": ["dollars", "euros", "$", "€"], "cost": ["dollars", "euros", "$"], "salary": ["dollars", "euros", "$"], "amount": ["dollars", "euros", "$"], "total": ["dollars", "euros", "$"], "fee": ["dollars", "$"], "budget": ["dollars", "$"],
         "weight": ["kg", "kilograms", "pounds"], "height": ["cm", "meters", "m", "feet"], "length": ["cm", "meters", "m", "km"], "distance": ["km", "miles", "kilometers"], "duration": ["minutes", "hours", "seconds"],
         "minutes": ["minutes"], "age": ["years", "years old"], "pages": ["pages"], "speed": ["km/h", "mph"], "area": ["square meters", "m2", "hectares"], "capacity": ["people", "seats", "liters"], "temperature": ["degrees"], "depth": ["meters", "m"]}
# Verbs that join two entities; drawn at random so that the model learns to read past them.
VERBS = """placed made ordered bought have had own owned wrote written received sent joined attended visited used created submitted booked rented borrowed signed completed requested performed played
taught led managed filed posted uploaded published reviewed purchased sold delivered handled held ran hosted sponsored
found caught built repaired painted cleaned served recorded hired won lost paid produced cooked tested inspected planned organized watched read tried chosen picked shipped rejected approved opened closed started joined followed carried
cancelled returned reported measured driven flown seen met called contacted mentioned supplied collected designed gathered graded checked examined finished entered shared translated edited presented given brought set adopted trained""".split()
ABBREVIATIONS = {"quantity": "qty", "amount": "amt", "number": "num", "department": "dept", "employee": "emp", "customer": "cust", "address": "addr", "description": "descr", "category": "cat", "manager": "mgr", "product": "prod",
                 "transaction": "txn", "average": "avg", "maximum": "max", "minimum": "min", "account": "acct", "organization": "org", "percent": "pct", "reference": "ref", "telephone": "tel", "position": "pos", "temperature": "temp",
                 "information": "info", "document": "doc", "message": "msg", "image": "img", "year": "yr", "supplier": "supp", "order": "ord", "item": "itm", "date": "dt", "price": "prc", "invoice": "inv", "balance": "bal"}
CHITCHAT_PREFIX = ["I'm preparing a report.", "I need this for a dashboard.", "Quick question:", "Hi!", "Hello,", "Hey,", "Could you help me?", "My boss asked:", "For the quarterly review:", "Help me out here.", "I am analysing our data.",
                   "Question:", "Using the tables above,", "Based on this schema,", "From this database,", "Write a query:", "Write SQL for this:", "SQL please:", "Generate SQL:", "Translate to SQL:", "I want a query that answers:", "Good morning."]
POLITE_SUFFIX = ["please", "thanks", "thank you", "pls", "if possible", "thx", "for me", "for my report"]
RESERVED = set("""order group select table index user default primary key values where from to by case check column create delete desc end exists foreign in insert into is join left like limit not null on or
references set union unique update when and as asc between distinct drop else having then using with transaction all add alter commit view trigger match natural offset""".split())
# Who did it: column of a person -> (past: "directed by X", "who directed"; present: "who directs").
PERSON_VERBS = {"director": ("directed", "directs"), "author": ("written", "writes"), "host": ("hosted", "hosts"), "owner": ("owned", "owns"), "manager": ("managed", "manages"), "reviewer": ("reviewed", "reviews"), "coach": ("coached", "coaches"),
                "inspector": ("inspected", "inspects"), "teacher": ("taught", "teaches"), "editor": ("edited", "edits"), "designer": ("designed", "designs"), "driver": ("driven", "drives"), "operator": ("operated", "operates"), "supervisor": ("supervised", "supervises"),
                "creator": ("created", "creates"), "conductor": ("conducted", "conducts"), "keeper": ("kept", "keeps"), "handler": ("handled", "handles"), "sculptor": ("sculpted", "sculpts"), "playwright": ("written", "writes"), "judge": ("judged", "judges"),
                "buyer": ("bought", "buys"), "sender": ("sent", "sends"), "captain": ("captained", "captains"), "guide": ("guided", "guides"), "composer": ("composed", "composes"), "producer": ("produced", "produces"), "singer": ("sung", "sings"),
                "leader": ("led", "leads"), "presenter": ("presented", "presents"), "holder": ("held", "holds"), "assignee": ("done", "does"), "technician": ("serviced", "services"), "renter": ("rented", "rents"), "borrower": ("borrowed", "borrows"),
                "winner": ("won", "wins"), "discoverer": ("discovered", "discovers"), "founder": ("founded", "founds"), "painter": ("painted", "paints"), "observer": ("observed", "observes"), "organizer": ("organized", "organizes")}
PARTICIPLES = """hired born built sown planted taken opened closed sold bought ordered shipped delivered released published written founded launched installed inspected repaired created updated signed issued paid returned rented booked registered
started finished completed recorded measured painted produced approved cancelled tested harvested collected received sent posted uploaded joined played visited held placed made discovered drilled cleaned moved retired inaugurated licensed
scheduled performed caught found weighed filled measured renewed acquired admitted discharged enrolled graduated married treated arrived departed reported resolved""".split()
NOUN_SYNONYMS = {"customer": ["client", "buyer", "shopper"], "client": ["customer"], "movie": ["film"], "film": ["movie"], "employee": ["worker", "staff member"], "staff": ["employee", "worker"], "worker": ["employee"], "product": ["item", "article", "good"],
                 "item": ["product", "article"], "car": ["vehicle", "automobile"], "vehicle": ["car"], "store": ["shop"], "shop": ["store"], "student": ["pupil"], "pupil": ["student", "kid"], "teacher": ["instructor"], "doctor": ["physician"], "book": ["title"],
                 "purchase": ["sale"], "company": ["firm", "business"], "city": ["town"], "flight": ["plane"], "song": ["track"], "track": ["song"], "house": ["home"], "apartment": ["flat"], "dish": ["meal"], "picture": ["photo"], "photo": ["picture"], "game": ["video game"],
                 "trip": ["journey", "ride"], "post": ["article"], "user": ["account", "member"], "member": ["user"], "supplier": ["vendor"], "vendor": ["supplier"], "patient": ["person"], "guest": ["visitor"], "player": ["athlete"], "phone": ["smartphone"], "bike": ["bicycle"],
                 "bicycle": ["bike"], "order": ["purchase"], "painting": ["artwork", "picture"], "appointment": ["visit"], "ticket": ["issue"], "invoice": ["bill"], "parcel": ["package"], "ship": ["vessel", "boat"], "lesson": ["class"], "course": ["class"]}
# Questions about a measure of one thing: "how much does X cost".
HOW = {"price": ["how much does {x} cost", "how much is {x}", "how expensive is {x}", "what does {x} cost"], "cost": ["how much does {x} cost", "how expensive is {x}"], "fee": ["how much is {x}"], "height": ["how tall is {x}", "how high is {x}"],
       "length": ["how long is {x}"], "duration": ["how long is {x}", "how long does {x} take", "how long does {x} last"], "minutes": ["how long is {x}", "how many minutes does {x} take"], "weight": ["how heavy is {x}", "how much does {x} weigh"], "age": ["how old is {x}"],
       "area": ["how big is {x}", "how large is {x}"], "size": ["how big is {x}"], "capacity": ["how many people fit in {x}", "how big is {x}"], "population": ["how many people live in {x}", "how many inhabitants does {x} have"], "speed": ["how fast is {x}"],
       "distance": ["how far is {x}", "how long is {x}"], "depth": ["how deep is {x}"], "salary": ["how much does {x} earn", "how much does {x} make", "what does {x} earn"], "wage": ["how much does {x} earn"], "pages": ["how many pages does {x} have", "how long is {x}"],
       "temperature": ["how hot is {x}", "how warm is {x}"], "width": ["how wide is {x}"], "stock": ["how many {x} are in stock", "how much {x} is left"], "quantity": ["how many {x} are there"], "balance": ["how much money does {x} have"], "budget": ["how much money does {x} have"]}
for _key, _value in {"born": (["youngest"], ["oldest"]), "birthday": (["youngest"], ["oldest"]), "date of birth": (["youngest"], ["oldest"]), "runtime": (["longest"], ["shortest"]), "released": (["newest", "latest", "most recent"], ["oldest", "earliest"]), "built": (["newest"], ["oldest"]),
                     "founded": (["newest", "youngest"], ["oldest"]), "listeners": (["most popular"], ["least popular"]), "views": (["most viewed", "most popular"], ["least viewed"]), "likes": (["most liked", "most popular"], ["least liked"]), "downloads": (["most downloaded"], ["least downloaded"]),
                     "sold": (["latest"], ["earliest"]), "pay": (["best paid", "highest paid"], ["worst paid"]), "charge": (["most expensive"], ["cheapest"]), "volume": (["biggest", "largest"], ["smallest"]), "voltage": (["strongest"], ["weakest"]), "strength": (["strongest"], ["weakest"])}.items():
    SUPERLATIVES.setdefault(_key, _value)
# Parts of made-up words that look like English.
PREFIXES = "re un sub trans inter over com con dis pre pro ex in de per sur ob under out fore mid multi anti auto bio geo hydro micro mono photo tele thermo".split()
ROOTS = """port spect miss duct struct form script tract vers cept fer pend mit pel ject rupt scend vent vid voc volv sist solv spir tain tend test text ton tort tribut turb vac val var vict vi vig quart quest quir sal san sat sect sent sequ serv sign simil
orig org oper opt ord orn pac pal pan par pass pat ped pen pet phys plic polit pom pop pos prim prob punct rad reg rid rot sanct sci sculp mar med mem ment merc merg migr min mir mob mod mon mord mort mot mov mut nat nav neg noc nomin not nov num
lab lact lat laud lect leg lev lib lig lin liqu loc log loqu lum lun magn mal man mand marin mater grad gram grat greg gress hab her hosp host hum ign imag insul jud jur just kilo fac fam fend fid fil fin firm flam flect flor flu fort found frag fug fus
gen gest glac gon dat dec dem dens dent derm dict dign doc dom don dorm dox draw drift dur dyn ego eld ess equ err ev cad cal cam cand cap carn cas caus ced cel cens cent cer cert cid circ cit civ clam clar clos cogn col commun cor corp cosm cred cresc
cruc crypt cult cur cycl act acid acr agr alt amb ami amp ang anim ann apt aqu arb arch arm art asc aster aud aug aur aut bal bar bas bat bel bell ben brev bri bron bul bur""".split()
SUFFIXES = "ion ed er ist ing ity ive al ous ance ment ness ary ory able or age ic ism logy graph ate ize eer ette let ling dom hood ship ward ian ant ent ure ula ium oid ade ery ish ame et on en".split()
