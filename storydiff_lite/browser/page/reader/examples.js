// Stories to begin with, and the views: what each shows of the machine.

const EXAMPLES = {
  "The book that ends on the moon": `a bear waving in the forest # Good morning, forest!
a bear walking on the beach # A long way to the sea.
a bear reading a book in the snow # It starts to snow on page one.
a bear sitting on the moon # And that is how the book ends.`,
  "The balloon": `a girl holding a balloon in the city # A balloon, and nobody held it.
a girl jumping on the farm # It pulled a little.
a girl waving in the desert # Then it pulled more.
a girl sleeping in the bedroom # She told nobody.`,
  "An empty moon": `a robot walking in the city # Bolt had lost the way to the moon.
a robot reading a book in the desert # He looked it up.
[NC] an empty scene on the moon # It had been empty for so long.
a robot jumping on the moon # It was not any more.`,
  "A rabbit in a red outfit": `a white rabbit in a red outfit walking in the snow # Everything was white but the outfit.
a white rabbit in a red outfit reading a book in the forest # How to be found again.
a white rabbit in a red outfit sleeping on the beach # Nobody had looked.`,
  "Bo and Mia, two in a panel": `[Bo] a bear
[Mia] a cat

[Bo] walking in the forest # Bo went for a walk.
[Mia] walking on the beach # Mia did, too.
[Bo] left and [Mia] right waving in the snow # They met half way.
[Bo] left and [Mia] right reading a book on the farm # Each had brought a book.`,
  "Eight panels": `a cat sleeping in the bedroom
a cat walking in the city
a cat sitting on the farm
a cat jumping in the snow
a cat reading a book in the forest
a cat waving on the beach
a cat holding a balloon in the desert
a cat sleeping on the moon`,
};
const [FIRST] = Object.keys(EXAMPLES);
const ONE = "a bear reading a book in the snow";
const THREE = EXAMPLES[FIRST].split("\n").slice(0, 3).join("\n");

const VIEWS = {
  tell: { name: "Tell your own story", story: FIRST, controls: ["rate", "seed"], both: true, fixed: { rate: 1, layers: "all" } },
  guidance: { name: "Guidance and steps, live", text: ONE, controls: ["guidance", "steps", "seed", "allSteps", "live"], film: true, fixed: { rate: 0 } },
  attention: { name: "Consistent self-attention, live", text: THREE, controls: ["rate", "groups", "variant", "sameNoise", "seed"], both: true, keep: 4, fixed: { rate: 1, groups: ["down", "mid", "up"] } },
  maps: { name: "What your own story reads", text: THREE, controls: ["rate", "seed"], maps: true, fixed: { layers: "all" } },
  machine: { name: "Story machine", story: FIRST, controls: ["rate", "seed", "steps", "guidance", "allSteps", "layers", "solver", "sameNoise", "picks", "apart"], both: true, large: true, fixed: {} },
};
