"""English sentences for the starter pack: a fixed list and an endless, seeded supply built from templates."""

from __future__ import annotations

import random
from pathlib import Path

_LIST = Path(__file__).with_name("sentences.txt")

_WORDS: dict[str, str] = {
    "person": "the teacher|my neighbour|a young sailor|the old gardener|her daughter|his nephew|the judge|our guide|"
    "the baker's wife|a famous author|the shy student|the captain|a nervous driver|the chief engineer|your cousin|"
    "the village doctor|an honest lawyer|the youngest child|a tall stranger|the violin player|the queen|the shepherd|"
    "George|Charlotte|Jonathan|Beth|Vivian|Theodore|Zoe|Hugh|Joyce|Raymond|Ursula|Yolanda|Keith|Sheila",
    "past": "carried|noticed|borrowed|measured|polished|described|imagined|photographed|painted|repaired|discovered|"
    "delivered|weighed|watched|exchanged|wrapped|recognised|followed|examined|forgot|chose|caught|threw away|hid|"
    "brought back|wrote about|dreamed of|looked after|paid for|laughed at|reached for|pushed aside|argued about",
    "verb": "carry|notice|borrow|measure|polish|describe|imagine|photograph|paint|repair|discover|deliver|weigh|watch|"
    "exchange|wrap|recognise|follow|examine|forget|choose|catch|hide|bring|finish|enjoy|judge|touch|use|move|share",
    "adjective": "heavy|fragile|yellow|ancient|square|smooth|broken|shiny|rough|curious|enormous|thirsty|quiet|golden|"
    "purple|narrow|frozen|hollow|cheap|precious|ugly|marvellous|dusty|sharp|round|gentle|foreign|loyal|useless|weird|"
    "vague|thick|royal|azure|casual|harsh|lovely|crooked|bitter|orange|wooden|genuine|dangerous|huge|spare",
    "thing": "basket|oak table|jar of honey|garage door|leather boot|measuring cup|chair|thermos|bridge|picture frame|"
    "wheel|kite|railway ticket|clock|silver spoon|feather|jacket|vase|yoghurt|treasure map|toy soldier|guitar|cushion|"
    "letter|window|engine|microphone|blanket|umbrella|statue|shovel|watch|oyster|pear|fire engine|television|owl|"
    "notebook|violin|hedge|beach ball|sandwich|pair of gloves|wolf|juice bottle|bath towel|photograph|church bell",
    "place": "on the beach|in the village square|behind the garage|under the bridge|near the harbour|at the museum|"
    "across the valley|inside the old theatre|beside the fountain|in the northern forest|at the railway station|"
    "between two houses|above the kitchen|on the third floor|through the tunnel|along the shore|in the back yard|"
    "outside the university|around the corner|at the edge of the woods|in a large city|by the fire|on a small island",
    "time": "yesterday morning|at half past seven|before breakfast|during the storm|last Thursday|every evening|"
    "in the middle of July|after the wedding|on New Year's Eve|a few minutes ago|just before midnight|in early spring|"
    "while the others were asleep|at the usual hour|as soon as the rain stopped|for the very first time|at dawn",
    "adverb": "slowly|carefully|quietly|eagerly|suddenly|gently|rather nervously|with great joy|without a word|"
    "with a sigh|very quickly|in a strange voice|as usual|by mistake|once again|cheerfully|reluctantly|in a hurry",
    "reason": "because the weather was changing|although nobody had asked|since there was no choice|"
    "so that the children could sleep|because of the noise|even though it was forbidden|unless I am mistaken|"
    "in order to save money|to everyone's surprise|while the fire burned low|before the judge arrived|"
    "as though nothing had happened|until the church bell rang|if the rumours are true",
    "number": "two|three|five|seven|eight|nine|eleven|twelve|thirteen|fifteen|seventeen|nineteen|twenty four|"
    "thirty six|forty one|fifty five|sixty eight|seventy two|eighty seven|ninety nine|one hundred and six|"
    "three hundred and forty|nine hundred and ninety|two thousand and twelve|five thousand six hundred|zero",
    "things": "oranges|chairs|yellow boats|horses|sheep|pages|photographs|tickets|cheese rolls|mushrooms|dollars|"
    "kilograms|bottles|thin wires|jewels|young trees|voices|questions|fish|wolves|clouds|languages|houses|judges|"
    "messages|minutes|feathers|watches|engines|shovels|measures|oysters|cherries|thumbs|moths|rouge pots",
    "month": "January|February|March|April|May|June|July|August|September|October|November|December",
    "day": "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "ordinal": "first|second|third|fifth|eighth|ninth|twelfth|sixteenth|twentieth|twenty seventh|thirtieth",
    "letter": "A|B|C|D|E|F|G|H|I|J|K|L|M|N|O|P|Q|R|S|T|U|V|W|X|Y|Z",
    "country": "Egypt|Norway|Japan|Brazil|Thailand|Georgia|Chile|France|Switzerland|Kenya|Jamaica|Belgium|Finland|"
    "Ireland|Vietnam|Portugal|Hungary|Uruguay|Lithuania|Malaysia|Australia|Zambia|Ethiopia|Iceland",
    "word": "yes|anyhow|thing|major|azure|voyage|ghost|thumb|rhythm|shield|owl|choir|juice|vowel|breathe|breath|"
    "cough|beige|leisure|hinge|youth|vision|oath|wisdom|squash|shrug|spring|twelfths|glimpse|church|measure|earth|"
    "house|noise|poor|fire|power|usual|singer|finger|anger|lodge|badge|chef|psalm|queue|quiz|zoo|view|few|cure",
    "opening": "I think|He said|Perhaps|We heard|It seems|Nobody believed|She hoped|They told us|You know|Of course",
}
_TEMPLATES = (
    "{person} {past} the {adjective} {thing} {place}.",
    "{time}, {person} {past} a {adjective} {thing}.",
    "{opening} {person} {past} the {thing} {adverb}.",
    "{person} {adverb} {past} {number} {things} {place}.",
    "Did {person} {verb} the {adjective} {thing} {time}?",
    "Why would {person} {verb} {number} {things}?",
    "Please {verb} the {adjective} {thing} and the {adjective} {thing}.",
    "There were {number} {things} {place}, and {number} more {place}.",
    "{person} {past} the {thing}, {reason}.",
    "Don't {verb} the {thing}, {person} said {adverb}.",
    "The {thing} {place} is {adjective}, but the {thing} is {adjective}.",
    "On {day}, the {ordinal} of {month}, {person} {past} {number} {things}.",
    "Extension {number}, option {number}, please.",
    "The code is {letter}, {letter}, {number}, {letter}, {number}.",
    "{person} moved from {country} to {country} {time}.",
    "{word}, {word}, {word}, {word}.",
    "The next words are {word}, {word}, and {word}.",
    "What a {adjective} {thing}!",
    "Who {past} the {adjective} {thing} from {country}?",
    "{number} {things}.",
    "{reason}, {person} {past} it {adverb}.",
    "{opening} the {adjective} {thing} will {verb} itself {place}.",
    "Have you ever tried to {verb} a {thing} in {country}?",
    "{person}, {person}, and {person} {past} the {thing} {time}.",
)


def fixed() -> list[str]:
    """The hand-written and public-domain sentences, in file order."""
    lines = _LIST.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def templated(count: int, seed: int) -> list[str]:
    """`count` different sentences made from templates; the same seed gives the same sentences."""
    rng = random.Random(seed)
    words = {name: choices.split("|") for name, choices in _WORDS.items()}
    found: dict[str, None] = {}
    while len(found) < count:
        sentence = rng.choice(_TEMPLATES)
        while "{" in sentence:
            start, end = sentence.index("{"), sentence.index("}")
            sentence = sentence[:start] + rng.choice(words[sentence[start + 1 : end]]) + sentence[end + 1 :]
        found[sentence[0].upper() + sentence[1:]] = None
    return list(found)


def sentences(count: int, seed: int = 0) -> list[str]:
    """`count` sentences in a shuffled, reproducible order: every fixed one, the rest from templates."""
    own = fixed()
    everything = (own + templated(max(0, count - len(own)), seed))[:count]
    random.Random(seed + 1).shuffle(everything)
    return everything
