// TASKS: what each task takes, and how the outputs of its graph become an answer, as rpln_runtime.postprocess does it.
//
// `fields` are the texts of an item, `outputs` the outputs of the graph that are read, and `longest` the most tokens,
// where that is less than the model's limit. `answer` gets
//   item       the item
//   tokens     its tokens, of which `start` and `end` say where they are in their text
//   rows       for each output, its rows along the last axis: those of tokens, or the only one
//   manifest, tokenizer, options
// and returns what pipeline() returns in Python, but with places in the text as JavaScript counts them.

export const TASKS = {
  "token-classification": { fields: ["text"], outputs: ["logits"], answer: labelTokens },
  "text-classification": { fields: ["text"], outputs: ["logits"], answer: classifyText },
  "fill-mask": { fields: ["text"], outputs: ["logits"], answer: fillMasks },
  // In Python, a longer question and context are read in windows.
  "question-answering": {
    fields: ["question", "context"],
    outputs: ["start_logits", "end_logits"],
    longest: 384,
    answer: findAnswers,
  },
};

// --- Token classification ---

const WORD_SCORES = {
  first: (scores) => scores[0],
  average: (scores) => scores[0].map((_, label) => mean(scores.map((row) => row[label]))),
  max: (scores) => scores[indexOfMax(scores.map((row) => Math.max(...row)))],
};

export const STRATEGIES = ["none", "simple", ...Object.keys(WORD_SCORES)];

// Options: `aggregation_strategy`, one of STRATEGIES, and `ignore_labels`.
function labelTokens({ item, tokens, rows, manifest, tokenizer, options }) {
  const { aggregation_strategy: strategy = "none", ignore_labels: ignored = ["O"] } = options;
  if (!STRATEGIES.includes(strategy)) {
    throw new Error(`The strategy is ${strategy}, expected one of ${STRATEGIES.join(", ")}.`);
  }
  const label = ({ scores, ...token }) => {
    const best = indexOfMax(scores);
    return { ...token, label: manifest.labels[best], score: scores[best] };
  };
  const read = tokens
    .map(({ id, sequence, start, end }, index) => {
      const isUnknown = tokenizer.token(id) === "<unk>";
      const word = isUnknown ? item.text.slice(start, end) : tokenizer.token(id);
      const startsWord = isUnknown || start === 0 || item.text.slice(start - 1, start + 1).includes(" ");
      return { sequence, word, start, end, index, startsWord, scores: softmax(rows.logits[index]) };
    })
    .filter(({ sequence }) => sequence === 0);
  if (strategy === "none") {
    return read
      .map(label)
      .map(({ label: entity, score, index, word, start, end }) => ({ entity, score, index, word, start, end }))
      .filter(({ entity }) => !ignored.includes(entity));
  }
  const parts = strategy === "simple" ? read : joinWords(read, WORD_SCORES[strategy], tokenizer);
  return joinEntities(parts.map(label), tokenizer).filter(({ entity_group: group }) => !ignored.includes(group));
}

function joinWords(tokens, wordScores, tokenizer) {
  return runs(tokens, (token) => token.startsWord).map((word) => ({
    word: tokenizer.join(word.map((token) => token.word)),
    scores: wordScores(word.map((token) => token.scores)),
    start: word[0].start,
    end: word.at(-1).end,
  }));
}

// Joins neighbours with the same label, apart from "B-" and "I-". "B-" begins a new entity.
function joinEntities(tokens, tokenizer) {
  const tag = (label) => label.replace(/^[BI]-/, "");
  return runs(tokens, (token, before) => token.label.startsWith("B-") || tag(token.label) !== tag(before.label)).map(
    (entity) => ({
      entity_group: entity[0].label.replace(/^[^-]*-/, ""),
      score: mean(entity.map((token) => token.score)),
      word: tokenizer.join(entity.map((token) => token.word)),
      start: entity[0].start,
      end: entity.at(-1).end,
    }),
  );
}

// Splits a list before each element for which `begins(element, the one before)` is true.
function runs(list, begins) {
  const found = [];
  list.forEach((element, index) => {
    if (index === 0 || begins(element, list[index - 1])) found.push([]);
    found.at(-1).push(element);
  });
  return found;
}

// --- Text classification ---

const SCORE_FUNCTIONS = {
  regression: (logits) => Array.from(logits),
  multi_label_classification: sigmoid,
  single_label_classification: (logits) => (logits.length === 1 ? sigmoid(logits) : softmax(logits)),
};

// Returns every label with its score, the best first: the answer with top_k=None in Python.
function classifyText({ rows, manifest }) {
  const scores = SCORE_FUNCTIONS[manifest.problem_type ?? "single_label_classification"](rows.logits[0]);
  return manifest.labels
    .map((label, index) => ({ label, score: scores[index] }))
    .sort((one, other) => other.score - one.score);
}

// --- Fill-mask ---

// Option: `top_k`. Returns the best tokens for the mask of the text or, where it has several, a list for each.
function fillMasks({ tokens, rows, manifest, tokenizer, options }) {
  const ids = tokens.map(({ id }) => id);
  const masks = ids.flatMap((id, index) => (id === manifest.mask_token_id ? [index] : []));
  if (!masks.length) {
    const mask = tokenizer.token(manifest.mask_token_id);
    throw new Error(`The text has no ${mask}: put ${mask} where you want to have a word.`);
  }
  const fillings = masks.map((mask) =>
    largest(softmax(rows.logits[mask]), options.top_k ?? 5).map(([token, score]) => {
      const filled = ids.with(mask, token).filter((id) => id !== manifest.pad_token_id);
      // A mask is a special token. If there are several, the others stay in the text.
      const sequence = tokenizer.decode(filled, { skipSpecialTokens: masks.length === 1 });
      return { score, token, token_str: tokenizer.decode([token]), sequence };
    }),
  );
  return fillings.length === 1 ? fillings[0] : fillings;
}

// --- Question answering ---

// Options: `top_k` and `max_answer_len`. Returns a list of answers, the best first.
function findAnswers({ item, tokens, rows, options }) {
  const { top_k: count = 1, max_answer_len: longest = 15 } = options;
  const isContext = tokens.map(({ sequence }) => sequence === 1);
  // The first token stands for "no answer": it gets its part of the probabilities, but begins and ends no answer.
  const probabilities = (logits) =>
    softmax(logits.map((logit, index) => (index === 0 || isContext[index] ? logit : -Infinity)));
  const starts = probabilities(rows.start_logits[0]);
  const ends = probabilities(rows.end_logits[0]);
  const spans = [];
  for (let first = 1; first < tokens.length; first++) {
    for (let last = first; last < Math.min(first + longest, tokens.length); last++) {
      const score = starts[first] * ends[last];
      if (isContext[first] && isContext[last] && score > 0) spans.push({ first, last, score });
    }
  }
  spans.sort((one, other) => other.score - one.score);
  // Extended to whole words, several spans may become the same, so more of them are needed.
  return mergeAnswers(spans.slice(0, count * 2 + 10), item.context, tokens).slice(0, count);
}

// Extends spans to whole words. Answers that differ only in case are one answer, with the sum of their scores.
function mergeAnswers(spans, context, tokens) {
  const answers = new Map();
  for (const { first, last, score } of spans) {
    const inWord = (edge) => (token) => token.sequence === 1 && token.word === tokens[edge].word;
    const start = tokens.find(inWord(first)).start;
    const end = tokens.findLast(inWord(last)).end;
    const answer = context.slice(start, end);
    const key = answer.toLowerCase();
    if (!answers.has(key)) answers.set(key, { score: 0, start, end, answer });
    answers.get(key).score += score;
  }
  return [...answers.values()].sort((one, other) => other.score - one.score);
}

// --- Arithmetic ---

function softmax(logits) {
  const most = logits.reduce((one, other) => Math.max(one, other));
  const exponentials = Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = exponentials.reduce((one, other) => one + other);
  return exponentials.map((value) => value / sum);
}

function sigmoid(logits) {
  return Array.from(logits, (logit) => (1 + Math.tanh(logit / 2)) / 2);
}

function mean(values) {
  return values.reduce((one, other) => one + other) / values.length;
}

function indexOfMax(values) {
  return values.indexOf(Math.max(...values));
}

// Returns the `count` largest values with their indices, the largest first: [[index, value], ...].
function largest(values, count) {
  return [...values.entries()].sort(([, one], [, other]) => other - one).slice(0, count);
}
