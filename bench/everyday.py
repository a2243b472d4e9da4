"""Everyday domains that the tiny model learns to write for: `pretrain_tiny.py` has SmolLM2 write texts of each.

A domain is what its texts are, what their labels are called, the labels, and two texts as examples: (label, words, text).
"""

from __future__ import annotations

from dataclasses import dataclass

Example = tuple[str, tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Domain:
    """Texts of one kind."""

    description: str
    subject: str
    labels: tuple[str, ...]
    examples: tuple[Example, ...]


def _domain(description: str, subject: str, labels: str, *examples: str) -> Domain:
    """labels: separated by commas.  examples: "label | words | text"."""
    parts = [[p.strip() for p in example.split("|")] for example in examples]
    return Domain(
        description,
        subject,
        tuple(label.strip() for label in labels.split(",")),
        tuple((name, tuple(w.strip() for w in words.split(",")), text) for name, words, text in parts),
    )


DOMAINS = (
    _domain(
        "Questions that customers ask an online shop", "category",
        "late parcel, wrong size, damaged goods, refund, exchange, gift card, stock, invoice, delivery address, order status, price",
        "late parcel | parcel, tracking | My parcel has been stuck for a week and the tracking does not change. Where is it?",
        "wrong size | jacket, smaller | the jacket is too big, how do i get a smaller one",
    ),
    _domain(
        "Questions that customers ask about money and accounts", "category",
        "savings, loan, mortgage, opening an account, payment, pin, statement, transfer, fraud, cash machine, fees, identity, interest, "
        "foreign money, phone app",
        "savings | interest, rate | What interest rate do I get on a savings account?",
        "payment | charged, twice | i was charged twice for the same payment, please help",
    ),
    _domain(
        "Requests to a telephone and internet company", "type",
        "slow internet, contract, roaming, new number, bill, outage, router, moving house, television, cancellation, data plan",
        "slow internet | slow, evening | The internet gets slow every evening around eight. Is there a fault in my area?",
        "bill | bill, higher | Why is my bill higher than last month",
    ),
    _domain(
        "Tickets to the computer help desk of an office", "queue",
        "password, printer, laptop, email, software, network drive, screen, access rights, meeting room, phone, backup, virus",
        "password | locked, login | I am locked out after three tries. Please reset my login.",
        "printer | printer, paper | Printer on the second floor says paper jam but there is no paper in it.",
    ),
    _domain(
        "Reviews of restaurants", "rating",
        "excellent, good, average, poor, terrible, service, food, price, atmosphere, waiting",
        "good | soup, bread | The soup was hot and the bread fresh. We will come back with friends.",
        "terrible | waited, cold | We waited an hour and then the food was cold. Never again!",
    ),
    _domain(
        "Reviews of films and series", "opinion",
        "loved it, boring, funny, scary, disappointing, great actors, weak story, beautiful pictures, too long, for children",
        "boring | slow, plot | Far too slow. I could tell how the plot would end after ten minutes.",
        "great actors | lead, moving | The lead is wonderful and the last scene is very moving.",
    ),
    _domain(
        "Reviews of products for the home", "stars",
        "five stars, four stars, three stars, two stars, one star, vacuum cleaner, kettle, lamp, mattress, chair, headphones, camera",
        "kettle | boils, handle | Boils fast, but the handle gets hot. Okay for the price.",
        "five stars | lamp, easy | Lovely lamp, easy to put together and just the right light for reading.",
    ),
    _domain(
        "Reviews of hotels and holiday flats", "aspect",
        "room, breakfast, location, staff, noise, cleanliness, beach, parking, bed, view, price",
        "noise | street, window | Our room faced the street and we had to sleep with the window shut.",
        "staff | friendly, desk | The people at the desk were friendly and found us a taxi at once.",
    ),
    _domain(
        "Short notes of nurses and doctors about patients", "topic",
        "chest pain, diabetes, broken arm, cough, headache, back pain, pregnancy, blood pressure, asthma, fever, skin rash, surgery, sleep",
        "cough | cough, fever | Patient reports a dry cough for five days and a mild fever. Lungs clear. Advised rest and fluids.",
        "back pain | lifting, worse | Low back pain since lifting boxes, worse when sitting. No numbness. Pain relief prescribed.",
    ),
    _domain(
        "Questions of patients to a clinic", "subject",
        "appointment, prescription, test results, side effects, vaccination, bill, referral, symptoms, children, opening hours, allergy",
        "prescription | tablets, repeat | I am nearly out of my tablets. Can I get a repeat prescription without seeing the doctor?",
        "test results | blood, week | had a blood test last week, are the results back yet",
    ),
    _domain(
        "Reports of minor accidents at work", "cause",
        "slip, fall, machine, burn, cut, lifting, vehicle, chemicals, electricity, falling object, tools",
        "slip | wet, floor | The worker slipped on a wet floor near the loading dock and hurt his knee.",
        "cut | knife, glove | Cut to the left thumb while opening a box with a knife. No glove was worn.",
    ),
    _domain(
        "Claims that people send to an insurance company", "type",
        "car accident, water damage, theft, fire, storm, travel, broken phone, dental, pet, bicycle, liability",
        "water damage | pipe, ceiling | A pipe burst above our kitchen and the ceiling came down on Monday night.",
        "bicycle | stolen, lock | My bicycle was stolen from the station. The lock was cut through.",
    ),
    _domain(
        "Messages between friends", "mood",
        "happy, sad, angry, excited, tired, worried, grateful, bored, planning, sorry, joking",
        "planning | dinner, saturday | Shall we have dinner on Saturday? I could cook something at my place.",
        "tired | work, sleep | long day at work, i just want to sleep now",
    ),
    _domain(
        "Messages in a family", "topic",
        "school, dinner, shopping, holiday, birthday, health, pets, car, grandparents, homework, weekend, money",
        "shopping | milk, eggs | Can you bring milk and eggs on your way home?",
        "birthday | cake, surprise | Don't tell your sister about the cake, it is meant to be a surprise!",
    ),
    _domain(
        "E-mails from colleagues", "subject",
        "meeting, deadline, report, holiday, budget, new colleague, travel, customer, project, thanks, mistake, training",
        "meeting | moved, thursday | The meeting is moved to Thursday at ten. Please bring your figures.",
        "thanks | help, slides | Thank you for your help with the slides, the customer liked them.",
    ),
    _domain(
        "Descriptions of products in a catalogue", "department",
        "kitchen, garden, toys, clothes, shoes, books, sports, electronics, furniture, beauty, tools, pets, groceries, baby",
        "kitchen | pan, steel | A heavy steel pan with a wooden handle, for all kinds of stoves.",
        "toys | wooden, blocks | Forty wooden blocks in bright colours, for children from two years on.",
    ),
    _domain(
        "Descriptions of flats and houses for rent or sale", "kind",
        "flat, house, studio, cottage, office, shared flat, farm, garage, penthouse, shop",
        "flat | balcony, quiet | Sunny flat with two rooms and a balcony in a quiet street, five minutes from the park.",
        "office | desks, floor | Bright office for six desks on the first floor, with a small kitchen.",
    ),
    _domain(
        "Job advertisements", "occupation",
        "nurse, driver, cook, teacher, programmer, accountant, cleaner, electrician, sales assistant, engineer, receptionist, gardener",
        "cook | kitchen, evenings | We are looking for a cook who likes a lively kitchen and can work evenings.",
        "driver | licence, deliveries | Driver wanted for deliveries in town. A clean licence is needed.",
    ),
    _domain(
        "News headlines and first sentences", "section",
        "politics, business, sport, science, health, weather, crime, travel, education, technology, culture, environment, local",
        "weather | snow, roads | Heavy snow closed several roads in the north on Tuesday and left villages without power.",
        "business | profits, shares | Shares of the airline rose after it reported higher profits than expected.",
    ),
    _domain(
        "What people say to a voice assistant", "intent",
        "alarm, music, weather, calendar, lights, timer, shopping list, call, directions, news, recipe, joke, thermostat, reminder",
        "alarm | wake, seven | wake me up at seven tomorrow",
        "lights | turn, kitchen | turn off the lights in the kitchen please",
    ),
    _domain(
        "Questions of travellers to an airline", "category",
        "baggage, delay, seat, refund, check-in, change of booking, meal, pets, visa, boarding pass, lost luggage, children",
        "seat | window, together | Can my wife and I get two seats together, one of them at the window?",
        "delay | hours, compensation | my flight was four hours late, do i get compensation",
    ),
    _domain(
        "Complaints of passengers about buses and trains", "reason",
        "late, crowded, dirty, driver, ticket machine, price, cancelled, stop, heating, announcement, accessibility",
        "crowded | standing, morning | Every morning we are standing all the way because there are only two carriages.",
        "driver | stop, waved | The driver saw me waving at the stop and just went on.",
    ),
    _domain(
        "Letters of citizens to their town", "department",
        "rubbish, parking, street lights, noise, playground, taxes, trees, building permit, road works, dogs, library, registration",
        "rubbish | bins, collected | The bins in our street were not collected this week. When will somebody come?",
        "playground | swing, broken | The swing on the playground is broken and children could get hurt.",
    ),
    _domain(
        "Answers to a survey among employees", "theme",
        "pay, manager, workload, team, training, office, hours, communication, tools, career, canteen",
        "workload | weekends, people | Too much work for too few people. I often finish things at weekends.",
        "team | colleagues, helpful | My colleagues are helpful and we laugh a lot.",
    ),
    _domain(
        "Comments of students on a course", "aspect",
        "lecturer, homework, exam, slides, pace, room, group work, feedback, textbook, relevance",
        "pace | fast, examples | It went too fast for me, more examples would have helped.",
        "lecturer | clear, questions | Very clear, and always took time for our questions.",
    ),
    _domain(
        "Notes of teachers about pupils", "subject",
        "mathematics, reading, behaviour, sport, music, attendance, languages, science, friends, homework",
        "reading | aloud, confident | Reads aloud with more confidence than last year and likes stories about animals.",
        "behaviour | talks, others | Talks a lot during lessons and keeps others from their work.",
    ),
    _domain(
        "Posts in a forum about cooking", "topic",
        "bread, soup, cake, meat, vegetables, pasta, rice, breakfast, sauces, fish, baking, leftovers, spices",
        "bread | dough, oven | My dough rises well but falls flat in the oven. What am I doing wrong?",
        "soup | onion, cream | fry the onion slowly first, then the soup needs no cream at all",
    ),
    _domain(
        "Posts in a forum about gardens and animals", "topic",
        "roses, tomatoes, lawn, pests, dogs, cats, birds, fish, pruning, soil, horses, chickens",
        "tomatoes | leaves, yellow | The lower leaves of my tomatoes turn yellow. Do they need more water?",
        "cats | sofa, scratches | our cat scratches the sofa every night, any ideas",
    ),
    _domain(
        "Posts in a forum about cars and repairs", "topic",
        "brakes, engine, tyres, battery, oil, lights, gearbox, noise, paint, insurance, bicycle, plumbing, walls, electricity",
        "battery | start, cold | It will not start when it is cold. The battery is two years old.",
        "walls | crack, paint | There is a crack in the wall. Do I fill it before I paint?",
    ),
    _domain(
        "Posts in a forum about health and sport", "topic",
        "running, weight, swimming, diet, injury, yoga, football, cycling, sleep, stress, vitamins, walking",
        "running | knee, weeks | My knee hurts after ten minutes of running. Should I stop for some weeks?",
        "sleep | screen, bed | no screen for an hour before bed, that helped me most",
    ),
    _domain(
        "Entries of a diary", "feeling",
        "joy, fear, love, loneliness, hope, anger, pride, boredom, surprise, calm, grief, guilt",
        "calm | lake, morning | Sat by the lake this morning and did nothing at all. I should do that more often.",
        "fear | letter, exam | The letter about my exam is on the table and I do not dare to open it.",
    ),
    _domain(
        "Short posts on a social network", "sentiment",
        "positive, negative, neutral, sarcastic, question, complaint, praise, advice, news, invitation",
        "negative | train, again | train cancelled again, third time this week",
        "praise | neighbour, cake | My neighbour left a cake at our door. There are good people in this street!",
    ),
    _domain(
        "Notes of a salesman about calls with customers", "outcome",
        "interested, not interested, call back, sold, complaint, wrong number, question, price too high, wants an offer, moved",
        "call back | march, budget | No budget before March. Asked me to call back then.",
        "sold | machine, delivery | Bought two machines, delivery by the end of the month.",
    ),
    _domain(
        "Reports of technicians who repaired something", "part",
        "pump, lift, boiler, door, motor, cable, sensor, valve, filter, screen, fan, brake",
        "pump | leaking, seal | Pump was leaking. Replaced the seal and tested it for ten minutes.",
        "door | hinge, closes | Door did not close. Hinge adjusted and oiled.",
    ),
    _domain(
        "Questions about law, taxes and rights", "area",
        "rent, divorce, inheritance, tax return, employment, contract, neighbours, traffic fine, consumer rights, pension, company",
        "rent | landlord, deposit | My landlord keeps my deposit and gives no reason. What can I do?",
        "traffic fine | parked, sign | i was fined where there is no sign, must i pay",
    ),
    _domain(
        "Questions that people ask a search engine", "type",
        "person, place, number, date, reason, definition, instructions, animal, country, history, body, language, space",
        "reason | sky, blue | Why is the sky blue?",
        "number | bones, body | How many bones are in the human body?",
    ),
    _domain(
        "Short stories in one or two sentences", "genre",
        "adventure, fairy tale, mystery, love story, science fiction, ghost story, animal story, sea story, school story, comedy",
        "fairy tale | king, forest | The old king sent his youngest son into the forest with nothing but a loaf of bread.",
        "mystery | key, window | The key lay on the table, the window was shut, and nobody had come in.",
    ),
    _domain(
        "Messages to a charity or a club", "subject",
        "donation, membership, volunteering, event, thanks, newsletter, complaint, lost property, booking, change of address",
        "volunteering | saturdays, help | I would like to help on Saturdays. Whom should I write to?",
        "membership | cancel, year | please cancel my membership at the end of the year",
    ),
)  # fmt: skip
