"""The words of the made sentences: lexemes with their forms, and phrases that fit in many places."""

from __future__ import annotations


def _lexemes(forms: str, table: str) -> list[dict[str, str]]:
    names = forms.split()
    rows = [entry.split() for entry in table.replace("\n", ",").split(",") if entry.strip()]
    return [dict(zip(names, (form.replace("_", " ") for form in row), strict=True)) for row in rows]


def _phrases(table: str) -> list[str]:
    return [phrase.strip() for phrase in table.replace("\n", ";").split(";") if phrase.strip()]


LEXEMES: dict[str, list[dict[str, str]]] = {
    "person": _lexemes(
        "sg pl",
        """teacher teachers, doctor doctors, student students, neighbor neighbors, child children, lawyer lawyers
        singer singers
        farmer farmers, driver drivers, nurse nurses, writer writers, painter painters, guest guests
        customer customers
        manager managers, friend friends, cousin cousins, baker bakers, waiter waiters, pilot pilots, woman women
        man men
        girl girls, boy boys, scientist scientists, tourist tourists, plumber plumbers, judge judges
        player players""",
    ),
    "animal": _lexemes(
        "sg pl",
        """dog dogs, cat cats, horse horses, rabbit rabbits, bird birds, puppy puppies, cow cows
        monkey monkeys""",
    ),
    "thing": _lexemes(
        "sg pl",
        """book books, letter letters, car cars, bicycle bicycles, table tables, cup cups, picture pictures
        key keys, box boxes
        lamp lamps, phone phones, jacket jackets, ticket tickets, bag bags, shoe shoes, hat hats, knife knives
        story stories
        window windows, toy toys, coin coins, photo photos, plate plates, blanket blankets, umbrella umbrellas
        song songs""",
    ),
    "man": _lexemes(
        "name", """John, Peter, Tom, David, Michael, James, Robert, Daniel, Paul, Kevin, Mark, Bill, George, Sam"""
    ),
    "woman_": _lexemes(
        "name", """Mary, Anna, Susan, Lisa, Sarah, Emma, Julia, Laura, Linda, Jane, Kate, Alice, Rachel, Nancy"""
    ),
    # Said of a person or an animal, without an object.
    "act": _lexemes(
        "base s past part ing",
        """sleep sleeps slept slept sleeping, laugh laughs laughed laughed laughing
        smile smiles smiled smiled smiling
        run runs ran run running, swim swims swam swum swimming, sing sings sang sung singing
        cry cries cried cried crying
        work works worked worked working, dance dances danced danced dancing, wait waits waited waited waiting
        arrive arrives arrived arrived arriving, fall falls fell fallen falling, leave leaves left left leaving
        travel travels traveled traveled traveling, talk talks talked talked talking
        speak speaks spoke spoken speaking""",
    ),
    # Never take an object.
    "lone": _lexemes(
        "base s past part ing",
        """sleep sleeps slept slept sleeping, laugh laughs laughed laughed laughing
        arrive arrives arrived arrived arriving
        disappear disappears disappeared disappeared disappearing, cry cries cried cried crying
        fall falls fell fallen falling
        smile smiles smiled smiled smiling, sneeze sneezes sneezed sneezed sneezing
        exist exists existed existed existing
        vanish vanishes vanished vanished vanishing, happen happens happened happened happening
        die dies died died dying, cough coughs coughed coughed coughing, faint faints fainted fainted fainting""",
    ),
    # A person does it to a thing, and cannot leave the thing out.
    "handle": _lexemes(
        "base s past part ing",
        """buy buys bought bought buying, find finds found found finding, take takes took taken taking
        lose loses lost lost losing
        break breaks broke broken breaking, carry carries carried carried carrying, fix fixes fixed fixed fixing
        steal steals stole stolen stealing, bring brings brought brought bringing
        choose chooses chose chosen choosing
        hide hides hid hidden hiding, use uses used used using, keep keeps kept kept keeping
        throw throws threw thrown throwing
        see sees saw seen seeing, borrow borrows borrowed borrowed borrowing, wear wears wore worn wearing
        repair repairs repaired repaired repairing, describe describes described described describing""",
    ),
    # Irregular ones whose past and participle differ.
    "irregular": _lexemes(
        "base s past part ing",
        """take takes took taken taking, break breaks broke broken breaking, steal steals stole stolen stealing
        choose chooses chose chosen choosing, write writes wrote written writing, see sees saw seen seeing
        give_away gives_away gave_away given_away giving_away, throw throws threw thrown throwing
        wear wears wore worn wearing
        forget forgets forgot forgotten forgetting, draw draws drew drawn drawing, hide hides hid hidden hiding""",
    ),
    "need": _lexemes(
        "past",
        """devoured, mentioned, discussed, purchased, resembled, destroyed, avoided, damaged, examined
        admired""",
    ),
    "meet": _lexemes(
        "base s past part ing",
        """see sees saw seen seeing, help helps helped helped helping, visit visits visited visited visiting
        call calls called called calling, thank thanks thanked thanked thanking, know knows knew known knowing
        follow follows followed followed following, invite invites invited invited inviting
        like likes liked liked liking
        meet meets met met meeting, love loves loved loved loving, trust trusts trusted trusted trusting""",
    ),
    "hurt": _lexemes(
        "past s",
        """hurt hurts, blamed blames, admired admires, washed washes, praised praises, cut cuts, saw sees
        taught teaches,
        introduced introduces, surprised surprises, burned burns, defended defends, embarrassed embarrasses""",
    ),
    "adj": _lexemes(
        "plain more most",
        """tall taller tallest, old older oldest, young younger youngest, fast faster fastest
        strong stronger strongest, kind kinder kindest
        smart smarter smartest, happy happier happiest, quiet quieter quietest, rich richer richest
        funny funnier funniest""",
    ),
    "gerund_verb": _lexemes(
        "past", """enjoyed, avoided, finished, kept, quit, suggested, considered, dislikes, enjoys, practiced"""
    ),
    "to_verb": _lexemes(
        "past", """wanted, decided, hoped, refused, promised, agreed, planned, wants, hopes, expects, managed"""
    ),
    "prep_verb": _lexemes(
        "past right wrong",
        """depended on of, listened to at, waited for to, relied on of, belonged to at, apologized to at
        laughed at of,
        looked for of, thought about at, agreed with on_to, complained about at, paid for of, talked about of
        cared for of""",
    ),
    "dative": _lexemes("past", "gave, sent, showed, sold, handed, lent, offered, mailed, told_about"),
    "latinate": _lexemes(
        "past", """explained, described, donated, mentioned, demonstrated, returned, reported, announced"""
    ),
    "mass": _lexemes(
        "sg", """water, furniture, information, advice, rice, luggage, money, bread, homework, sand, traffic, sugar"""
    ),
    "pronoun": _lexemes(
        "subj obj poss refl",
        """he him his himself, she her her herself, they them their themselves, we us our ourselves
        I me my myself""",
    ),
}

PHRASES: dict[str, list[str]] = {
    "place": _phrases(
        """in the garden; at the station; in the kitchen; near the river; at school; in the park; behind the house
        at the office
        on the beach; in the library; at the hotel; in the street; next to the bank; at home; outside
        in the old town"""
    ),
    "past_time": _phrases(
        """yesterday; last week; last night; two days ago; on Monday; in 2010; this morning; after lunch
        a year ago"""
    ),
    "future_time": _phrases("""tomorrow; next week; next year; tomorrow morning; in a few days; next summer"""),
    "surface": _phrases(
        """on the table; in the drawer; on the shelf; under the bed; in the box; next to the door; on the floor
        in the car"""
    ),
    "manner": _phrases(
        """quickly; slowly; loudly; quietly; carefully; happily; all day; every morning; very often; a lot
        together; well"""
    ),
    "color": _phrases(
        """red; blue; green; old; new; small; expensive; broken; heavy; beautiful; dirty; big; cheap; strange
        lovely"""
    ),
    "feeling": _phrases(
        """tired; hungry; late; ready; very nice; angry with us; from Canada; at home; happy; sick; busy today
        quite old; in the garden
        proud of the result; afraid of the dark; too small; not here; famous; still waiting; on the second floor
        missing"""
    ),
    "condition": _phrases(
        """broken; expensive; on the table; very old; in the kitchen; too heavy; missing; dirty; on sale; gone
        beautiful; empty"""
    ),
    "poss": _phrases("my; your; his; her; our; their; my sister's; the old man's"),
    "det": _phrases("the; the; the; my; your; our; his; her; their"),
    "sgdet": _phrases("the; a; this; that; every; my; one"),
    "opt_adj": _phrases("old; young; new; little; ;;; friendly; local; tall; famous"),
    "modal": _phrases("can; could; should; must; will; might; would; may"),
    "noon": _phrases("noon; lunch; last summer; six o'clock; the morning; May"),
    "group": _phrases("list; box; pile; bag; set; collection"),
    "meal": _phrases("""breakfast; dinner; a sandwich; the soup; an apple; some cake; two eggs; a pizza; the fish"""),
    "activity": _phrases(
        """swim;cook dinner;play the piano;read books;work at night;learn French;help people;drive a car
        paint the house;travel by train
        clean the kitchen;drink coffee;watch movies;write letters;sing in the shower;take photos;talk to strangers
        walk to school"""
    ),
    "subject": _phrases(
        """{man.name};{woman_.name};the {person.sg};my {person.sg};the {opt_adj} {person.sg};our {person.sg}
        his sister;my father
        her brother;their mother;he;she;the {animal.sg}"""
    ),
    "plural": _phrases(
        """the {person.pl};my {person.pl};the {opt_adj} {person.pl};our friends;his parents;they;we
        {man.name} and {woman_.name};the {animal.pl}"""
    ),
    "human": _phrases(
        """{man.name};{woman_.name};the {person.sg};my {person.sg};the {opt_adj} {person.sg};his sister;my uncle
        her mother"""
    ),
    "object": _phrases(
        """the {thing.sg};a {thing.sg};the {thing.pl};a {color} {thing.sg};the {color} {thing.sg};{poss} {thing.sg}
        two {thing.pl}
        some {thing.pl};the {thing.sg} {surface};all the {thing.pl};that {thing.sg};these {thing.pl}"""
    ),
    "anything": _phrases(
        """the {thing.sg};the {person.sg};a {color} {thing.sg};my {person.sg};the {animal.sg};{poss} {thing.pl}
        them;her"""
    ),
    "near_sg": _phrases(
        """near the {thing.sg};with the {color} {thing.sg};behind the {thing.sg};next to my {person.sg}
        of the {person.sg};from the city"""
    ),
    "near_pl": _phrases(
        """near the {thing.pl};with the {color} {thing.pl};behind the {thing.pl};next to my {person.pl}
        of the {person.pl};of my friends"""
    ),
}

# Around a statement, the same in both sentences of a pair; the many empty ones keep most sentences plain.
BEFORE = [""] * 90 + [
    "I think that ",
    "everyone knows that ",
    "she said that ",
    "we heard that ",
    "as you know, ",
    "I am sure that ",
    "in fact, ",
    "my mother says that ",
    "maybe ",
    "of course ",
    "he believes that ",
]
AFTER = [""] * 60 + [
    ", but nobody cares",
    ", and I am glad",
    ", as far as I know",
    ", so we can stay",
    ", I think",
    ", but I am not sure",
    ", which is a pity",
    " because the weather is bad",
]
